"""What every source is: streamed chunks of raw columns, and plain words when a file is at fault."""

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from numpy.typing import NDArray
from typing_extensions import override

from recsys_pipelines.parallel import ordered
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.location import Place, Url, located
from recsys_pipelines.sources.text import is_text

MOST_COLUMNS = 100_000  # of a file
MOST_COMPARED = 5_000  # names, when the nearest one is looked for


class SourceError(ValueError):
    """A whole file cannot be used: the message names it, what is wrong and what to do."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one file, as they were read.

    Attributes:
        table: [B] rows; columns of text formats are strings, or lists of strings, with null for an empty field, unless the
            source says otherwise; those of Parquet and Arrow have the types of the file.
        rows: Rising numbers in the whole source, int64 [B], from 0 and without gaps where unreadable rows count too,
            unless the source says otherwise.
        file: What errors name.
        lines: int64 [B], from 1, or None where the format has no lines.
        added: How many of the rows the reader made beyond those of the file.
        shared_lines: Whether rows of one line belong together, so that draws of rows are draws of lines.
    """

    table: pa.Table
    rows: NDArray[np.int64]
    file: str
    lines: NDArray[np.int64] | None = None
    added: int = 0
    shared_lines: bool = False

    def keep(self, good: NDArray[np.bool_]) -> "Chunk":
        """Return the rows where `good` [B] is true."""
        if good.all():
            return self
        lines = None if self.lines is None else self.lines[good]
        return replace(self, table=self.table.filter(pa.array(good)), rows=self.rows[good], lines=lines)

    def with_table(self, table: pa.Table) -> "Chunk":
        """Return the same rows with other columns."""
        return replace(self, table=table)

    def report(
        self, bad: NDArray[np.bool_], field: str | None, values: Any, reason: str, quarantine: Quarantine
    ) -> None:
        """Put the rows where `bad` [B] is true into quarantine. values: Arrow array [B]."""
        if bad.any():
            lines = None if self.lines is None else self.lines[bad]
            quarantine.add_many(self.file, self.rows[bad], lines, field, values.filter(pa.array(bad)), reason)


@dataclass(frozen=True)
class Part:
    """Some rows that wait to be read, on whatever thread.

    `read` parses them, and puts bad ones into its quarantine. `file` and `block` say where they lie: they rise through a
    source, and are the same each time.
    """

    block: int
    read: Callable[[Quarantine], Chunk]
    file: int = 0

    def then(self, function: Callable[[Chunk, Quarantine], Chunk]) -> "Part":
        """Return a part whose chunk goes through `function`."""
        read = self.read
        return replace(self, read=lambda quarantine: function(read(quarantine), quarantine))


class Source(ABC):
    """Rows of one data set. `columns` are the names that can be asked for, `files` those that hold the rows."""

    columns: tuple[str, ...]
    files: Sequence["File"]
    first_file = 0  # number of the first of `files`, which is not 0 in a piece of a source
    files_left_out = 0  # of a sample

    @abstractmethod
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        """Yield parts of some columns in the order of the files, with bounded memory; rows are numbered from `first_row`.

        Raises SourceError when a file is damaged, has no rows, or lacks a column.
        """

    def chunks(self, columns: Sequence[str], quarantine: Quarantine) -> Iterator[Chunk]:
        """Yield what `parts` read, in their order, several at once on threads."""
        return read_parts(self.parts(columns), quarantine)

    def progress(self) -> tuple[int, float]:
        """Return the bytes of the files, and the share of them that has been read."""
        sizes = [size_of(file.path) for file in self.files]
        read = sum(size * file.share_read for size, file in zip(sizes, self.files, strict=True))
        return sum(sizes), read / max(sum(sizes), 1)

    def pieces(self) -> list["Source"]:
        """Return sources whose parts together are those of this one, each for another process."""
        pieces = []
        for number, file in enumerate(self.files):
            for piece_of_file in file.pieces():
                piece = copy(self)
                piece.files, piece.first_file = [piece_of_file], number
                pieces.append(piece)
        return pieces

    def sampled(self, parts: int) -> "Source":
        """Return a source of some `parts` parts of this one, spread over its files and within them where that is cheap.

        After it was read, it is the whole source if `is_whole` says so.
        """
        chosen = [self.files[place] for place in spread(len(self.files), parts)]
        sample = copy(self)
        sample.files = [file.sampled(max(parts // len(chosen), 1)) for file in chosen]
        sample.files_left_out = len(self.files) - len(chosen)
        return sample

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows of the source that `sampled` was called on, which is known when they were read."""
        return not self.files_left_out and not any(file.is_piece for file in self.files)

    def _parts_of_files(self, columns: Sequence[str], first_row: int) -> Iterator[Part]:
        row = first_row
        for number, file in enumerate(self.files, self.first_file):
            parts = file.parts(columns, row)
            while (part := next(parts, None)) is not None:
                yield replace(part, file=number)
            row += file.rows
        if row == first_row and not any(file.is_piece for file in self.files):
            raise SourceError(f"{self.files[-1].path}: there are no rows: check that this is the right file")


class File(ABC):
    """One file of one format; sources are made of these.

    `schema` has the columns that can be asked for. `repeated` has the names that stand for several columns, which
    cannot, and what is wrong with each; a file is refused for one of them only when it is asked for.
    """

    path: Path | Url
    schema: pa.Schema
    repeated: Mapping[str, str] = {}
    share_read: float = 0.0  # of the file's bytes, by the last `parts`
    rows: int = 0  # found by the last `parts` that was read to its end, bad ones included
    is_piece: bool = False

    @abstractmethod
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        """Yield parts as `Source.parts` does, for this file; `rows` holds their number at the end."""

    def require(self, columns: Iterable[str]) -> None:
        """Raise SourceError for the first of `columns` that is absent, or that several columns are called."""
        require(columns, self.schema.names, self.path, self.repeated)

    def pieces(self) -> list["File"]:
        """Return files whose parts together are those of this one."""
        return [self]

    def after(self, rows: int) -> "File":
        """Return this piece with the number of rows of the same file that come before it."""
        return self

    def sampled(self, parts: int) -> "File":
        """Return this file with some `parts` of its parts, or itself where it has no more."""
        return FirstParts(self, parts)

    def rows_by_metadata(self) -> int | None:
        """Return how many rows there are where the file says so without being read."""
        return None

    def count(self) -> int:
        """Return how many rows there are, bad ones included; nothing is parsed that need not be."""
        for _ in self.parts([]):
            pass
        return self.rows

    def read_to(self, share: float) -> None:
        """Note how far reading has come."""
        self.share_read = share


class FirstParts(File):
    """The first parts of a file, at most `most`. When they were read, `is_piece` says whether there are more."""

    is_piece = True

    def __init__(self, file: File, most: int) -> None:
        self.path, self.schema, self.repeated = file.path, file.schema, file.repeated
        self._file = file
        self._most = most

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        parts = iter(self._file.parts(columns, first_row))
        yield from islice(parts, self._most)
        self.is_piece = next(parts, None) is not None
        self.rows = self._file.rows


def spread(count: int, most: int) -> list[int]:
    """Return the places of at most `most` of `count` things, as far from each other as they can be."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))})


def read_parts(parts: Iterable[Part], quarantine: Quarantine) -> Iterator[Chunk]:
    """Yield the chunks of `parts`, in order; bad rows go to `quarantine`, in order too."""

    def read(part: Part) -> tuple[Chunk, Quarantine]:
        bad = Quarantine()
        return part.read(bad), bad

    for chunk, bad in ordered(read, parts):
        quarantine.merge(bad)
        yield chunk


def require(
    columns: Iterable[str], available: Sequence[str], file: Place, repeated: Mapping[str, str] | None = None
) -> None:
    """Raise SourceError for the first of `columns` that is not `available`, naming the nearest one.

    repeated: names that stand for several columns, and what is wrong with each.
    """
    known = set(available)
    for name in columns:
        if repeated and name in repeated:
            raise SourceError(f"{file}: {repeated[name]}")
        if name not in known:
            compared = available if len(known) <= MOST_COMPARED else ()
            near = difflib.get_close_matches(name, compared, n=1, cutoff=0.0)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SourceError(f"{file}: there is no column {name!r}{hint}; it has {_some(available)}")


def check_width(columns: int, file: Place) -> None:
    """Raise SourceError for a file of more columns than `MOST_COLUMNS`."""
    if columns > MOST_COLUMNS:
        raise SourceError(
            f"{file}: has {columns:,} columns, and {MOST_COLUMNS:,} are the most that are read: check its "
            "delimiter, or keep the columns that are needed"
        )


def repeated_names(names: Sequence[str], stored: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with each of `names` that stands twice; `stored` are the same columns' names in the file."""
    twice = {name for name, times in Counter(names).items() if times > 1}
    stored_as: dict[str, list[str]] = {name: [] for name in names if name in twice}
    for name, stored_name in zip(names, stored, strict=True):
        if name in twice:
            stored_as[name].append(stored_name)
    return {name: _repeated_error(name, stored_names) for name, stored_names in stored_as.items()}


def _repeated_error(name: str, stored: Sequence[str]) -> str:
    different = list(dict.fromkeys(stored))
    read = f" ({' and '.join(map(repr, different))} are both read so)" if len(different) > 1 else ""
    return f"two columns are called {name!r}{read}: rename one of them"


def same_ids(name: str, first: File, other: File) -> None:
    """Raise SourceError when column `name` is text in one file and numbers in the other."""
    a, b = first.schema.field(name).type, other.schema.field(name).type
    if not pt.is_null(a) and not pt.is_null(b) and is_text(a) != is_text(b):
        raise SourceError(
            f"{other.path}: column {name!r} is {b}, but {a} in {first.path}, and text and numbers have "
            "different ids: convert one of the files"
        )


def plain_name(name: str) -> str:
    """Return a column's name as a feature can have it: torch's modules have no "." in theirs."""
    return name.replace(".", "_")


def existing(path: Place, kind: str = "file or folder") -> Path | Url:
    """Return `path`, if there is something; raise SourceError otherwise."""
    path = located(path)
    try:
        exists = path.exists()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be reached ({error}): check the address and your access to it"
        ) from error
    if not exists:
        raise SourceError(f"{path}: there is no such {kind}: check `data.path`")
    return path


def size_of(path: Path | Url) -> int:
    """Return the bytes of a file; 0 where a store does not say."""
    return (path.info()["size"] or 0) if isinstance(path, Url) else path.stat().st_size


def existing_file(path: Place) -> Path | Url:
    """Return `path`, if it is a file with something in it; raise SourceError otherwise."""
    path = existing(path, "file")
    if path.is_dir():
        raise SourceError(f"{path}: this is a folder, and a file is needed: name the file in it")
    if (path.info()["size"] if isinstance(path, Url) else path.stat().st_size) == 0:
        raise SourceError(f"{path}: the file is empty: copy or export it again")
    return path


def existing_folder(path: Place) -> Path | Url:
    """Return `path`, if it is a folder; raise SourceError otherwise."""
    path = existing(path, "folder")
    if not path.is_dir():
        raise SourceError(f"{path}: this is a file, and a folder is needed: name the folder it is in")
    return path


@contextmanager
def reading(path: Path | Url, kind: str) -> Iterator[None]:
    """Turn what libraries raise on a damaged file into SourceError."""
    try:
        yield
    except PermissionError as error:
        raise SourceError(f"{path}: no permission to read it: change its owner or mode") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise SourceError(
            f"{path}: this is not a complete {kind} file ({reason}): check its ending, copy or export it again"
        ) from error


def _some(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
