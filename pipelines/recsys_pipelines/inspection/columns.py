"""Columns of a prepared split, mapped from its shards, and their values counted by Polars as a stream."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.features import Numeric, Statistic
from recsys_pipelines.features.base import Feature
from recsys_pipelines.features.numeric import bins_of
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.shards import read_shard, without_published_users

LABEL = "@label"


def opened(prepared: Prepared | str | os.PathLike[str]) -> Prepared:
    """Return a prepared set, which a path may name. Raises ManifestError as `Prepared.open` does."""
    return prepared if isinstance(prepared, Prepared) else Prepared.open(os.fspath(prepared))


def split_rows(prepared: Prepared, split: str) -> pa.Table:
    """Map the shards of a split as one table. Raises OSError for a shard that is not there."""
    shards = prepared.manifest.shards
    names = sorted(name for name, shard in shards.items() if shard.split == split)
    return pa.concat_tables([without_published_users(read_shard(prepared.path / name)) for name in names])


def positives_of(rows: pa.Table) -> int:
    """Return how many rows have a positive label."""
    return pc.sum(pc.greater(rows[LABEL], 0)).as_py() or 0


def value_counts(rows: pa.Table, column: str) -> pl.DataFrame:
    """Count the encoded ids of a column, elements of lists one by one: `value` (rising), `rows`, `positives`."""
    values = _values(rows, column)
    if pa.types.is_list(rows.schema.field(column).type):
        values = values.explode("value").drop_nulls("value")
    return _counted(values)


def longest_list(rows: pa.Table, column: str) -> int:
    """Return the length of the longest list of a column."""
    longest = _values(rows, column).select(pl.col("value").list.len().max())
    return longest.collect(engine="streaming").item() or 0


@dataclass(frozen=True)
class NumberColumn:
    """A float32 column, the 0/1 column that says where it is missing (None where none ever was), and its scale.

    value · deviation + mean is in the units of the data; the scale is (0, 1) where nothing was standardised.
    """

    name: str
    indicator: str | None
    mean: float
    deviation: float

    def present(self, rows: pa.Table) -> Iterator[np.ndarray]:
        """Yield the values that are not missing, float64 [P], one shard after the other."""
        columns = [self.name] if self.indicator is None else [self.name, self.indicator]
        for batch in rows.select(columns).to_batches():
            values = batch[self.name].to_numpy().astype(np.float64)
            yield values if self.indicator is None else values[batch[self.indicator].to_numpy() == 0]

    def count_present(self, rows: pa.Table) -> int:
        """Return how many values are not missing."""
        return (
            rows.num_rows
            if self.indicator is None
            else pc.sum(pc.equal(rows[self.indicator], 0)).as_py() or 0
        )

    def bin_counts(self, rows: pa.Table) -> pl.DataFrame:
        """Count present values in bins whose ends have a mantissa of 12 bits.

        Returns rising bins as `value` (`features.numeric.lower_ends` says where they begin), `rows` and `positives`,
        and the extremes of the values, `low` and `high`.
        """
        number = pl.col("value").cast(pl.Float64)
        in_bins = number.map_batches(_bins_of, return_dtype=pl.Int64, is_elementwise=True)
        values = _values(rows, self.name, self.indicator).with_columns(value=in_bins, number=number)
        return _counted(values, low=pl.col("number").min(), high=pl.col("number").max())


def number_columns(feature: Feature) -> list[NumberColumn]:
    """Return the columns of numbers that a feature makes, without the indicators of missing ones."""
    if isinstance(feature, Numeric):
        indicator = f"{feature.name}:missing" if feature.indicator else None
        return [NumberColumn(feature.name, indicator, feature.mean, feature.deviation)]
    if isinstance(feature, Statistic):
        return [NumberColumn(name, None, 0.0, 1.0) for name in feature.columns]
    return []


def _values(rows: pa.Table, column: str, indicator: str | None = None) -> pl.LazyFrame:
    """Return `value` and `positive` of the rows where the indicator, if there is one, is 0."""
    columns = {"value": rows[column], "positive": rows[LABEL]}
    if indicator is not None:
        columns["missing"] = rows[indicator]
    frame = pl.from_arrow(pa.table(columns), rechunk=False).lazy()  # type: ignore[union-attr]
    frame = frame.with_columns(pl.col("positive") > 0)
    return frame if indicator is None else frame.filter(pl.col("missing") == 0)


def _counted(values: pl.LazyFrame, **aggregates: pl.Expr) -> pl.DataFrame:
    counts = {"rows": pl.len().cast(pl.Int64), "positives": pl.col("positive").sum().cast(pl.Int64)}
    return values.group_by("value").agg(**counts, **aggregates).sort("value").collect(engine="streaming")


def _bins_of(values: pl.Series) -> pl.Series:
    return pl.Series(bins_of(values.to_numpy()))
