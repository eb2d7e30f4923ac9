"""Raw columns to typed ones. A value that does not convert sends its row to quarantine: none becomes null.

In text formats every column is a string, so an id is hashed as the text it is; integer columns of Parquet and
Arrow are their own ids. The same log scored from another kind of file would therefore get other ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray
from typing_extensions import override

from recsys_cython_ext import MISSING_ID, arrow_ids
from recsys_cython_ext.column_ids import decimal_words, is_uuid
from recsys_cython_ext.text import numbers
from recsys_pipelines.encoding.numbers import squared_log
from recsys_pipelines.features.plain import (
    Converted,
    Problem,
    TextIds,
    WrongType,
    has_no_value,
    is_any,
    list_array,
    list_lengths,
    lists,
    one_array,
    text_or_plain,
    with_nan,
    without_views,
)
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, SourceError, require
from recsys_pipelines.sources.text import is_text

Kind = Literal["id", "ids", "squared_log", "number", "label", "weight", "integer"]
UNUSUAL = 2  # status of a text that `numbers` leaves to a real parser
EXACT = 2.0**53  # beyond it a float64 no longer holds every integer


class Spec(Protocol):
    """How one output column is made from the source columns `columns`; it pickles, and does the same everywhere."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The source columns, in the order in which `convert` takes them."""
        ...

    @property
    def id_columns(self) -> Mapping[str, str]:
        """The columns whose values become ids, as text and integers do differently, and their names in a log."""
        ...

    def convert(self, columns: Sequence[pa.Array]) -> "Converted":
        """Return the output [B] and what was wrong. Raises WrongType for a column that cannot be converted at all."""
        ...


@dataclass(frozen=True)
class OneColumn(Spec):
    """A spec that reads one source column, of which it makes no ids unless it says so."""

    column: str

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    @override
    def id_columns(self) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class ColumnSpec(OneColumn):
    """How one output column is made from the source column `column`.

    kind             output           from
    id               int64            strings (XXH64), UUIDs (their text) or integers (themselves, those of 2^63
                                      and more by their bits); missing is `MISSING_ID`
    ids              list<int64>      lists of these, or text cut at `separator`; a missing list is empty,
                                      a missing element is `MISSING_ID`
    squared_log      int64            numbers: floor(ln(x)^2) for x > 2, else int(x); missing is `MISSING_ID`
    number           float64          numbers; missing and NaN are null, infinite is refused
    label            int8             0 or 1; with `threshold`, any number, 1 where it is >= `threshold`
    weight           float64          finite numbers >= 0
    integer          int64            whole numbers; times and dates become microseconds since 1970

    label, weight and integer may not be missing. Floats that are whole numbers up to 2^53 count as integers,
    for that is how a nullable integer column leaves pandas, and so do whole decimals, which is how 64-bit keys leave
    some databases.
    """

    kind: Kind
    separator: str | None = None
    threshold: float | None = None

    @property
    def makes_ids(self) -> bool:
        """Whether the output holds ids of the column's values."""
        return self.kind in ("id", "ids")

    @property
    @override
    def id_columns(self) -> Mapping[str, str]:
        return {self.column: self.column} if self.makes_ids else {}

    @override
    def convert(self, columns: Sequence[pa.Array]) -> "Converted":
        plain, problems = text_or_plain(columns[0])
        output, more = CONVERTERS[self.kind](plain, self)
        return output, problems + more


def typed(chunk: Chunk, specs: Mapping[str, Spec], quarantine: Quarantine) -> pa.Table:
    """Make the columns of `specs` (output name -> spec) in their order, then `row_id` int64: the row's number.

    Rows in = rows out + rows added to `quarantine`; each goes there under its first unconvertible value.

    Raises:
        SourceError: a column is absent, or its type cannot be converted to what is asked.
        ValueError: an output is called `row_id`.
    """
    if "row_id" in specs:
        raise ValueError("`row_id` is added by `typed`: give that output another name")
    require(columns_of(specs), chunk.table.column_names, chunk.file)
    good = np.ones(len(chunk.rows), bool)
    outputs = {}
    for name, spec in specs.items():
        raw = [without_views(one_array(chunk.table[column])) for column in spec.columns]
        try:
            outputs[name], problems = spec.convert(raw)
        except WrongType as error:
            column = spec.columns[error.column]
            raise SourceError(
                f"{chunk.file}: column {column!r} is {raw[error.column].type}: {error}"
            ) from None
        for problem in problems:
            field, values = spec.columns[problem.column], raw[problem.column]
            chunk.report(problem.bad & good, field, values, problem.reason, quarantine)
            good &= ~problem.bad
    outputs["row_id"] = pa.array(chunk.rows)
    table = pa.table(outputs)
    return table if good.all() else table.filter(pa.array(good))


def columns_of(specs: Mapping[str, Spec]) -> list[str]:
    """Return the source columns of `specs`, each once, in the order of the alphabet."""
    return sorted({column for spec in specs.values() for column in spec.columns})


def text_ids(chunk: Chunk, specs: Mapping[str, Spec]) -> dict[str, TextIds]:
    """Return for each source column that ids are made of whether it is text, and "uuid" where it is the text of UUIDs.

    Columns without a value are left out.
    """
    columns = {column for spec in specs.values() for column in spec.id_columns}
    text: dict[str, TextIds] = {}
    for column in sorted(columns):
        kind = chunk.table.schema.field(column).type
        value = getattr(kind, "value_type", kind)
        if not pt.is_null(value) and not has_no_value(one_array(chunk.table[column])):
            text[column] = "uuid" if is_uuid(value) else is_text(kind)
    return text


def unsigned_columns(chunk: Chunk, specs: Mapping[str, Spec]) -> list[str]:
    """Return the source columns of unsigned integers of 64 bits that ids are made of: ids keep them by their bits."""
    kinds = {name: chunk.table.schema.field(name).type for spec in specs.values() for name in spec.id_columns}
    return sorted(name for name, kind in kinds.items() if pt.is_uint64(getattr(kind, "value_type", kind)))


def _id(column: pa.Array, spec: ColumnSpec) -> Converted:
    if pt.is_string(column.type):
        return pa.array(arrow_ids(column)), []
    if not is_any(column.type, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_null):
        raise WrongType("an id must be text, a UUID or an integer: convert the column")
    values, problems = _words(column)
    reserved = np.asarray(pc.fill_null(pc.equal(values, MISSING_ID), False))
    values = _null_where(values, reserved)
    return pa.array(arrow_ids(values)), [
        *problems,
        Problem(reserved, "-2^63 stands for a missing id, and so do the bits of 2^63"),
    ]


def _words(column: pa.Array) -> Converted:
    """Return whole numbers as int64 [B], those of [2^63, 2^64) by their bits; null where missing or not whole."""
    if pt.is_uint64(column.type):
        return column.view(pa.int64()), []
    if pt.is_decimal(column.type):
        values, lost = decimal_words(column)
        missing = np.asarray(column.is_null())
        return pa.array(values, mask=lost | missing), [Problem(lost, "not a whole number of 64 bits")]
    return whole_numbers(column)


def _ids(column: pa.Array, spec: ColumnSpec) -> Converted:
    column = lists(column, spec.separator)
    row_of_element = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    ids, problems = ColumnSpec(spec.column, "id").convert([one_array(pc.list_flatten(column))])
    return list_array(list_lengths(column), ids), [
        Problem(_rows(p.bad, row_of_element, len(column)), p.reason) for p in problems
    ]


def _squared_log(column: pa.Array, spec: ColumnSpec) -> Converted:
    numbers, problems = _number(column, spec)
    x = squared_log(with_nan(numbers))
    outside = x <= -(2.0**63)
    buckets = np.where(outside | np.isnan(x), 0, x).astype(np.int64)
    buckets[np.isnan(x)] = MISSING_ID
    return pa.array(buckets), [*problems, Problem(outside, "outside int64")]


def _number(column: pa.Array, spec: ColumnSpec) -> Converted:
    problems = []
    if pt.is_string(column.type):
        x, no_number = _numbers_of_text(column)
        problems.append(Problem(no_number, "not a number"))
    else:
        _refuse(column, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_null)
        x = with_nan(pc.cast(column, pa.float64(), safe=False))
    infinite = np.isinf(x)
    if infinite.any():
        x = np.where(infinite, np.nan, x)
        problems.append(Problem(infinite, "infinite"))
    return _null_for_nan(x), problems


def _null_for_nan(x: NDArray[np.float64]) -> pa.Array:
    present = x == x
    if present.all():
        return pa.array(x)
    valid = pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(pa.float64(), len(x), [valid, pa.py_buffer(x)])


def _numbers_of_text(column: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return float64 [B], NaN where missing, and the mask [B] of texts that are no number."""
    x, status = numbers(column)
    rest = status == UNUSUAL
    if rest.any():  # exponents, many digits, inf: a real parser's work
        parsed = _parsed(column.filter(pa.array(rest)), pl.Float64)
        x[rest] = with_nan(parsed)
        rest[rest] = np.asarray(parsed.is_null())
    return x, rest


def _label(column: pa.Array, spec: ColumnSpec) -> Converted:
    numbers, problems = _number(column, spec)
    x = with_nan(numbers)
    missing = Problem(np.isnan(x), "missing label")
    if spec.threshold is not None:
        return pa.array((x >= spec.threshold).astype(np.int8)), [*problems, missing]
    neither = Problem((x != 0) & (x != 1), "label is neither 0 nor 1")
    return pa.array((x == 1).astype(np.int8)), [*problems, missing, neither]


def _weight(column: pa.Array, spec: ColumnSpec) -> Converted:
    numbers, problems = _number(column, spec)
    x = with_nan(numbers)
    return numbers, [*problems, Problem(np.isnan(x), "missing weight"), Problem(x < 0, "negative weight")]


def _integer(column: pa.Array, spec: ColumnSpec) -> Converted:
    if is_any(column.type, pt.is_timestamp, pt.is_date):
        # Nanoseconds are cut: files of one folder may differ in their unit, and order must not.
        column = pc.cast(column, pa.timestamp("us"), safe=False).cast(pa.int64())
    values, problems = whole_numbers(column)
    return values, [*problems, Problem(np.asarray(values.is_null()), "missing")]


CONVERTERS: dict[Kind, Callable[[pa.Array, ColumnSpec], Converted]] = {
    "id": _id,
    "ids": _ids,
    "squared_log": _squared_log,
    "number": _number,
    "label": _label,
    "weight": _weight,
    "integer": _integer,
}


def whole_numbers(column: pa.Array) -> Converted:
    """Return text, integers, booleans and whole floats as int64 [B], null where missing or not whole."""
    if pt.is_string(column.type):
        values = _parsed(column, pl.Int64)
        rest = _null_where(column, ~_lost(column, values))  # "881250949.0" is whole too
        values = pc.coalesce(values, whole_numbers(_parsed(rest, pl.Float64))[0])
    elif pt.is_decimal(column.type):
        words, lost = decimal_words(column, below=2**63)
        values = pa.array(words, mask=lost | np.asarray(column.is_null()))
    elif pt.is_floating(column.type):
        x = with_nan(pc.cast(column, pa.float64()))
        column = _null_where(column, np.isnan(x))
        exact = (np.abs(x) <= EXACT) & (x == np.floor(x))
        values = pa.array(np.where(exact, x, 0).astype(np.int64), mask=~exact)
    else:
        _refuse(column, pt.is_boolean, pt.is_integer, pt.is_null)
        values = column.cast(pa.int64()) if column.type != pa.uint64() else _parsed(column, pl.Int64)
    return values, [Problem(_lost(column, values), "not a whole number within int64")]


def _parsed(column: pa.Array, dtype: type[pl.DataType]) -> pa.Array:
    """Parse a column as numbers, null where a value is none."""
    return one_array(pl.Series(pl.from_arrow(column)).cast(dtype, strict=False).to_arrow())


def _lost(before: pa.Array, after: pa.Array) -> NDArray[np.bool_]:
    """Return the mask [B] of values that became null."""
    return np.asarray(pc.and_(before.is_valid(), after.is_null()))


def _null_where(column: pa.Array, mask: NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)


def _rows(bad: NDArray[np.bool_], row_of_element: NDArray[np.int64], rows: int) -> NDArray[np.bool_]:
    """Return the mask [B] of the rows that hold a bad element."""
    return np.bincount(row_of_element[bad], minlength=rows) > 0


def _refuse(column: pa.Array, *allowed: Callable[[pa.DataType], bool]) -> None:
    if not is_any(column.type, *allowed):
        raise WrongType("numbers are needed here: convert the column or leave it out")
