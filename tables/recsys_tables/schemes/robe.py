"""ROBE: blocks of weights at hashed places of one array that all features share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.bytes import OptimizerName
from recsys_tables.collisions import CollisionRate, places_of_their_own
from recsys_tables.combine.operations import ParameterFree, pick_slot
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize, whole_rows
from recsys_tables.schemes.declared import WIDEST, Budget, Declaration

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Robe(ParameterFree):
    """ROBE-Z (Desai et al., MLSys 2022, §3), Z = `block_dim`, D = `embedding_dim`, array M of num_embeddings · Z weights.

    Z <= D: e(i) = concat over c < D/Z of g_c(i) · M[h_c(i)]; linear.
    Z >  D: e(i) = g(i) · M[h(i div n)][slot i mod n], n = Z/D: neighbours share a row, each its own part of it.

    g is a random sign (1 without `signs`). Offsets are multiples of Z, so that a block is one row of a table
    that can be sharded. Every feature that names the same `table` shares its rows.
    """

    feature: str
    num_embeddings: int
    embedding_dim: int
    block_dim: int
    table: str = "robe"
    signs: bool = True
    init_bound: float = 0.05
    num_ids = None

    def __post_init__(self) -> None:
        small, large = sorted((self.block_dim, self.embedding_dim))
        if small < 1 or large % small:
            raise ValueError(
                f"feature {self.feature!r}: block_dim {self.block_dim} and embedding_dim {self.embedding_dim}: "
                "neither is a multiple of the other"
            )

    @property
    @override
    def linear(self) -> bool:
        return self._ids_per_row == 1  # a slot belongs to one id

    def tables(self) -> tuple[Table, ...]:
        """Return the shared array, a block a row."""
        return (Table(f"{self.table}/robe", self.num_embeddings, self.block_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return a row for each block of the id, with its sign."""
        places = ids // self._ids_per_row
        return tuple(
            Lookup(
                f"{self.table}/robe",
                hash_rows(places, lookup_salt(self.feature, c), self.num_embeddings)[:, None],
                self._signs(ids, c) if self.signs else None,
            )
            for c in range(self._blocks)
        )

    @override
    def aux(self, ids: Any) -> Any:
        return None if self.linear else (ids % self._ids_per_row)[:, None]  # the slot of a shared row

    @override
    def combine(self) -> "nn.Module":
        from recsys_tables.combine.modules import Formula

        return super().combine() if self.linear else Formula(self.combine_numpy)

    @override
    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        return (
            super().combine_numpy(vectors) if self.linear else pick_slot(vectors[0], aux, self.embedding_dim)
        )

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate | None:
        if not self.linear:
            return None
        return places_of_their_own(len(ids), [self.num_embeddings] * self._blocks)

    @property
    def _blocks(self) -> int:
        return max(1, self.embedding_dim // self.block_dim)

    @property
    def _ids_per_row(self) -> int:
        return max(1, self.block_dim // self.embedding_dim)

    def _signs(self, ids: Any, block: int) -> Any:
        """Return ±1, float32 [L, 1]."""
        signs = 1 - 2 * hash_rows(ids, lookup_salt(self.feature, self._blocks + block), 2)[:, None]
        return signs.astype(np.float32) if isinstance(signs, np.ndarray) else signs.float()


class RobeTables(Declaration):
    """All features share one array; an id reads blocks of `block_dim` weights, or shares one block with its neighbours.

    It is its own allocation: a budget sets the length of the one array.
    """

    scheme_class: ClassVar[type[Scheme]] = Robe
    scheme: Literal["robe"]
    block_dim: int = Field(8, ge=4, le=WIDEST, multiple_of=4)  # weights of a block
    signs: bool = True
    budget: Budget

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        small, large = sorted((self.block_dim, self.embedding_dim))
        if large % small:
            raise ValueError(
                f"neither of block_dim {self.block_dim} and embedding_dim {self.embedding_dim} is a multiple of the other"
            )
        return self

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        blocks = sum(feature.num_ids for feature in features) * self.embedding_dim / self.block_dim

        def build(share: float) -> tuple[Robe, ...]:
            rows = whole_rows(share * blocks)
            return tuple(
                Robe(
                    feature.name,
                    rows,
                    self.embedding_dim,
                    self.block_dim,
                    signs=self.signs,
                    init_bound=self.init_bound,
                )
                for feature in features
            )

        return build
