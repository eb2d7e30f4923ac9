"""Ids of whole Arrow columns, as `hashing` defines them, read from Arrow's buffers.

UUIDs stand for their text, and decimals for integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub
from recsys_cython_ext.arguments import output
from recsys_cython_ext.hashing import MISSING_ID
from recsys_cython_ext.threads import over_parts

OFFSETS = {
    pa.string(): np.int32,
    pa.binary(): np.int32,
    pa.large_string(): np.int64,
    pa.large_binary(): np.int64,
}
VIEWS = (pa.string_view(), pa.binary_view())
UUID_BYTES = 16
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES = (8, 13, 18, 23)  # places in the canonical text, 8-4-4-4-12 digits
_TEXT_BYTES = 2 * UUID_BYTES + len(_DASHES)
_DIGITS = np.setdiff1d(np.arange(_TEXT_BYTES), _DASHES)


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
    if not is_textlike(kind):
        raise TypeError(f"string_ids needs strings or binary, got {kind}")
    return arrow_ids(array, out, threads=threads)


def arrow_ids(
    array: pa.Array | pa.ChunkedArray, out: np.ndarray | None = None, *, threads: int | None = None
) -> np.ndarray:
    """Return the 64-bit ids of a column: strings and binary by `string_ids`, integers and booleans by their own value.

    array: Arrow, [L]; a dictionary counts as its values and a column of type null is all missing. Unsigned
    integers count by their bits (2^64 - 1 is -1), UUIDs (`is_uuid`) by their canonical text, and decimals
    by the whole number they hold, which is at least -2^63 and below 2^64.
    Returns int64 [L], `MISSING_ID` for a null. out, threads: as in `hash_rows`.

    Raises ValueError naming position and value for a number with the bits of the reserved -2^63 and for a decimal
    that is no such whole number, TypeError naming the type for floats and everything else.
    """
    kind = _arrow_type(array)
    if not has_ids(kind):
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
    elif is_uuid(kind):
        _strings_into(uuid_text(array), out, threads)
    elif pt.is_decimal(kind):
        _decimals_into(array, out)
    else:
        _integers_into(array, out)


def _dictionary_into(array: pa.DictionaryArray, out: np.ndarray, threads: int | None) -> None:
    dictionary, indices = array.dictionary, array.indices
    if not is_textlike(array.type):
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
    out[:], lost = decimal_words(array)
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


def has_ids(kind: pa.DataType) -> bool:
    """Tell whether `arrow_ids` takes columns of this type; a dictionary counts as its values."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    if pt.is_decimal(kind):
        return bool(kind.scale >= 0)
    return any(test(kind) for test in (pt.is_integer, pt.is_boolean, pt.is_null, is_textlike, is_uuid))


def is_textlike(kind: pa.DataType) -> bool:
    """Tell whether values of this type are strings or bytes of any length; a dictionary counts as its values."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return kind in OFFSETS or kind in VIEWS


def is_uuid(kind: pa.DataType) -> bool:
    """Tell whether values of this type are UUIDs: Arrow's extension, or 16 bytes of a fixed size, as it stores them."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name == "arrow.uuid"
    return pt.is_fixed_size_binary(kind) and kind.byte_width == UUID_BYTES


def uuid_text(array: pa.Array) -> pa.StringArray:
    """Write UUIDs [L] as their canonical text [L], in lower case with dashes; a null stays null."""
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    text = np.full((len(storage), _TEXT_BYTES), ord("-"), np.uint8)
    data = storage.buffers()[1]
    if data is not None and len(storage):
        start = UUID_BYTES * storage.offset
        values = np.frombuffer(data, np.uint8)[start : start + UUID_BYTES * len(storage)]
        nibbles = np.stack([values >> 4, values & 15], axis=1).reshape(len(storage), -1)
        text[:, _DIGITS] = _HEX[nibbles]
    fixed = pa.Array.from_buffers(pa.binary(_TEXT_BYTES), len(storage), [None, pa.py_buffer(text)])
    whole = pc.cast(pc.cast(fixed, pa.binary()), pa.string())
    return pc.if_else(storage.is_valid(), whole, pa.scalar(None, pa.string()))


def decimal_words(array: pa.Array, below: int = 2**64) -> tuple[np.ndarray, np.ndarray]:
    """Read whole decimals [L] as 64-bit words: int64 [L], and a mask [L] of the values that are no such word.

    A word is a whole number of [-2^63, below) by its bits, so that those of [2^63, 2^64) are negative here.
    A null is no word, and no value either: its word is 0, its mask False.
    """
    unit = 10**array.type.scale
    limbs = _limbs(array)
    low, there = limbs[:, 0], np.asarray(array.is_valid())
    small = there & (limbs[:, 1:] == (low >> 63)[:, None]).all(axis=1)  # within int64, before the division
    words, rest = np.divmod(low, unit) if unit < 2**63 else (np.zeros_like(low), low)
    lost = there & (rest != 0)
    for place in np.flatnonzero(there & ~small).tolist():  # Arrow's own division of wide decimals is wrong
        number, left = divmod(int.from_bytes(limbs[place].tobytes(), "little", signed=True), unit)
        lost[place] = left != 0 or not -(2**63) <= number < below
        words[place] = 0 if lost[place] else (number + 2**63) % 2**64 - 2**63
    return np.where(there & ~lost, words, 0), lost


def _limbs(array: pa.Array) -> np.ndarray:
    """Return the integers that decimals [L] are stored as, in int64 limbs [L, n], the lowest 64 bits first."""
    if array.type.bit_width < 64:
        array = pc.cast(array, pa.decimal128(array.type.precision, array.type.scale))
    limbs = array.type.bit_width // 64
    data = np.frombuffer(array.buffers()[1] or b"", np.int64).copy()
    return data.reshape(-1, limbs)[array.offset : array.offset + len(array)]
