"""Several models share these parts."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.models.linear import Linear


def relu(width: int) -> nn.Module:
    """Return the activation of an MLP that declares no other; a ReLU is the same for every width."""
    return nn.ReLU(inplace=True)


def mlp(
    inputs: int,
    hidden: Sequence[int],
    dropout: float = 0.0,
    activation: Callable[[int], nn.Module] = relu,
) -> nn.Sequential:
    """Stack linear, activation and dropout for each width of `hidden`. [B, inputs] -> [B, hidden[-1]]."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *hidden]):
        layers += [Linear(before, after), activation(after), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


def concatenated(dense: Tensor, vectors: Tensor) -> Tensor:
    """Join [B, n] and [B, F, D] to [B, n + F·D], the input of an MLP or a cross network.

    Under autocast it has autocast's type, or each of the layers that read it would convert it, and its own gradient.
    """
    parts = [dense, vectors.flatten(1)]
    device = dense.device.type
    if torch.is_autocast_enabled(device):
        parts = [part.to(torch.get_autocast_dtype(device)) for part in parts]
    return torch.cat(parts, dim=1)


def pairwise_sum(vectors: Tensor) -> Tensor:
    """Compute Σ_{f<g} <e_f, e_g> = ½ Σ_d ((Σ_f e_f)² - Σ_f e_f²) (Rendle, ICDM 2010, lemma 3.1). [B, F, D] -> [B]."""
    if torch.compiler.is_compiling():
        return _pairwise_sum(vectors, vectors.sum(dim=1))
    return _PairwiseSum.apply(vectors)


def _pairwise_sum(vectors: Tensor, total: Tensor) -> Tensor:
    return 0.5 * (total.square().sum(dim=1) - vectors.square().sum(dim=(1, 2)))


class _PairwiseSum(torch.autograd.Function):
    """Its gradient, Σ_f e_f - e_g, takes fewer passes over the vectors than torch's own takes for the formula."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(dim=1)
        ctx.save_for_backward(vectors, total)
        return _pairwise_sum(vectors, total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        return (total.unsqueeze(1) - vectors).mul_(gradient[:, None, None])


class PairwiseProducts(nn.Module):
    """<e_f, e_g> of all pairs g < f, in the order of the lower triangle. [B, F, D] -> [B, F(F-1)/2]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        first, second = torch.tril_indices(count, count, offset=-1)
        self.places: Tensor  # of the pairs, among all F·F
        self.register_buffer("places", first * count + second, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, F, D] to [B, F(F-1)/2]."""
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        # in 0.6 of the time of an index of two dimensions
        return products.flatten(1).index_select(1, self.places)
