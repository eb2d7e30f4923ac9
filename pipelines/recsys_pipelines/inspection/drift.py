"""How much two prepared sets of the same features differ: A, the reference, and B, which came later.

Training rows are compared with training rows. The population stability index over buckets i with shares a and b is

    PSI = sum_i (b_i - a_i) ln(b_i / a_i),    a_i = count_i / total + 1e-6, and b_i alike,

the symmetric Kullback-Leibler divergence (Jeffreys 1946) with additive smoothing, so that an empty bucket has a
logarithm. By the usual rule of thumb of credit scoring (Siddiqi 2006), which no theory backs, below 0.1 is stable
and above 0.25 drifted. Samples of one population differ too: K buckets of n_A and n_B values then have a PSI of
about (K - 1) (1 / n_A + 1 / n_B) (Yurdakul & Naranjo 2020), which is given beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_cython_ext import MISSING_ID
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.features import FIRST_CODE, MISSING_CODE, Buckets, Categorical, Features
from recsys_pipelines.features.base import Arrays
from recsys_pipelines.features.features import CONFIGS
from recsys_pipelines.features.numeric import lower_ends
from recsys_pipelines.inspection.inspect import (
    Histogram,
    decile_of,
    numeric_columns,
    present_values,
    scale_of,
)
from recsys_pipelines.inspection.result import Z95, Rate
from recsys_pipelines.parallel import ordered
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.preparation.split import SPLITS
from recsys_pipelines.shards import read_shard

SHIFTED, DRIFTED = 0.1, 0.25
SMOOTHING = 1e-6
OWN_BUCKET_PARTS = 1000  # an id with one of so many parts of A's or B's impressions is a bucket of its own
LARGEST = 5
# settings of a declaration that change neither the 64-bit ids nor the numbers that are compared
FREE = {
    *("names", "parts", "encoding", "min_count", "unknown", "vocabulary", "keep", "pooling", "like"),
    "standardise",
}
# kinds that make a feature of each of their `columns`
ONE_A_COLUMN = {"tokens", "prefixes", "buckets", "statistic"}


@dataclass(frozen=True)
class Moved:
    """A bucket, its shares of A and of B, and its term of the sum."""

    bucket: str
    a: float
    b: float
    psi: float


@dataclass(frozen=True)
class FeatureDrift:
    """How a column of B differs from A's. kind: as declared. verdict: stable, shifted or drifted, a rule of thumb.

    psi: over `buckets` buckets. Of ids: each with at least 0.1 % of A's or of B's impressions, missing, and all
    others together. Of numbers: A's training deciles (values that many rows share leave fewer), what lies below and
    above A's range, and missing, in the units of the data. by_chance: PSI to be expected of two samples of one
    population; None of a statistic, for the rows of an id share its value (and its `count` grows with the set), so that
    it moves more than rows drawn alone would. values: impressions of A and of B; missing: their shares, None without
    any; largest: the buckets with the largest terms.

    Of ids only, None where there is none to share: new_impressions, new_ids: shares of B's impressions and of B's
    distinct ids that A never saw; vanished_impressions: share of A's impressions whose ids B never saw. Impressions
    count missing ones too, which are neither new nor vanished.
    """

    name: str
    kind: str
    verdict: str
    psi: float
    by_chance: float | None
    buckets: int
    values: tuple[int, int]
    missing: tuple[float | None, float | None]
    ids: tuple[int, int] | None
    new_impressions: float | None
    new_ids: float | None
    vanished_impressions: float | None
    largest: list[Moved]


@dataclass(frozen=True)
class LabelDrift:
    """Label rates of training rows, B's minus A's, and its 95 % z interval for two proportions.

    The interval is Agresti and Caffo's (2000): that of Wald after a positive and a negative were added to each set,
    which holds for rates of 0 and 1 too. Rows count as independent.
    """

    a: Rate
    b: Rate
    difference: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, a: Rate, b: Rate) -> "LabelDrift":
        """Compare two rates of at least a row each."""
        assert a.rows
        assert b.rows  # no split is empty
        (p, n), (q, m) = (((rate.positives + 1) / (rate.rows + 2), rate.rows + 2) for rate in (a, b))
        half = Z95 * (p * (1 - p) / n + q * (1 - q) / m) ** 0.5
        return cls(
            a,
            b,
            b.positives / b.rows - a.positives / a.rows,
            (max(q - p - half, -1.0), min(q - p + half, 1.0)),
        )


@dataclass(frozen=True)
class Drift:
    """Two prepared sets compared: label rates of training and of every split, and features as declared."""

    a: str
    b: str
    label: LabelDrift
    splits: dict[str, tuple[Rate, Rate]]
    features: list[FeatureDrift]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def compare_sets(a: Prepared, b: Prepared, progress: Progress = no_progress) -> Drift:
    """Compare the training rows of B with those of A.

    Reads what the features were fitted from, and the training shards where there are numbers or buckets: A's twice,
    B's once, one at a time. Raises ValueError naming the first feature that is declared differently in A and B, and
    when a column holds text in one and integers in the other, whose ids cannot be compared.
    """
    _require_same_features(a, b)
    sets = a.features(), b.features()
    sets[0].check_text(sets[1].text, str(b.path))
    counters = _counters(sets)
    _count(counters, a, b, progress)
    counts = a.counts(), b.counts()
    kinds = {name: config.kind for config in sets[0].configs for name in config.names}
    found = []
    for feature in sets[0].features:
        kind, arrays = kinds[feature.name], [one.arrays_of(feature.name) for one in counts]
        if isinstance(feature, Categorical):
            found.append(_id_drift(feature.name, kind, *arrays))
        else:
            found += [counters[name].drift(kind, *arrays) for name in feature.columns if name in counters]
    rates = [
        {name: Rate.of(count.rows, count.positives) for name, count in one.manifest.splits.items()}
        for one in (a, b)
    ]
    return Drift(
        a=str(a.path),
        b=str(b.path),
        label=LabelDrift.of(rates[0]["train"], rates[1]["train"]),
        splits={name: (rates[0][name], rates[1][name]) for name in SPLITS},
        features=found,
    )


def psi_terms(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Terms of the PSI and the shares of A and of B, float64 [K] each. a, b: counts int64 [K] of the same buckets.

    Shares are before smoothing; those of nothing at all are 0.
    """
    shares_a, shares_b = (counts / max(int(counts.sum()), 1) for counts in (a, b))
    smooth_a, smooth_b = shares_a + SMOOTHING, shares_b + SMOOTHING
    return (smooth_b - smooth_a) * np.log(smooth_b / smooth_a), shares_a, shares_b


def verdict(psi: float) -> str:
    """By the rule of thumb: stable below 0.1, drifted above 0.25, else shifted."""
    return "stable" if psi < SHIFTED else "drifted" if psi > DRIFTED else "shifted"


def _require_same_features(a: Prepared, b: Prepared) -> None:
    mine, theirs = _meanings(a), _meanings(b)
    for name in [*mine, *theirs]:
        left, right = mine.get(name), theirs.get(name)
        if left != right:
            raise ValueError(
                f"feature {name!r} is {_said(left)} in {a.path}, but {_said(right)} in {b.path}: sets are compared "
                "feature by feature, so prepare both with the same features"
            )


def _meanings(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Of each feature, what of its declaration decides the ids or numbers that are compared."""
    found: dict[str, dict[str, Any]] = {}
    for config in CONFIGS.validate_python(prepared.manifest.features):
        kept = config.model_dump(exclude=FREE | ({"columns"} if config.kind in ONE_A_COLUMN else set()))
        found |= dict.fromkeys(config.names, kept)
    return found


def _said(declared: dict[str, Any] | None) -> str:
    if declared is None:
        return "not declared"
    options = ", ".join(f"{key}: {value}" for key, value in declared.items() if key != "kind")
    return f"{declared['kind']} ({options})" if options else declared["kind"]


def _id_drift(name: str, kind: str, a: Arrays, b: Arrays) -> FeatureDrift:
    """Compare ids by their counts in training."""
    ids = np.union1d(a["ids"], b["ids"])
    counts = np.zeros((2, len(ids)), np.int64)
    for line, own in zip(counts, (a, b), strict=True):
        line[np.searchsorted(ids, own["ids"])] = own["counts"]
    totals = counts.sum(axis=1)
    missing = ids == MISSING_ID
    alone = ~missing & ((counts > 0) & (counts * OWN_BUCKET_PARTS >= totals[:, None])).any(axis=0)
    rest = ~missing & ~alone
    buckets = np.stack(
        [np.concatenate([line[alone], [line[missing].sum(), line[rest].sum()]]) for line in counts]
    )
    labels = [*(f"id {key}" for key in ids[alone].tolist()), "missing", "all others"]
    present = ~missing & (counts > 0)
    new, vanished = present[1] & ~present[0], present[0] & ~present[1]
    num_ids = present.sum(axis=1).tolist()
    return _drift(
        name,
        kind,
        labels,
        buckets,
        missing=counts[:, missing].sum(axis=1),
        ids=(num_ids[0], num_ids[1]),
        new_impressions=_share(counts[1, new].sum(), totals[1]),
        new_ids=_share(new.sum(), num_ids[1]),
        vanished_impressions=_share(counts[0, vanished].sum(), totals[0]),
    )


def _drift(
    name: str, kind: str, labels: Sequence[str], counts: np.ndarray, missing: np.ndarray, **of_ids: Any
) -> FeatureDrift:
    """counts: int64 [2, K] of A and B in the buckets `labels`; missing: int64 [2]."""
    terms, shares_a, shares_b = psi_terms(*counts)
    values, buckets = counts.sum(axis=1).tolist(), int(counts.any(axis=0).sum())
    psi = float(terms.sum())
    largest = [int(place) for place in np.argsort(-terms, kind="stable")[:LARGEST] if terms[place] > 0]
    nothing = dict.fromkeys(("ids", "new_impressions", "new_ids", "vanished_impressions"))
    return FeatureDrift(
        name=name,
        kind=kind,
        verdict=verdict(psi),
        psi=psi,
        by_chance=(buckets - 1) * (1 / values[0] + 1 / values[1])
        if all(values) and kind != "statistic"
        else None,
        buckets=buckets,
        values=(values[0], values[1]),
        missing=(_share(missing[0], values[0]), _share(missing[1], values[1])),
        largest=[
            Moved(labels[place], float(shares_a[place]), float(shares_b[place]), float(terms[place]))
            for place in largest
        ],
        **(nothing | of_ids),
    )


def _share(part: Any, whole: Any) -> float | None:
    return int(part) / int(whole) if whole else None


class _Numbers:
    """Counts one float32 column of A and B by A's deciles, with values beyond A's range and missing ones apart."""

    def __init__(self, name: str, sets: Sequence[Features]) -> None:
        self._name = name
        self._indicators = [numeric_columns(one)[name] for one in sets]
        self._scales = [
            next(scale_of(feature) for feature in one.features if name in feature.columns) for one in sets
        ]
        self._histogram = Histogram()  # of A, in its own units
        self._counts: np.ndarray | None = None  # int64 [2, K]
        self._missing = np.zeros(2, np.int64)

    def measure(self, table: pa.Table) -> None:
        """See a shard of A, to know where to cut."""
        self._histogram.add(present_values(table, self._name, self._indicators[0])[0])

    def cut(self) -> None:
        """Cut, in the units of the data, between the occupied bins that deciles part, and beyond the range.

        A cut lies in the middle between two bins, and those of the range have some room, for the float32 columns of A
        and B are rounded each in its own units.
        """
        bins, counts = self._histogram.result()
        mean, deviation = self._scales[0]
        lower, upper = (lower_ends(ends) * deviation + mean for ends in (bins, bins + 1))
        first = np.flatnonzero(np.diff(decile_of(counts))) + 1
        self._cuts = (upper[first - 1] + lower[first]) / 2
        if len(bins):
            units = sum(abs(mean) + deviation for mean, deviation in self._scales)
            room = 1e-4 * (upper[-1] - lower[0]) + 1e-6 * units
            self._cuts = np.concatenate([[lower[0] - room], self._cuts, [upper[-1] + room]])
        self._counts = np.zeros((2, len(self._cuts) + 1), np.int64)

    def count(self, table: pa.Table, which: int) -> None:
        """Count a shard of A (0) or B (1)."""
        assert self._counts is not None
        mean, deviation = self._scales[which]
        values, present = present_values(table, self._name, self._indicators[which])
        places = np.searchsorted((self._cuts - mean) / deviation, values, side="right")
        self._counts[which] += np.bincount(places, minlength=self._counts.shape[1])
        self._missing[which] += np.count_nonzero(~present)

    def drift(self, kind: str, a: Arrays, b: Arrays) -> FeatureDrift:
        """What was found; a and b are not needed."""
        assert self._counts is not None
        ends = ["A's smallest", *(f"{cut:.6g}" for cut in self._cuts[1:-1]), "A's largest"]
        labels = ["below A's range", *(f"{low} to {high}" for low, high in pairwise(ends)), "above A's range"]
        labels = labels if len(self._cuts) else ["any"]
        counts = np.column_stack([self._counts, self._missing])
        return _drift(self._name, kind, [*labels, "missing"], counts, self._missing)


class _Codes:
    """Counts the codes of a feature of buckets in A and B."""

    def __init__(self, name: str, sets: Sequence[Features]) -> None:
        self._name = name
        self._features = [next(f for f in one.categorical if f.name == name) for one in sets]
        self._counts = [np.zeros(feature.num_codes or 0, np.int64) for feature in self._features]

    def measure(self, table: pa.Table) -> None:
        """Nothing: the buckets are there."""

    def cut(self) -> None:
        """Nothing."""

    def count(self, table: pa.Table, which: int) -> None:
        """Count a shard of A (0) or B (1)."""
        counts = self._counts[which]
        counts += np.bincount(table[self._name].to_numpy(), minlength=len(counts))

    def drift(self, kind: str, a: Arrays, b: Arrays) -> FeatureDrift:
        """Compare by A's boundaries. a, b: histograms of training, for quantiles that differ."""
        ends, others = (feature.boundaries for feature in self._features if isinstance(feature, Buckets))
        counts = np.stack([self._counts[0][FIRST_CODE:]] * 2)
        if np.array_equal(ends, others):
            counts[1] = self._counts[1][FIRST_CODE:]
        else:  # A's boundaries are ends of bins
            places = np.searchsorted(ends, lower_ends(b["bins"]), side="right")
            counts[1] = 0
            np.add.at(counts[1], places, b["counts"])
        missing = np.array([own[MISSING_CODE] for own in self._counts])
        texts = [f"{end:.6g}" for end in ends]
        labels = [f"{low} to {high}" for low, high in pairwise(["lowest", *texts, "highest"])]
        return _drift(self._name, kind, [*labels, "missing"], np.column_stack([counts, missing]), missing)


def _counters(sets: Sequence[Features]) -> dict[str, _Numbers | _Codes]:
    """A counter of each column that the counts of ids say nothing of."""
    buckets = [feature.name for feature in sets[0].categorical if isinstance(feature, Buckets)]
    return {
        **{name: _Numbers(name, sets) for name in numeric_columns(sets[0])},
        **{name: _Codes(name, sets) for name in buckets},
    }


def _count(counters: Mapping[str, _Numbers | _Codes], a: Prepared, b: Prepared, progress: Progress) -> None:
    """Read the training shards: A's to know where to cut, then A's and B's to count."""
    if not counters:
        return
    rows = [one.manifest.splits["train"].rows for one in (a, a, b)]
    done = 0
    for turn, one in enumerate((a, a, b)):
        for table in _training_shards(one):
            work = partial(_work, table=table, turn=turn)
            for _ in ordered(work, counters.values()):  # each counter is one thread's own
                pass
            done += table.num_rows
            progress("compare", done, sum(rows))
        if turn == 0:
            for counter in counters.values():
                counter.cut()


def _work(counter: _Numbers | _Codes, table: pa.Table, turn: int) -> None:
    if turn == 0:
        counter.measure(table)
    else:
        counter.count(table, turn - 1)


def _training_shards(prepared: Prepared) -> Iterator[pa.Table]:
    for name, shard in sorted(prepared.manifest.shards.items()):
        if shard.split == "train":
            yield read_shard(prepared.path / name)
