"""One file of predictions, actions or assignments, read whole by a command that must not lose a row.

It is read as the table source reads its files, so endings, compressions, text and missing values mean the same everywhere:
every column of a text file is text, and only an empty cell is missing. Columns keep the names that stand in the file.
A row that cannot be read is an error, for there is no quarantine here: a verdict on fewer rows would be another one.

Row r of a text file, counted from 0 without the header, is its line r + 2, since one row is one line.
"""

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import File, SourceError, read_parts
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.table import ENDINGS, FORMATS, ending, open_file
from recsys_pipelines.sources.text import utf8

FIRST_LINE = 2  # of a text file's rows: the header stands before it
NUMBERS = (pt.is_null, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal)  # besides text
UUID_GROUPS = ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))  # start and length, of hexadecimal digits


class WholeFile:
    """A file that is read whole. `names` are its columns, `text` says whether every one of them holds text.

    `repeated` are the names that several columns have, which cannot be read.

    Errors (ValueError): no such file, an ending that is not in the table source's list, a file that is none of its kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        if path.is_dir():
            raise SourceError(f"{path}: this is a folder, and a file is needed: name the file in it")
        if not path.is_file():
            raise SourceError(f"{path}: no such file: give a file that ends with {ENDINGS}")
        self.path = path
        self._file: File = open_file(path, rename=str)
        self.names: tuple[str, ...] = tuple(self._file.schema.names)
        self.repeated: tuple[str, ...] = tuple(self._file.repeated)
        self.text = isinstance(self._file, DelimitedFile)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read some columns, or all, each as one array: text as large_string, all else in the type that the file gives it.

        UUIDs are their text, categories the values that they stand for, and bytes the text that they hold.
        Errors (ValueError): no rows, a line that does not split into the header's columns, text that is not UTF-8.
        """
        names = list(self.names if columns is None else columns)
        bad, tables = Quarantine(keep_all=True), []
        with closing(read_parts(self._file.parts(names), bad)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                if bad.count:
                    break
                tables.append(chunk.table)
        if bad.count:
            first = min(bad.examples, key=lambda row: row.row)
            field = "" if first.field is None else f"{first.field}: "
            raise SourceError(
                f"{self.place(first.row)}: {field}{first.reason}: correct {first.value!r}, for no row may be left out"
            )
        if not sum(table.num_rows for table in tables):
            raise SourceError(f"{self.path}: has no rows: check that this is the right file")
        table, arrays = pa.concat_tables(tables), {}
        del tables, chunk  # so that a column is given back when it is one array
        for name in dict.fromkeys(names):
            arrays[name] = self._plain(name, table[name])
            table = table.drop_columns([name])
        return pa.table(arrays)

    def place(self, row: int) -> str:
        """Say where a row stands: its number from 0 without the header, and its line in a text file."""
        return f"{self.path}: row {row}" + (f" (line {row + FIRST_LINE})" if self.text else "")

    def numbers(self, name: str, column: pa.Array, cure: str = "write it as 12 or 0.5") -> pa.Array:
        """Turn a column that `read` returned into float64, with null where it is missing. `cure` ends the message.

        Errors (ValueError): a text that is no number, or a column of another type, by row and value.
        """
        numbers = numbers_of(column)
        if numbers is None:
            raise SourceError(
                f"{self.place(0)}: {name} is {column[0]}, and its type is {column.type}, not a number: convert it"
            )
        lost = pc.and_(column.is_valid(), numbers.is_null())
        if lost.true_count:
            row = pc.index(lost, True).as_py()
            raise SourceError(f"{self.place(row)}: {name} is {column[row].as_py()!r}, not a number: {cure}")
        return numbers

    def _plain(self, name: str, column: pa.ChunkedArray) -> pa.Array:
        """Return a column as one array, without dictionaries, extension types and bytes."""
        pieces, row = [], 0
        for chunk in column.chunks:
            try:
                values, fault = _values(chunk)
            except pa.ArrowException as error:
                raise SourceError(
                    f"{self.path}: {name} is {column.type}, which cannot be read: write it as text or as numbers"
                ) from error
            if fault is not None:
                raise SourceError(
                    f"{self.place(row + fault[0])}: {name} is {fault[1]!r}, which is not UTF-8 text: write it as text, or "
                    "as hexadecimal digits"
                )
            pieces.append(values)
            row += len(chunk)
        return pa.concat_arrays(pieces) if len(pieces) != 1 else pieces[0]


def numbers_of(column: pa.Array) -> pa.Array | None:
    """Return float64, null where a column is missing or its text is no number; None of a type that has no numbers."""
    if _is_string(column.type):
        series = pl.Series(pl.from_arrow(column), dtype=pl.String)
        return _one(series.cast(pl.Float64, strict=False).to_arrow())
    kind = column.type
    if any(is_kind(kind) for is_kind in NUMBERS):
        return column.cast(pa.float64(), safe=False)
    return None


def bare_name(path: Path) -> str | None:
    """Return the name of a file without its endings; None of one that cannot be read."""
    if ending(path) not in FORMATS:
        return None
    name, last = path.name, path.suffix.lower()
    if last != ending(path):  # of a compression
        name = name[: -len(last)]
    return name[: -len(ending(path))]


def _is_string(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view)
    return any(is_kind(kind) for is_kind in tests)


def _values(column: pa.Array) -> tuple[pa.Array, tuple[int, bytes] | None]:
    """Return the plain values of a column [B]; place and value of the first bytes that are no text, if any are."""
    uuid = isinstance(column, pa.ExtensionArray) and column.type.extension_name == "arrow.uuid"
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pt.is_dictionary(column.type):
        kind = column.type.value_type
        values = column.dictionary.cast(pa.large_string()) if _is_string(kind) else column.dictionary
        column = pa.DictionaryArray.from_arrays(column.indices, values).dictionary_decode()
    if not (_is_string(column.type) or _is_bytes(column.type)):
        return column, None
    if uuid:
        return _uuids(column), None
    stored = column.cast(pa.large_binary())  # Parquet files may call bytes a string without looking
    text, bad = utf8(stored)
    first = int(bad.argmax()) if bad.any() else None
    return text.cast(pa.large_string()), None if first is None else (first, stored[first].as_py())


def _uuids(column: pa.Array) -> pa.Array:
    """Return the text of UUIDs of 16 bytes [B]: hexadecimal digits in groups of 8-4-4-4-12."""
    digits = pl.Series(pl.from_arrow(column.cast(pa.large_binary())), dtype=pl.Binary).bin.encode("hex")
    groups = [digits.str.slice(start, length).alias(str(start)) for start, length in UUID_GROUPS]
    text = pl.DataFrame(groups).select(pl.concat_str(pl.all(), separator="-")).to_series()
    return _one(text.to_arrow()).cast(pa.large_string())


def _one(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
