"""The table that schemes share which learn what of it is worth its bytes: a row for each code, masked by `combine`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys_tables.scheme import Lookup, SchemeBase, Table

LearnedTable = tuple[np.ndarray, np.ndarray, int]  # weights [n, D], scores [n], width


@dataclass(frozen=True)
class Masked(SchemeBase):
    """T: [num_ids, embedding_dim], a row for each code, of which `combine` masks what it learns to do without.

    Such a scheme has `learned(table, combine)` besides, as `recsys_tables.scheme.LearnerScheme` says.
    """

    feature: str
    num_ids: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"
    linear: ClassVar[bool] = False

    def tables(self) -> tuple[Table, ...]:
        """Return one table of num_ids rows."""
        return (Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the codes as rows."""
        return (Lookup(f"{self.feature}/full", ids[:, None]),)


def scored_by_norm(weights: np.ndarray) -> LearnedTable:
    """Return weights [n, D] under their masks, with L1 norms as scores, and the last column in use, in steps of 4."""
    used = np.flatnonzero(weights.any(axis=0))
    width = 4 * (int(used[-1]) // 4 + 1) if len(used) else 0
    return weights, np.abs(weights).sum(axis=1, dtype=np.float64), width
