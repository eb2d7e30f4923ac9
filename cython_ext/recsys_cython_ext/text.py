"""Delimited text: what a block holds that its reader must know, its fields as columns, and their numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

import recsys_cython_ext._text as _text


class TextScan(NamedTuple):
    """Counts over a block of bytes."""

    line_ends: int
    carriage_returns: int
    returns_before_line_end: int
    double_line_ends: int  # a line end right after another: a blank line
    quotes: int
    special: int  # the byte that was asked for
    ascii: bool


def scan(block: bytes | bytearray, special: bytes = b"\0") -> TextScan:
    r"""Count ``\n``, ``\r``, ``\r\n``, ``\n\n``, ``"`` and the byte `special` in one pass, several bytes at a time.

    Raises ValueError unless `special` is one byte.
    """
    if len(special) != 1:
        raise ValueError(f"special must be one byte, got {special!r}")
    counts = np.zeros(7, np.int64)
    _text.scan_into(block, special[0], counts)
    lines, returns, pairs, blank, quotes, specials, high = counts.tolist()
    return TextScan(lines, returns, pairs, blank, quotes, specials, not high)


class SplitFields(NamedTuple):
    """Columns of a block of delimited text."""

    arrays: list[pa.StringArray]  # one for each positions column, over the good lines; an empty field is null
    good: np.ndarray  # bool [lines]: whether a line has as many fields as it must
    field_counts: np.ndarray  # int32 [bad lines]: how many fields the others have


def split_fields(
    block: bytes | bytearray, delimiter: bytes, width: int, columns: Sequence[int]
) -> SplitFields:
    r"""Split the lines of a block without quoting into Arrow columns.

    block: fewer than 2^31 bytes of UTF-8, which the caller has checked. A line ends at ``\n``; a ``\r`` right before
    it is no part of the last field. The last line may lack its end (a ``\r`` is a byte like any other there).
    width: fields of a good line. columns: distinct positions in [0, width), in any order.

    Raises ValueError when an argument is not so, or delimiter is not one byte other than ``\r`` and ``\n``.
    """
    width, positions = operator.index(width), [operator.index(column) for column in columns]
    if len(block) >= 2**31:
        raise ValueError(f"a block must have fewer than 2^31 bytes, got {len(block)}")
    if len(delimiter) != 1 or delimiter in b"\r\n":
        raise ValueError(f"delimiter must be one byte other than a line end, got {delimiter!r}")
    if width < 1:
        raise ValueError(f"width must be >= 1, got {width}")
    if len(set(positions)) < len(positions) or any(not 0 <= column < width for column in positions):
        raise ValueError(f"columns must be distinct and in [0, {width}), got {positions}")
    lines = _text.count_of(block, 10) + (len(block) > 0 and not block.endswith(b"\n"))
    good, field_counts = np.empty(lines, bool), np.empty(lines, np.int32)
    ends = np.empty(_text.LINES_AT_ONCE * (width + 1) + _text.ENDS_SPARE, np.int32)
    buffers = [_string_buffers(lines) for _ in positions]
    addresses = np.array([[part.address for part in parts] for parts in buffers], np.uint64).reshape(-1, 3)
    room, sizes, nulls = (np.zeros(len(positions), np.int64) for _ in range(3))
    progress, at = np.zeros(3, np.int64), np.array(positions, np.int64)
    scratch = (progress, ends, at, addresses, room, sizes, nulls, good.view(np.uint8), field_counts)
    # Nothing has room at first: what the first lines need tells how much to allocate for all.
    while lines and (rows := _text.split_into(block, delimiter[0], width, *scratch)):
        for column in np.flatnonzero(sizes > room):
            likely = sizes[column] / rows * lines * (1 + 4 / math.sqrt(rows))
            room[column] = min(max(math.ceil(likely), sizes[column]), len(block))
            values = buffers[column][2]
            values.resize(int(room[column]) + _text.VALUES_SPARE)
            addresses[column, 2] = values.address
    rows = int(progress[2])
    arrays = []
    for (offsets, valid, values), size, n in zip(buffers, sizes.tolist(), nulls.tolist(), strict=True):
        values.resize(size, shrink_to_fit=False)  # what lies behind was never touched
        arrays.append(pa.StringArray.from_buffers(rows, offsets, values, valid if n else None, n))
    return SplitFields(arrays, good, field_counts[: lines - rows].copy())


def numbers(array: pa.StringArray | pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """Parse the strings that are plain decimal numbers, as Python's ``float`` does, and say which they are.

    A plain number is an optional ``-`` and 1 to 15 digits, with one ``.`` between two of them or none.
    array: Arrow strings, [L]. Returns values, float64 [L], NaN where there is none, and a status, uint8 [L]:
    0 parsed, 1 null, 2 anything else, for a real parser.

    Raises TypeError naming the type of another array, ValueError when a string lies outside its buffer.
    """
    if not isinstance(array, pa.StringArray | pa.LargeStringArray):
        raise TypeError(f"numbers come from strings, got {getattr(array, 'type', type(array).__name__)}")
    values, status = np.empty(len(array)), np.empty(len(array), np.uint8)
    if len(array):
        valid, offsets, data = array.buffers()
        dtype = np.int32 if array.type == pa.string() else np.int64
        window = np.frombuffer(offsets, dtype)[array.offset : array.offset + len(array) + 1]
        text = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
        bits = np.frombuffer(valid, np.uint8) if valid is not None else np.empty(0, np.uint8)
        bad = _text.numbers_into(text, window, bits, array.offset, values, status)
        if bad >= 0:
            raise ValueError(f"corrupt {array.type} array: value {bad} lies outside its data buffer")
    return values, status


def _string_buffers(lines: int) -> tuple[pa.Buffer, pa.Buffer, pa.Buffer]:
    """Allocate offsets, validity in whole words, and values without room, though even an empty one writes behind it."""
    # Arrow's own pool gives memory back within milliseconds, and the next block would pay for fresh pages.
    pool = pa.system_memory_pool()
    offsets = pa.allocate_buffer(4 * (lines + 1), pool)
    np.frombuffer(offsets, np.int32, 1)[0] = 0
    values = pa.allocate_buffer(_text.VALUES_SPARE, pool, resizable=True)
    return offsets, pa.allocate_buffer((lines + 63) // 64 * 8, pool), values
