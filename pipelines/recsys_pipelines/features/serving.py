"""Requests in whatever form they come, as the Arrow tables that features take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa


def applied(work: Callable[[pa.Table], pa.Table], rows: Any, columns: Sequence[str]) -> Any:
    """What `work` makes of `rows`: a Polars frame of a Polars frame, else an Arrow table.

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
    found = {}
    for name in columns:
        for number, row in enumerate(rows):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}: give None where a value is missing")
        try:
            found[name] = pa.array([row[name] for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"{name}: the values do not fit one column ({error}): use one type") from None
    return pa.table(found)
