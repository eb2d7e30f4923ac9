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

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub
from recsys_cython_ext.arguments import (
    PerFeature,
    as_int64,
    check_hash_arguments,
    check_jagged_arguments,
    is_tensor,
    output,
)
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


def text_id(text: str) -> int:
    """Return the id of a text, as `string_ids` gives it to a column's value.

    Raises UnicodeEncodeError for half a surrogate pair, which no UTF-8 text has.
    """
    word = _signed(xxh64(text.encode()))
    return word + (word == MISSING_ID)  # no text is taken for a missing one


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
