"""OptEmbed's supernet: a full table that learns which of its rows are worth keeping, at every width at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from recsys_tables.scheme import Lookup, Table

if TYPE_CHECKING:
    from torch import nn

ThresholdBy = Literal["field", "id"]


@dataclass(frozen=True)
class OptEmbed:
    """e(i) = T[i] · 1[‖T[i]‖₁ > t] (Lyu et al., CIKM 2022, §3.2), t learned for the field, or for every id.

    In training the vector keeps only its first columns, as many as a width drawn for every sample from {0, 4, …, D}:
    its beginning is of use by itself (§3.3). A penalty alpha · exp(-t) drives t up. What drives the norms of useless rows
    down is the decay of all rows, `training.table_weight_decay`; thresholds do not decay. The codes of missing and
    unknown ids are treated like all others.

    threshold_lr: learning rate of the field's threshold, that of the dense optimiser unless given. Thresholds of ids
    are a table [num_ids, 4], of which the first column is used, and are trained by the tables' optimiser.
    """

    feature: str
    num_ids: int
    embedding_dim: int
    init_bound: float = 0.05
    threshold_by: ThresholdBy = "field"
    alpha: float = 1e-4
    threshold_lr: float | None = None
    grows: ClassVar[str | None] = "num_ids"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.threshold_by == "id" and self.threshold_lr is not None:
            raise ValueError(
                f"feature {self.feature!r}: threshold_lr {self.threshold_lr} is of one threshold by field; those by id are "
                "trained with the tables' learning rate: leave it out"
            )

    def tables(self) -> tuple[Table, ...]:
        """One table of num_ids rows, and one of the ids' thresholds."""
        full = Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, self.init_bound)
        if self.threshold_by == "field":
            return (full,)
        return full, Table(f"{self.feature}/threshold", self.num_ids, 4, init_bound=0.0, decays=False)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The code is the row."""
        return tuple(Lookup(table.name, ids[:, None]) for table in self.tables())

    def aux(self, ids: Any) -> Any:
        """Nothing but the vectors is needed."""
        return None

    def combine(self) -> "nn.Module":
        """The mask of rows, and in training that of columns."""
        from recsys_tables.combine import thresholds as combine_learned

        if self.threshold_by == "field":
            return combine_learned.FieldThreshold(self.alpha, self.threshold_lr)
        return combine_learned.IdThreshold(self.alpha)

    def learned(
        self, table: np.ndarray, combine: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """What training has left: weights under the row mask [n, D], the score ‖e‖₁ - t of each row [n], and the width.

        table: [n, D], the full table. combine: `threshold`, [1] of a field, or the table [n, 4] of its ids. Rows whose
        score is above 0 are kept. All columns are: the width is for a search to choose.
        """
        thresholds = combine["threshold"] if self.threshold_by == "field" else combine["threshold"][:, 0]
        score = np.abs(table).sum(axis=1) - thresholds
        return table * (score > 0)[:, None], score.astype(np.float64), self.embedding_dim
