"""MEmCom: hashed rows, told apart by one trained number per id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.combine.operations import Formula, pick_slot
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class MEmCom(Formula):
    """e(i) = (1 + S[i]) · T[h(i)] (Pansare et al., MLSys 2022, "multi-embedding compression").

    The multipliers are stored less 1, so that zeros start every id as its hashed row, with a full table's
    variance. They are packed four to a row of S, the least width there is; the slot is i mod 4.
    Not linear: S and T are multiplied before a bag is summed.
    """

    feature: str
    num_ids: int
    num_embeddings: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def tables(self) -> tuple[Table, ...]:
        """The shared rows, and ⌈num_ids / 4⌉ rows of multipliers."""
        return (
            Table(f"{self.feature}/hashed", self.num_embeddings, self.embedding_dim, self.init_bound),
            Table(f"{self.feature}/multipliers", -(-self.num_ids // 4), 4, 0.0),
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The hashed row, and the row that holds the id's multiplier."""
        return (
            Lookup(
                f"{self.feature}/hashed",
                hash_rows(ids, lookup_salt(self.feature, 0), self.num_embeddings)[:, None],
            ),
            Lookup(f"{self.feature}/multipliers", (ids // 4)[:, None]),
        )

    def aux(self, ids: Any) -> Any:
        """The slot [L, 1] of the multiplier in its row."""
        return (ids % 4)[:, None]

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """Scale the row."""
        shared, multipliers = vectors
        return (1 + pick_slot(multipliers, aux, 1)) * shared
