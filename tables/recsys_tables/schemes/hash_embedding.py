"""Hash embeddings: k rows of one table, weighted by importances that are trained for each id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.bytes import OptimizerName
from recsys_tables.collisions import CollisionRate, places_of_their_own
from recsys_tables.combine.operations import Formula
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize, rows_by_feature
from recsys_tables.schemes.declared import AllocatedTables


@dataclass(frozen=True)
class HashEmbedding(Formula):
    """e(i) = Σ over j < k of (1 + P[g(i)]_j) · T[h_j(i)] (Svenstrup et al., NeurIPS 2017, eq. 2).

    The importances p_j = 1 + P are rows of a table of their own, for no gradient flows through TorchRec's
    weights. They are stored less 1, so that zeros start every id as the plain sum (as `MultiHash` does)
    and its vector has a full table's variance. Not linear: p and T are multiplied before a bag is summed.
    """

    feature: str
    num_embeddings: int
    num_importances: int
    embedding_dim: int
    num_hashes: int = 2
    init_bound: float = 0.05
    num_ids = None

    def __post_init__(self) -> None:
        if self.num_hashes < 1:
            raise ValueError(f"feature {self.feature!r}: num_hashes {self.num_hashes} is not at least 1")

    def tables(self) -> tuple[Table, ...]:
        """Return the shared rows, and k importances a row, padded to a multiple of 4."""
        bound = self.init_bound / self.num_hashes**0.5
        padded = -(-self.num_hashes // 4) * 4
        return (
            Table(f"{self.feature}/components", self.num_embeddings, self.embedding_dim, bound),
            Table(f"{self.feature}/importances", self.num_importances, padded, 0.0),
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return k hashed rows, each in a lookup of its own, and the row of importances."""
        components = [
            hash_rows(ids, lookup_salt(self.feature, j), self.num_embeddings) for j in range(self.num_hashes)
        ]
        importances = hash_rows(ids, lookup_salt(self.feature, self.num_hashes), self.num_importances)
        return (
            *(Lookup(f"{self.feature}/components", rows[:, None]) for rows in components),
            Lookup(f"{self.feature}/importances", importances[:, None]),
        )

    @override
    def combine_numpy(self, vectors: Sequence[Any], aux: None = None) -> Any:
        *components, importances = vectors
        return sum((1 + importances[:, j : j + 1]) * v for j, v in enumerate(components))

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        rows = [self.num_embeddings] * self.num_hashes + [self.num_importances]
        return places_of_their_own(len(ids), rows)


class HashEmbeddingTables(AllocatedTables):
    """Every feature has two tables: of rows that ids are hashed to `num_hashes` times, and of their importances."""

    scheme_class: ClassVar[type[Scheme]] = HashEmbedding
    scheme: Literal["hash_embedding"]
    num_hashes: int = Field(2, ge=1, le=16)  # rows of an id
    importances_per_row: float = Field(4.0, gt=0)  # rows of importances for each row of components

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        rows = rows_by_feature([feature.num_ids for feature in features], self.allocation)
        return lambda share: tuple(
            map(self._scheme, features, rows(share), rows(share * self.importances_per_row))
        )

    def _scheme(self, feature: FeatureSize, num_rows: int, num_importances: int) -> HashEmbedding:
        return HashEmbedding(
            feature.name, num_rows, num_importances, self.embedding_dim, self.num_hashes, self.init_bound
        )
