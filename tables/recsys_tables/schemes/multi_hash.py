"""Multi-hash: each id is the sum of k hashed rows of one table, so two ids rarely share all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.bytes import OptimizerName
from recsys_tables.collisions import CollisionRate, one_bag
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Scheme, Table, stack_columns
from recsys_tables.schemes.allocation import Builder, FeatureSize, rows_by_feature
from recsys_tables.schemes.declared import AllocatedTables


@dataclass(frozen=True)
class MultiHash(ParameterFree):
    """e(i) = Σ over j < num_hashes of T[h_j(i)], one table, k salts (Svenstrup et al. 2017, §3, without importances).

    The k rows of an id join one bag, so the sum costs no lookup of its own.
    """

    feature: str
    num_embeddings: int
    embedding_dim: int
    num_hashes: int = 2
    init_bound: float = 0.05
    operation: Literal["sum"] = "sum"
    num_ids = None

    def __post_init__(self) -> None:
        if self.num_hashes < 1:
            raise ValueError(f"feature {self.feature!r}: num_hashes {self.num_hashes} is not at least 1")

    def tables(self) -> tuple[Table, ...]:
        """Return one table, whose sum of k rows has the variance of U(±init_bound)."""
        bound = self.init_bound / self.num_hashes**0.5
        return (Table(f"{self.feature}/multi_hash", self.num_embeddings, self.embedding_dim, bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return k hashed rows per id, in one lookup."""
        rows = [
            hash_rows(ids, lookup_salt(self.feature, j), self.num_embeddings) for j in range(self.num_hashes)
        ]
        return (Lookup(f"{self.feature}/multi_hash", stack_columns(rows)),)

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        return one_bag(len(ids), self.num_embeddings, self.num_hashes)


class MultiHashTables(AllocatedTables):
    """Every feature has a table, and an id is the sum of `num_hashes` of its rows."""

    scheme_class: ClassVar[type[Scheme]] = MultiHash
    scheme: Literal["multi_hash"]
    num_hashes: int = Field(2, ge=1, le=16)  # rows of an id

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        rows = rows_by_feature([feature.num_ids for feature in features], self.allocation)
        return lambda share: tuple(map(self._scheme, features, rows(share)))

    def _scheme(self, feature: FeatureSize, num_rows: int) -> MultiHash:
        return MultiHash(feature.name, num_rows, self.embedding_dim, self.num_hashes, self.init_bound)
