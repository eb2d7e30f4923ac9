"""Hashing trick: each field's ids share fewer rows, without a vocabulary."""

from dataclasses import dataclass
from typing import Any

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class Hash(ParameterFree):
    """e(i) = T[h(i)] with the project's hash of (feature, lookup 0) (Weinberger et al., ICML 2009)."""

    feature: str
    num_embeddings: int
    embedding_dim: int
    init_bound: float = 0.05
    num_ids = None

    def tables(self) -> tuple[Table, ...]:
        """One table of num_embeddings rows."""
        return (Table(f"{self.feature}/hash", self.num_embeddings, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """One hashed row per id."""
        rows = hash_rows(ids, lookup_salt(self.feature, 0), self.num_embeddings)
        return (Lookup(f"{self.feature}/hash", rows[:, None]),)
