"""Attributes of users and items, joined to the rows that name them."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from typing_extensions import override

from recsys_cython_ext import IdTable, arrow_ids
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import (
    Chunk,
    File,
    Part,
    Source,
    read_parts,
    require,
    same_ids,
)


class Joined(Source):
    """The rows of a file with the attributes that `sides` have, pairs of a column and a file with that column.

    A row whose user or item has no line in its side keeps nulls. Sides are read when they are asked for, and
    are then held in memory. `columns` are those of `file`, then those each side adds; columns without
    a name (the index that pandas writes) are left out.
    """

    columns: tuple[str, ...]

    def __init__(self, file: File, sides: Sequence[tuple[str, File]] = ()) -> None:
        self.files = [file]
        self._sides = sides
        self._of_file = [name for name in file.schema.names if name]
        columns = dict.fromkeys(self._of_file)
        self._repeated = dict(file.repeated)
        for key, side in sides:
            file.require([key])
            added = _added(key, side)
            same_ids(key, file, side)
            both = {name: f"two columns are called {name!r}: rename that of {side.path}" for name in added}
            self._repeated |= {name: why for name, why in both.items() if name in columns}
            self._repeated.update(side.repeated)
            columns |= dict.fromkeys(added)
        self.columns = tuple(name for name in columns if name not in self._repeated)

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        require(columns, self.columns, self.files[0].path, self._repeated)
        return self._joined(list(dict.fromkeys(columns)), first_row)

    def _joined(self, columns: list[str], first_row: int) -> Iterator[Part]:
        sides = []
        wrong_in_sides = Quarantine()
        for key, file in self._sides:
            if added := [name for name in _added(key, file) if name in columns]:
                sides.append(Attributes(file, key, added, wrong_in_sides))
        keys = [side.key for side in sides]
        stored = [name for name in self._of_file if name in columns or name in keys]

        def joined(chunk: Chunk, quarantine: Quarantine) -> Chunk:
            for side in sides:
                chunk = side.join(chunk)
            return chunk.with_table(chunk.table.select(columns))

        def with_sides(chunk: Chunk, quarantine: Quarantine) -> Chunk:
            # What is wrong in the sides belongs to the first part.
            quarantine.merge(wrong_in_sides)
            return joined(chunk, quarantine)

        for part in self._parts_of_files(stored, first_row):
            yield part.then(joined if part.block else with_sides)


class Attributes:
    """Some columns of a file by its column `key`, in memory.

    Rows without a key, and all but the first row of a key, go to quarantine.
    """

    def __init__(self, file: File, key: str, columns: Sequence[str], quarantine: Quarantine) -> None:
        self.key = key
        parts = list(read_parts(file.parts([key, *columns]), quarantine))
        nothing = pa.schema([file.schema.field(name) for name in (key, *columns)]).empty_table()
        whole = Chunk(
            pa.concat_tables([nothing, *(part.table for part in parts)]).combine_chunks(),
            np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)]),
            str(file.path),
            np.concatenate(
                [np.empty(0, np.int64), *(part.lines for part in parts if part.lines is not None)]
            ),
        )
        keys = whole.table[key].combine_chunks()
        ids = arrow_ids(keys)
        missing = np.asarray(keys.is_null())
        repeated = ~missing & ~pl.Series(ids).is_first_distinct().to_numpy()
        whole.report(missing, key, keys, "no key", quarantine)
        whole.report(repeated, key, keys, "repeated key: the first row of it is used", quarantine)
        good = ~missing & ~repeated
        self._table = whole.keep(good).table.drop_columns(key).combine_chunks()
        self._places = IdTable(ids[good])

    def join(self, chunk: Chunk) -> Chunk:
        """Add the columns to a chunk, null where no row here has its key."""
        places = self._places.codes(arrow_ids(chunk.table[self.key]), -1)
        rows = self._table.take(pa.array(places, mask=places < 0))
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            chunk = chunk.with_table(chunk.table.append_column(name, column))
        return chunk


def _added(key: str, side: File) -> list[str]:
    side.require([key])
    return [name for name in side.schema.names if name and name != key]
