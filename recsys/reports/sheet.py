"""A table of text, for a terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table as Grid

Row = tuple[str, ...]

TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "logloss": "logloss",
    "ne": "NE",
    "calibration": "calibration",
}  # of metrics
BORDERS, BORDER = 1, 3  # characters of a terminal's table: beside its columns, and for each of them
SHORT = 24  # characters of a cell that stands in one line: an interval or a name


def plain(text: str) -> str:
    """Return a text, such as a name from data, for rich to show as it stands: no markup, no control characters."""
    return escape(printable(text))


def printable(text: str) -> str:
    """Return a text with its control characters written out."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Sheet:
    """A table of text: the first column is left-aligned, a note explains the others.

    A `folded` one stands after the pictures of a page, closed. The first `keys` columns name a row.
    """

    title: str
    headers: Row
    rows: Sequence[Row]
    note: str = ""
    folded: bool = False
    keys: int = 1

    def head(self, count: int, note: str) -> "Sheet":
        """Return the first rows, with a note that says so; the sheet itself where it has no more."""
        return self if len(self.rows) <= count else replace(self, rows=self.rows[:count], note=note)

    @property
    def footer(self) -> str:
        """Return the note as rich shows it."""
        return plain(self.note)

    def grids(self, width: int) -> list[Grid]:
        """Return the table for a terminal of so many columns; what is too wide follows below, its rows named again."""
        blocks = self._blocks(width)
        grids = []
        for number, columns in enumerate(blocks):
            grid = Grid(title=None if number else plain(self.title), title_justify="left")
            for place, room in zip(columns, self._widths(columns, width), strict=True):
                justify: Literal["left", "right"] = "right" if place else "left"
                grid.add_column(plain(self.headers[place]), justify=justify, overflow="fold", width=room)
            for row in self.rows:
                grid.add_row(*(plain(row[place]) for place in columns))
            grids.append(grid)
        return grids

    def _blocks(self, width: int) -> list[list[int]]:
        """Return the columns of the tables that stand below each other: all of them, unless they are too wide."""
        keys = list(range(min(self.keys, len(self.headers))))
        blocks = [[*keys]]
        for place in range(len(keys), len(self.headers)):
            if (
                _total([self._least(column) for column in [*blocks[-1], place]]) > width
                and blocks[-1] != keys
            ):
                blocks.append([*keys])
            blocks[-1].append(place)
        return blocks

    def _widths(self, columns: Sequence[int], width: int) -> list[int]:
        """Return the characters of columns: the widest get less, down to what they need, until all fit."""
        least = [self._least(column) for column in columns]
        widths = [max(map(cell_len, self._lines(column)), default=1) for column in columns]
        while _total(widths) > width:
            above = [place for place, room in enumerate(widths) if room > least[place]]
            # where not even that fits, words are folded
            shrunk = max(above or range(len(widths)), key=widths.__getitem__)
            if widths[shrunk] == 1:
                break
            widths[shrunk] -= 1
        return widths

    def _least(self, column: int) -> int:
        """Return the characters that a column needs: for its longest word, and for cells that are short."""
        words = (cell_len(word) for line in self._lines(column) for word in line.split())
        cells = (min(SHORT, cell_len(line)) for row in self.rows for line in _lines(row[column]))
        return max(*words, *cells, 1, 1)

    def _lines(self, column: int) -> list[str]:
        return [line for cells in (self.headers, *self.rows) for line in _lines(cells[column])]


def _lines(cell: str) -> list[str]:
    return printable(cell).split("\n")


def _total(widths: Sequence[int]) -> int:
    return BORDERS + sum(room + BORDER for room in widths)
