"""OptEmbed's supernet: a full table that learns which of its rows are worth keeping, at every width at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from typing_extensions import override

from recsys_tables.scheme import Lookup, Scheme, SchemeBase, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables
from recsys_tables.schemes.masked import LearnedTable

if TYPE_CHECKING:
    from torch import nn

ThresholdBy = Literal["field", "id"]


@dataclass(frozen=True)
class OptEmbed(SchemeBase):
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
        """Return one table of num_ids rows, and one of the ids' thresholds."""
        full = Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, self.init_bound)
        if self.threshold_by == "field":
            return (full,)
        return full, Table(f"{self.feature}/threshold", self.num_ids, 4, init_bound=0.0, decays=False)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the codes as rows."""
        return tuple(Lookup(table.name, ids[:, None]) for table in self.tables())

    def combine(self) -> "nn.Module":
        """Return the mask of rows, and in training that of columns."""
        from recsys_tables.combine.thresholds import FieldThreshold, IdThreshold

        if self.threshold_by == "field":
            return FieldThreshold(self.alpha, self.threshold_lr)
        return IdThreshold(self.alpha)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> LearnedTable:
        """Return what training has left: weights under the row mask, ‖e‖₁ - t as scores, and the whole width.

        The width is for a search to choose.

        combine: `threshold`, [1] of a field, or the table [n, 4] of its ids.
        """
        thresholds = combine["threshold"] if self.threshold_by == "field" else combine["threshold"][:, 0]
        score = np.abs(table).sum(axis=1) - thresholds
        return table * (score > 0)[:, None], score.astype(np.float64), self.embedding_dim


class OptEmbedTables(FixedTables):
    """Every id has a row, and training learns which to mask, at every width at once; a budget is only checked.

    It is trained to choose rows and widths by, and not to be kept: a budget is met by what is made of it.
    """

    scheme_class: ClassVar[type[Scheme]] = OptEmbed
    scheme: Literal["opt_embed"]
    threshold_by: ThresholdBy = "field"
    alpha: float = Field(1e-4, ge=0)  # of alpha · exp(-threshold) in the loss, which masks more rows
    threshold_lr: float | None = Field(None, gt=0)  # of thresholds by field; `training.dense_lr` unless given

    @model_validator(mode="after")
    def _threshold_rate(self) -> Self:
        if self.threshold_by == "id" and self.threshold_lr is not None:
            raise ValueError(
                "threshold_lr is for `threshold_by: field`; thresholds by id are trained with training.table_lr: "
                "leave it out"
            )
        return self

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[OptEmbed, ...]:
        return tuple(
            OptEmbed(
                feature.name,
                feature.codes("opt_embed"),
                self.embedding_dim,
                self.init_bound,
                self.threshold_by,
                self.alpha,
                self.threshold_lr,
            )
            for feature in features
        )
