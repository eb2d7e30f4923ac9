"""`hashing.hash_rows_jagged` as one Triton kernel, imported only for CUDA tensors; `torch_hashing` is its caller."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_IDS_PER_PROGRAM = 1024


@triton.jit
def _rows_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as its own
    ids, offsets, salts, num_embeddings, out, length, n_features, STEPS: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    # Bisection keeps offsets[low] <= at < offsets[high]; it ends at the feature of this id, never at an empty one.
    low = tl.zeros([BLOCK], tl.int32)
    high = low + n_features
    for _ in range(STEPS):
        middle = (low + high) // 2
        right = tl.load(offsets + middle, mask=inside, other=0) <= at
        low = tl.where(right, middle, low)
        high = tl.where(right, high, middle)
    word = tl.load(ids + at, mask=inside, other=0) ^ tl.load(salts + low, mask=inside, other=0)
    z = word.to(tl.uint64, bitcast=True)  # unsigned: >> is logical and products wrap
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    rows = tl.load(num_embeddings + low, mask=inside, other=1).to(tl.uint64)
    tl.store(out + at, (((z >> 32) * rows) >> 32).to(tl.int64), mask=inside)


def rows_jagged(
    ids: torch.Tensor,
    offsets: torch.Tensor,
    salts: torch.Tensor,
    num_embeddings: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor:
    """Fill and return out [L]; all int64 on one device, checked by the caller: ids [L], offsets [F + 1], the others [F]."""
    ids, n_features = ids.contiguous(), len(salts)
    if len(ids):
        with torch.cuda.device_of(ids):  # Triton launches on the current device
            _rows_kernel[(triton.cdiv(len(ids), _IDS_PER_PROGRAM),)](
                ids,
                offsets,
                salts,
                num_embeddings,
                out,
                len(ids),
                n_features,
                STEPS=(n_features - 1).bit_length(),
                BLOCK=_IDS_PER_PROGRAM,
            )
    return out
