"""Criteo's click logs, by whatever name of source: all have a label, 13 counts i1…i13 and 26 ids c1…c26.

criteo        Kaggle's train.txt and test.txt (no label): tab, no header, an empty field is missing; 45,840,617
              rows in the order of time.
criteo_1tb    the same columns; a folder stands for its files day_0 … day_23 in the order of the numbers.
criteo_x4     the benchmark's train.csv, valid.csv and test.csv, comma, header Label,I1,…,C26; a folder stands
criteo_x1     for the three in this order. x1 has a header in lower case and its counts are scaled already.

Text may be .gz or .zst. Parquet and Arrow files with these column names in any case are read too.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from typing_extensions import override

from recsys_pipelines.sources.base import (
    File,
    Part,
    Source,
    SourceError,
    existing,
    existing_file,
)
from recsys_pipelines.sources.blocks import first_bytes
from recsys_pipelines.sources.columnar import COLUMNAR
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.dialect import COMMA, TAB
from recsys_pipelines.sources.location import Place, Url, entries

FEATURES = (*(f"i{i}" for i in range(1, 14)), *(f"c{i}" for i in range(1, 27)))
COLUMNS = ("label", *FEATURES)
PARTS = ("train", "valid", "test")  # of x4 and x1
NAME = re.compile(r"(?:day_(?P<day>\d+)|(?P<part>train|valid|test)\.csv)(?:\.gz|\.zst)?")


class Criteo(Source):
    """A log with the columns `COLUMNS`; when not `labelled`, the label may be absent, as in test.txt."""

    columns: tuple[str, ...]

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        self.files = [self._open(file, labelled) for file in _paths(existing(path))]
        for file in self.files:
            file.require(COLUMNS if labelled else FEATURES)
        everywhere = all("label" in file.schema.names for file in self.files)
        self.columns = COLUMNS if everywhere else FEATURES

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        return self._parts_of_files(columns, first_row)

    def _open(self, path: Path | Url, labelled: bool) -> File:
        columnar = COLUMNAR.get(path.suffix.lower())
        return self._text(path, labelled) if columnar is None else columnar(path, rename=str.lower)

    def _text(self, path: Path | Url, labelled: bool) -> File:
        # A file to be scored may still have its labels: the first line tells.
        unlabelled = not labelled and first_bytes(path).count(b"\t") == len(FEATURES) - 1
        return DelimitedFile(path, TAB, FEATURES if unlabelled else COLUMNS)


class CriteoCSV(Criteo):
    """The logs criteo_x4 and criteo_x1."""

    def _text(self, path: Path | Url, labelled: bool) -> File:
        return DelimitedFile(path, COMMA, rename=str.lower)


def _paths(path: Path | Url) -> list[Path | Url]:
    if not path.is_dir():
        return [existing_file(path)]
    named: dict[str | int, Path | Url] = {}
    for file in entries(path):
        if match := NAME.fullmatch(file.name):
            part = match["part"] or int(match["day"])
            if part in named:
                raise SourceError(
                    f"{path}: {named[part].name} and {file.name} are one part: remove one of them"
                )
            named[part] = file
    days = sorted(part for part in named if isinstance(part, int))
    files = [named[part] for part in days or PARTS if part in named]
    if not files:
        raise SourceError(
            f"{path}: there are no day_* files and no train.csv in this folder: name one file instead"
        )
    return [existing_file(file) for file in files]
