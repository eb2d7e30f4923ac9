"""Gowalla, Yelp2018 and Amazon-book as NGCF and LightGCN split them: train.txt and test.txt.

One line for each user: the user's number, then those of the items, separated by single spaces; a user without items
in a part may stand alone. A row is one interaction (user_id, item_id), in the order of the files, with the
`split` it is from (train, valid, test) and the `label` 1: there are no negatives to learn from but those that one
samples. A number that is none goes to quarantine: with all of its line where it is the user's, which counts as one row.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import (
    Chunk,
    File,
    Part,
    Source,
    SourceError,
    existing,
    existing_file,
    require,
)
from recsys_pipelines.sources.blocks import numbered_lines
from recsys_pipelines.sources.location import Place, Url
from recsys_pipelines.sources.text import split, utf8

PARTS = ("train", "valid", "test")


class Ngcf(Source):
    """The interactions of a folder, `path`, or of one file of it, whose name is then its split."""

    columns: tuple[str, ...] = ("user_id", "item_id", "split", "label")

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        path = existing(path)
        paths = [path / f"{part}.txt" for part in PARTS] if path.is_dir() else [path]
        self.files = [_UserLines(file) for file in paths if file.exists()]
        if not self.files:
            raise SourceError(
                f"{path}: there is no train.txt and no test.txt in this folder: name one file instead"
            )

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        return self._parts_of_files(columns, first_row)


class _UserLines(File):
    schema = pa.schema([(name, pa.string()) for name in Ngcf.columns])

    def __init__(self, path: Path | Url) -> None:
        self.path = existing_file(path)

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        # A line without items has no row, one that cannot be used has one.
        columns = list(dict.fromkeys(columns))
        require(columns, self.schema.names, self.path)
        row = first_row
        for block, (line, texts) in enumerate(numbered_lines(self.path, self.read_to)):
            bad = Quarantine()
            chunk, row = self._interactions(texts, line, row, bad)  # only then is the next row's number known
            yield Part(block, partial(_with_faults, chunk.with_table(chunk.table.select(columns)), bad))
        self.rows = row - first_row

    def _interactions(
        self, texts: list[bytes], first_line: int, first_row: int, quarantine: Quarantine
    ) -> tuple[Chunk, int]:
        """Return the rows of lines [L], and the number of the next row.

        All numbers of the block lie in one array [P]: `line` and `place` say where each of them stands.
        """
        strings, not_text = utf8(pa.array(texts, pa.binary()))
        pieces = split(strings, " ").filter(pa.array(~not_text))
        present = np.asarray(pc.list_flatten(pieces).is_valid())  # two spaces have nothing between them
        numbers = pc.list_flatten(pieces).filter(pa.array(present))
        line = np.flatnonzero(~not_text)[pc.list_parent_indices(pieces).to_numpy()[present]]
        place = np.arange(len(line)) - np.searchsorted(line, line)
        number = np.asarray(pc.match_substring_regex(numbers, r"^\d+$"))

        blank = ~not_text & (np.bincount(line, minlength=len(texts)) == 0)
        wrong_user = np.zeros(len(texts), bool)
        wrong_user[line[(place == 0) & ~number]] = True
        usable = ~(not_text | blank | wrong_user)
        rows = np.where(usable, np.bincount(line, minlength=len(texts)) - 1, 1)  # of each line
        start = first_row + np.cumsum(rows) - rows
        file, lines = str(self.path), np.arange(first_line, first_line + len(texts))
        whole = Chunk(pa.table({"line": pa.array(texts, pa.binary())}), start, file, lines)
        for bad, reason in (
            (not_text, "not UTF-8 text"),
            (blank, "blank line"),
            (wrong_user, "the user is not a number"),
        ):
            whole.report(bad, None, whole.table["line"].combine_chunks(), reason, quarantine)

        item = np.flatnonzero((place > 0) & usable[line])
        line, place = line[item], place[item]
        table = pa.table(
            {
                "user_id": numbers.take(pa.array(item - place)),
                "item_id": numbers.take(pa.array(item)),
                "split": pa.repeat(self.path.name.partition(".")[0], len(item)),
                "label": pa.repeat("1", len(item)),
            }
        )
        chunk = Chunk(table, start[line] + place - 1, file, lines[line])
        bad = ~number[item]
        chunk.report(bad, "item_id", table["item_id"].combine_chunks(), "not a number", quarantine)
        return chunk.keep(~bad), first_row + int(rows.sum())


def _with_faults(chunk: Chunk, bad: Quarantine, quarantine: Quarantine) -> Chunk:
    quarantine.merge(bad)
    return chunk
