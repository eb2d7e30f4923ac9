"""Raw columns to typed ones. A value that does not convert sends its row to quarantine: none becomes null.

In text formats every column is a string, so an id is hashed as the text it is; integer columns of Parquet and
Arrow are their own ids. The same log scored from another kind of file would therefore get other ids.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from recsys_cython_ext import hashing
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk, SourceError, require
from recsys_pipelines.sources.text import is_text, split, utf8

Kind = Literal["id", "ids", "squared_log", "number", "label", "weight", "integer"]
EXACT = 2.0**53  # beyond it a float64 no longer holds every integer


@dataclass(frozen=True)
class ColumnSpec:
    """How one output column is made from the source column `column`.

    kind             output           from
    id               int64            strings (XXH64) or integers (themselves); missing is `MISSING_ID`
    ids              list<int64>      lists of these, or text cut at `separator`; a missing list is empty,
                                      a missing element is `MISSING_ID`
    squared_log      int64            numbers: floor(ln(x)^2) for x > 2, else int(x); missing is `MISSING_ID`
    number           float64          numbers; missing and NaN are null, infinite is refused
    label            int8             0 or 1; with `threshold`, any number, 1 where it is >= `threshold`
    weight           float64          finite numbers >= 0
    integer          int64            whole numbers; times and dates become microseconds since 1970

    label, weight and integer may not be missing. Floats that are whole numbers up to 2^53 count as integers,
    for that is how a nullable integer column leaves pandas.
    """

    column: str
    kind: Kind
    separator: str | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class _Problem:
    """Rows (or list elements) [B] that did not convert, and why."""

    bad: NDArray[np.bool_]
    reason: str


Converted = tuple[pa.Array, list[_Problem]]


class _WrongType(Exception):
    """A column whose type cannot be converted at all."""


def typed(chunk: Chunk, specs: Mapping[str, ColumnSpec], quarantine: Quarantine) -> pa.Table:
    """The columns of `specs` (output name -> spec) in their order, then `row_id` int64: the row's number.

    Rows in = rows out + rows added to `quarantine`; each goes there under its first unconvertible value.

    Raises:
        SourceError: a column is absent, or its type cannot be converted to what is asked.
        ValueError: an output is called `row_id`.
    """
    if "row_id" in specs:
        raise ValueError("`row_id` is added by `typed`: give that output another name")
    require((spec.column for spec in specs.values()), chunk.table.column_names, chunk.file)
    good = np.ones(len(chunk.rows), bool)
    outputs = {}
    for name, spec in specs.items():
        raw = _one_array(chunk.table[spec.column])
        try:
            outputs[name], problems = _converted(raw, spec)
        except _WrongType as error:
            raise SourceError(f"{chunk.file}: column {spec.column!r} is {raw.type}: {error}") from None
        for problem in problems:
            chunk.report(problem.bad & good, spec.column, raw, problem.reason, quarantine)
            good &= ~problem.bad
    outputs["row_id"] = pa.array(chunk.rows)
    table = pa.table(outputs)
    return table if good.all() else table.filter(pa.array(good))


def text_ids(chunk: Chunk, specs: Mapping[str, ColumnSpec]) -> dict[str, bool]:
    """For each id output of `specs`, whether its source column is text; columns of only nulls are left out."""
    types = {
        name: chunk.table.schema.field(s.column).type for name, s in specs.items() if s.kind in ("id", "ids")
    }
    return {name: is_text(kind) for name, kind in types.items() if not pt.is_null(kind)}


def _converted(raw: pa.Array, spec: ColumnSpec) -> Converted:
    plain, problems = _plain(raw)
    output, more = CONVERTERS[spec.kind](plain, spec)
    return output, problems + more


def _id(column: pa.Array, spec: ColumnSpec) -> Converted:
    if pt.is_string(column.type):
        return pa.array(hashing.ids(column)), []
    if not _is_any(column.type, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_null):
        raise _WrongType("an id must be text or an integer: convert the column")
    values, problems = _whole(column)
    reserved = np.asarray(pc.fill_null(pc.equal(values, hashing.MISSING_ID), False))
    values = _null_where(values, reserved)
    return pa.array(hashing.ids(values)), [*problems, _Problem(reserved, "-2^63 stands for a missing id")]


def _ids(column: pa.Array, spec: ColumnSpec) -> Converted:
    if pt.is_null(column.type):
        column = column.cast(pa.list_(pa.int64()))
    elif pt.is_string(column.type):
        if spec.separator is None:
            raise _WrongType("a feature of many values needs a list: set `separator` to cut the text at")
        column = split(column, spec.separator)
    elif not _is_list(column.type):
        raise _WrongType("a feature of many values needs a list: set `multivalued: false`")
    row_of_element = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    lengths = np.bincount(row_of_element, minlength=len(column))
    ids, problems = _converted(_one_array(pc.list_flatten(column)), ColumnSpec(spec.column, "id"))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), ids)
    return lists, [_Problem(_rows(p.bad, row_of_element, len(column)), p.reason) for p in problems]


def _squared_log(column: pa.Array, spec: ColumnSpec) -> Converted:
    numbers, problems = _number(column, spec)
    x = _with_nan(numbers)
    outside = x <= -(2.0**63)
    small = np.where(outside | ~(x <= 2), 0, x).astype(np.int64)
    buckets = np.where(x > 2, np.floor(np.log(np.where(x > 2, x, 1)) ** 2).astype(np.int64), small)
    buckets[np.isnan(x)] = hashing.MISSING_ID
    return pa.array(buckets), [*problems, _Problem(outside, "outside int64")]


def _number(column: pa.Array, spec: ColumnSpec) -> Converted:
    problems = []
    if pt.is_string(column.type):
        numbers = _parsed(column, pl.Float64)
        problems.append(_Problem(_lost(column, numbers), "not a number"))
    else:
        _refuse(column, pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_null)
        numbers = pc.cast(column, pa.float64(), safe=False)
    infinite = np.isinf(_with_nan(numbers))
    numbers = _null_where(numbers, np.asarray(pc.fill_null(pc.is_nan(numbers), False)) | infinite)
    return numbers, [*problems, _Problem(infinite, "infinite")]


def _label(column: pa.Array, spec: ColumnSpec) -> Converted:
    numbers, problems = _number(column, spec)
    x = _with_nan(numbers)
    missing = _Problem(np.isnan(x), "missing label")
    if spec.threshold is not None:
        return pa.array((x >= spec.threshold).astype(np.int8)), [*problems, missing]
    neither = _Problem((x != 0) & (x != 1), "label is neither 0 nor 1")
    return pa.array((x == 1).astype(np.int8)), [*problems, missing, neither]


def _weight(column: pa.Array, spec: ColumnSpec) -> Converted:
    numbers, problems = _number(column, spec)
    x = _with_nan(numbers)
    return numbers, [*problems, _Problem(np.isnan(x), "missing weight"), _Problem(x < 0, "negative weight")]


def _integer(column: pa.Array, spec: ColumnSpec) -> Converted:
    if _is_any(column.type, pt.is_timestamp, pt.is_date):
        # Nanoseconds are cut: files of one folder may differ in their unit, and order must not.
        column = pc.cast(column, pa.timestamp("us"), safe=False).cast(pa.int64())
    values, problems = _whole(column)
    return values, [*problems, _Problem(np.asarray(values.is_null()), "missing")]


CONVERTERS: dict[Kind, Callable[[pa.Array, ColumnSpec], Converted]] = {
    "id": _id,
    "ids": _ids,
    "squared_log": _squared_log,
    "number": _number,
    "label": _label,
    "weight": _weight,
    "integer": _integer,
}


def _whole(column: pa.Array) -> Converted:
    """int64 [B] of text, integers, booleans and whole floats, null where missing or not whole."""
    if pt.is_string(column.type):
        values = _parsed(column, pl.Int64)
        rest = _null_where(column, ~_lost(column, values))  # "881250949.0" is whole too
        values = pc.coalesce(values, _whole(_parsed(rest, pl.Float64))[0])
    elif pt.is_floating(column.type):
        x = _with_nan(pc.cast(column, pa.float64()))
        column = _null_where(column, np.isnan(x))
        exact = (np.abs(x) <= EXACT) & (x == np.floor(x))
        values = pa.array(np.where(exact, x, 0).astype(np.int64), mask=~exact)
    else:
        _refuse(column, pt.is_boolean, pt.is_integer, pt.is_null)
        values = column.cast(pa.int64()) if column.type != pa.uint64() else _parsed(column, pl.Int64)
    return values, [_Problem(_lost(column, values), "not a whole number within int64")]


def _plain(column: pa.Array) -> Converted:
    """The column without dictionaries and extension types, and bytes as text."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pt.is_string(column.type) and _is_valid(column):
        return column, []
    if _is_any(column.type, pt.is_string, pt.is_large_string, pt.is_string_view):
        column = column.cast(pa.large_binary())  # Parquet files may call bytes a string without looking
    if _is_any(column.type, pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view):
        column, bad = utf8(column)
        return column, [_Problem(bad, "not UTF-8 text")]
    return column, []


def _is_valid(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _parsed(column: pa.Array, dtype: type[pl.DataType]) -> pa.Array:
    """`column` as numbers, null where a value is none."""
    return _one_array(pl.Series(pl.from_arrow(column)).cast(dtype, strict=False).to_arrow())


def _lost(before: pa.Array, after: pa.Array) -> NDArray[np.bool_]:
    """Mask [B] of values that became null."""
    return np.asarray(pc.and_(before.is_valid(), after.is_null()))


def _null_where(column: pa.Array, mask: NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)


def _with_nan(numbers: pa.Array) -> NDArray[np.float64]:
    """float64 [B] with NaN for null."""
    return numbers.to_numpy(zero_copy_only=False)


def _rows(bad: NDArray[np.bool_], row_of_element: NDArray[np.int64], rows: int) -> NDArray[np.bool_]:
    """Mask [B] of the rows that hold a bad element."""
    return np.bincount(row_of_element[bad], minlength=rows) > 0


def _refuse(column: pa.Array, *allowed: Callable[[pa.DataType], bool]) -> None:
    if not _is_any(column.type, *allowed):
        raise _WrongType("numbers are needed here: convert the column or leave it out")


def _is_list(kind: pa.DataType) -> bool:
    views = pt.is_list_view, pt.is_large_list_view
    return _is_any(kind, pt.is_list, pt.is_large_list, pt.is_fixed_size_list, *views)


def _is_any(kind: pa.DataType, *tests: Callable[[pa.DataType], bool]) -> bool:
    return any(test(kind) for test in tests)


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
