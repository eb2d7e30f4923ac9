"""`hash_rows` in torch, for tensors that do not live on the CPU; it agrees with the Cython kernel to the bit.

int64 products wrap on every device. ``>>`` is arithmetic, so each shift is masked to make it logical.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch

from recsys_cython_ext.arguments import PerFeature, check_hash_arguments, check_jagged_arguments

_M1 = 0xBF58476D1CE4E5B9 - 2**64  # torch scalars are signed
_M2 = 0x94D049BB133111EB - 2**64


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(ids: torch.Tensor) -> torch.Tensor:
    """Mix 64-bit words by the splitmix64 finaliser.

    ids: int64, any shape; so is the result. Raises TypeError on another dtype.
    """
    if ids.dtype != torch.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    z = (ids ^ _shift(ids, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def hash_rows(
    ids: torch.Tensor, salt: int, num_embeddings: int, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return row numbers, int64 [L] on the device of ``ids``; arguments and errors as in `hashing.hash_rows`."""
    salt, num_embeddings = check_hash_arguments(salt, num_embeddings)
    _check_tensors(ids, out)
    rows = (_shift(mix64(ids ^ salt), 32) * num_embeddings) >> 32
    return rows if out is None else out.copy_(rows)


def hash_rows_jagged(
    ids: torch.Tensor,
    offsets: PerFeature,
    salts: PerFeature,
    num_embeddings: PerFeature,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return row numbers, int64 [L] on the device of ``ids``; arguments and errors as in `hashing.hash_rows_jagged`.

    The arguments per feature are checked on the host, so keep them there: a device tensor is waited for.
    On CUDA one Triton kernel does the work where Triton is installed.
    """
    _check_tensors(ids, out)
    checked = check_jagged_arguments(len(ids), offsets, salts, num_embeddings)
    n_features = len(checked[1])
    packed = torch.from_numpy(np.concatenate(checked)).to(ids.device, non_blocking=True)  # one transfer
    starts, salts_, sizes = packed.split([n_features + 1, n_features, n_features])
    if ids.is_cuda and find_spec("triton") is not None:
        from recsys_cython_ext.triton_hashing import rows_jagged

        return rows_jagged(ids, starts, salts_, sizes, torch.empty_like(ids) if out is None else out)
    feature = torch.repeat_interleave(starts.diff(), output_size=len(ids))
    rows = (_shift(mix64(ids ^ salts_[feature]), 32) * sizes[feature]) >> 32
    return rows if out is None else out.copy_(rows)


def _check_tensors(ids: torch.Tensor, out: torch.Tensor | None) -> None:
    if ids.dtype != torch.int64:
        raise TypeError(f"ids must be int64, got {ids.dtype}")
    if ids.ndim != 1:
        raise ValueError(f"ids must be 1-D, got shape {tuple(ids.shape)}")
    if out is None:
        return
    if not isinstance(out, torch.Tensor) or out.dtype != torch.int64 or out.device != ids.device:
        raise TypeError(f"out must be an int64 tensor on {ids.device}")
    if out.shape != ids.shape or not out.is_contiguous():
        raise ValueError(f"out must be contiguous and of shape {tuple(ids.shape)}, got {tuple(out.shape)}")
