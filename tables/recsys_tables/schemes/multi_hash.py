"""Multi-hash: each id is the sum of k hashed rows of one table, so two ids rarely share all of them."""

from dataclasses import dataclass
from typing import Any, Literal

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Table, stack_columns


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
        """One table, whose sum of k rows has the variance of U(±init_bound)."""
        bound = self.init_bound / self.num_hashes**0.5
        return (Table(f"{self.feature}/multi_hash", self.num_embeddings, self.embedding_dim, bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """k hashed rows per id, in one lookup."""
        rows = [
            hash_rows(ids, lookup_salt(self.feature, j), self.num_embeddings) for j in range(self.num_hashes)
        ]
        return (Lookup(f"{self.feature}/multi_hash", stack_columns(rows)),)
