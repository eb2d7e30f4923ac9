"""Unified embedding: one table multiplexed by all features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt, xxh64
from recsys_tables.bytes import OptimizerName
from recsys_tables.collisions import CollisionRate, places_of_their_own
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import MAX_ROWS, Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize, whole_rows
from recsys_tables.schemes.declared import WIDEST, Budget, Declaration
from recsys_tables.schemes.full import Full


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
        """Return the shared table, or those sub-tables of it that this feature reads."""
        names = dict.fromkeys(self._table_of(chunk) for chunk in range(self._chunks))
        return tuple(Table(name, self.num_embeddings, self.chunk_dim, self.init_bound) for name in names)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return k_f lookups per id into the shared rows."""
        return tuple(
            Lookup(
                self._table_of(chunk),
                hash_rows(ids, lookup_salt(self.feature, chunk), self.num_embeddings)[:, None],
            )
            for chunk in range(self._chunks)
        )

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        return places_of_their_own(len(ids), [self.num_embeddings] * self._chunks)

    @property
    def _chunks(self) -> int:
        return self.embedding_dim // self.chunk_dim

    def _table_of(self, chunk: int) -> str:
        if self.num_tables == 1:
            return f"{self.table}/shared"
        return f"{self.table}/shared_{(xxh64(self.feature.encode()) + chunk) % self.num_tables}"


class UnifiedTables(Declaration):
    """All features share one table, and each looks up embedding_dim / chunk_dim chunks of it.

    It is its own allocation: a budget sets the rows of the one table, beside those of features that keep their own.
    """

    scheme_class: ClassVar[type[Scheme]] = Unified
    scheme: Literal["unified"]
    chunk_dim: int = Field(8, ge=4, le=WIDEST, multiple_of=4)  # numbers of a row of the shared table
    num_tables: int = Field(1, ge=1, le=1024)  # sub-tables the chunks are dealt to
    own_rows_up_to: int = Field(0, ge=0)  # features of so many vocabulary codes or fewer keep a row per code
    budget: Budget

    @model_validator(mode="after")
    def _whole_chunks(self) -> Self:
        if self.embedding_dim % self.chunk_dim:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not a whole number of chunks of chunk_dim {self.chunk_dim}"
            )
        return self

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        ids = sum(feature.num_ids for feature in features if not self._keeps_rows(feature))
        chunks = self.embedding_dim // self.chunk_dim

        def build(share: float) -> tuple[Scheme, ...]:
            rows = whole_rows(share * ids * chunks / self.num_tables)
            return tuple(
                Full(feature.name, feature.codes("unified"), self.embedding_dim, self.init_bound)
                if self._keeps_rows(feature)
                else Unified(
                    feature.name,
                    rows,
                    self.embedding_dim,
                    self.chunk_dim,
                    init_bound=self.init_bound,
                    num_tables=self.num_tables,
                )
                for feature in features
            )

        return build

    def _keeps_rows(self, feature: FeatureSize) -> bool:
        """Return whether a feature is small enough for rows of its own."""
        return not feature.open and (feature.num_codes or MAX_ROWS) <= self.own_rows_up_to
