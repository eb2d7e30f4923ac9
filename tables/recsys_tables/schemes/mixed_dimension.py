"""Mixed dimension: a feature's rows are as wide as its popularity deserves, and projected to the model's width."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from recsys_tables.scheme import Lookup, Table

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MixedDimension:
    """e(i) = W · T[i], T: [num_ids, row_dim], W: [embedding_dim, row_dim] without bias (MDE, Ginart et al., ISIT 2021).

    Linear, so a bag is summed in the narrow width and projected once. There is no W when the widths are equal.
    """

    feature: str
    num_ids: int
    row_dim: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"
    linear = True

    def __post_init__(self) -> None:
        if not 1 <= self.row_dim <= self.embedding_dim:
            raise ValueError(
                f"feature {self.feature!r}: row_dim {self.row_dim} is outside 1..{self.embedding_dim}, its embedding_dim"
            )

    def tables(self) -> tuple[Table, ...]:
        """One table of num_ids narrow rows."""
        return (Table(f"{self.feature}/narrow", self.num_ids, self.row_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The code is the row."""
        return (Lookup(f"{self.feature}/narrow", ids[:, None]),)

    def aux(self, ids: Any) -> None:
        """Nothing but the vector is needed."""
        return None

    def combine(self) -> "nn.Module":
        """The projection; at first its columns are orthogonal and keep the variance of the rows."""
        from recsys_tables.combine import modules as combine_torch

        if self.row_dim == self.embedding_dim:
            return combine_torch.Concat()
        return combine_torch.Projection(self.row_dim, self.embedding_dim)


def popularity_dims(
    num_ids: Mapping[str, int], embedding_dim: int, alpha: float = 0.3, base_dim: float | None = None
) -> dict[str, int]:
    """Row width of each feature: d_f = λ · n_f^-α for its n_f ids, a multiple of 4 within 4..embedding_dim.

    An id of a feature of n ids is seen with probability 1/n on average, hence the power law (MDE, algorithm 2).
    λ gives `base_dim` (embedding_dim unless given) to the feature of fewest ids; lower it to meet a budget.
    """
    base = embedding_dim if base_dim is None else base_dim
    fewest = min(num_ids.values(), default=1)
    widths = {feature: base * (fewest / n) ** alpha for feature, n in num_ids.items()}
    return {feature: min(max(4, 4 * round(width / 4)), embedding_dim) for feature, width in widths.items()}
