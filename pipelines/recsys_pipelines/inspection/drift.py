"""How much two prepared sets of the same features differ: A, the reference, and B, which came later.

Training rows are compared with training rows, by the population stability index of each feature (`psi`), the ids that
came and went, and label rates.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_cython_ext import MISSING_ID
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.features import FIRST_CODE, MISSING_CODE, Buckets, Categorical
from recsys_pipelines.features.base import Arrays, Feature
from recsys_pipelines.features.features import CONFIGS
from recsys_pipelines.features.numeric import lower_ends
from recsys_pipelines.inspection.columns import (
    NumberColumn,
    number_columns,
    opened,
    split_rows,
    value_counts,
)
from recsys_pipelines.inspection.inspect import decile_of
from recsys_pipelines.inspection.psi import FeatureDrift, feature_drift, share
from recsys_pipelines.inspection.result import Z95, Rate
from recsys_pipelines.parallel import ordered
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.preparation.split import SPLITS

FREQUENT = 1000  # an id with one of so many parts of A's or B's impressions is a bucket by itself
# settings of a declaration that change neither the 64-bit ids nor the numbers that are compared
FREE = {
    *("names", "parts", "encoding", "form", "min_count", "unknown", "vocabulary", "keep", "pooling", "like"),
    "standardise",
}
# kinds that make a feature of each of their `columns`
ONE_A_COLUMN = {"tokens", "prefixes", "buckets", "statistic"}


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
        difference = b.positives / b.rows - a.positives / a.rows
        return cls(a, b, difference, (max(q - p - half, -1.0), min(q - p + half, 1.0)))


@dataclass(frozen=True)
class Drift:
    """Two prepared sets compared: label rates of training and of every split, and features as declared."""

    a: str
    b: str
    label: LabelDrift
    splits: dict[str, tuple[Rate, Rate]]
    features: list[FeatureDrift]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def compare_sets(
    a: Prepared | str | os.PathLike[str],
    b: Prepared | str | os.PathLike[str],
    progress: Progress = no_progress,
) -> Drift:
    """Compare the training rows of B with those of A.

    Ids are compared by what the features were fitted from, numbers and buckets by the training shards, which are mapped.
    Raises ValueError naming the first feature that is declared differently in A and B, and when a column holds text in
    one and integers in the other, whose ids cannot be compared.
    """
    a, b = opened(a), opened(b)
    _require_same_features(a, b)
    sides = _Side(a), _Side(b)
    sides[0].features.check_text(sides[1].features.text, str(b.path))
    features = sides[0].features.features
    kinds = {name: config.kind for config in sides[0].features.configs for name in config.names}
    rows = a.manifest.splits["train"].rows + b.manifest.splits["train"].rows
    drifts: list[FeatureDrift] = []
    for done, drift in enumerate(ordered(lambda f: _feature_drifts(f, kinds[f.name], sides), features), 1):
        drifts += drift
        progress("compare", rows * done // len(features), rows)
    label_rates = [
        {name: Rate.of(split.rows, split.positives) for name, split in prepared.manifest.splits.items()}
        for prepared in (a, b)
    ]
    return Drift(
        a=str(a.path),
        b=str(b.path),
        label=LabelDrift.of(*(rates["train"] for rates in label_rates)),
        splits={name: (label_rates[0][name], label_rates[1][name]) for name in SPLITS},
        features=drifts,
    )


# What is compared


def _require_same_features(a: Prepared, b: Prepared) -> None:
    declared_a, declared_b = _declared(a), _declared(b)
    for name in [*declared_a, *declared_b]:
        in_a, in_b = declared_a.get(name), declared_b.get(name)
        if in_a != in_b:
            raise ValueError(
                f"feature {name!r} is {_described(in_a)} in {a.path}, but {_described(in_b)} in {b.path}: sets are "
                "compared feature by feature, so prepare both with the same features"
            )


def _declared(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Return the part of each feature's declaration that decides the ids or numbers that are compared."""
    declared: dict[str, dict[str, Any]] = {}
    for config in CONFIGS.validate_python(prepared.manifest.features):
        exclude = FREE | ({"columns"} if config.kind in ONE_A_COLUMN else set())
        declared |= dict.fromkeys(config.names, config.model_dump(exclude=exclude))
    return declared


def _described(declared: dict[str, Any] | None) -> str:
    if declared is None:
        return "not declared"
    options = ", ".join(f"{key}: {value}" for key, value in declared.items() if key != "kind")
    return f"{declared['kind']} ({options})" if options else declared["kind"]


# How it is compared


class _Side:
    """One of the two sets: its features, what they were fitted from, and its training rows."""

    def __init__(self, prepared: Prepared) -> None:
        self.features, self._counts = prepared.features(), prepared.counts()
        self.rows = split_rows(prepared, "train")
        self._by_name = {feature.name: feature for feature in self.features.features}

    def feature(self, name: str) -> Feature:
        """Return a feature by its name."""
        return self._by_name[name]

    def counts(self, name: str) -> Arrays:
        """Return what a feature was fitted from, as `FeatureFitter.arrays_of` does."""
        return self._counts.arrays_of(name)


Sides = tuple[_Side, _Side]  # A and B


def _feature_drifts(feature: Feature, kind: str, sides: Sides) -> list[FeatureDrift]:
    if isinstance(feature, Buckets):
        return [_bucket_drift(feature.name, kind, sides)]
    if isinstance(feature, Categorical):
        return [_id_drift(feature.name, kind, sides)]
    columns = zip(*(number_columns(side.feature(feature.name)) for side in sides), strict=True)
    return [_number_drift(kind, pair, sides) for pair in columns]


def _id_drift(name: str, kind: str, sides: Sides) -> FeatureDrift:
    """Compare ids by their counts in training."""
    counted = [side.counts(name) for side in sides]
    ids = np.union1d(counted[0]["ids"], counted[1]["ids"])
    counts = np.zeros((2, len(ids)), np.int64)
    for line, arrays in zip(counts, counted, strict=True):
        line[np.searchsorted(ids, arrays["ids"])] = arrays["counts"]
    totals = counts.sum(axis=1)
    missing = ids == MISSING_ID
    frequent = ~missing & ((counts > 0) & (counts * FREQUENT >= totals[:, None])).any(axis=0)
    rest = ~missing & ~frequent
    buckets = np.column_stack(
        [counts[:, frequent], counts[:, missing].sum(axis=1), counts[:, rest].sum(axis=1)]
    )
    published = sides[0].features.published_ids(name, ids[frequent]).tolist()
    present = ~missing & (counts > 0)
    new, vanished = present[1] & ~present[0], present[0] & ~present[1]
    num_ids = present.sum(axis=1).tolist()
    return feature_drift(
        name,
        kind,
        [*(f"id {id_}" for id_ in published), "missing", "all others"],
        buckets,
        missing=counts[:, missing].sum(axis=1),
        ids=(num_ids[0], num_ids[1]),
        new_impressions=share(counts[1, new].sum(), totals[1]),
        new_ids=share(new.sum(), num_ids[1]),
        vanished_impressions=share(counts[0, vanished].sum(), totals[0]),
    )


def _number_drift(kind: str, columns: Sequence[NumberColumn], sides: Sides) -> FeatureDrift:
    """Compare a column of numbers by A's deciles, with values beyond A's range and missing ones apart."""
    cuts = _cuts(columns, sides[0].rows)
    counts = np.zeros((2, len(cuts) + 1), np.int64)
    for line, column, side in zip(counts, columns, sides, strict=True):
        scaled = (cuts - column.mean) / column.deviation
        for values in column.present(side.rows):
            line += np.bincount(np.searchsorted(scaled, values, side="right"), minlength=len(line))
    missing = np.array([side.rows.num_rows for side in sides]) - counts.sum(axis=1)
    ends = ["A's smallest", *(f"{cut:.6g}" for cut in cuts[1:-1]), "A's largest"]
    labels = ["below A's range", *(f"{low} to {high}" for low, high in pairwise(ends)), "above A's range"]
    labels = [*(labels if len(cuts) else ["any"]), "missing"]
    return feature_drift(columns[0].name, kind, labels, np.column_stack([counts, missing]), missing)


def _cuts(columns: Sequence[NumberColumn], rows: pa.Table) -> np.ndarray:
    """Return cuts, in the units of the data, between the occupied bins that A's deciles part, and beyond its range.

    A cut lies in the middle between two bins, and those of the range have some room, for the float32 columns of A
    and B are rounded each in its own units.
    """
    bins = columns[0].bin_counts(rows)
    if not len(bins):
        return np.empty(0)
    mean, deviation = columns[0].mean, columns[0].deviation
    values = bins["value"].to_numpy()
    lower, upper = (lower_ends(ends) * deviation + mean for ends in (values, values + 1))
    first = np.flatnonzero(np.diff(decile_of(bins["rows"].to_numpy()))) + 1
    units = sum(abs(column.mean) + column.deviation for column in columns)
    room = 1e-4 * (upper[-1] - lower[0]) + 1e-6 * units
    return np.concatenate([[lower[0] - room], (upper[first - 1] + lower[first]) / 2, [upper[-1] + room]])


def _bucket_drift(name: str, kind: str, sides: Sides) -> FeatureDrift:
    """Compare a feature of buckets by A's boundaries."""
    ends, ends_of_b = (side.feature(name).arrays()["boundaries"] for side in sides)
    counts = np.zeros((2, len(ends) + 1), np.int64)
    missing = np.zeros(2, np.int64)
    for place, side in enumerate(sides):
        counted = value_counts(side.rows, name)
        codes, rows = counted["value"].to_numpy(), counted["rows"].to_numpy()
        missing[place] = rows[codes == MISSING_CODE].sum()
        buckets = codes[codes != MISSING_CODE] - FIRST_CODE
        rows = rows[codes != MISSING_CODE]
        if not np.array_equal(ends, ends_of_b):  # A's boundaries are ends of bins
            histogram = side.counts(name)
            buckets = np.searchsorted(ends, lower_ends(histogram["bins"]), side="right")
            rows = histogram["counts"]
        np.add.at(counts[place], buckets, rows)
    texts = [f"{end:.6g}" for end in ends]
    labels = [f"{low} to {high}" for low, high in pairwise(["lowest", *texts, "highest"])]
    return feature_drift(name, kind, [*labels, "missing"], np.column_stack([counts, missing]), missing)
