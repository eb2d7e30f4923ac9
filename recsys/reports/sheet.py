"""A table of text, for a terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table as Grid

Row = tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A table of text: the first column is left-aligned, a note explains the others.

    folded: HTML shows it after the pictures, and only when asked to.
    """

    title: str
    headers: Row
    rows: Sequence[Row]
    note: str = ""
    folded: bool = False

    def grid(self) -> Grid:
        """For a terminal."""
        grid = Grid(title=self.title, caption=self.note or None, title_justify="left", caption_justify="left")
        for place, header in enumerate(self.headers):
            grid.add_column(header, justify="right" if place else "left", overflow="fold")
        for row in self.rows:
            grid.add_row(*map(escape, row))
        return grid
