"""Hashing trick: each field's ids share fewer rows, without a vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.bytes import OptimizerName
from recsys_tables.collisions import CollisionRate, one_bag
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize, rows_by_feature
from recsys_tables.schemes.declared import AllocatedTables


@dataclass(frozen=True)
class Hash(ParameterFree):
    """e(i) = T[h(i)] with the project's hash of (feature, lookup 0) (Weinberger et al., ICML 2009)."""

    feature: str
    num_embeddings: int
    embedding_dim: int
    init_bound: float = 0.05
    num_ids = None

    def tables(self) -> tuple[Table, ...]:
        """Return one table of num_embeddings rows."""
        return (Table(f"{self.feature}/hash", self.num_embeddings, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return one hashed row per id."""
        rows = hash_rows(ids, lookup_salt(self.feature, 0), self.num_embeddings)
        return (Lookup(f"{self.feature}/hash", rows[:, None]),)

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        return one_bag(len(ids), self.num_embeddings, 1)


class HashTables(AllocatedTables):
    """Every feature has a table, to whose rows its ids are hashed."""

    scheme_class: ClassVar[type[Scheme]] = Hash
    scheme: Literal["hash"]

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        rows = rows_by_feature([feature.num_ids for feature in features], self.allocation)
        return lambda share: tuple(map(self._scheme, features, rows(share)))

    def _scheme(self, feature: FeatureSize, num_rows: int) -> Hash:
        return Hash(feature.name, num_rows, self.embedding_dim, self.init_bound)
