"""Stable 64-bit ids and row numbers: the one definition of hashing in the project.

A string's id is XXH64 (seed 0) of its UTF-8 bytes, an integer is its own id, a missing value is `MISSING_ID`.
Row number of lookup j of feature f: ``h = mix64(id ^ salt(f, j))``, ``((h >>> 32) * num_embeddings) >> 32``.
All of it is integer arithmetic modulo 2^64. A changed result destroys trained tables without an error,
so `HASH_VERSION` goes into every checkpoint and artefact and a golden file pins the rows.
"""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub

if TYPE_CHECKING:
    import torch

HASH_VERSION = 1
MISSING_ID = -(2**63)

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment
_OFFSETS = {
    pa.string(): np.int32,
    pa.binary(): np.int32,
    pa.large_string(): np.int64,
    pa.large_binary(): np.int64,
}
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def mix64(ids: np.ndarray) -> np.ndarray:
    """Splitmix64 finaliser, a bijection of 64-bit words (Steele et al., OOPSLA 2014).

    ids: int64 or uint64 [L]. Returns int64 [L]. Raises TypeError on another dtype, ValueError unless 1-D.
    """
    if isinstance(ids, np.ndarray) and ids.dtype == np.uint64:
        ids = ids.view(np.int64)
    ids = as_int64(ids)
    out = np.empty_like(ids)
    _hashing.mix64_into(ids, out)
    return out


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0 of ``data``, as the unsigned digest its authors publish."""
    return int(_hashing.xxh64(data))


def salt(feature: str, lookup: int) -> int:
    """``mix64(XXH64(feature) + (lookup + 1) * 0x9E3779B97F4A7C15)`` as a signed 64-bit value.

    It depends on the feature's name and never on the order of declaration.
    Raises ValueError when lookup < 0.
    """
    lookup = operator.index(lookup)
    if lookup < 0:
        raise ValueError(f"lookup must be >= 0, got {lookup}")
    word = (xxh64(feature.encode()) + (lookup + 1) * _GOLDEN_GAMMA) % 2**64
    return _signed(_hashing.mix64_one(word))


@overload
def hash_rows(ids: np.ndarray, salt: int, num_embeddings: int) -> np.ndarray: ...
@overload
def hash_rows(ids: torch.Tensor, salt: int, num_embeddings: int) -> torch.Tensor: ...
def hash_rows(ids: Any, salt: int, num_embeddings: int) -> Any:
    """Row numbers in [0, num_embeddings) of ``ids`` under ``salt``.

    ids: int64 [L], an ndarray or a torch tensor on any device. Returns the same kind, int64 [L], same device.
    CPU tensors share memory with the kernel; others take `torch_hashing.hash_rows`, which agrees to the bit.

    Raises TypeError when ids are not int64 (they are never cast), and ValueError when they are not 1-D,
    num_embeddings is outside [1, 2^31) or salt is not a signed 64-bit value.
    """
    torch = sys.modules.get("torch")  # a tensor can only exist when torch has been imported
    if torch is not None and isinstance(ids, torch.Tensor):
        if ids.device.type != "cpu":
            from recsys_cython_ext import torch_hashing

            return torch_hashing.hash_rows(ids, salt, num_embeddings)
        if ids.dtype != torch.int64:
            raise TypeError(f"ids must be int64, got {ids.dtype}")
        return torch.from_numpy(hash_rows(ids.numpy(), salt, num_embeddings))
    salt, num_embeddings = check_hash_arguments(salt, num_embeddings)
    ids = as_int64(ids)
    out = np.empty_like(ids)
    _hashing.rows_into(ids, salt, num_embeddings, out)
    return out


def string_ids(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """XXH64 of every string or binary value, read straight from Arrow's buffers.

    array: (large_)string, (large_)binary, string_view, binary_view or a dictionary of these, [L]; slices and
    chunks are fine. Returns int64 [L]: the digest's bits as a signed word, `MISSING_ID` for a null.
    A digest equal to the reserved `MISSING_ID` becomes ``MISSING_ID + 1``: no string is taken for a null.

    Raises TypeError on another type, ValueError when offsets point outside the data (a corrupt file).
    """
    if isinstance(array, pa.ChunkedArray):
        return _over_chunks(string_ids, array)
    kind = _arrow_type(array)
    if pt.is_dictionary(kind) and _is_stringlike(kind.value_type):
        return _dictionary_ids(array)
    if kind in _VIEWS:
        return string_ids(array.cast(_VIEWS[kind]))
    if kind not in _OFFSETS:
        raise TypeError(f"string_ids needs strings or binary, got {kind}")
    out = np.empty(len(array), np.int64)
    if len(array) == 0:
        return out
    _, offsets, data = array.buffers()
    window = np.frombuffer(offsets, _OFFSETS[kind])[array.offset : array.offset + len(array) + 1]
    bytes_ = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    bad = _hashing.strings_into(bytes_, window, MISSING_ID, out)
    if bad >= 0:
        raise ValueError(f"corrupt {kind} array: value {bad} lies outside its data buffer")
    return _with_nulls(out, array)


def ids(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit ids of a column: strings and binary by `string_ids`, integers and booleans by their own value.

    array: Arrow, [L]; a dictionary counts as its values and a column of type null is all missing.
    Returns int64 [L], `MISSING_ID` for a null.

    Raises ValueError naming position and value for an integer >= 2^63 or equal to the reserved -2^63,
    TypeError naming the type for floats and everything else.
    """
    if isinstance(array, pa.ChunkedArray):
        return _over_chunks(ids, array)
    kind = _arrow_type(array)
    if _is_stringlike(kind.value_type if pt.is_dictionary(kind) else kind):
        return string_ids(array)
    if pt.is_dictionary(kind):
        return ids(array.dictionary_decode())
    if pt.is_null(kind):
        return np.full(len(array), MISSING_ID, np.int64)
    if pt.is_boolean(kind):
        return ids(array.cast(pa.uint8()))
    if not pt.is_integer(kind):
        raise TypeError(f"ids come from strings, binary, integers or booleans, got {kind}")
    return _integer_ids(array)


def as_int64(ids: Any) -> np.ndarray:
    """``ids`` as a contiguous int64 [L]; TypeError on another dtype, ValueError on another shape."""
    if not isinstance(ids, np.ndarray):
        raise TypeError(f"ids must be an int64 ndarray, got {type(ids).__name__}")
    if ids.dtype != np.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    if ids.ndim != 1:
        raise ValueError(f"ids must be 1-D, got shape {ids.shape}")
    return np.ascontiguousarray(ids)


def check_hash_arguments(salt: int, num_embeddings: int) -> tuple[int, int]:
    """Both as Python ints; ValueError when one is out of its range."""
    salt, num_embeddings = operator.index(salt), operator.index(num_embeddings)
    if not -(2**63) <= salt < 2**63:
        raise ValueError(f"salt must be a signed 64-bit value, got {salt}")
    if not 1 <= num_embeddings < 2**31:
        raise ValueError(f"num_embeddings must be in [1, 2^31), got {num_embeddings}")
    return salt, num_embeddings


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _arrow_type(array: Any) -> pa.DataType:
    if not isinstance(array, pa.Array):
        raise TypeError(f"expected a pyarrow Array or ChunkedArray, got {type(array).__name__}")
    return array.type


def _is_stringlike(kind: pa.DataType) -> bool:
    return kind in _OFFSETS or kind in _VIEWS


def _over_chunks(function: Any, array: pa.ChunkedArray) -> np.ndarray:
    if array.num_chunks == 0:
        return function(pa.array([], array.type))
    out = np.empty(len(array), np.int64)
    start = 0
    for chunk in array.chunks:
        try:
            out[start : start + len(chunk)] = function(chunk)
        except ValueError as error:
            error.add_note(f"in the chunk that starts at position {start}")
            raise
        start += len(chunk)
    return out


def _dictionary_ids(array: pa.DictionaryArray) -> np.ndarray:
    dictionary, indices = array.dictionary, array.indices
    if dictionary.type in _VIEWS:  # Arrow cannot take from a view
        dictionary = dictionary.cast(_VIEWS[dictionary.type])
    if len(dictionary) > len(indices):  # a small slice of a large dictionary: hash only what is used
        return string_ids(dictionary.take(indices))
    if indices.null_count == len(indices):
        return np.full(len(indices), MISSING_ID, np.int64)
    codes = indices.fill_null(0).cast(pa.int64()).to_numpy()
    return _with_nulls(string_ids(dictionary)[codes], indices)


def _integer_ids(array: pa.Array) -> np.ndarray:
    if len(array) == 0:
        return np.empty(0, np.int64)
    dtype = array.type.to_pandas_dtype()
    values = np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
    # A copy, not a cast of ours: uint64 wraps here and is refused below.
    out = values.astype(np.int64)
    bad = out < 0 if dtype == np.uint64 else out == MISSING_ID
    if bad.any():
        for position in np.flatnonzero(bad):
            if array[int(position)].is_valid:
                reason = "is reserved for missing" if values[position] < 0 else "does not fit int64"
                raise ValueError(f"value {values[position]} at position {position} {reason}")
    return _with_nulls(out, array)


def _with_nulls(out: np.ndarray, array: pa.Array) -> np.ndarray:
    if array.null_count:
        _hashing.fill_nulls(np.frombuffer(array.buffers()[0], np.uint8), array.offset, MISSING_ID, out)
    return out
