"""A linear layer whose float32 products on an x86 CPU are oneDNN's.

torch takes MKL for float32, which on processors other than Intel's leaves out their widest instructions: on an AVX-512 EPYC
it does 80 Gflop/s on one thread, and oneDNN, which torch brings too and takes for bfloat16, 245.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

_X86 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
_HAS_ONEDNN = _X86 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`nn.Linear`: the same parameters, first values and results, to rounding."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        if not _by_onednn(input):
            return super().forward(input)
        out = _Linear.apply(input.reshape(-1, self.in_features), self.weight, self.bias)
        return out.view(*input.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    """x [B, K], weight [N, K], bias [N] -> [B, N]; its gradient has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if of_x else None,
            _product(gradient.t(), x.t()) if of_weight else None,
            gradient.sum(dim=0) if of_bias else None,
        )


def _by_onednn(x: Tensor) -> bool:
    """Tell whether oneDNN multiplies `x`: nothing that is traced, converted, on another device or empty."""
    return (
        _HAS_ONEDNN
        and not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [B, K] times weight [N, K] transposed, plus bias [N]. Only `x` is copied where it is a transposed view."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
