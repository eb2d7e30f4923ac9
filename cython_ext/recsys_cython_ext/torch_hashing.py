"""`hash_rows` in torch, for tensors that do not live on the CPU; it agrees with the Cython kernel to the bit.

int64 products wrap on every device. ``>>`` is arithmetic, so each shift is masked to make it logical.
"""

from __future__ import annotations

import torch

from recsys_cython_ext.hashing import check_hash_arguments

_M1 = 0xBF58476D1CE4E5B9 - 2**64  # torch scalars are signed
_M2 = 0x94D049BB133111EB - 2**64


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(ids: torch.Tensor) -> torch.Tensor:
    """Splitmix64 finaliser. ids: int64, any shape; so is the result. Raises TypeError on another dtype."""
    if ids.dtype != torch.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    z = (ids ^ _shift(ids, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def hash_rows(ids: torch.Tensor, salt: int, num_embeddings: int) -> torch.Tensor:
    """Row numbers, int64 [L] on the device of ``ids``; arguments and errors as in `hashing.hash_rows`."""
    salt, num_embeddings = check_hash_arguments(salt, num_embeddings)
    if ids.dtype != torch.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    if ids.ndim != 1:
        raise ValueError(f"ids must be 1-D, got shape {tuple(ids.shape)}")
    return (_shift(mix64(ids ^ salt), 32) * num_embeddings) >> 32
