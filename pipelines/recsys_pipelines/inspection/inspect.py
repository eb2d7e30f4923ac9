"""What a prepared set holds, feature by feature: one pass over its shards, one of them in memory at a time.

Counts are exact. A value is one id of one row; a row with a list has as many values as the list is long, and each
carries the label of its row. Of ids, "unknown" means outside the vocabulary, and for hashed ids, which have none,
not seen in training. Singletons and skew are those of training's ids, whatever the minimum count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import numpy as np
import pyarrow as pa

from recsys_cython_ext import MISSING_ID, ExactSum, IdCounter, IdTable
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.features import FIRST_CODE, MISSING_CODE, Buckets, Categorical, Features, Numeric
from recsys_pipelines.features.base import Arrays, Feature
from recsys_pipelines.features.numeric import bins_of, lower_ends
from recsys_pipelines.features.plain import one_array
from recsys_pipelines.inspection.result import (
    CategoricalReport,
    Decile,
    Inspection,
    NumbersReport,
    NumericReport,
    Rate,
    Skew,
    SplitReport,
    TopId,
    ValuesReport,
)
from recsys_pipelines.parallel import ordered
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.preparation.split import SPLITS
from recsys_pipelines.shards import read_shard

TOP_IDS = 10
CURVE_POINTS = 64
ZIPF_COUNT = 10  # ids seen less often lie on a staircase of whole counts, which says nothing of a slope
ZIPF_IDS = 10  # fewer ids give no slope


def inspect(prepared: Prepared, progress: Progress = no_progress) -> Inspection:
    """Read all shards once and say what the set holds.

    Memory: one shard, 16 bytes or more for each distinct id of training and each user, and a histogram of each
    numeric column. Raises ValueError for damaged features, OSError for a shard that is not there.
    """
    features, counts = prepared.features(), prepared.counts()
    splits = {name: _Split() for name in SPLITS}
    values = [_values_of(feature, counts.arrays_of(feature.name)) for feature in features.categorical]
    numbers = [_Numbers(column, missing) for column, missing in numeric_columns(features).items()]
    counters: list[_Values | _Numbers] = [*values, *numbers]
    shards = prepared.manifest.shards
    done, total = 0, sum(shard.rows for shard in shards.values())
    for name, shard in sorted(shards.items()):
        table, split = read_shard(prepared.path / name), shard.split
        positive = table["@label"].to_numpy() > 0
        add = partial(_add, table=table, positive=positive, split=split)
        for _ in ordered(add, counters):  # each is one thread's own
            pass
        splits[split].add(table, positive)
        done += table.num_rows
        progress("inspect", done, total)
    fitted = {column: feature for feature in features.features for column in feature.columns}
    return Inspection(
        path=str(prepared.path),
        **prepared.manifest.row_counts,
        splits={name: split.report() for name, split in splits.items()},
        categorical=[
            found.report(*_id_counts(found, counts.arrays_of(found.feature.name))) for found in values
        ],
        numeric=[found.report(fitted[found.name]) for found in numbers],
    )


def _add(counter: "_Values | _Numbers", table: pa.Table, positive: np.ndarray, split: str) -> None:
    counter.add(table, positive, split)


def numeric_columns(features: Features) -> dict[str, str | None]:
    """Each float32 column of numbers, and the column that says where it is missing, None where none ever was."""
    columns = features.numeric_columns
    missing = {column.removesuffix(":missing"): column for column in columns if column.endswith(":missing")}
    return {column: missing.get(column) for column in columns if column not in missing.values()}


def scale_of(feature: Feature) -> tuple[float, float]:
    """(mean, deviation) by which a column was standardised; (0, 1) where it was not."""
    return (feature.mean, feature.deviation) if isinstance(feature, Numeric) else (0.0, 1.0)


class Histogram:
    """Counts of floats in fixed bins, whose ends have a mantissa of 12 bits; bins rise with the values."""

    def __init__(self) -> None:
        self._bins = IdCounter()

    def add(self, values: np.ndarray) -> None:
        """Count float64 [n], all finite."""
        self._bins.add(bins_of(values))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins that are not empty, rising, and their counts: two int64 [K]."""
        return self._bins.result()


def decile_of(counts: np.ndarray) -> np.ndarray:
    """The decile, 0 to 9, in which each bin begins: int64 [K]. counts: int64 [K] of rising bins."""
    below = np.cumsum(counts) - counts
    return below * 10 // max(int(counts.sum()), 1)


def skew_of(counts: np.ndarray) -> Skew:
    """As `Skew`. counts: int64 [U], all > 0, in any order."""
    n = len(counts)
    if n == 0:
        return Skew(None, None, None, None, 0, [])
    falling = np.sort(counts)[::-1]
    total = float(falling.sum())
    weights = n - 1 - 2.0 * np.arange(n)  # of sum (2i - n - 1) x_i / (n sum x), where x_1 <= ... <= x_n
    ranks = _log_spaced(n)
    fitted = int(np.searchsorted(-falling, -ZIPF_COUNT, side="right"))
    zipf = None
    if fitted >= ZIPF_IDS:
        places = _log_spaced(fitted)
        zipf = -float(np.polyfit(np.log(places), np.log(falling[places - 1]), 1)[0])
    return Skew(
        top_id=float(falling[0] / total),
        top_percent=float(falling[: -(-n // 100)].sum() / total),
        gini=float((weights * falling).sum() / (n * total)),
        zipf=zipf,
        zipf_ranks=fitted if zipf is not None else 0,
        curve=[(int(rank), int(falling[rank - 1])) for rank in ranks],
    )


def _log_spaced(n: int) -> np.ndarray:
    """Ranks from 1 to n, at most `CURVE_POINTS`, evenly in their logarithm."""
    return np.unique(np.rint(np.geomspace(1, n, CURVE_POINTS)).astype(np.int64))


@dataclass
class _Split:
    rows: int = 0
    positives: int = 0
    users: IdCounter = field(default_factory=IdCounter)
    times: tuple[int, int] | None = None
    weights: tuple[ExactSum, ExactSum] | None = None  # of all rows, of positive ones

    def add(self, table: pa.Table, positive: np.ndarray) -> None:
        self.rows += len(positive)
        self.positives += int(np.count_nonzero(positive))
        if "@user" in table.column_names:
            self.users.add(table["@user"].to_numpy())
        if "@time" in table.column_names and table.num_rows:
            times = table["@time"].to_numpy()
            known = self.times or (times[0], times[0])
            self.times = int(min(times.min(), known[0])), int(max(times.max(), known[1]))

        if "@weight" in table.column_names:
            weights = table["@weight"].to_numpy()
            self.weights = self.weights or (ExactSum(), ExactSum())
            self.weights[0].add(weights)
            self.weights[1].add(weights[positive])

    def report(self) -> SplitReport:
        rate = None
        if self.weights is not None and (total := self.weights[0].value()):
            rate = float(self.weights[1].value() / total)
        return SplitReport(Rate.of(self.rows, self.positives), rate, len(self.users) or None, self.times)


@dataclass
class _Tally:
    """Of a split: missing, unknown and known values, all and positive; and of lists."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros((3, 2), np.int64))
    rows: int = 0
    empty: int = 0
    longest: int = 0


def _values_of(feature: Categorical | Buckets, counted: Arrays) -> "_Values":
    """A counter of the values of `feature`, which follows its most frequent ids of training one by one."""
    if isinstance(feature, Buckets):
        codes = np.arange(FIRST_CODE, feature.num_codes)
        return _Values(feature, codes, codes)
    ids, counts = counted["ids"], counted["counts"]
    present = ids != MISSING_ID
    ids, counts = ids[present], counts[present]
    if feature.encoding == "hash":
        top = ids[np.argsort(-counts, kind="stable")[:TOP_IDS]]
        return _Values(feature, top, top, IdTable(ids))
    codes = IdTable(feature.ids).codes(ids, -1)
    known = codes >= 0
    ids, codes, counts = ids[known], codes[known], counts[known]
    first = np.argsort(-counts, kind="stable")[:TOP_IDS]
    return _Values(feature, codes[first] + FIRST_CODE, ids[first])


class _Values:
    """Counts the values of one categorical feature.

    keys: encoded values [K] to count singly in training, and `ids` [K] what they are called. seen: ids of training,
    where ids are hashed.
    """

    def __init__(
        self, feature: Categorical | Buckets, keys: np.ndarray, ids: np.ndarray, seen: IdTable | None = None
    ) -> None:
        self.feature = feature
        order = np.argsort(keys)
        self._keys, self.ids, self._seen = keys[order], ids[order], seen
        self.counts = np.zeros((len(keys), 2), np.int64)  # of the keys: all and positive
        self._tallies = {name: _Tally() for name in SPLITS}

    def add(self, table: pa.Table, positive: np.ndarray, split: str) -> None:
        array, tally = one_array(table[self.feature.name]), self._tallies[split]
        tally.rows += len(array)
        if self.feature.multivalued:
            lengths = np.diff(array.offsets.to_numpy())
            tally.empty += int(np.count_nonzero(lengths == 0))
            tally.longest = max(tally.longest, int(lengths.max(initial=0)))
            array, positive = array.flatten(), np.repeat(positive, lengths)
        values = array.to_numpy(zero_copy_only=False)
        if self._seen is not None:
            missing = values == MISSING_ID
            unknown = (self._seen.codes(values, -1) < 0) & ~missing
        else:
            missing = values == MISSING_CODE
            unknown = self.feature.is_unknown(values)
        known = ~(missing | unknown)
        for line, mask in enumerate((missing, unknown, known)):
            tally.counts[line] += np.count_nonzero(mask), np.count_nonzero(mask & positive)
        if split == "train" and len(self._keys):
            keys = self._keys.astype(values.dtype)
            places = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
            hit = (keys[places] == values) & known
            for column, mask in enumerate((hit, hit & positive)):
                self.counts[:, column] += np.bincount(places[mask], minlength=len(keys))

    def report(self, ids: int, counts: np.ndarray) -> CategoricalReport:
        """counts: int64 [U] of training's ids, without the missing one."""
        feature, singletons = self.feature, int(np.count_nonzero(counts == 1))
        missing, unknown, known = (Rate.of(*line) for line in self._tallies["train"].counts.tolist())
        first = np.argsort(-self.counts[:, 0], kind="stable")[:TOP_IDS]
        return CategoricalReport(
            name=feature.name,
            encoding="buckets" if isinstance(feature, Buckets) else feature.encoding,
            multivalued=feature.multivalued,
            codes=feature.num_codes if feature.encoding == "vocabulary" else None,
            ids=ids,
            singletons=singletons,
            singleton_share=singletons / ids if ids else None,
            splits={name: self._of_split(tally) for name, tally in self._tallies.items()},
            skew=skew_of(counts),
            known=known,
            unknown=unknown,
            missing=missing,
            top=[
                TopId(int(self.ids[place]), Rate.of(*self.counts[place].tolist()))
                for place in first
                if self.counts[place, 0]
            ],
        )

    def _of_split(self, tally: _Tally) -> ValuesReport:
        missing, unknown, known = tally.counts[:, 0].tolist()
        values = missing + unknown + known
        lists = self.feature.multivalued
        return ValuesReport(
            values=values,
            missing=missing,
            unknown=unknown,
            missing_share=missing / values if values else None,
            unknown_share=unknown / values if values else None,
            empty_lists=tally.empty if lists else None,
            mean_length=values / tally.rows if lists and tally.rows else None,
            max_length=tally.longest if lists else None,
        )


def _id_counts(found: _Values, counted: Mapping[str, np.ndarray]) -> tuple[int, np.ndarray]:
    """Number of training's ids and their counts, without the missing one; of buckets, those that are not empty."""
    if isinstance(found.feature, Buckets):
        counts = found.counts[:, 0]
        counts = counts[counts > 0]
    else:
        counts = counted["counts"][counted["ids"] != MISSING_ID]
    return len(counts), counts


class _Numbers:
    """Counts the values of one float32 column, with its indicator where it has one."""

    def __init__(self, name: str, indicator: str | None) -> None:
        self.name, self._indicator = name, indicator
        self._splits = {split: _Moments() for split in SPLITS}
        self._positives = Histogram()  # of training
        self._missing = np.zeros(2, np.int64)  # in training: all and positive

    def add(self, table: pa.Table, positive: np.ndarray, split: str) -> None:
        values, present = present_values(table, self.name, self._indicator)
        self._splits[split].add(values, len(positive))
        if split == "train":
            self._positives.add(values[positive[present]])
            self._missing += np.count_nonzero(~present), np.count_nonzero(positive[~present])

    def report(self, feature: Feature) -> NumericReport:
        mean, deviation = scale_of(feature)
        return NumericReport(
            name=self.name,
            transform=feature.transform if isinstance(feature, Numeric) else "statistic",
            mean=mean,
            deviation=deviation,
            splits={
                split: moments.report(
                    # training without an indicator has none missing, and statistics are always there
                    self._indicator is not None or split == "train" or not isinstance(feature, Numeric)
                )
                for split, moments in self._splits.items()
            },
            deciles=self._deciles(),
            missing=Rate.of(*self._missing.tolist()),
        )

    def _deciles(self) -> list[Decile]:
        training = self._splits["train"]
        bins, counts = training.histogram.result()
        found, positive_counts = self._positives.result()
        positives = np.zeros_like(counts)
        positives[np.searchsorted(bins, found)] = positive_counts
        numbers, lower = decile_of(counts), lower_ends(bins)
        deciles = []
        for number in np.unique(numbers).tolist():
            own = numbers == number
            low, high = (float(end) for end in lower[own][[0, -1]])
            label = Rate.of(int(counts[own].sum()), int(positives[own].sum()))
            deciles.append(Decile(number, max(low, training.minimum), max(high, training.minimum), label))
        return deciles


class _Moments:
    """Exact sums, extremes and a histogram of the values present."""

    def __init__(self) -> None:
        self._rows = self._present = 0
        self._sum, self._squares = ExactSum(), ExactSum()
        self.histogram = Histogram()
        self.minimum, self.maximum = float("inf"), float("-inf")

    def add(self, values: np.ndarray, rows: int) -> None:
        """values: float64 [P], those present of so many rows."""
        self._rows, self._present = self._rows + rows, self._present + len(values)
        self._sum.add(values)
        self._squares.add_squares(values)
        self.histogram.add(values)
        self.minimum = float(values.min(initial=self.minimum))
        self.maximum = float(values.max(initial=self.maximum))

    def report(self, missing_known: bool) -> NumbersReport:
        missing = self._rows - self._present if missing_known else None
        share = missing / self._rows if missing is not None and self._rows else None
        if self._present == 0:
            return NumbersReport(self._rows, missing, share, None, None, None, None, None)
        mean: Fraction = self._sum.value() / self._present
        variance = self._squares.value() / self._present - mean * mean
        return NumbersReport(
            rows=self._rows,
            missing=missing,
            missing_share=share,
            mean=float(mean),
            deviation=float(variance) ** 0.5,
            minimum=self.minimum,
            quartiles=self._quartiles(),
            maximum=self.maximum,
        )

    def _quartiles(self) -> tuple[float, float, float]:
        """The bin of the smallest value that at least so many quarters of the values do not exceed."""
        bins, counts = self.histogram.result()
        wanted = [-(-self._present * quarter // 4) for quarter in (1, 2, 3)]
        lower = lower_ends(bins[np.searchsorted(np.cumsum(counts), wanted)])
        first, second, third = (max(float(value), self.minimum) for value in lower)
        return first, second, third


def present_values(table: pa.Table, name: str, indicator: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column that are not missing, float64 [P], and which rows have them, bool [B]."""
    values = table[name].to_numpy().astype(np.float64)
    present = np.ones(len(values), bool) if indicator is None else table[indicator].to_numpy() == 0
    return values[present], present
