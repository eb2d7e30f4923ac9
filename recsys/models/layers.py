"""Parts that several models share."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def mlp(inputs: int, hidden: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear, ReLU and dropout for each width of `hidden`. [B, inputs] -> [B, hidden[-1]]."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([inputs, *hidden]):
        layers += [nn.Linear(before, after), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


def concatenated(dense: Tensor, vectors: Tensor) -> Tensor:
    """[B, n], [B, F, D] -> [B, n + F·D], the input of an MLP or a cross network."""
    return torch.cat([dense, vectors.flatten(1)], dim=1)


def pairwise_sum(vectors: Tensor) -> Tensor:
    """Σ_{f<g} <e_f, e_g> = ½ Σ_d ((Σ_f e_f)² - Σ_f e_f²) (Rendle, ICDM 2010, lemma 3.1). [B, F, D] -> [B]."""
    return 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1)
