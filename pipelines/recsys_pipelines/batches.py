"""Batches as a pure function of (prepared data, seed, epoch, number).

An epoch is LANES fixed lanes of rows, each shuffled by itself; batch k takes the k-th share of every
lane. Workers can later own lanes (their number divides LANES) and read nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torchrec import KeyedJaggedTensor

from recsys_pipelines.features import Features
from recsys_pipelines.shards import read_shard, uniform

LANES = 64


@dataclass(frozen=True)
class Batch:
    """B rows: dense [B, n] float32, ids with one key per categorical feature, label and weight [B] float32."""

    dense: torch.Tensor
    ids: KeyedJaggedTensor
    label: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of a prepared split in memory.

    single: int64 [n, F] ids of the single-valued features, row by row so that gathering a batch reads
    each row once; lists: for each multi-valued feature its (offsets [n + 1], values).
    """

    features: Features
    row_id: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    user: np.ndarray | None
    truth: np.ndarray | None
    dense: np.ndarray
    single: np.ndarray
    lists: dict[str, tuple[np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.row_id)

    @classmethod
    def load(cls, prepared: Path, split: str) -> "Rows":
        """Read all shards of `split` of a prepared folder."""
        features = Features.load(prepared / "features")
        tables = [read_shard(path) for path in sorted((prepared / split).glob("part-*.arrow"))]
        return cls.from_table(features, pa.concat_tables(tables))

    @classmethod
    def from_table(cls, features: Features, table: pa.Table) -> "Rows":
        """Rows of one table of transformed columns; without labels all are 0, without weights all are 1."""
        n = table.num_rows

        def column(name: str) -> np.ndarray | None:
            return table[name].to_numpy() if name in table.column_names else None

        def floats(name: str, default: float) -> np.ndarray:
            found = column(name)
            return np.full(n, default, np.float32) if found is None else found.astype(np.float32)

        single = [f.name for f in features.categorical if not f.multivalued]
        lists = {}
        for feature in features.categorical:
            if feature.multivalued:
                array = table[feature.name].combine_chunks()
                lists[feature.name] = (array.offsets.to_numpy(), array.values.to_numpy())
        return cls(
            features=features,
            row_id=table["row_id"].to_numpy(),
            label=floats("@label", 0.0),
            weight=floats("@weight", 1.0),
            user=column("@user"),
            truth=column("@truth"),
            dense=_matrix([table[name].to_numpy() for name in features.numeric_columns], n, np.float32),
            single=_matrix([table[name].to_numpy() for name in single], n, np.int64),
            lists=lists,
        )

    def batch(self, index: np.ndarray) -> Batch:
        """Return the rows of `index` [B] as a batch."""
        single = self.single[index].T  # [F, B]: a KeyedJaggedTensor stores feature after feature
        column = 0
        keys, values, lengths = [], [], []
        for feature in self.features.categorical:
            keys.append(feature.name)
            if feature.multivalued:
                offsets, flat = self.lists[feature.name]
                counts = offsets[index + 1] - offsets[index]
                starts = np.repeat(offsets[index] - (np.cumsum(counts) - counts), counts)
                values.append(flat[starts + np.arange(len(starts))])
                lengths.append(counts.astype(np.int32))
            else:
                values.append(single[column])
                lengths.append(np.ones(len(index), np.int32))
                column += 1
        ids = KeyedJaggedTensor.from_lengths_sync(
            keys=keys,
            values=torch.from_numpy(np.concatenate(values) if values else np.empty(0, np.int64)),
            lengths=torch.from_numpy(np.concatenate(lengths) if lengths else np.empty(0, np.int32)),
        )
        return Batch(
            dense=torch.from_numpy(self.dense[index]),
            ids=ids,
            label=torch.from_numpy(self.label[index]),
            weight=torch.from_numpy(self.weight[index]),
        )

    def ids_of(self, feature: str) -> np.ndarray:
        """Every id of a categorical feature, int64, bags one after the other."""
        if feature in self.lists:
            offsets, values = self.lists[feature]
            return values[offsets[0] : offsets[-1]]
        single = [f.name for f in self.features.categorical if not f.multivalued]
        return np.ascontiguousarray(self.single[:, single.index(feature)])

    def keep_negatives(self, rate: float, seed: int) -> np.ndarray:
        """Row numbers [m] of all positives and of a share `rate` of negatives, chosen by (seed, row id)."""
        if rate >= 1:
            return np.arange(len(self))
        return np.flatnonzero((self.label > 0) | (uniform(self.row_id, seed, "negatives") < rate))


def epoch_order(rows: int, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Positions [B] of each batch of an epoch; every one of `rows` positions comes exactly once.

    Raises ValueError unless `batch_size` is a multiple of LANES.
    """
    if batch_size < LANES or batch_size % LANES:
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of {LANES}, the number of lanes of an epoch"
        )
    bounds = np.arange(LANES + 1) * rows // LANES
    lanes = []
    for lane in range(LANES):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, lane])))
        lanes.append(bounds[lane] + generator.permutation(bounds[lane + 1] - bounds[lane]))
    share = batch_size // LANES
    for start in range(0, int(np.diff(bounds).max(initial=0)), share):
        yield np.concatenate([lane[start : start + share] for lane in lanes])


def _matrix(columns: list[np.ndarray], rows: int, dtype: type) -> np.ndarray:
    out: np.ndarray = np.empty((rows, len(columns)), dtype)
    for position, column in enumerate(columns):
        out[:, position] = column
    return out
