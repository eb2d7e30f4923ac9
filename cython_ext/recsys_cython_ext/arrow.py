"""Ids of whole Arrow columns, as `hashing` defines them, read from Arrow's buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub
from recsys_cython_ext import id_types
from recsys_cython_ext.arguments import output
from recsys_cython_ext.hashing import MISSING_ID
from recsys_cython_ext.id_types import OFFSETS, VIEWS
from recsys_cython_ext.threads import over_parts


def string_ids(
    array: pa.Array | pa.ChunkedArray, out: np.ndarray | None = None, *, threads: int | None = None
) -> np.ndarray:
    """Return XXH64 of every string or binary value, read straight from Arrow's buffers.

    array: (large_)string, (large_)binary, string_view, binary_view or a dictionary of these, [L]; slices and
    chunks are fine. Returns int64 [L]: the digest's bits as a signed word, `MISSING_ID` for a null.
    A digest equal to the reserved `MISSING_ID` becomes ``MISSING_ID + 1``: no string is taken for a null.
    out, threads: as in `hash_rows`.

    Raises TypeError on another type, ValueError when a value lies outside the data (a corrupt file).
    """
    kind = _arrow_type(array)
    if not id_types.is_textlike(kind):
        raise TypeError(f"string_ids needs strings or binary, got {kind}")
    return arrow_ids(array, out, threads=threads)


def arrow_ids(
    array: pa.Array | pa.ChunkedArray, out: np.ndarray | None = None, *, threads: int | None = None
) -> np.ndarray:
    """Return the 64-bit ids of a column: strings and binary by `string_ids`, integers and booleans by their own value.

    array: Arrow, [L]; a dictionary counts as its values and a column of type null is all missing. Unsigned
    integers count by their bits (2^64 - 1 is -1), UUIDs (`id_types.is_uuid`) by their canonical text, and decimals
    by the whole number they hold, which is at least -2^63 and below 2^64.
    Returns int64 [L], `MISSING_ID` for a null. out, threads: as in `hash_rows`.

    Raises ValueError naming position and value for a number with the bits of the reserved -2^63 and for a decimal
    that is no such whole number, TypeError naming the type for floats and everything else.
    """
    kind = _arrow_type(array)
    if not id_types.has_ids(kind):
        raise TypeError(f"ids come from strings, binary, UUIDs, integers, decimals or booleans, got {kind}")
    out = output(out, np.int64, len(array))
    start = 0
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        try:
            _ids_into(chunk, out[start : start + len(chunk)], threads)
        except ValueError as error:
            if chunk is not array:
                error.add_note(f"in the chunk that starts at position {start}")
            raise
        start += len(chunk)
    return out


def _arrow_type(array: Any) -> pa.DataType:
    if not isinstance(array, pa.Array | pa.ChunkedArray):
        raise TypeError(f"expected a pyarrow Array or ChunkedArray, got {type(array).__name__}")
    return array.type


def _ids_into(array: pa.Array, out: np.ndarray, threads: int | None) -> None:
    kind = array.type
    if len(array) == 0:
        return
    if array.null_count == len(array):
        out.fill(MISSING_ID)
    elif pt.is_dictionary(kind):
        _dictionary_into(array, out, threads)
    elif pt.is_boolean(kind):
        _integers_into(array.cast(pa.uint8()), out)
    elif kind in VIEWS:
        _views_into(array, out, threads)
    elif kind in OFFSETS:
        _strings_into(array, out, threads)
    elif id_types.is_uuid(kind):
        _strings_into(id_types.uuid_text(array), out, threads)
    elif pt.is_decimal(kind):
        _decimals_into(array, out)
    else:
        _integers_into(array, out)


def _dictionary_into(array: pa.DictionaryArray, out: np.ndarray, threads: int | None) -> None:
    dictionary, indices = array.dictionary, array.indices
    if not id_types.is_textlike(array.type):
        _ids_into(array.dictionary_decode(), out, threads)  # an error names the position in the column
    elif len(dictionary) > len(indices) and dictionary.type not in VIEWS:  # Arrow cannot take from a view
        _ids_into(dictionary.take(indices), out, threads)  # a small slice of many values: only what is used
    else:
        codes = indices.fill_null(0).cast(pa.int64()).to_numpy()
        np.take(string_ids(dictionary, threads=threads), codes, out=out)
        _fill_nulls(out, indices)


def _strings_into(array: pa.Array, out: np.ndarray, threads: int | None) -> None:
    _, offsets, data = array.buffers()
    window = np.frombuffer(offsets, OFFSETS[array.type])[array.offset : array.offset + len(array) + 1]
    values = _bytes(data) if data is not None and data.size else np.zeros(1, np.uint8)

    def part(start: int, stop: int) -> None:
        bad = _hashing.strings_into(values, window[start : stop + 1], MISSING_ID, out[start:stop])
        _refuse_corrupt(array, start, bad)

    over_parts(part, len(array), threads)
    _fill_nulls(out, array)


def _views_into(array: pa.Array, out: np.ndarray, threads: int | None) -> None:
    validity, views, *buffers = array.buffers()
    window = _bytes(views)[16 * array.offset : 16 * (array.offset + len(array))]
    addresses = np.array([buffer.address for buffer in buffers], np.int64)
    sizes = np.array([buffer.size for buffer in buffers], np.int64)
    valid = np.empty(0, np.uint8) if validity is None else _bytes(validity)

    def part(start: int, stop: int) -> None:
        views, first = window[16 * start : 16 * stop], array.offset + start
        bad = _hashing.views_into(views, addresses, sizes, valid, first, MISSING_ID, out[start:stop])
        _refuse_corrupt(array, start, bad)

    over_parts(part, len(array), threads)
    _fill_nulls(out, array)


def _refuse_corrupt(array: pa.Array, start: int, bad: int) -> None:
    if bad >= 0:
        raise ValueError(f"corrupt {array.type} array: value {start + bad} lies outside its data buffer")


def _integers_into(array: pa.Array, out: np.ndarray) -> None:
    dtype = array.type.to_pandas_dtype()
    values = np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
    np.copyto(out, values, casting="unsafe")  # a copy, not a cast of ours: uint64 wraps to the same bits
    _refuse_reserved(array, out)
    _fill_nulls(out, array)


def _decimals_into(array: pa.Array, out: np.ndarray) -> None:
    out[:], lost = id_types.decimal_words(array)
    for position in np.flatnonzero(lost)[:1].tolist():
        raise ValueError(f"value {array[position]} at position {position} is no whole number of 64 bits")
    _refuse_reserved(array, out)
    _fill_nulls(out, array)


def _refuse_reserved(array: pa.Array, ids: np.ndarray) -> None:
    """Raise ValueError for a value, not a null, whose id is the reserved one."""
    for position in np.flatnonzero(ids == MISSING_ID).tolist():
        if array[position].is_valid:
            raise ValueError(f"value {array[position]} at position {position} is reserved for missing")


def _fill_nulls(out: np.ndarray, array: pa.Array) -> None:
    if array.null_count:
        _hashing.fill_nulls(_bytes(array.buffers()[0]), array.offset, MISSING_ID, out)


def _bytes(buffer: pa.Buffer) -> np.ndarray:
    return np.frombuffer(buffer, np.uint8)
