"""A click log with known truth: every report can say how far a model is from the best possible one.

Symbols: B rows of a block, N ids of a field, D = RANK_LIMIT latent dimensions, n history length.

    logit = bias + sum_f main_f + sqrt(D) * interaction * <sum_{f even} u_f, sum_{g odd} u_g>
          + sqrt(D) * history_effect * (<mean of u over the history, u_item> - its mean)
          + numeric_effect * sum_j (-1)^j * ln(numeric_j)

main_f and u_f belong to the row's id of field f (the mean over a list; 0 for an empty one, or history);
even and odd are places in `fields`: each field at an even place interacts with each at an odd one. A
history holds the user's clicks in *earlier blocks* of BLOCK rows: never the row itself, nor the future.
Block k draws from (seed, k). Drift, arrivals and `time` stretch with the log: without drift and arrivals,
a short log is the beginning of a longer one but for `time`.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys_cython_ext.files import new_file
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.sources.generator_config import RANK_LIMIT, FieldConfig, GeneratorConfig

BLOCK = 4096  # rows drawn at once
GROUP = 32  # blocks in one Parquet row group
CALIBRATION = 8  # blocks drawn to find the bias
START = 1_700_000_000  # time of the first row, seconds since 1970
MASK = 2**63 - 1


Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FieldTruth:
    """The truth of the N ids of one field; entry i belongs to the id of index i."""

    raw_id: Ints  # (N,) as written in the log
    main: Floats  # (N,) main effect in the logit
    vector: Floats  # (N, D) latent vector, of the field's rank
    useful: NDArray[np.bool_]  # (N,) False: the id has neither main effect nor vector
    arrival: Floats  # (N,) share of the log before its first possible row; 0 = always there


def raw_ids(name: str, index: Ints) -> Ints:
    """Return the ids written for these indices of field `name`: one-to-one, scattered over [0, 2**63)."""
    z = (index.astype(np.uint64) + _salt(name)) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return (z ^ (z >> 31)).astype(np.int64)


def truth(config: GeneratorConfig) -> dict[str, FieldTruth]:
    """Return the truth of every field by name: a function of the seed and the field alone, not of `rows`."""
    return {field.name: _field_truth(config, field) for field in config.fields}


def schema(config: GeneratorConfig) -> pa.Schema:
    """Return the columns of the log; ids are int64 >= 0, `time` is in seconds since 1970."""
    one, many = pa.int64(), pa.list_(pa.int64())
    columns = [(field.name, one if field.multivalued == 1 else many) for field in config.fields]
    columns += [("history", many)] if config.history else []
    columns += [(f"numeric_{j}", pa.float32()) for j in range(config.numeric)]
    return pa.schema([("label", pa.int8()), ("time", one), *columns, ("true_probability", pa.float64())])


def generate(config: GeneratorConfig, path: str | os.PathLike[str], progress: Progress = no_progress) -> None:
    """Write the log as one Parquet file in time order, with the columns of `schema(config)`.

    The content is a function of `config`, but for NumPy's version and a processor's last digits. `path`
    appears only when complete; `progress` is told the number of rows written so far.

    Raises:
        OSError: the file cannot be written.
    """
    columns = schema(config).with_metadata({"generator": config.model_dump_json()})
    with new_file(Path(path)) as file, pq.ParquetWriter(file, columns, use_dictionary=False) as writer:
        batches = _batches(config, columns)
        for first in range(0, config.rows, GROUP * BLOCK):
            writer.write_table(pa.Table.from_batches(islice(batches, GROUP)).combine_chunks())
            progress("generate", min(first + GROUP * BLOCK, config.rows), config.rows)


def _salt(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _field_truth(config: GeneratorConfig, field: FieldConfig) -> FieldTruth:
    # One stream for each property: changing one setting of a field leaves its other properties alone.
    streams = [_rng(config.seed, _salt(field.name), part) for part in range(5)]
    size = field.num_ids
    useful = (streams[0].random(size) >= field.useless_share) & (field.signal > 0)
    scale = np.where(useful, field.signal, 0).astype(np.float32)
    main = config.main * scale * streams[1].standard_normal(size, np.float32)
    basis = np.linalg.qr(streams[2].standard_normal((RANK_LIMIT, field.rank)))[0].astype(np.float32)
    latent = streams[3].standard_normal((size, field.rank), np.float32)
    vector = (latent @ basis.T) * (scale / np.float32(max(field.rank, 1)) ** 0.5)[:, None]
    arrival = streams[4].random((size, 2), np.float32)
    arrival = np.where(arrival[:, 0] < field.new_ids, arrival[:, 1], np.float32(0))
    arrival[0] = 0  # index 0 is always there to stand in for others
    return FieldTruth(raw_ids(field.name, np.arange(size)), main, vector, useful, arrival)


class _Sampler:
    """The draws of indices of one field."""

    def __init__(self, config: GeneratorConfig, field: FieldConfig, arrival: Floats) -> None:
        self.field, self.arrival = field, arrival
        index = np.arange(field.num_ids, dtype=np.int32)
        self.cumulative = np.cumsum((index + 1.0) ** -field.zipf)  # over popularity ranks
        self.cumulative /= self.cumulative[-1]
        self.late_order = _rng(config.seed, _salt(field.name), 5).permutation(index) if field.drift else index
        # The nearest old index at or before i takes the draws of i until i arrives.
        self.stand_in = np.maximum.accumulate(np.where(arrival > 0, 0, index))

    def draw(self, rng: np.random.Generator, t: NDArray[np.float64]) -> Ints:
        """Return one index for each t, the share of the log that has passed."""
        index = np.searchsorted(self.cumulative, rng.random(t.size), side="right")
        if self.field.drift:
            index = np.where(rng.random(t.size) < self.field.drift * t, self.late_order.take(index), index)
        if self.field.new_ids:
            index = np.where(self.arrival.take(index) > t, self.stand_in.take(index), index)
        return index


class _Block(NamedTuple):
    """B rows before the click: ids as indices, and the logit without bias and history."""

    indices: list[Ints]  # for each field: (B,), or the lists end to end
    offsets: list[Ints | None]  # for each field: (B + 1,) ends of the lists; None = single
    numeric: list[Floats]  # for each column: (B,), nan = missing
    logit: NDArray[np.float64]  # (B,)
    uniform: NDArray[np.float64]  # (B,) the row is clicked when this is below its probability


def _mean_of_lists(values: Floats, offsets: Ints) -> Floats:
    """Return (B, D) means of the lists of `values` (V, D) that `offsets` (B + 1,) delimit; 0 where empty."""
    length = np.diff(offsets)
    mean = np.zeros((length.size, values.shape[1]), np.float32)
    full = length > 0  # reduceat gives an empty list the value that follows it
    mean[full] = np.add.reduceat(values, offsets[:-1][full]) / length[full, None]
    return mean


class _Log:
    """The tables of all fields, and the draws from them."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        self.truth = list(truth(config).values())
        pairs = zip(config.fields, self.truth, strict=True)
        self.samplers = [_Sampler(config, field, known.arrival) for field, known in pairs]
        places = {field.name: place for place, field in enumerate(config.fields)}
        self.user, self.item = places["user_id"], places.get("item_id", -1)
        self.bias, self.mean_affinity = self._calibrate()

    def draw(self, rng: np.random.Generator, t: NDArray[np.float64]) -> _Block:
        """Draw B rows at t (B,), shares of the log that have passed."""
        config, rows = self.config, t.size
        logit, sides = np.zeros(rows), np.zeros((2, rows, RANK_LIMIT), np.float32)
        block = _Block([], [], [], logit, rng.random(rows))
        for place, (field, known) in enumerate(zip(config.fields, self.truth, strict=True)):
            offsets, at = None, t
            if field.multivalued > 1:
                length = rng.poisson(field.multivalued, rows)
                offsets, at = np.concatenate([[0], np.cumsum(length)]), np.repeat(t, length)
            index = self.samplers[place].draw(rng, at)
            block.indices.append(index)
            block.offsets.append(offsets)
            if field.signal:
                main, vector = known.main.take(index), known.vector.take(index, axis=0)
                if offsets is not None:
                    main = _mean_of_lists(main[:, None], offsets)[:, 0]
                    vector = _mean_of_lists(vector, offsets)
                logit += main
                sides[place % 2] += vector
        logit += np.sqrt(RANK_LIMIT) * config.interaction * np.einsum("bd,bd->b", *sides)
        for j in range(config.numeric):
            value = rng.standard_normal(rows, np.float32)
            missing = rng.random(rows) < config.missing_share
            logit += np.where(missing, 0, (-1) ** j * config.numeric_effect * value)
            block.numeric.append(np.where(missing, np.float32(np.nan), np.exp(value)))
        return block

    def affinity(self, history: Ints, offsets: Ints, item: Ints) -> Floats:
        """Return (B,) products of the mean latent vector of each history with that of the row's item."""
        vector = self.truth[self.item].vector
        mean = _mean_of_lists(vector.take(history, axis=0), offsets)
        return np.sqrt(RANK_LIMIT) * np.einsum("bd,bd->b", mean, vector.take(item, axis=0))

    def _calibrate(self) -> tuple[float, float]:
        """Return the bias that gives the click rate, and the mean affinity, from a sample over all times."""
        from scipy.optimize import brentq  # a third of a second, which other sources need not wait for
        from scipy.special import expit

        config, rows, rng = self.config, CALIBRATION * BLOCK, _rng(self.config.seed, 1)
        block = self.draw(rng, (np.arange(rows) + 0.5) / rows)
        logit, mean = block.logit, 0.0
        if config.history:
            item = block.indices[self.item]
            history = item[rng.integers(0, rows, rows * config.history)]  # real ones need the bias
            affinity = self.affinity(history, np.arange(rows + 1) * config.history, item)
            mean = float(affinity.mean())
            logit = logit + config.history_effect * (affinity - mean)
        limit = 50 + float(np.abs(logit).max())
        return brentq(lambda bias: expit(logit + bias).mean() - config.click_rate, -limit, limit), mean


class _Histories:
    """The last n items that each user clicked, as rings of item indices."""

    def __init__(self, users: int, n: int) -> None:
        self.n = n
        self.ring = np.zeros((users, n), np.int32)
        self.clicks = np.zeros(users, np.int64)  # of each user so far

    def before(self, user: Ints) -> tuple[Ints, Ints]:
        """Return the histories of these users (B,), oldest click first, end to end, and offsets (B + 1,)."""
        length = np.minimum(self.clicks[user], self.n)
        offsets = np.concatenate([[0], np.cumsum(length)])
        back = np.repeat(offsets[1:], length) - np.arange(offsets[-1])  # 1 = the latest click
        owner = np.repeat(user, length)
        return self.ring[owner, (self.clicks[owner] - back) % self.n], offsets

    def add(self, user: Ints, item: Ints) -> None:
        """Append clicks in order of time."""
        order = np.argsort(user, kind="stable")
        who, first, count = np.unique(user[order], return_index=True, return_counts=True)
        slot = self.clicks[user[order]] + np.arange(user.size) - np.repeat(first, count)
        self.ring[user[order], slot % self.n] = item[order]  # of repeated slots the last one stays
        self.clicks[who] += count


def _batches(config: GeneratorConfig, columns: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the log in blocks of BLOCK rows, the last one cut."""
    from scipy.special import expit

    log = _Log(config)
    histories = _Histories(config.fields[log.user].num_ids, config.history)
    for k in range(-(-config.rows // BLOCK)):
        row = np.arange(k * BLOCK, (k + 1) * BLOCK)
        block = log.draw(_rng(config.seed, 0, k), np.minimum(row / config.rows, 1.0))
        logit, values = block.logit + log.bias, {}
        if config.history:
            user, item = block.indices[log.user], block.indices[log.item]
            history, offsets = histories.before(user)
            affinity = log.affinity(history, offsets, item) - log.mean_affinity
            logit += np.where(np.diff(offsets) > 0, config.history_effect * affinity, 0)
            values["history"] = _ids("item_id", history, offsets)
        probability = expit(logit)
        clicked = block.uniform < probability
        if config.history:
            histories.add(user[clicked], item[clicked])
        values["label"] = pa.array(clicked.astype(np.int8))
        values["time"] = pa.array(START + (row * (config.days * 86400 / config.rows)).astype(np.int64))
        values["true_probability"] = pa.array(probability)
        for field, index, ends in zip(config.fields, block.indices, block.offsets, strict=True):
            values[field.name] = _ids(field.name, index, ends)
        for j, value in enumerate(block.numeric):
            values[f"numeric_{j}"] = pa.array(value, from_pandas=True)  # nan becomes null
        batch = pa.record_batch([values[name] for name in columns.names], schema=columns)
        yield batch.slice(0, min(BLOCK, config.rows - k * BLOCK))


def _ids(name: str, index: Ints, offsets: Ints | None) -> pa.Array:
    ids = pa.array(raw_ids(name, index))
    return ids if offsets is None else pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), ids)
