"""Full table: one row per id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from recsys_tables.collisions import NO_COLLISION, CollisionRate
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables


@dataclass(frozen=True)
class Full(ParameterFree):
    """e(i) = T[i] for vocabulary codes 0 <= i < num_ids."""

    feature: str
    num_ids: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def tables(self) -> tuple[Table, ...]:
        """Return one table of num_ids rows."""
        return (Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the codes as rows."""
        return (Lookup(f"{self.feature}/full", ids[:, None]),)

    @classmethod
    @override
    def rows_of_fields(cls, schemes: Sequence[Any], ids: np.ndarray) -> np.ndarray:
        return ids

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        return NO_COLLISION


class FullTables(FixedTables):
    """Every id has a row; a budget is only checked."""

    scheme_class: ClassVar[type[Scheme]] = Full
    scheme: Literal["full"]

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[Full, ...]:
        return tuple(
            Full(feature.name, feature.codes("full"), self.embedding_dim, self.init_bound)
            for feature in features
        )
