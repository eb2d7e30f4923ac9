"""Attributes of users and items, joined to the rows that name them."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File


def attributes(file: File, key: str, columns: Sequence[str], quarantine: Quarantine) -> pa.Table:
    """`key` and `columns` of all rows of `file`, held in memory: one row a key.

    Rows without a key, and all but the first row of a key, go to quarantine.
    """
    parts = list(file.chunks([key, *columns], quarantine))
    if not parts:
        return pa.table({name: pa.array([], pa.string()) for name in (key, *columns)})
    whole = Chunk(
        pa.concat_tables([part.table for part in parts]),
        np.concatenate([part.rows for part in parts]),
        parts[0].file,
        np.concatenate([part.lines for part in parts if part.lines is not None]),
    )
    keys = whole.table[key].combine_chunks()
    missing = np.asarray(keys.is_null())
    repeated = ~missing & ~pl.Series(pl.from_arrow(keys)).is_first_distinct().to_numpy()
    whole.report(missing, key, keys, "no key", quarantine)
    whole.report(repeated, key, keys, "repeated key: the first row of it is used", quarantine)
    return whole.keep(~missing & ~repeated).table


def join(chunk: Chunk, key: str, side: pa.Table) -> Chunk:
    """`chunk` with the columns of `side` [N] whose `key` is the row's; null where `side` has no such key."""
    places = pc.index_in(chunk.table[key], value_set=side[key])
    table = chunk.table
    for name in side.column_names:
        if name != key:
            table = table.append_column(name, side[name].take(places))
    return Chunk(table, chunk.rows, chunk.file, chunk.lines)
