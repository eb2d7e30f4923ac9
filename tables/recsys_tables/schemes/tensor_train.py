"""Tensor train: the table as a product of three small cores."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from recsys_tables.combine.operations import Formula
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import Budget, OptionsTables
from recsys_tables.schemes.mixed_radix import check_radices, digit_sizes, digits


@dataclass(frozen=True)
class TensorTrain(Formula):
    """e(i)[a, b, c] = Σ over x, y < R of G_0[d_0][a, x] · G_1[d_1][x, b, y] · G_2[d_2][y, c].

    TT-Rec (Yin et al., MLSys 2021, eq. 3). d_0, d_1, d_2 are the digits of i in two `radices` (as in
    `MixedRadix`), embedding_dim = A · B · C is factored as evenly as it goes, and R = `rank`.
    Row d_j of core j holds its matrix, padded to a multiple of 4.
    """

    feature: str
    num_ids: int
    radices: tuple[int, int]
    embedding_dim: int
    rank: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def __post_init__(self) -> None:
        check_radices(self.feature, self.radices)
        if len(self.radices) != 2:
            raise ValueError(f"feature {self.feature!r}: radices {self.radices} are not two, for three cores")
        if self.rank < 1:
            raise ValueError(f"feature {self.feature!r}: rank {self.rank} is not at least 1")

    def tables(self) -> tuple[Table, ...]:
        """Return three cores; a sum of R² products of them has the variance b²/3 of U(±b) if each has (b²/3R²)^⅓."""
        variance = (self.init_bound**2 / 3 / self.rank**2) ** (1 / 3)
        return tuple(
            Table(f"{self.feature}/core_{j}", size, -(-width // 4) * 4, (3 * variance) ** 0.5)
            for j, (size, width) in enumerate(
                zip(digit_sizes(self.num_ids, self.radices), self._widths, strict=True)
            )
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the digits as rows of their cores."""
        return tuple(
            Lookup(f"{self.feature}/core_{j}", digit[:, None])
            for j, digit in enumerate(digits(ids, self.radices))
        )

    @override
    def combine_numpy(self, vectors: Sequence[Any], aux: None = None) -> Any:
        # two batched matrix products, left to right
        a, b, c = _three_factors(self.embedding_dim)
        first, second, third = (v[:, :width] for v, width in zip(vectors, self._widths, strict=True))
        length, rank = len(first), self.rank
        left = first.reshape(length, a, rank) @ second.reshape(length, rank, b * rank)
        return (left.reshape(length, a * b, rank) @ third.reshape(length, rank, c)).reshape(length, a * b * c)

    @property
    def _widths(self) -> tuple[int, int, int]:
        """Return the numbers in a row of each core, without padding."""
        a, b, c = _three_factors(self.embedding_dim)
        return a * self.rank, self.rank * b * self.rank, self.rank * c


class TensorTrainTables(OptionsTables):
    """Every feature has three cores; a budget chooses their ranks, and never uses what `max_rank` leaves."""

    scheme_class: ClassVar[type[Scheme]] = TensorTrain
    scheme: Literal["tensor_train"]
    max_rank: int = Field(16, ge=1, le=128)  # of the cores
    budget: Budget

    @override
    def options(self, feature: FeatureSize) -> Iterator[TensorTrain]:
        # three digits of about the cube root of the ids
        num_ids = feature.codes("tensor_train")
        radix = math.ceil(round(num_ids ** (1 / 3), 6))
        for rank in range(1, self.max_rank + 1):
            yield TensorTrain(
                feature.name, num_ids, (radix, radix), self.embedding_dim, rank, self.init_bound
            )


@functools.cache
def _three_factors(number: int) -> tuple[int, int, int]:
    """Return the factors a <= b <= c of a number whose sum is least: 16 -> 2, 2, 4."""
    triples = [
        (a, b, number // (a * b))
        for a in range(1, number + 1)
        if number % a == 0
        for b in range(a, number // a + 1)
        if number // a % b == 0 and b <= number // (a * b)
    ]
    return min(triples, key=sum)
