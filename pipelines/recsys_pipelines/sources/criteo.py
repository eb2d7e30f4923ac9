"""Criteo's click logs: Kaggle's train.txt and test.txt, and day_0 … day_23 of the terabyte set.

Tab, no header: label, 13 counts i1…i13, 26 hexadecimal ids c1…c26; an empty field is missing. Plain, .gz or
.zst; or Parquet or Arrow with these column names in any case. A folder stands for its day_* files in order.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, File, SourceError, existing_file, read_files, require
from recsys_pipelines.sources.columnar import COLUMNAR
from recsys_pipelines.sources.delimited import TAB, DelimitedFile

FEATURES = (*(f"i{i}" for i in range(1, 14)), *(f"c{i}" for i in range(1, 27)))
COLUMNS = ("label", *FEATURES)


class Criteo:
    """`columns` are `COLUMNS`; when not `labelled`, the label may be absent, as in test.txt."""

    columns: tuple[str, ...]

    def __init__(self, path: str | Path, *, labelled: bool = True) -> None:
        self._files = [_open(file, labelled) for file in _paths(Path(path))]
        for file in self._files:
            require(COLUMNS if labelled else FEATURES, file.schema.names, file.path)
        everywhere = all("label" in file.schema.names for file in self._files)
        self.columns = COLUMNS if everywhere else FEATURES

    def chunks(self, columns: Sequence[str], quarantine: Quarantine) -> Iterator[Chunk]:
        """As `Source.chunks`."""
        return read_files(self._files, columns, quarantine)


def _open(path: Path, labelled: bool) -> File:
    columnar = COLUMNAR.get(path.suffix.lower())
    if columnar is not None:
        return columnar(path, rename=str.lower)
    # A file to be scored may still have its labels: the first line tells.
    unlabelled = not labelled and len(DelimitedFile(path, TAB, COLUMNS).first_line()) == len(FEATURES)
    return DelimitedFile(path, TAB, FEATURES if unlabelled else COLUMNS)


def _paths(path: Path) -> list[Path]:
    if not path.is_dir():
        return [existing_file(path)]
    days = {int(match[1]): file for file in path.iterdir() if (match := re.match(r"day_(\d+)", file.name))}
    if not days:
        raise SourceError(f"{path}: there are no day_* files in this folder: name one file instead")
    return [days[day] for day in sorted(days)]
