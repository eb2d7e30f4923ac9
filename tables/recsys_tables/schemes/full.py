"""Full table: one row per id."""

from dataclasses import dataclass
from typing import Any, ClassVar

from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class Full(ParameterFree):
    """e(i) = T[i] for vocabulary codes 0 <= i < num_ids."""

    feature: str
    num_ids: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def tables(self) -> tuple[Table, ...]:
        """One table of num_ids rows."""
        return (Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The code is the row."""
        return (Lookup(f"{self.feature}/full", ids[:, None]),)
