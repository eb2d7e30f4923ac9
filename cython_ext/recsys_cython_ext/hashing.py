"""Stable 64-bit ids and row numbers: the one definition of hashing in the project.

A string's id is XXH64 (seed 0) of its UTF-8 bytes, an integer is its own id, a missing value is `MISSING_ID`.
An unsigned integer of 2^63 or more is the id of its bits, a UUID that of its canonical text, and a whole decimal is
an integer.
Row number of lookup j of feature f: ``h = mix64(id ^ lookup_salt(f, j))``, ``((h >>> 32) * num_embeddings) >> 32``.
All of it is integer arithmetic modulo 2^64. A changed result destroys trained tables without an error,
so `HASH_VERSION` goes into every checkpoint and artefact and a golden file pins the rows.
"""

from __future__ import annotations

import operator
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub
from recsys_cython_ext import id_types
from recsys_cython_ext.arguments import (
    PerFeature,
    as_int64,
    check_hash_arguments,
    check_jagged_arguments,
    is_tensor,
    output,
)
from recsys_cython_ext.id_types import OFFSETS, VIEWS
from recsys_cython_ext.threads import over_parts

if TYPE_CHECKING:
    import torch

HASH_VERSION = 1
MISSING_ID = -(2**63)

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment


def mix64(ids: np.ndarray) -> np.ndarray:
    """Mix 64-bit words by the splitmix64 finaliser, a bijection of 64-bit words (Steele et al., OOPSLA 2014).

    ids: int64 or uint64 [L]. Returns int64 [L]. Raises TypeError on another dtype, ValueError unless 1-D.
    """
    if isinstance(ids, np.ndarray) and ids.dtype == np.uint64:
        ids = ids.view(np.int64)
    ids = as_int64(ids)
    out = np.empty_like(ids)
    _hashing.mix64_into(ids, out)
    return out


def xxh64(data: bytes) -> int:
    """Return XXH64 with seed 0 of ``data``, as the unsigned digest its authors publish."""
    return int(_hashing.xxh64(data))


@cache  # asked for at every batch
def lookup_salt(feature: str, lookup: int) -> int:
    """Return ``mix64(XXH64(feature) + (lookup + 1) * 0x9E3779B97F4A7C15)`` as a signed 64-bit value.

    It depends on the feature's name and never on the order of declaration.
    Raises ValueError when lookup < 0.
    """
    lookup = operator.index(lookup)
    if lookup < 0:
        raise ValueError(f"lookup must be >= 0, got {lookup}")
    word = (xxh64(feature.encode()) + (lookup + 1) * _GOLDEN_GAMMA) % 2**64
    return _signed(_hashing.mix64_one(word))


@overload
def hash_rows(
    ids: np.ndarray,
    salt: int,
    num_embeddings: int,
    out: np.ndarray | None = None,
    *,
    threads: int | None = None,
) -> np.ndarray: ...
@overload
def hash_rows(
    ids: torch.Tensor,
    salt: int,
    num_embeddings: int,
    out: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor: ...
def hash_rows(
    ids: Any, salt: int, num_embeddings: int, out: Any = None, *, threads: int | None = None
) -> Any:
    """Return row numbers in [0, num_embeddings) of ``ids`` under ``salt``.

    ids: int64 [L], an ndarray or a torch tensor on any device. Returns the same kind, int64 [L], same device:
    ``out`` where it is given (a fresh array costs page faults), in memory of its own.
    CPU tensors share memory with the kernel; others take `torch_hashing.hash_rows`, which agrees to the bit.
    threads: at most so many, by default one for each available core; few ids stay on the calling thread.

    Raises TypeError when ids or out are not int64 (they are never cast), and ValueError when they are not 1-D
    and equally long, num_embeddings is outside [1, 2^31) or salt is not a signed 64-bit value.
    """
    if is_tensor(ids):
        if ids.device.type != "cpu":
            from recsys_cython_ext import torch_hashing

            return torch_hashing.hash_rows(ids, salt, num_embeddings, out)
        return _as_tensor(hash_rows, ids, salt, num_embeddings, out=out, threads=threads)
    salt, num_embeddings = check_hash_arguments(salt, num_embeddings)
    ids = as_int64(ids)
    out = output(out, np.int64, len(ids), ids)

    def part(start: int, stop: int) -> None:
        _hashing.rows_into(ids[start:stop], salt, num_embeddings, out[start:stop])

    over_parts(part, len(ids), threads)
    return out


@overload
def hash_rows_jagged(
    ids: np.ndarray,
    offsets: PerFeature,
    salts: PerFeature,
    num_embeddings: PerFeature,
    out: np.ndarray | None = None,
    *,
    threads: int | None = None,
) -> np.ndarray: ...
@overload
def hash_rows_jagged(
    ids: torch.Tensor,
    offsets: PerFeature,
    salts: PerFeature,
    num_embeddings: PerFeature,
    out: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor: ...
def hash_rows_jagged(
    ids: Any,
    offsets: PerFeature,
    salts: PerFeature,
    num_embeddings: PerFeature,
    out: Any = None,
    *,
    threads: int | None = None,
) -> Any:
    """Return the row numbers of all features of a KeyedJaggedTensor in one call.

    ids: int64 [L], one feature after the other: ``ids[offsets[f]:offsets[f + 1]]`` belong to feature f.
    offsets: [F + 1] (`KeyedJaggedTensor.offset_per_key()`); salts, num_embeddings: [F]; sequences of int,
    integer arrays or tensors. The rest as in `hash_rows`, feature by feature.

    Raises as `hash_rows` does, naming the feature's position, and ValueError when offsets do not run from 0
    to L without falling.
    """
    if is_tensor(ids):
        if ids.device.type != "cpu":
            from recsys_cython_ext import torch_hashing

            return torch_hashing.hash_rows_jagged(ids, offsets, salts, num_embeddings, out)
        return _as_tensor(hash_rows_jagged, ids, offsets, salts, num_embeddings, out=out, threads=threads)
    ids = as_int64(ids)
    offsets, salts, num_embeddings = check_jagged_arguments(len(ids), offsets, salts, num_embeddings)
    out = output(out, np.int64, len(ids), ids)

    def part(start: int, stop: int) -> None:
        _hashing.rows_jagged_into(ids, offsets, salts, num_embeddings, start, stop, out)

    over_parts(part, len(ids), threads)
    return out


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


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _as_tensor(function: Any, ids: Any, *arguments: Any, out: Any, threads: int | None) -> Any:
    """Return ``function`` of a CPU tensor through arrays that share its memory."""
    if str(ids.dtype) != "torch.int64":  # NumPy has no bfloat16: it would fail with another error
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    array = None
    if out is not None:
        if not is_tensor(out) or out.dtype != ids.dtype or out.device != ids.device:
            raise TypeError(f"out must be an int64 tensor on {ids.device}")
        array = out.numpy()
    rows = function(ids.numpy(), *arguments, out=array, threads=threads)
    return sys.modules["torch"].from_numpy(rows) if out is None else out


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
