"""Mixed radix: k small tables, one for each digit of the id."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from recsys_tables.combine.operations import Operation, ParameterFree, operand_bound, operand_dim
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import DigitTables


@dataclass(frozen=True)
class MixedRadix(ParameterFree):
    """e(i) = T_0[d_0] ∘ T_1[d_1] ∘ …, the digits of i in the given radices (Shi et al., KDD 2020, §3.1 (3)).

    d_{k-1} = i mod m_{k-1}, d_{k-2} = i div m_{k-1} mod m_{k-2}, …; d_0 is what is left, so its table grows
    with num_ids. ∘ in {sum, concat, product}. One radix makes `QuotientRemainder`.
    """

    feature: str
    num_ids: int
    radices: tuple[int, ...]
    embedding_dim: int
    operation: Operation = "product"
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def __post_init__(self) -> None:
        check_radices(self.feature, self.radices)

    def tables(self) -> tuple[Table, ...]:
        """Return a row for every value of each digit."""
        sizes = digit_sizes(self.num_ids, self.radices)
        dim = operand_dim(self.feature, self.operation, self.embedding_dim, len(sizes))
        bound = operand_bound(self.operation, self.init_bound, len(sizes))
        return tuple(Table(f"{self.feature}/digit_{j}", size, dim, bound) for j, size in enumerate(sizes))

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the digits as rows."""
        return tuple(
            Lookup(f"{self.feature}/digit_{j}", digit[:, None])
            for j, digit in enumerate(digits(ids, self.radices))
        )


class MixedRadixTables(DigitTables):
    """Every digit of a code has a table; there are never fewer rows than about num_tables · ids^(1/num_tables)."""

    scheme_class: ClassVar[type[Scheme]] = MixedRadix
    scheme: Literal["mixed_radix"]

    @override
    def options(self, feature: FeatureSize) -> Iterator[MixedRadix]:
        # radices m and m + 1 for all digits but the first, from m = 1 to that of fewest rows, about the k-th root
        num_ids, k = feature.codes("mixed_radix"), self.num_tables
        for radix in range(1, math.ceil(num_ids ** (1 / k)) + 2):
            for larger in range(k - 1):
                radices = (radix,) * (k - 1 - larger) + (radix + 1,) * larger
                yield MixedRadix(
                    feature.name, num_ids, radices, self.embedding_dim, self.operation, self.init_bound
                )


def check_radices(feature: str, radices: Sequence[int]) -> None:
    """Raise ValueError unless there is a radix, and every one is at least 1."""
    if not radices or min(radices) < 1:
        raise ValueError(f"feature {feature!r}: radices {radices} are not one or more numbers of at least 1")


def digit_sizes(num_ids: int, radices: Sequence[int]) -> tuple[int, ...]:
    """Return how many values each digit takes; the first as many as ids 0..num_ids-1 need."""
    return (-(-num_ids // math.prod(radices)), *radices)


def digits(ids: Any, radices: Sequence[int]) -> list[Any]:
    """Return the digits of ids [L], most significant first, by integers only: floats alias ids from 2^24 on."""
    lower = []
    for radix in reversed(radices):
        lower.append(ids % radix)
        ids = ids // radix
    return [ids, *reversed(lower)]
