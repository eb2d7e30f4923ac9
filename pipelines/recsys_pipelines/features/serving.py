"""One request, or a table of them, through fitted features: the numbers of training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from recsys_pipelines.convert import columns_of, text_ids, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk

if TYPE_CHECKING:
    from recsys_pipelines.features.features import Features

SHOWN = 3  # bad values that an error names


def transform(features: "Features", rows: Any) -> Any:
    """As `Features.transform`."""
    if isinstance(rows, pl.LazyFrame):
        empty = pl.from_arrow(_encoded(features, rows.head(0).collect().to_arrow()))
        assert isinstance(empty, pl.DataFrame)
        return rows.map_batches(
            lambda frame: transform(features, frame), schema=empty.schema, streamable=True
        )
    if isinstance(rows, pl.DataFrame):
        return pl.from_arrow(_encoded(features, rows.to_arrow()))
    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        return _encoded(features, rows)
    if isinstance(rows, Mapping):
        rows = [rows]
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return _encoded(features, _table(rows, columns_of(features.serving_specs())))
    raise TypeError(
        f"rows are a dict, a list of dicts, an Arrow table or a Polars frame, not {type(rows).__name__}"
    )


def _encoded(features: "Features", table: pa.Table) -> pa.Table:
    specs = features.serving_specs()
    chunk = Chunk(table.combine_chunks(), np.arange(table.num_rows), "request")
    bad = Quarantine()
    converted = typed(chunk, specs, bad)
    if bad.count:
        shown = "; ".join(f"row {e.row}, {e.field}: {e.reason} ({e.value!r})" for e in bad.examples[:SHOWN])
        raise ValueError(f"{bad.count} of {table.num_rows} rows cannot be read: {shown}")
    features.check_text(text_ids(chunk, specs), "request")
    return features.encode(converted.drop_columns("row_id"))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    found = {}
    for name in columns:
        for number, row in enumerate(rows):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}: give None where a value is missing")
        values = [row[name] for row in rows]
        try:
            found[name] = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"{name}: the values do not fit one column ({error}): use one type") from None
    return pa.table(found)
