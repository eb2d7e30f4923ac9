"""Quotient-remainder: two small tables whose pair of rows is unique for every id."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from recsys_tables.bytes import OptimizerName
from recsys_tables.combine.operations import Operation, ParameterFree, operand_bound, operand_dim
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize
from recsys_tables.schemes.declared import ComposedTables


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
        """Return ⌈num_ids / divisor⌉ quotient rows and `divisor` remainder rows."""
        dim = operand_dim(self.feature, self.operation, self.embedding_dim, 2)
        bound = operand_bound(self.operation, self.init_bound, 2)
        return (
            Table(f"{self.feature}/quotient", -(-self.num_ids // self.divisor), dim, bound),
            Table(f"{self.feature}/remainder", self.divisor, dim, bound),
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return quotient and remainder by integer division: a float quotient aliases ids from 2^24 on."""
        return (
            Lookup(f"{self.feature}/quotient", (ids // self.divisor)[:, None]),
            Lookup(f"{self.feature}/remainder", (ids % self.divisor)[:, None]),
        )


class QuotientRemainderTables(ComposedTables):
    """Every feature has two tables, with rows in proportion to its ids, never fewer than 2·sqrt(ids)."""

    scheme_class: ClassVar[type[Scheme]] = QuotientRemainder
    scheme: Literal["quotient_remainder"]

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        codes = [feature.codes("quotient_remainder") for feature in features]

        def build(share: float) -> tuple[QuotientRemainder, ...]:
            return tuple(
                QuotientRemainder(
                    feature.name,
                    num_ids,
                    _divisor(num_ids, share),
                    self.embedding_dim,
                    self.operation,
                    self.init_bound,
                )
                for feature, num_ids in zip(features, codes, strict=True)
            )

        return build


def _divisor(ids: int, share: float) -> int:
    """Return the smallest m whose ⌈ids/m⌉ + m rows are at most share · ids, else the m of fewest rows, ⌈√ids⌉."""
    rows = share * ids
    fewest = math.isqrt(ids - 1) + 1 if ids > 1 else 1
    if rows * rows < 4 * ids:
        return fewest
    return min(fewest, max(1, math.ceil((rows - math.sqrt(rows * rows - 4 * ids)) / 2)))
