"""Chinese remainder: k small tables, one for each of several coprime moduli."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from recsys_tables.combine.operations import Operation, ParameterFree, operand_bound, operand_dim
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import DigitTables


@dataclass(frozen=True)
class ChineseRemainder(ParameterFree):
    """e(i) = T_0[i mod m_0] ∘ T_1[i mod m_1] ∘ …, ∘ in {sum, concat, product} (Shi et al., KDD 2020, §3.1 (4)).

    Moduli without a common factor, whose product is at least num_ids, tell all ids apart.
    """

    feature: str
    num_ids: int
    moduli: tuple[int, ...]
    embedding_dim: int
    operation: Operation = "product"
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def __post_init__(self) -> None:
        where = f"feature {self.feature!r}: moduli {self.moduli}"
        if not self.moduli or min(self.moduli) < 1:
            raise ValueError(f"{where} are not one or more numbers of at least 1")
        for a, b in itertools.combinations(self.moduli, 2):
            if math.gcd(a, b) != 1:
                raise ValueError(f"{where}: {a} and {b} share the factor {math.gcd(a, b)}")
        if math.prod(self.moduli) < self.num_ids:
            raise ValueError(f"{where} tell only {math.prod(self.moduli)} of {self.num_ids} ids apart")

    def tables(self) -> tuple[Table, ...]:
        """Return a row for every remainder of each modulus."""
        dim = operand_dim(self.feature, self.operation, self.embedding_dim, len(self.moduli))
        bound = operand_bound(self.operation, self.init_bound, len(self.moduli))
        return tuple(
            Table(f"{self.feature}/remainder_{j}", modulus, dim, bound)
            for j, modulus in enumerate(self.moduli)
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the remainders as rows."""
        return tuple(
            Lookup(f"{self.feature}/remainder_{j}", (ids % modulus)[:, None])
            for j, modulus in enumerate(self.moduli)
        )


class ChineseRemainderTables(DigitTables):
    """Each of several coprime moduli has a table; there are never fewer rows than about num_tables · ids^(1/num_tables)."""

    scheme_class: ClassVar[type[Scheme]] = ChineseRemainder
    scheme: Literal["chinese_remainder"]

    @override
    def options(self, feature: FeatureSize) -> Iterator[ChineseRemainder]:
        # about equal moduli, the smallest from the k-th root of the ids up to their number in steps of 5 %
        num_ids, k = feature.codes("chinese_remainder"), self.num_tables
        smallest = 1
        while smallest <= num_ids:
            moduli = coprime_moduli(num_ids, k, smallest)
            yield ChineseRemainder(
                feature.name, num_ids, moduli, self.embedding_dim, self.operation, self.init_bound
            )
            smallest = max(moduli[0] + 1, int(1.05 * moduli[0]))


def coprime_moduli(num_ids: int, count: int, smallest: int = 1) -> tuple[int, ...]:
    """Return `count` pairwise coprime moduli of about equal size, none below `smallest`, that tell num_ids ids apart."""
    start = max(
        smallest, int(num_ids ** (1 / count)) - 4 * count, 1
    )  # the first that will do is near the root
    while True:
        moduli: list[int] = []
        candidate = start
        while len(moduli) < count:
            if all(math.gcd(candidate, modulus) == 1 for modulus in moduli):
                moduli.append(candidate)
            candidate += 1
        if math.prod(moduli) >= num_ids:
            return tuple(moduli)
        start += 1
