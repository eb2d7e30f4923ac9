"""Several models share these parts."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def relu(width: int) -> nn.Module:
    """Return the activation of an MLP that declares no other; a ReLU is the same for every width."""
    return nn.ReLU()


def mlp(
    inputs: int,
    hidden: Sequence[int],
    dropout: float = 0.0,
    activation: Callable[[int], nn.Module] = relu,
) -> nn.Sequential:
    """Stack linear, activation and dropout for each width of `hidden`. [B, inputs] -> [B, hidden[-1]]."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *hidden]):
        layers += [nn.Linear(before, after), activation(after), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


def concatenated(dense: Tensor, vectors: Tensor) -> Tensor:
    """Join [B, n] and [B, F, D] to [B, n + F·D], the input of an MLP or a cross network."""
    return torch.cat([dense, vectors.flatten(1)], dim=1)


def pairwise_sum(vectors: Tensor) -> Tensor:
    """Compute Σ_{f<g} <e_f, e_g> = ½ Σ_d ((Σ_f e_f)² - Σ_f e_f²) (Rendle, ICDM 2010, lemma 3.1). [B, F, D] -> [B]."""
    return 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1)


class PairwiseProducts(nn.Module):
    """<e_f, e_g> of all pairs g < f, in the order of the lower triangle. [B, F, D] -> [B, F(F-1)/2]."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.pairs: Tensor
        self.register_buffer("pairs", torch.tril_indices(count, count, offset=-1), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, F, D] to [B, F(F-1)/2]."""
        return torch.bmm(vectors, vectors.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
