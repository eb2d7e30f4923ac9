"""Columns as they come, in the few forms that conversion knows: strings, numbers, lists, and what was wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray

from recsys_cython_ext.column_ids import is_uuid, uuid_text
from recsys_pipelines.sources.text import is_list, split, utf8


@dataclass(frozen=True)
class Problem:
    """Rows (or list elements) [B] that did not convert, why, and the place of their column in `convert.Spec.columns`."""

    bad: NDArray[np.bool_]
    reason: str
    column: int = 0


TextIds = bool | Literal["uuid"]  # whether ids of a column are hashes of text, and whether the text of UUIDs
Converted = tuple[pa.Array, list[Problem]]


class WrongType(Exception):
    """A column whose type cannot be converted at all: the reason, and its place in `convert.Spec.columns`."""

    def __init__(self, reason: str, column: int = 0) -> None:
        super().__init__(reason)
        self.column = column


def text_or_plain(column: pa.Array) -> Converted:
    """Return the column without dictionaries, views and extension types, bytes and UUIDs as text."""
    if isinstance(column, pa.ExtensionArray) and not is_uuid(column.type):
        column = column.storage
    column = without_views(column)
    if pt.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_uuid(column.type):
        return uuid_text(column), []
    if pt.is_string(column.type) and _is_valid(column):
        return column, []
    if is_any(column.type, pt.is_string, pt.is_large_string):
        column = column.cast(pa.large_binary())  # Parquet files may call bytes a string without looking
    if is_any(column.type, pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary):
        column, bad = utf8(column)
        return column, [Problem(bad, "not UTF-8 text")]
    return column, []


def without_views(column: pa.Array) -> pa.Array:
    """Lay strings and bytes of a column one after the other: Arrow can neither filter views nor decode them."""
    kind = column.type
    if pt.is_string_view(kind):
        return column.cast(pa.large_binary()).view(pa.large_string())
    if pt.is_binary_view(kind):
        return column.cast(pa.large_binary())
    if pt.is_dictionary(kind):
        values = without_views(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values)
    if is_list(kind) and is_any(kind.value_type, pt.is_string_view, pt.is_binary_view):
        return list_array(list_lengths(column), without_views(pc.list_flatten(column)), column.is_null())
    return column


def _is_valid(column: pa.Array) -> bool:
    _, offsets, data = column.buffers()
    if len(column) and data is not None:
        window = np.frombuffer(offsets, np.int32)[column.offset :]
        text = np.frombuffer(data, np.int8)[window[0] : window[len(column)]]
        if text.min(initial=0) >= 0:  # ASCII, ten times as fast to see
            return True
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def has_no_value(column: pa.Array) -> bool:
    """Tell whether a column holds nothing, or floats that are all NaN: how one without a value leaves pandas."""
    if not pt.is_floating(column.type):
        return pt.is_null(column.type)
    return bool(np.isnan(with_nan(pc.cast(column, pa.float64()))).all())


def lists(column: pa.Array, separator: str | None) -> pa.Array:
    """Return a column [B] as lists, text cut at `separator`. Raises WrongType for what is neither."""
    if has_no_value(column):
        return pa.nulls(len(column), pa.list_(pa.int64()))
    if pt.is_string(column.type):
        if separator is None:
            raise WrongType("a feature of many values needs a list: set `separator` to cut the text at")
        return split(column, separator)
    if not is_list(column.type):
        raise WrongType("a feature of many values needs a list: set `multivalued: false`")
    return column


def list_lengths(column: pa.Array) -> NDArray[np.int64]:
    """Return the number of elements [B] of each list; a missing list has none."""
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def list_array(lengths: NDArray[np.int64], values: pa.Array, missing: pa.Array | None = None) -> pa.ListArray:
    """Make lists of these lengths [B] over `values`; those where `missing` [B] is true are null."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=missing)


def with_nan(numbers: pa.Array) -> NDArray[np.float64]:
    """Return float64 [B] with NaN for null."""
    return numbers.to_numpy(zero_copy_only=False)


def is_any(kind: pa.DataType, *tests: Callable[[pa.DataType], bool]) -> bool:
    """Tell whether one of `tests` holds."""
    return any(test(kind) for test in tests)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the column as one array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one
