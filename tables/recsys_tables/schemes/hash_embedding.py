"""Hash embeddings: k rows of one table, weighted by importances that are trained for each id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.combine.operations import Formula
from recsys_tables.scheme import Lookup, Table


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
        """The shared rows, and k importances a row, padded to a multiple of 4."""
        bound = self.init_bound / self.num_hashes**0.5
        padded = -(-self.num_hashes // 4) * 4
        return (
            Table(f"{self.feature}/components", self.num_embeddings, self.embedding_dim, bound),
            Table(f"{self.feature}/importances", self.num_importances, padded, 0.0),
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """k hashed rows, each in a lookup of its own, and the row of importances."""
        components = [
            hash_rows(ids, lookup_salt(self.feature, j), self.num_embeddings) for j in range(self.num_hashes)
        ]
        importances = hash_rows(ids, lookup_salt(self.feature, self.num_hashes), self.num_importances)
        return (
            *(Lookup(f"{self.feature}/components", rows[:, None]) for rows in components),
            Lookup(f"{self.feature}/importances", importances[:, None]),
        )

    def combine_numpy(self, vectors: Sequence[Any], aux: None = None) -> Any:
        """Weigh and sum."""
        *components, importances = vectors
        return sum((1 + importances[:, j : j + 1]) * v for j, v in enumerate(components))
