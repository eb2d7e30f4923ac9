"""Checks of what is handed to a kernel: dtype, shape, range, memory of the output."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch

PerFeature: TypeAlias = "Sequence[int] | np.ndarray | torch.Tensor"


def as_int64(ids: Any, name: str = "ids") -> np.ndarray:
    """Return ``ids`` as a contiguous int64 [L]; TypeError on another dtype, ValueError on another shape."""
    if not isinstance(ids, np.ndarray):
        raise TypeError(f"{name} must be an int64 ndarray, got {type(ids).__name__}")
    if ids.dtype != np.int64:
        raise TypeError(f"{name} must be int64, got {ids.dtype}")
    if ids.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {ids.shape}")
    return np.ascontiguousarray(ids)


def check_hash_arguments(salt: int, num_embeddings: int) -> tuple[int, int]:
    """Return both as Python ints; ValueError when one is out of its range."""
    salt, num_embeddings = operator.index(salt), operator.index(num_embeddings)
    if not -(2**63) <= salt < 2**63:
        raise ValueError(f"salt must be a signed 64-bit value, got {salt}")
    if not 1 <= num_embeddings < 2**31:
        raise ValueError(f"num_embeddings must be in [1, 2^31), got {num_embeddings}")
    return salt, num_embeddings


def check_jagged_arguments(
    length: int, offsets: PerFeature, salts: PerFeature, num_embeddings: PerFeature
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three as int64 arrays; raises as `hash_rows_jagged` does. length: number of ids."""
    offsets = _per_feature("offset", offsets, 0, 2**63 - 1, "in [0, 2^63)")
    salts = _per_feature("salt", salts, -(2**63), 2**63 - 1, "a signed 64-bit value")
    num_embeddings = _per_feature("num_embeddings", num_embeddings, 1, 2**31 - 1, "in [1, 2^31)")
    if not len(salts) == len(num_embeddings) == len(offsets) - 1:
        raise ValueError(
            f"F features need F + 1 offsets, F salts and F num_embeddings, "
            f"got {len(offsets)}, {len(salts)} and {len(num_embeddings)}"
        )
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        raise ValueError(f"offsets fall at feature {falls[0]}: {offsets[falls[0]]}, {offsets[falls[0] + 1]}")
    if offsets[0] != 0 or offsets[-1] != length:
        raise ValueError(f"offsets must run from 0 to {length}, got {offsets[0]} to {offsets[-1]}")
    return offsets, salts, num_embeddings


def output(out: Any, dtype: type, length: int, source: np.ndarray | None = None) -> np.ndarray:
    """Return ``out`` when it can take [length] values of dtype and shares no memory with source; a new array for None.

    Raises TypeError on another dtype, ValueError otherwise.
    """
    if out is None:
        return np.empty(length, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        got = out.dtype if hasattr(out, "dtype") else type(out).__name__
        raise TypeError(f"out must be an ndarray of {np.dtype(dtype)}, got {got}")
    if out.shape != (length,) or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(f"out must be contiguous, writable and of shape ({length},), got shape {out.shape}")
    if source is not None and np.may_share_memory(out, source):
        raise ValueError("out must not share memory with ids")
    return out


def is_tensor(value: Any) -> bool:
    """Return whether a value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")  # a tensor can only exist when torch has been imported
    return torch is not None and isinstance(value, torch.Tensor)


def _per_feature(name: str, values: Any, low: int, high: int, allowed: str) -> np.ndarray:
    """Return integers within [low, high], one for each feature, as int64."""
    if is_tensor(values):
        values = values.cpu().numpy()
    if not isinstance(values, np.ndarray):
        values = np.array([operator.index(value) for value in values], object)  # exact beyond 64 bits
    elif values.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    if values.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {values.shape}")
    bad = np.flatnonzero((values < low) | (values > high))
    if len(bad):
        raise ValueError(f"{name} of feature {bad[0]} must be {allowed}, got {values[bad[0]]}")
    return np.ascontiguousarray(values, np.int64)
