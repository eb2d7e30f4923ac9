"""A bounded look at a log: some parts of it, spread over files and within them, of which some rows are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from recsys.starting.text import one_line, printable
from recsys_pipelines.features.plain import has_no_value, one_array, text_or_plain, without_views
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Source, SourceError
from recsys_pipelines.sources.text import is_list
from recsys_pipelines.sources.whole import numbers_of

PARTS = 8  # of 65,536 rows, or of 8 MB of text
MOST_COLUMNS = 1_000
MOST_ROWS = 200_000
MOST_VALUES = 10_000_000  # rows times columns
MOST_BYTES = 256 << 20
NO_NAME = "(no name)"


@dataclass(frozen=True)
class Column:
    """Values of a column in the sample, by a type that the readers know: text, numbers, booleans, times or lists of these.

    `values` is None of a type that no feature reads; `type_name` is the type in the file.
    """

    name: str
    type_name: str
    values: pa.Array | None
    not_text: int = 0  # values that are bytes and no UTF-8

    @cached_property
    def series(self) -> pl.Series:
        """Return the values that are not missing; of lists their elements."""
        values = pl.Series(pl.from_arrow(self.present))
        return values.explode().drop_nulls() if self.is_list else values

    @cached_property
    def present(self) -> pa.Array:
        """Return the values that are not missing [P]; NaN counts as missing."""
        assert self.values is not None
        values = self.values
        if pt.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        return pc.drop_null(values)

    @cached_property
    def distinct(self) -> int:
        """Return how many values there are; of lists, elements."""
        return int(self.series.n_unique())

    @property
    def missing(self) -> float:
        """Return the share of rows without a value."""
        rows = 0 if self.values is None else len(self.values)
        return 1 - len(self.present) / rows if rows else 0.0

    @property
    def is_list(self) -> bool:
        """Whether the values are lists."""
        return self.values is not None and is_list(self.values.type)

    @property
    def is_text(self) -> bool:
        """Whether the values are text."""
        return self.values is not None and bool(pt.is_string(self.values.type))

    @property
    def is_boolean(self) -> bool:
        """Whether the values are true and false."""
        return self.values is not None and bool(pt.is_boolean(self.values.type))

    @property
    def is_time(self) -> bool:
        """Whether the type is that of times or dates."""
        return self.values is not None and bool(
            pt.is_timestamp(self.values.type) or pt.is_date(self.values.type)
        )

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """Return the values that are not missing as float64 [P], None where one of them is no finite number."""
        if self.is_list or self.is_time or self.values is None or not len(self.present):
            return None
        numbers = numbers_of(self.present)
        if numbers is None or numbers.null_count:
            return None
        plain = numbers.to_numpy(zero_copy_only=False)
        return plain if np.isfinite(plain).all() else None

    @cached_property
    def is_whole(self) -> bool:
        """Whether all values are whole numbers that a float64 can tell apart."""
        x = self.numbers
        return x is not None and bool(np.all(x == np.floor(x)) and np.abs(x).max() <= 2**53)


@dataclass(frozen=True)
class Sample:
    """What was looked at of a log.

    Attributes:
        columns: By name, in the order of the log.
        rows: How many rows were kept.
        rows_read: How many rows were read.
        rows_in_log: How many there are, None where only reading all of them would tell.
        unreadable: Columns that cannot be asked for, and what is wrong with each.
        bad_rows: Rows that the reader could not use.
    """

    columns: dict[str, Column]
    rows: int
    rows_read: int
    rows_in_log: int | None
    unreadable: dict[str, str]
    bad_rows: int

    @property
    def is_all(self) -> bool:
        """Whether every row of the log was kept."""
        return self.rows == self.rows_in_log


def look(source: Source, path: str) -> Sample:
    """Read a sample of all columns of a source. Raises SourceError where it cannot be read, or has too many columns."""
    if len(source.columns) > MOST_COLUMNS:
        raise SourceError(
            f"{path}: has {len(source.columns):,} columns, and {MOST_COLUMNS:,} are the most that init looks at: keep "
            "those that are worth a feature, or declare the features by hand (docs/features.md)"
        )
    unreadable = {name or NO_NAME: printable(why) for name, why in source.files[0].repeated.items()}
    schema = source.files[0].schema
    readable = []
    for name in source.columns:
        if name == "":
            unreadable[NO_NAME] = "has no name: it is often the index that pandas writes"
        elif name in schema.names and (fault := _fault(schema.field(name).type)):
            unreadable[name] = fault
        else:
            readable.append(name)
    if not readable:
        why = [f"{one_line(name)} {fault}" for name, fault in unreadable.items()] or ["there is none"]
        raise SourceError(f"{path}: no column can be read: {why[0]}")
    sampled = source.sampled(PARTS)
    tables, not_text, rows_read, bad = _kept(sampled, readable)
    if not rows_read:
        raise SourceError(f"{path}: no row can be read: check that this is the right file")
    table = pa.concat_tables(tables, promote_options="default")
    known = (
        [file.rows_by_metadata() for file in source.files[:PARTS]] if len(source.files) <= PARTS else [None]
    )
    total = rows_read if sampled.is_whole else None if None in known else sum(map(int, filter(None, known)))
    types = {name: _short(table.schema.field(name).type) for name in readable}
    types |= {field.name: _short(field.type) for field in schema if field.name in types}
    columns = {name: _column(name, types[name], table[name], not_text.get(name, 0)) for name in readable}
    return Sample(columns, table.num_rows, rows_read, total, unreadable, bad)


def _kept(sampled: Source, columns: Sequence[str]) -> tuple[list[pa.Table], dict[str, int], int, int]:
    """Read parts and return the rows that are kept of each, how many values are no text, and rows read and refused."""
    most = min(MOST_ROWS, MOST_VALUES // len(columns))
    quarantine = Quarantine()
    tables: list[pa.Table] = []
    not_text: dict[str, int] = {}
    read = 0
    for chunk in sampled.chunks(columns, quarantine):
        read += len(chunk.rows)
        tables.append(_plain(chunk.table, not_text))
        while sum(t.num_rows for t in tables) > most or sum(t.nbytes for t in tables) > MOST_BYTES:
            if max(t.num_rows for t in tables) < 2:
                break
            tables = [_every_other(table) for table in tables]
    return tables, not_text, read, quarantine.count


def _every_other(table: pa.Table) -> pa.Table:
    """Return the first half of a table's rows as its own memory: neighbours stay together, as users' rows often are."""
    return table.take(pa.array(np.arange((table.num_rows + 1) // 2)))


def _plain(table: pa.Table, not_text: dict[str, int]) -> pa.Table:
    """Return columns in the few types that features know; one of another type is null."""
    columns: dict[str, pa.Array] = {}
    for name in table.column_names:
        raw = one_array(table[name])
        if _fault(raw.type):
            columns[name] = pa.nulls(len(raw))
            continue
        values, problems = text_or_plain(without_views(raw))
        bad = sum(int(problem.bad.sum()) for problem in problems)
        if bad:
            not_text[name] = not_text.get(name, 0) + bad
        columns[name] = pa.nulls(len(raw)) if has_no_value(values) else values
    return pa.table(columns)


def _column(name: str, type_name: str, values: pa.ChunkedArray, not_text: int) -> Column:
    return Column(name, type_name, one_array(values), not_text)


def _fault(kind: pa.DataType) -> str | None:
    """Return what is wrong with a type that no feature reads."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    inner = kind.value_type if is_list(kind) else kind
    if pt.is_nested(inner):
        return f"is {_short(kind)}, which no feature reads: write its fields as columns of their own"
    if pt.is_duration(inner) or pt.is_time(inner) or pt.is_interval(inner):
        return f"is {_short(kind)}, which no feature reads: write it as a number"
    return None


def _short(kind: pa.DataType) -> str:
    return printable(kind, 60)
