"""ROBE: blocks of weights at hashed places of one array that all features share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.combine.operations import ParameterFree, pick_slot
from recsys_tables.scheme import Lookup, Table

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
    def linear(self) -> bool:
        """A slot belongs to one id."""
        return self._ids_per_row == 1

    def tables(self) -> tuple[Table, ...]:
        """The shared array, a block a row."""
        return (Table(f"{self.table}/robe", self.num_embeddings, self.block_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """A row for each block of the id, with its sign."""
        places = ids // self._ids_per_row
        return tuple(
            Lookup(
                f"{self.table}/robe",
                hash_rows(places, lookup_salt(self.feature, c), self.num_embeddings)[:, None],
                self._signs(ids, c) if self.signs else None,
            )
            for c in range(self._blocks)
        )

    def aux(self, ids: Any) -> Any:
        """The slot [L, 1] of a row that several ids share."""
        return None if self.linear else (ids % self._ids_per_row)[:, None]

    def combine(self) -> "nn.Module":
        """The blocks side by side, or the slot."""
        from recsys_tables.combine.modules import Formula

        return super().combine() if self.linear else Formula(self.combine_numpy)

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """Do the same in NumPy."""
        return (
            super().combine_numpy(vectors) if self.linear else pick_slot(vectors[0], aux, self.embedding_dim)
        )

    @property
    def _blocks(self) -> int:
        return max(1, self.embedding_dim // self.block_dim)

    @property
    def _ids_per_row(self) -> int:
        return max(1, self.block_dim // self.embedding_dim)

    def _signs(self, ids: Any, block: int) -> Any:
        """±1, float32 [L, 1]."""
        signs = 1 - 2 * hash_rows(ids, lookup_salt(self.feature, self._blocks + block), 2)[:, None]
        return signs.astype(np.float32) if isinstance(signs, np.ndarray) else signs.float()
