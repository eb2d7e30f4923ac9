"""Any Parquet, CSV or Arrow IPC file, or a folder of one of these kinds, read in the order of the names.

CSV: comma, a header, .gz or .zst allowed. Its columns are all strings and are never guessed to be numbers,
so an id never depends on what else is in the file: `123` in a CSV is hashed as text, while an integer column
of Parquet is its own id. Data to be scored must therefore come in the kind of file the model was trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.types as pt

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File, SourceError, existing_file, read_files, require
from recsys_pipelines.sources.columnar import COLUMNAR
from recsys_pipelines.sources.delimited import COMMA, DelimitedFile
from recsys_pipelines.sources.text import is_text


def csv_file(path: Path) -> DelimitedFile:
    """A CSV file with a header."""
    return DelimitedFile(path, COMMA)


FORMATS: dict[str, Callable[[Path], File]] = {**COLUMNAR, ".csv": csv_file}


class Table:
    """`columns` are those of the first file; every file must have each column that is asked for."""

    columns: tuple[str, ...]

    def __init__(self, path: str | Path, *, labelled: bool = True) -> None:
        paths = _paths(Path(path))
        kinds = {FORMATS[_suffix(file)] for file in paths}
        if len(kinds) > 1:
            raise SourceError(
                f"{path}: this folder mixes {' and '.join(sorted({_suffix(file) for file in paths}))}, and "
                "one id could become two: leave one kind of file in it"
            )
        self._files = [FORMATS[_suffix(file)](file) for file in paths]
        self.columns = tuple(self._files[0].schema.names)

    def chunks(self, columns: Sequence[str], quarantine: Quarantine) -> Iterator[Chunk]:
        """As `Source.chunks`."""
        for file in self._files:
            require(columns, file.schema.names, file.path)
            for name in columns:
                _same_ids(name, self._files[0], file)
        return read_files(self._files, columns, quarantine)


def _same_ids(name: str, first: File, other: File) -> None:
    a, b = first.schema.field(name).type, other.schema.field(name).type
    if not pt.is_null(a) and not pt.is_null(b) and is_text(a) != is_text(b):
        raise SourceError(
            f"{other.path}: column {name!r} is {b}, but {a} in {first.path}, and text and numbers have "
            "different ids: convert one of the files"
        )


def _suffix(path: Path) -> str:
    stem = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
    return stem.suffix.lower()


def _paths(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _readable(file))
    else:
        files = [file for file in [existing_file(path)] if _suffix(file) in FORMATS]
    if not files:
        raise SourceError(f"{path}: the table source reads {', '.join(FORMATS)}, and there is none here")
    return files


def _readable(path: Path) -> bool:
    return path.is_file() and not path.name.startswith((".", "_")) and _suffix(path) in FORMATS
