"""AutoSrh: ids of like frequency share a learned scale for every column; columns of small scales are masked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_tables.scheme import Scheme
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables
from recsys_tables.schemes.masked import LearnedTable, Masked, scored_by_norm

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AutoSrh(Masked):
    """e(i) = α[g(i)] ⊙ T[i], α: [groups, D] (AutoSrh, Kong et al., 2022), with l1 · Σ|α| in the loss.

    Codes fall by frequency: group g(i) = ⌊groups · i / num_ids⌋ holds an equal share of the ids. α begins at 1. In
    evaluation, scales of less than `cut` are 0, which masks a column for a group.

    Deviations. The paper learns α on validation batches and cuts to a share of all scales; here both α and T are learned
    on training batches in one pass, and the cut is a number. Rows can grow as their scales shrink, unless all rows decay
    (`training.table_weight_decay`).

    scale_lr: learning rate of α, that of the dense optimiser unless given.
    """

    groups: int = 6
    l1: float = 1e-4
    cut: float = 0.01
    scale_lr: float | None = None
    grows: ClassVar[str | None] = None  # more ids would move others to another group

    @override
    def aux(self, ids: Any) -> Any:
        return (self.groups * ids // self.num_ids)[:, None]  # the group of each id

    def combine(self) -> "nn.Module":
        """Return the scales."""
        from recsys_tables.combine.masks import GroupScales

        return GroupScales(self.groups, self.embedding_dim, self.l1, self.cut, self.scale_lr)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> LearnedTable:
        """Return what training has left. Rows score their L1 norms after the cut.

        combine: `scales` [groups, D].
        """
        scales = combine["scales"]
        scales = scales * (np.abs(scales) >= self.cut)
        return scored_by_norm(table * scales[self.aux(np.arange(len(table)))[:, 0]])


class AutoSrhTables(FixedTables):
    """Ids of like frequency share a scale for each column; scales below `cut` mask it."""

    scheme_class: ClassVar[type[Scheme]] = AutoSrh
    scheme: Literal["auto_srh"]
    groups: int = Field(6, ge=1, le=1_000_000)  # of equally many ids
    l1: float = Field(1e-4, ge=0)  # of the scales' sum in the loss
    cut: float = Field(0.01, ge=0)  # smaller scales are masked
    scale_lr: float | None = Field(None, gt=0)  # `training.dense_lr` unless given

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[AutoSrh, ...]:
        return tuple(
            AutoSrh(
                feature.name,
                feature.codes("auto_srh"),
                self.embedding_dim,
                self.init_bound,
                self.groups,
                self.l1,
                self.cut,
                self.scale_lr,
            )
            for feature in features
        )
