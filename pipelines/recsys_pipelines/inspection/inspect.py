"""What a prepared set holds, feature by feature.

Counts are exact. A value is one id of one row; a row with a list has as many values as the list is long, and each
carries the label of its row. Of ids, "unknown" means outside the vocabulary, and for hashed ids, which have none,
not seen in training. Singletons and skew are those of training's ids, whatever the minimum count. Where the vocabulary
is of fingerprints, one id outside in `vocabulary.ONE_IN` counts as known, so what is said of unknown values is an estimate.
"""

import os
from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recsys_cython_ext import MISSING_ID, ExactSum
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.features import FIRST_CODE, MISSING_CODE, Buckets, Categorical, Features
from recsys_pipelines.features.base import Arrays, Feature
from recsys_pipelines.features.numeric import Numeric, lower_ends
from recsys_pipelines.inspection.columns import (
    NumberColumn,
    longest_list,
    number_columns,
    opened,
    positives_of,
    split_rows,
    value_counts,
)
from recsys_pipelines.inspection.result import (
    CategoricalReport,
    Decile,
    Inspection,
    NumericReport,
    Rate,
    SplitReport,
    TopId,
    ValuesReport,
)
from recsys_pipelines.inspection.skew import skew_of
from recsys_pipelines.parallel import ordered
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.preparation.split import SPLITS

TOP_IDS = 10

Rows = Mapping[str, pa.Table]  # of each split


def inspect(prepared: Prepared | str | os.PathLike[str], progress: Progress = no_progress) -> Inspection:
    """Say what a prepared set holds.

    Shards are mapped, and a column at a time is counted as a stream: memory is taken by the distinct values of as many
    columns as there are cores. Raises ValueError for damaged features, OSError for a shard that is not there.
    """
    prepared = opened(prepared)
    features, counts = prepared.features(), prepared.counts()
    rows = {name: split_rows(prepared, name) for name in SPLITS}
    categorical: list[CategoricalReport] = []
    numeric: list[NumericReport] = []

    def report(feature: Feature) -> CategoricalReport | list[NumericReport]:
        if isinstance(feature, Categorical | Buckets):
            return _categorical_report(feature, features, counts.arrays_of(feature.name), rows)
        return [_numeric_report(column, feature, rows) for column in number_columns(feature)]

    total = prepared.manifest.rows_out
    for done, reports in enumerate(ordered(report, features.features), 1):
        if isinstance(reports, CategoricalReport):
            categorical.append(reports)
        else:
            numeric += reports
        progress("inspect", total * done // len(features.features), total)
    return Inspection(
        path=str(prepared.path),
        **prepared.manifest.row_counts,
        splits={name: _split_report(table) for name, table in rows.items()},
        categorical=categorical,
        numeric=numeric,
    )


def _split_report(rows: pa.Table) -> SplitReport:
    users = times = None
    if "@user" in rows.column_names:
        users = pl.from_arrow(rows["@user"], rechunk=False).n_unique()  # type: ignore[union-attr]
    if "@time" in rows.column_names:
        first, last = pc.min_max(rows["@time"]).values()
        times = first.as_py(), last.as_py()
    return SplitReport(Rate.of(rows.num_rows, positives_of(rows)), _weighted_rate(rows), users, times)


def _weighted_rate(rows: pa.Table) -> float | None:
    """Return the label rate by the weights of the rows, None where there are none."""
    if "@weight" not in rows.column_names:
        return None
    total, positive = ExactSum(), ExactSum()
    for batch in rows.select(["@weight", "@label"]).to_batches():
        weights = batch["@weight"].to_numpy()
        total.add(weights)
        positive.add(weights[batch["@label"].to_numpy() > 0])
    return float(positive.value() / total.value()) if total.value() else None


# Ids


def _categorical_report(
    feature: Categorical | Buckets, features: Features, training: Arrays, rows: Rows
) -> CategoricalReport:
    """Report on a feature of ids. training: what it was fitted from, as `FeatureFitter.arrays_of` returns it."""
    counts = {split: value_counts(table, feature.name) for split, table in rows.items()}
    in_training = counts["train"]["value"].to_numpy()
    rates = {split: _rates(feature, values, in_training) for split, values in counts.items()}
    known, unknown, missing = rates["train"]
    id_counts = _id_counts(feature, training, counts["train"])
    num_ids, singletons = len(id_counts), int(np.count_nonzero(id_counts == 1))
    return CategoricalReport(
        name=feature.name,
        encoding="buckets" if isinstance(feature, Buckets) else feature.encoding,
        form=feature.form,
        multivalued=feature.multivalued,
        codes=feature.num_codes if feature.encoding == "vocabulary" else None,
        ids=num_ids,
        singletons=singletons,
        singleton_share=singletons / num_ids if num_ids else None,
        splits={split: _values_report(feature, *rates[split], rows[split]) for split in rows},
        skew=skew_of(id_counts),
        known=known,
        unknown=unknown,
        missing=missing,
        top=_top_ids(feature, features, training, counts["train"]),
    )


def _masks(
    feature: Categorical | Buckets, values: np.ndarray, in_training: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which encoded values [K] are known, unknown and missing. in_training: those of training."""
    if feature.encoding == "hash":
        missing, unknown = values == MISSING_ID, ~np.isin(values, in_training)
    else:
        missing, unknown = values == MISSING_CODE, feature.is_unknown(values)
    unknown &= ~missing
    return ~(missing | unknown), unknown, missing


def _rates(
    feature: Categorical | Buckets, counts: pl.DataFrame, in_training: np.ndarray
) -> tuple[Rate, Rate, Rate]:
    """Return the label rates of known, unknown and missing values."""
    masks = _masks(feature, counts["value"].to_numpy(), in_training)
    rows, positives = counts["rows"].to_numpy(), counts["positives"].to_numpy()
    known, unknown, missing = (Rate.of(int(rows[mask].sum()), int(positives[mask].sum())) for mask in masks)
    return known, unknown, missing


def _id_counts(feature: Categorical | Buckets, training: Arrays, counts: pl.DataFrame) -> np.ndarray:
    """Return how often training saw each of its ids, without the missing one; of buckets, each that is not empty."""
    if isinstance(feature, Buckets):
        return counts.filter(pl.col("value") >= FIRST_CODE)["rows"].to_numpy()
    return training["counts"][training["ids"] != MISSING_ID]


def _values_report(
    feature: Categorical | Buckets, known: Rate, unknown: Rate, missing: Rate, rows: pa.Table
) -> ValuesReport:
    values = known.rows + unknown.rows + missing.rows
    lists = feature.multivalued
    return ValuesReport(
        values=values,
        missing=missing.rows,
        unknown=unknown.rows,
        missing_share=missing.rows / values if values else None,
        unknown_share=unknown.rows / values if values else None,
        mean_length=values / rows.num_rows if lists and rows.num_rows else None,
        max_length=longest_list(rows, feature.name) if lists else None,
    )


def _top_ids(
    feature: Categorical | Buckets, features: Features, training: Arrays, counts: pl.DataFrame
) -> list[TopId]:
    """Return the known ids that training saw most often, the lower code first among equals."""
    values = counts["value"].to_numpy()
    known, _, _ = _masks(feature, values, values)
    top = counts.filter(known).sort("rows", descending=True, maintain_order=True).head(TOP_IDS)
    ids = top["value"].to_numpy()
    if isinstance(feature, Categorical):
        if feature.encoding == "vocabulary":
            id_of = feature.ids_of(ids, training)
            ids = np.array([id_of[code] for code in ids.tolist()], np.int64)
        ids = features.published_ids(feature.name, ids)
    rates = zip(top["rows"].to_list(), top["positives"].to_list(), strict=True)
    return [TopId(id_, Rate.of(*counts)) for id_, counts in zip(ids.tolist(), rates, strict=True)]


# Numbers


def _numeric_report(column: NumberColumn, feature: Feature, rows: Rows) -> NumericReport:
    bins = column.bin_counts(rows["train"])
    present = {split: column.count_present(table) for split, table in rows.items()}
    # Training without an indicator has none missing, and statistics are always there.
    known = ["train"] if column.indicator is None and isinstance(feature, Numeric) else list(rows)
    positives = positives_of(rows["train"]) - int(bins["positives"].sum())
    return NumericReport(
        name=column.name,
        transform=feature.transform if isinstance(feature, Numeric) else "statistic",
        mean=column.mean,
        deviation=column.deviation,
        missing_shares={
            split: (table.num_rows - present[split]) / table.num_rows
            if split in known and table.num_rows
            else None
            for split, table in rows.items()
        },
        minimum=bins["low"][0] if len(bins) else None,
        quartiles=_quartiles(bins),
        maximum=bins["high"][-1] if len(bins) else None,
        deciles=_deciles(bins),
        missing=Rate.of(rows["train"].num_rows - present["train"], positives),
    )


def _quartiles(bins: pl.DataFrame) -> tuple[float, float, float] | None:
    """Return the bin of the smallest value that at least so many quarters of the values do not exceed."""
    if not len(bins):
        return None
    ends = bins["rows"].cum_sum().to_numpy()
    ranks = [-(-int(ends[-1]) * quarter // 4) for quarter in (1, 2, 3)]
    places = np.searchsorted(ends, ranks)
    first, second, third = np.maximum(lower_ends(bins["value"].to_numpy()[places]), bins["low"][0]).tolist()
    return first, second, third


def decile_of(counts: np.ndarray) -> np.ndarray:
    """Return the decile, 0 to 9, in which each bin begins: int64 [K]. counts: int64 [K] of rising bins."""
    below = np.cumsum(counts) - counts
    return below * 10 // max(int(counts.sum()), 1)


def _deciles(bins: pl.DataFrame) -> list[Decile]:
    """Return the label rate of each decile of a column's bins in training."""
    lower = lower_ends(bins["value"].to_numpy())
    lower[:1] = bins["low"][:1].to_numpy()  # the smallest value lies in the first bin
    deciles = (
        bins.with_columns(decile=pl.Series(decile_of(bins["rows"].to_numpy())), lower=pl.Series(lower))
        .group_by("decile", maintain_order=True)
        .agg(
            pl.col("lower").first(), pl.col("lower").last().alias("upper"), pl.col("rows", "positives").sum()
        )
    )
    return [Decile(number, low, high, Rate.of(*counts)) for number, low, high, *counts in deciles.iter_rows()]
