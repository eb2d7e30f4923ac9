"""Quotient-remainder: two small tables whose pair of rows is unique for every id."""

from dataclasses import dataclass
from typing import Any, ClassVar

from recsys_tables.combine.operations import Operation, ParameterFree, operand_bound, operand_dim
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
    grows: ClassVar[str | None] = "num_ids"

    def __post_init__(self) -> None:
        if not 1 <= self.divisor <= self.num_ids:
            raise ValueError(
                f"feature {self.feature!r}: divisor {self.divisor} is outside 1..{self.num_ids}, its number of ids"
            )

    def tables(self) -> tuple[Table, ...]:
        """⌈num_ids / divisor⌉ quotient rows and `divisor` remainder rows."""
        dim = operand_dim(self.feature, self.operation, self.embedding_dim, 2)
        bound = operand_bound(self.operation, self.init_bound, 2)
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
