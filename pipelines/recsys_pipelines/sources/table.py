"""Any Parquet, Arrow IPC, CSV or TSV file, or a folder of one of these kinds, read in the order of the names.

Subfolders are read too, unless "." or "_" begins their names, and keys in their names (`dt=2024-01-01`) are columns;
prepared sets and runs that are kept below the folder are no part of the log.

Text: .csv with commas or .tsv with tabs, a header, and .gz, .zst or .bz2 behind the ending of a compressed file; endings
may be in capitals. Its columns are all strings and are never guessed to be numbers, so an id never depends on what else is
in the file: `123` in a CSV is hashed as text, while an integer column of Parquet is its own id. Data to be scored must
therefore come in the kind of file the model was trained on.
A "." in a column's name is read as "_".
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from typing_extensions import override

from recsys_pipelines.sources.base import (
    File,
    Part,
    Source,
    SourceError,
    existing,
    existing_file,
    plain_name,
)
from recsys_pipelines.sources.blocks import COMPRESSIONS
from recsys_pipelines.sources.columnar import COLUMNAR
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.dialect import COMMA, QUOTED_TAB
from recsys_pipelines.sources.folder import same_types, with_keys
from recsys_pipelines.sources.location import Place, Url, files_below, is_hidden, located


def csv_file(path: Place, rename: Callable[[str], str] = str) -> DelimitedFile:
    """Open a CSV file with a header."""
    return DelimitedFile(path, COMMA, rename=rename)


def tsv_file(path: Place, rename: Callable[[str], str] = str) -> DelimitedFile:
    """Open a file of fields between tabs, quoted as those of a CSV file are, with a header."""
    return DelimitedFile(path, QUOTED_TAB, rename=rename)


TEXT: dict[str, Callable[..., File]] = {".csv": csv_file, ".tsv": tsv_file}
FORMATS: dict[str, Callable[..., File]] = {**COLUMNAR, **TEXT}
ENDINGS = f"{', '.join(COLUMNAR)}, or {' or '.join(TEXT)}, which may have {', '.join(COMPRESSIONS)} behind it"


def open_file(path: Place, rename: Callable[[str], str] = plain_name) -> File:
    """Open a file in the format that its name ends with; `rename` turns the names in it into those of its columns."""
    path = located(path)
    if ending(path) not in FORMATS:
        raise SourceError(f"{path}: the ending of a name tells the format, and must be one of {ENDINGS}")
    return FORMATS[ending(path)](path, rename=rename)


class Table(Source):
    """The rows of one file or of all files of a folder.

    `columns` are those of the first file; every file must have each column that is asked for, of one type.
    """

    columns: tuple[str, ...]

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        place = existing(path)
        paths = _paths(place)
        files = [open_file(file) for file in paths]
        if len({type(file) for file in files}) > 1:
            raise SourceError(
                f"{path}: this folder mixes {' and '.join(sorted({ending(file) for file in paths}))}, and "
                "one id could become two: leave one kind of file in it"
            )
        self.files = with_keys(place, files) if place.is_dir() else files
        self.columns = tuple(
            name for name in self.files[0].schema.names if name not in self.files[0].repeated
        )

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        for file in self.files:
            file.require(columns)
        for name in columns:
            same_types(name, self.files)
        return self._parts_of_files(columns, first_row)


def ending(path: Path | Url) -> str:
    """Return the ending that tells the format, in small letters; of compressed text, the one before the compression's."""
    last = path.suffix.lower()
    before = path.with_suffix("").suffix.lower() if last in COMPRESSIONS else ""
    return before if before in TEXT else last


def _paths(path: Path | Url) -> list[Path | Url]:
    if not path.is_dir():
        return [existing_file(path)]
    try:
        files = [file for file in files_below(path) if not is_hidden(file) and ending(file) in FORMATS]
    except OSError as error:
        raise SourceError(
            f"{error.filename or path}: cannot be listed ({error.strerror or error})"
        ) from error
    if not files:
        raise SourceError(f"{path}: none of the files in this folder and below it ends with {ENDINGS}")
    return files
