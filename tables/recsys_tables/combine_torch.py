"""Parameter-free combinations as torch modules; `combine.py` chooses among them."""

import functools
import operator

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """Σ_j v_j."""

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """[..., D] each -> [..., D]."""
        return functools.reduce(operator.add, vectors)


class Product(nn.Module):
    """Π_j v_j, element by element; not linear, so ids are combined before a bag is summed."""

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """[..., D] each -> [..., D]."""
        return functools.reduce(operator.mul, vectors)


class Concat(nn.Module):
    """[v_0, v_1, …], in the order of the lookups."""

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """[..., D_j] each -> [..., Σ D_j]."""
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)
