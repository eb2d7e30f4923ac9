"""What schemes that learn which parts of a full table are worth their bytes have in common."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys_tables.scheme import Lookup, Table

Left = tuple[np.ndarray, np.ndarray, int]  # weights [n, D], scores [n], width


@dataclass(frozen=True)
class Masked:
    """T: [num_ids, embedding_dim], a row for each code, of which `combine` masks what it learns to do without.

    Such a scheme has `learned(table, combine)`, which says what training has left. table: [n, D], values of T.
    combine: parameters and buffers of the module by name. It returns the weights [n, D] as the module gives them in
    evaluation, a score for each row [n], above 0 where the row is kept, and the widest width of use.
    """

    feature: str
    num_ids: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"
    linear: ClassVar[bool] = False

    def tables(self) -> tuple[Table, ...]:
        """One table of num_ids rows."""
        return (Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The code is the row."""
        return (Lookup(f"{self.feature}/full", ids[:, None]),)

    def aux(self, ids: Any) -> Any:
        """Nothing but the vector is needed."""
        return None


def left(weights: np.ndarray) -> Left:
    """Weights [n, D] under their masks; scores are L1 norms, the width is the last column in use, in steps of 4."""
    used = np.flatnonzero(weights.any(axis=0))
    width = 4 * (int(used[-1]) // 4 + 1) if len(used) else 0
    return weights, np.abs(weights).sum(axis=1, dtype=np.float64), width
