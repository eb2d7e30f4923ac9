"""Mixed dimension without a projection: a field is as wide as its popularity deserves, and zeros follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys_tables.combine.operations import Formula
from recsys_tables.scheme import Lookup, Table
from recsys_tables.schemes.masked import Left


@dataclass(frozen=True)
class Mde(Formula):
    """e(i) = [T[i], 0], T: [num_ids, width], the width by `popularity_dims` (MDE, Ginart et al., ISIT 2021, algorithm 2).

    It masks nothing that it has learned: the width follows from the number of ids, and ids are ranked by frequency.
    `MixedDimension` is the paper's own form, which projects narrow rows and cannot end as a compact table.
    """

    feature: str
    num_ids: int
    width: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"
    linear = True

    def tables(self) -> tuple[Table, ...]:
        """One table of num_ids narrow rows."""
        return (Table(f"{self.feature}/full", self.num_ids, self.width, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The code is the row."""
        return (Lookup(f"{self.feature}/full", ids[:, None]),)

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """Zeros up to embedding_dim."""
        missing = self.embedding_dim - self.width
        if isinstance(vectors[0], np.ndarray):
            return np.pad(vectors[0], ((0, 0), (0, missing)))
        from torch.nn import functional  # the vectors are tensors, so it is loaded already

        return functional.pad(vectors[0], (0, missing))

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> Left:
        """As `Masked` has it. Code c scores 1 / (1 + c), which falls as counts do under Zipf's law; all rows are kept."""
        return self.combine_numpy([table]), 1 / (1 + np.arange(len(table))), self.width
