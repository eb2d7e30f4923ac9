"""KDD Cup 2012, track 2 (Tencent's search ads): training.txt, and test.txt without its first two columns.

Tab, no header: click, impression, display URL, ad, advertiser, depth, position, query, keyword, title,
description, user; 149,639,105 lines. A line stands for `impression` showings of one ad in one setting, `click` of
which were clicked, so that it becomes

    a row with `clicked` 0 and the `weight` impression - click, and
    a row with `clicked` 1 and the `weight` click, those with a weight above 0,

which have the line's exact likelihood: `label: {column: clicked}` and `weight: weight`. A line with both has one row
added (`Chunk.added`), and a row's number is twice its line's, plus `clicked`. A line with no impression or with
more clicks than impressions goes to quarantine. User 0, whom the search engine did not know, is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from typing_extensions import override

from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, Part, Source, existing_file, require
from recsys_pipelines.sources.blocks import first_bytes
from recsys_pipelines.sources.delimited import DelimitedFile
from recsys_pipelines.sources.derived import Derivation, Derived
from recsys_pipelines.sources.dialect import TAB
from recsys_pipelines.sources.location import Place

FEATURES = (
    *("display_url", "ad_id", "advertiser_id", "depth", "position", "query_id", "keyword_id", "title_id"),
    *("description_id", "user_id"),
)
COUNTS = ("click", "impression")
OUTCOME = ("clicked", "weight")
MOST = 2**53  # impressions of a line that a weight, a float64, can tell apart


class Kdd12(Source):
    """The log of one file, `path`. When not `labelled`, a line is one row, whether or not it has its two counts."""

    columns: tuple[str, ...] = (*COUNTS, *FEATURES, *OUTCOME)

    def __init__(self, path: Place, *, labelled: bool = True) -> None:
        path = existing_file(path)
        names: tuple[str, ...] = (*COUNTS, *FEATURES)
        if not labelled:
            self.columns = FEATURES
            names = FEATURES if first_bytes(path).count(b"\t") == len(FEATURES) - 1 else names
        file = Derived(DelimitedFile(path, TAB, names), {"user_id": Derivation("user_id", _known)})
        self.files = [file]

    @override
    def parts(self, columns: Sequence[str], first_row: int = 0) -> Iterator[Part]:
        columns = list(dict.fromkeys(columns))
        require(columns, self.columns, self.files[0].path)
        if self.columns == FEATURES:
            return self._parts_of_files(columns, first_row)
        stored = [name for name in columns if name not in OUTCOME]

        def outcomes(chunk: Chunk, quarantine: Quarantine) -> Chunk:
            return _outcomes(chunk, columns, quarantine)

        return (part.then(outcomes) for part in self._parts_of_files([*stored, *COUNTS], first_row))


def _known(user: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(user, "0"), pa.scalar(None, pa.string()), user)


def _outcomes(chunk: Chunk, columns: Sequence[str], quarantine: Quarantine) -> Chunk:
    """Make one or two rows of each row [B] with usable counts."""
    clicks, impressions = (_counts(chunk.table[name]) for name in COUNTS)
    good = np.ones(len(chunk.rows), bool)
    for name, bad, reason in (
        ("click", clicks < 0, "not a count"),
        ("impression", impressions < 0, "not a count"),
        ("impression", impressions == 0, "no impression"),
        ("click", clicks > impressions, "more clicks than impressions"),
    ):
        chunk.report(bad & good, name, chunk.table[name].combine_chunks(), reason, quarantine)
        good &= ~bad
    chunk, clicks, impressions = chunk.keep(good), clicks[good], impressions[good]
    weights = np.stack([impressions - clicks, clicks], axis=1)  # [B, 2]
    row, clicked = np.nonzero(weights)
    table = chunk.table.take(pa.array(row))
    table = table.append_column("clicked", pa.array(clicked)).append_column(
        "weight", pa.array(weights[row, clicked])
    )
    return replace(
        chunk,
        table=table.select(columns),
        rows=2 * chunk.rows[row] + clicked,
        lines=None if chunk.lines is None else chunk.lines[row],
        added=len(row) - len(chunk.rows),
        shared_lines=True,
    )


def _counts(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return whole numbers [B]; -1 for what is none, or too large."""
    numbers = pl.Series(pl.from_arrow(column.combine_chunks()), dtype=pl.String).cast(pl.Int64, strict=False)
    counts = numbers.fill_null(-1).to_numpy()
    return np.where(counts > MOST, -1, counts)
