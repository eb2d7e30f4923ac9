"""What `recsys init` guessed, as tables."""

from collections.abc import Iterable
from itertools import groupby

from rich.table import Table

from recsys.reports.sheet import Row, plain
from recsys.starting.guess import Guess
from recsys.starting.sample import Column
from recsys.starting.text import one_line
from recsys.starting.uses import Use

MOST_ROWS = 60


def roles_table(guess: Guess) -> Table:
    """Return the parts that columns play, with reasons, for a terminal."""
    reading = guess.reading
    rows = [("source", reading.source, reading.reason), *guess.roles()]
    return _table(f"{one_line(reading.path, 100)}: {guess.looked_at()}", ("", "guess", "why"), rows)


def columns_table(guess: Guess) -> Table:
    """Return what each column becomes: a line for columns next to each other of which the same is said."""

    def said(item: tuple[str, Use]) -> tuple[str, ...]:
        name, use = item
        column = guess.sample.columns.get(name)
        return ("" if column is None else column.type_name, _becomes(use), use.reason)

    rows: list[Row] = []
    for (kind, becomes, reason), items in groupby(guess.uses.items(), said):
        names = [name for name, _ in items]
        columns = [guess.sample.columns[name] for name in names if name in guess.sample.columns]
        rows.append((_named(names), kind, *_counts(columns), becomes, reason))
    note = (
        f"and {len(rows) - MOST_ROWS} more lines, which the experiment has" if len(rows) > MOST_ROWS else ""
    )
    headers = ("column", "type", "distinct", "missing", "becomes", "why")
    return _table("Columns", headers, rows[:MOST_ROWS], note)


def _table(title: str, headers: Row, rows: Iterable[Row], note: str = "") -> Table:
    table = Table(
        title=plain(title), caption=plain(note) or None, title_justify="left", caption_justify="left"
    )
    for header in headers:
        right = header in ("distinct", "missing")
        table.add_column(plain(header), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def _becomes(use: Use) -> str:
    keys = (
        f"{key}: {', '.join(value) if isinstance(value, list) else value}" for key, value in use.keys.items()
    )
    return ", ".join((use.kind, *keys))


def _named(names: list[str]) -> str:
    if len(names) < 3:
        return ", ".join(map(one_line, names))
    return f"{one_line(names[0])} … {one_line(names[-1])} ({len(names)})"


def _counts(columns: list[Column]) -> tuple[str, str]:
    """Return how many values there are, and the share that is missing, from the least to the most."""
    readable = [column for column in columns if column.values is not None]
    if not readable:
        return "", ""
    distinct = _span(f"{count:,}" for count in sorted(column.distinct for column in readable))
    missing = _span(
        f"{share:.1%}" if share else "0" for share in sorted(column.missing for column in readable)
    )
    return distinct, missing


def _span(texts: Iterable[str]) -> str:
    ends = list(texts)
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"
