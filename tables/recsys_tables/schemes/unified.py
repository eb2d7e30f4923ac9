"""Unified embedding: one table multiplexed by all features."""

from dataclasses import dataclass
from typing import Any

from recsys_cython_ext import hash_rows, lookup_salt, xxh64
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class Unified(ParameterFree):
    """e_f(i) = concat over c < k_f of T[h(f, c, i)], k_f = embedding_dim / chunk_dim (arXiv 2305.12102, §3).

    Every feature that names the same `table` shares its rows; the hash is salted by the feature's name
    and the chunk's number, never by the order of declaration. With `num_tables` > 1 the rows lie in that many
    sub-tables of `num_embeddings` each, and a feature's chunks are dealt to them in turn, beginning where its
    name says: the load of sharded tables is even whatever the features.
    """

    feature: str
    num_embeddings: int
    embedding_dim: int
    chunk_dim: int
    table: str = "unified"
    init_bound: float = 0.05
    num_tables: int = 1
    num_ids = None

    def __post_init__(self) -> None:
        if self.chunk_dim < 1 or self.embedding_dim % self.chunk_dim:
            raise ValueError(
                f"feature {self.feature!r}: embedding_dim {self.embedding_dim} is not a whole number of "
                f"chunks of chunk_dim {self.chunk_dim}"
            )
        if self.num_tables < 1:
            raise ValueError(f"feature {self.feature!r}: num_tables {self.num_tables} is not at least 1")

    def tables(self) -> tuple[Table, ...]:
        """The shared table, or those sub-tables of it that this feature reads."""
        names = dict.fromkeys(self._table_of(chunk) for chunk in range(self._chunks))
        return tuple(Table(name, self.num_embeddings, self.chunk_dim, self.init_bound) for name in names)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """k_f lookups per id into the shared rows."""
        return tuple(
            Lookup(
                self._table_of(chunk),
                hash_rows(ids, lookup_salt(self.feature, chunk), self.num_embeddings)[:, None],
            )
            for chunk in range(self._chunks)
        )

    @property
    def _chunks(self) -> int:
        return self.embedding_dim // self.chunk_dim

    def _table_of(self, chunk: int) -> str:
        if self.num_tables == 1:
            return f"{self.table}/shared"
        return f"{self.table}/shared_{(xxh64(self.feature.encode()) + chunk) % self.num_tables}"
