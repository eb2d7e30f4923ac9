"""A linear layer that multiplies float32 by oneDNN on processors with AVX-512 that are not Intel's.

torch takes MKL for float32, which uses AVX-512 on Intel's only: on one thread of an EPYC MKL does 80 Gflop/s, and oneDNN,
which torch brings too and takes for bfloat16, 245. With AVX2 the two are alike.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

_MKL_IS_SLOW = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and "Intel" not in str(torch.cpu.get_capabilities().get("cpu_name"))
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """`nn.Linear`: the same parameters, first values and results, to rounding."""

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        if not _by_onednn(input):
            return super().forward(input)
        if input.ndim == 2:  # no view, which an activation in place would have to copy
            return _Linear.apply(input, self.weight, self.bias)
        out = _Linear.apply(input.reshape(-1, self.in_features), self.weight, self.bias)
        return out.view(*input.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    """x [B, K], weight [N, K], bias [N] -> [B, N]; it has no second gradient."""

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
    """Tell whether oneDNN multiplies `x`: nothing that is traced, converted by autocast, on another device or empty."""
    return (
        _MKL_IS_SLOW
        and not torch.compiler.is_compiling()
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [B, K] times weight [N, K] transposed, plus bias [N]. Only `x` is copied where it is a transposed view."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
