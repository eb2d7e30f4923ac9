"""Mixed dimension: a feature's rows are as wide as its popularity deserves, and projected to the model's width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_tables.bytes import ADAM_BYTES, OptimizerName
from recsys_tables.collisions import NO_COLLISION, CollisionRate
from recsys_tables.combine.operations import Served
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize
from recsys_tables.schemes.declared import Budget, Declaration

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MixedDimension(Served):
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
        """Return one table of num_ids narrow rows."""
        return (Table(f"{self.feature}/narrow", self.num_ids, self.row_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the codes as rows."""
        return (Lookup(f"{self.feature}/narrow", ids[:, None]),)

    def combine(self) -> "nn.Module":
        """Return the projection; at first its columns are orthogonal and keep the variance of the rows."""
        from recsys_tables.combine.modules import Concat, Projection

        if self.row_dim == self.embedding_dim:
            return Concat()
        return Projection(self.row_dim, self.embedding_dim)

    def combine_numpy(
        self, vectors: Sequence[np.ndarray], aux: None = None, weight: np.ndarray | None = None
    ) -> np.ndarray:
        """Project vectors [L, row_dim] by W, `weight`, which there is none of when the widths are equal."""
        return vectors[0] if weight is None else vectors[0] @ weight.T

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        return NO_COLLISION


class MixedDimensionTables(Declaration):
    """Every code has a row, narrower the more codes its feature has (width ~ codes^-alpha), which is projected."""

    scheme_class: ClassVar[type[Scheme]] = MixedDimension
    scheme: Literal["mixed_dimension"]
    alpha: float = Field(0.3, ge=0, le=1)  # 0 makes all features equally wide
    budget: Budget

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        codes = {feature.name: feature.codes("mixed_dimension") for feature in features}
        widest = self.embedding_dim
        spread = (max(codes.values(), default=1) / min(codes.values(), default=1)) ** self.alpha

        def build(share: float) -> tuple[MixedDimension, ...]:
            # a share of 1 gives the largest feature the full width, and so all of them
            widths = popularity_dims(codes, widest, self.alpha, share * widest * spread)
            return tuple(
                MixedDimension(
                    name, num_ids, _worthwhile(widths[name], widest, num_ids), widest, self.init_bound
                )
                for name, num_ids in codes.items()
            )

        return build


def _worthwhile(row_dim: int, embedding_dim: int, num_ids: int) -> int:
    """Return the full width where narrow rows, their projection and its optimiser would take as many bytes."""
    projection = (4 + ADAM_BYTES) * row_dim * embedding_dim
    return row_dim if 4 * num_ids * row_dim + projection < 4 * num_ids * embedding_dim else embedding_dim


def popularity_dims(
    num_ids: Mapping[str, int], embedding_dim: int, alpha: float = 0.3, base_dim: float | None = None
) -> dict[str, int]:
    """Return the row width of each feature: d_f = λ · n_f^-α for its n_f ids, a multiple of 4 in 4..embedding_dim.

    An id of a feature of n ids is seen with probability 1/n on average, hence the power law (MDE, algorithm 2).
    λ gives `base_dim` (embedding_dim unless given) to the feature of fewest ids; lower it to meet a budget.
    """
    base = embedding_dim if base_dim is None else base_dim
    fewest = min(num_ids.values(), default=1)
    widths = {feature: base * (fewest / n) ** alpha for feature, n in num_ids.items()}
    return {feature: min(max(4, 4 * round(width / 4)), embedding_dim) for feature, width in widths.items()}
