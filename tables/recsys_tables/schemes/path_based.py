"""Path-based: ids share rows, and each passes its row through one of several small networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from recsys_tables.scheme import Lookup, Table

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PathBased:
    """e(i) = MLP_{i div m}(T[i mod m]), m = `divisor`, one hidden layer of `hidden_dim` (Shi et al., KDD 2020, §4.1).

    The ⌈num_ids / m⌉ networks are dense parameters on every rank, so nothing may grow: a further id may
    need a further network.
    """

    feature: str
    num_ids: int
    divisor: int
    embedding_dim: int
    hidden_dim: int = 16
    init_bound: float = 0.05
    grows: ClassVar[str | None] = None
    linear = False

    def __post_init__(self) -> None:
        if not 1 <= self.divisor <= self.num_ids:
            raise ValueError(
                f"feature {self.feature!r}: divisor {self.divisor} is outside 1..{self.num_ids}, its number of ids"
            )
        if self.hidden_dim < 1:
            raise ValueError(f"feature {self.feature!r}: hidden_dim {self.hidden_dim} is not at least 1")

    @property
    def num_paths(self) -> int:
        """Networks."""
        return -(-self.num_ids // self.divisor)

    def tables(self) -> tuple[Table, ...]:
        """`divisor` rows."""
        return (Table(f"{self.feature}/remainder", self.divisor, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The remainder's row."""
        return (Lookup(f"{self.feature}/remainder", (ids % self.divisor)[:, None]),)

    def aux(self, ids: Any) -> Any:
        """The path [L, 1]: the quotient."""
        return (ids // self.divisor)[:, None]

    def combine(self) -> "nn.Module":
        """All paths' networks; at first they keep the variance of the rows."""
        from recsys_tables.combine.modules import Paths

        return Paths(self.num_paths, self.embedding_dim, self.hidden_dim)
