"""Requests in whatever form they come, as the Arrow tables that features take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.types as pt

from recsys_cython_ext.column_ids import UUID_BYTES
from recsys_pipelines.features.plain import is_any, one_array, without_views


def applied(work: Callable[[pa.Table], pa.Table], rows: Any, columns: Sequence[str]) -> Any:
    """Return what `work` makes of `rows`: a Polars frame of a Polars frame, else an Arrow table.

    rows: as `Features.transform` takes them. columns: those that `work` reads; each dict must have them all.
    Raises TypeError for rows of another kind, ValueError for dicts without a column or with values of mixed types.
    """
    if isinstance(rows, pl.LazyFrame):
        empty = applied(work, rows.head(0).collect(), columns)
        return rows.map_batches(
            lambda frame: applied(work, frame, columns), schema=empty.schema, streamable=True
        )
    if isinstance(rows, pl.DataFrame):
        return pl.from_arrow(work(rows.to_arrow()))
    if isinstance(rows, pa.RecordBatch):
        return work(pa.Table.from_batches([rows]))
    if isinstance(rows, pa.Table):
        return work(rows)
    if isinstance(rows, Mapping):
        return work(_table([rows], columns))
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return work(_table(rows, columns))
    raise TypeError(
        f"rows are a dict, a list of dicts, an Arrow table or a Polars frame, not {type(rows).__name__}"
    )


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    arrays = {}
    for name in columns:
        for number, row in enumerate(rows):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}: give None where a value is missing")
        try:
            arrays[name] = _column([_or_missing(row[name]) for row in rows])
        except (pa.ArrowException, OverflowError, TypeError) as error:  # TypeError: infinite decimals
            raise ValueError(f"{name}: the values do not fit one column ({error}): use one type") from None
    return pa.table(arrays)


def _column(values: list[Any]) -> pa.Array:
    """Make an array of values of one type; NaN among text, in lists too, is missing, as pandas means it."""
    try:
        return pa.array(values, from_pandas=True)
    except OverflowError:  # integers of 2^63 and more, which Arrow does not guess
        lists = any(isinstance(value, list | tuple | np.ndarray) for value in values)
        return pa.array(values, pa.list_(pa.uint64()) if lists else pa.uint64(), from_pandas=True)


def _or_missing(value: Any) -> Any:
    return None if isinstance(value, float | np.floating) and np.isnan(value) else value


def with_uuids(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Turn the bytes in `columns` into UUIDs again: Polars, which has no such type, holds them as bytes.

    Raises ValueError naming the column where they are not 16.
    """
    for name in table.column_names:
        if name not in columns:
            continue
        column = without_views(one_array(table[name]))
        if not is_any(column.type, pt.is_binary, pt.is_large_binary):
            continue
        try:
            uuids = column.cast(pa.binary()).cast(pa.binary(UUID_BYTES))
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"{name}: training had UUIDs, and not all of these bytes are some ({error}): give 16, or their text"
            ) from None
        table = table.set_column(table.column_names.index(name), name, uuids)
    return table
