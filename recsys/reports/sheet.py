"""A table of text, for a terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def plain(text: str) -> str:
    """Return a text, such as a name from data, for rich to show as it stands: no markup, no control characters."""
    escaped = "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
    return escape(escaped)


@dataclass(frozen=True)
class Sheet:
    """A table of text: the first column is left-aligned, a note explains the others.

    A `folded` one stands after the pictures of a page, closed.
    """

    title: str
    headers: Row
    rows: Sequence[Row]
    note: str = ""
    folded: bool = False

    def grid(self) -> Grid:
        """Return the table for a terminal."""
        grid = Grid(
            title=plain(self.title),
            caption=plain(self.note) or None,
            title_justify="left",
            caption_justify="left",
        )
        for place, header in enumerate(self.headers):
            grid.add_column(plain(header), justify="right" if place else "left", overflow="fold")
        for row in self.rows:
            grid.add_row(*map(plain, row))
        return grid
