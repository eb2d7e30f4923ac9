"""Unified embedding: one table multiplexed by all features."""

from dataclasses import dataclass
from typing import Any

from recsys_cython_ext import hash_rows, salt
from recsys_tables.combine import ParameterFree
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class Unified(ParameterFree):
    """e_f(i) = concat over c < k of T[h(f, c, i)], k = embedding_dim / chunk_dim (arXiv 2305.12102, §3).

    Every feature that names the same `table` shares its rows; the hash is salted by the feature's name
    and the chunk's number, never by the order of declaration.
    """

    feature: str
    num_embeddings: int
    embedding_dim: int
    chunk_dim: int
    table: str = "unified"
    init_bound: float = 0.05
    num_ids = None

    def __post_init__(self) -> None:
        if self.chunk_dim < 1 or self.embedding_dim % self.chunk_dim:
            raise ValueError(
                f"feature {self.feature!r}: embedding_dim {self.embedding_dim} is not a whole number of "
                f"chunks of chunk_dim {self.chunk_dim}"
            )

    def tables(self) -> tuple[Table, ...]:
        """The one shared table."""
        return (Table(f"{self.table}/shared", self.num_embeddings, self.chunk_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """k lookups per id into the shared table."""
        return tuple(
            Lookup(
                f"{self.table}/shared",
                hash_rows(ids, salt(self.feature, chunk), self.num_embeddings)[:, None],
            )
            for chunk in range(self.embedding_dim // self.chunk_dim)
        )
