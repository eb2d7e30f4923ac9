"""RecBole's atomic files: a folder with one `<name>.inter`, and perhaps `<name>.user` and `<name>.item`.

Tab, a header of `name:type`; the key of .user or .item is its first column. token and float columns are
strings; token_seq and float_seq, whose elements are parted by spaces, are lists of strings. Rows of .inter
whose user or item has no line keep null attributes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import (
    Chunk,
    SourceError,
    existing_folder,
    read_files,
    refuse_duplicates,
    require,
)
from recsys_pipelines.sources.delimited import TAB, DelimitedFile
from recsys_pipelines.sources.join import attributes, join
from recsys_pipelines.sources.text import split

TYPES = ("token", "float", "token_seq", "float_seq")


class RecBole:
    """`columns` are those of .inter, then those .user and .item add."""

    columns: tuple[str, ...]

    def __init__(self, path: str | Path, *, labelled: bool = True) -> None:
        inter = _inter(existing_folder(path))
        self._inter, self._types = _open(inter)
        self._sides = []
        own = list(self._types)
        for suffix in (".user", ".item"):
            if inter.with_suffix(suffix).exists():
                file, types = _open(inter.with_suffix(suffix))
                key, *added = types
                require([key], own, inter)
                refuse_duplicates([*self._types, *added], file.path)
                self._types = {**types, **self._types}
                self._sides.append((file, key, added))
        self.columns = (*own, *(name for _, _, added in self._sides for name in added))

    def chunks(self, columns: Sequence[str], quarantine: Quarantine) -> Iterator[Chunk]:
        """As `Source.chunks`; users and items are held in memory."""
        require(columns, self.columns, self._inter.path)
        return self._joined(list(columns), quarantine)

    def _joined(self, columns: list[str], quarantine: Quarantine) -> Iterator[Chunk]:
        asked = [(file, key, [name for name in added if name in columns]) for file, key, added in self._sides]
        sides = [(key, attributes(file, key, added, quarantine)) for file, key, added in asked if added]
        own = [name for name in self._inter.names if name in columns or name in dict(sides)]
        for chunk in read_files([self._inter], own, quarantine):
            for key, side in sides:
                chunk = join(chunk, key, side)
            table = pa.table({name: self._typed(name, chunk.table[name]) for name in columns})
            yield Chunk(table, chunk.rows, chunk.file, chunk.lines)

    def _typed(self, name: str, column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return split(column.combine_chunks(), " ") if self._types[name].endswith("_seq") else column


def _inter(folder: Path) -> Path:
    """The .inter file: the one called like the folder where there are several."""
    found = sorted(folder.glob("*.inter"))
    named = folder / f"{folder.resolve().name}.inter"
    if named in found:
        return named
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise SourceError(
            f"{folder}: one .inter file is needed, and there is {names}: name the folder like it"
        )
    return found[0]


def _open(path: Path) -> tuple[DelimitedFile, dict[str, str]]:
    """The file under its plain names, and the type of each."""
    types = {}
    for field in DelimitedFile(path, TAB).names:
        name, _, kind = field.rpartition(":")
        if not name or kind not in TYPES:
            raise SourceError(f"{path}: the header has {field!r}: write name:type, type {' or '.join(TYPES)}")
        types[name] = kind
    return DelimitedFile(path, TAB, rename=_name), types


def _name(field: str) -> str:
    return field.rpartition(":")[0]
