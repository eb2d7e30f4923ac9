"""Combinations as torch modules: those without parameters, which `operations` chooses among, and those with."""

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """A sum, Σ_j v_j."""

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [..., D] each -> [..., D]."""
        return functools.reduce(operator.add, vectors)


class Product(nn.Module):
    """Π_j v_j, element by element; not linear, so ids are combined before a bag is summed."""

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [..., D] each -> [..., D]."""
        return functools.reduce(operator.mul, vectors)


class Concat(nn.Module):
    """[v_0, v_1, …], in the order of the lookups."""

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [..., D_j] each -> [..., Σ D_j]."""
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1)


class Formula(nn.Module):
    """A function of vectors (and aux) that torch and NumPy share."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, vectors: list[Tensor], aux: Tensor | None = None) -> Tensor:
        """Combine vectors [L, D_j] each (and [L, a]) -> [L, D]."""
        return self.function(vectors, aux)


class Projection(nn.Module):
    """W · v without bias, from d to D >= d: scaled so that D outputs keep the variance of d inputs."""

    def __init__(self, row_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(embedding_dim, row_dim))
        nn.init.orthogonal_(self.weight, gain=(embedding_dim / row_dim) ** 0.5)

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [..., d] -> [..., D]."""
        return nn.functional.linear(vectors[0], self.weight)


class Paths(nn.Module):
    """W_p · relu(V_p · v + a_p) + b_p, with the parameters of each id's own path p.

    V and W start with variances 1/D and 2/H: the vectors keep the variance of the rows.
    """

    def __init__(self, num_paths: int, embedding_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.empty(num_paths, embedding_dim, hidden_dim))
        self.hidden_bias = nn.Parameter(torch.zeros(num_paths, hidden_dim))
        self.out = nn.Parameter(torch.empty(num_paths, hidden_dim, embedding_dim))
        self.out_bias = nn.Parameter(torch.zeros(num_paths, embedding_dim))
        nn.init.normal_(self.hidden, std=(1 / embedding_dim) ** 0.5)
        nn.init.normal_(self.out, std=(2 / hidden_dim) ** 0.5)

    def forward(self, vectors: list[Tensor], paths: Tensor) -> Tensor:
        """Combine vectors [L, D] and paths [L, 1] -> [L, D].

        Ids are sorted by path: a copy of the parameters per id would not fit.
        """
        order = paths[:, 0].argsort()
        lengths = paths[:, 0].bincount(minlength=len(self.hidden)).tolist()
        parts = vectors[0][order].split(lengths)
        parameters = (self.hidden_bias, self.hidden, self.out_bias, self.out)
        vectors_by_path = [
            torch.addmm(b, torch.addmm(a, part, v).relu(), w)
            for part, a, v, b, w in zip(parts, *(p.unbind() for p in parameters), strict=True)
        ]
        return torch.cat(vectors_by_path)[order.argsort()]


class HashNetwork(nn.Module):
    """An MLP with Mish over hashes below `codes`, scaled to U(-1, 1) or N(0, 1).

    There is no batch norm, which ranks would not share. Mish has no gain in closed form, so the last layer is
    scaled on random hashes: vectors start with mean 0 and the variance of U(±init_bound).
    """

    def __init__(self, dims: tuple[int, ...], codes: int, encoding: str, init_bound: float) -> None:
        super().__init__()
        self.codes = codes
        self.encoding = encoding
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(dims):
            layer = nn.Linear(before, after)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.Mish()]
        self.layers = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            vectors = self([], torch.randint(codes, (1024, dims[0])))
            scale = init_bound / 3**0.5 / (vectors - vectors.mean(dim=0)).std()
            layer.weight.mul_(scale)
            layer.bias.copy_(-vectors.mean(dim=0) * scale)

    def forward(self, vectors: list[Tensor], hashes: Tensor) -> Tensor:
        """Combine no vectors, and hashes [L, k] -> [L, D]."""
        x = (hashes.float() + 0.5) * (2 / self.codes) - 1  # never ±1, where the normal would be infinite
        return self.layers(x.erfinv() * 2**0.5 if self.encoding == "normal" else x)
