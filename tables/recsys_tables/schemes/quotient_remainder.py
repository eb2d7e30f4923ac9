"""Quotient-remainder: two small tables whose pair of rows is unique for every id."""

import math
from dataclasses import dataclass
from typing import Any

from recsys_tables.combine import Operation, ParameterFree, operand_dim
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class QuotientRemainder(ParameterFree):
    """e(i) = Q[i div m] ∘ R[i mod m], ∘ in {sum, concat, product}, m = `divisor` (Shi et al., KDD 2020, §4).

    With product, an id's rows are multiplied before its bag is summed: Σ_i Q·R is not (Σ Q)·(Σ R).
    """

    feature: str
    num_ids: int
    divisor: int
    embedding_dim: int
    operation: Operation = "product"
    init_bound: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.divisor <= self.num_ids:
            raise ValueError(
                f"feature {self.feature!r}: divisor {self.divisor} is outside 1..{self.num_ids}, its number of ids"
            )

    def tables(self) -> tuple[Table, ...]:
        """⌈num_ids / divisor⌉ quotient rows and `divisor` remainder rows."""
        dim = operand_dim(self.operation, self.embedding_dim, 2)
        bound = self._operand_bound()
        return (
            Table(f"{self.feature}/quotient", -(-self.num_ids // self.divisor), dim, bound),
            Table(f"{self.feature}/remainder", self.divisor, dim, bound),
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Integer division only: a float quotient aliases ids from 2^24 on."""
        return (
            Lookup(f"{self.feature}/quotient", (ids // self.divisor)[:, None]),
            Lookup(f"{self.feature}/remainder", (ids % self.divisor)[:, None]),
        )

    def _operand_bound(self) -> float:
        """Bound of the factors' uniform so that the composed vector has the variance of U(±init_bound)."""
        variance = self.init_bound**2 / 3
        if self.operation == "product":
            return math.sqrt(3 * math.sqrt(variance))
        return math.sqrt(3 * variance / 2) if self.operation == "sum" else self.init_bound
