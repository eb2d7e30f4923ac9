"""AutoSrh: ids of like frequency share a learned scale for every column; columns of small scales are masked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from recsys_tables.schemes.masked import Left, Masked, left

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

    def aux(self, ids: Any) -> Any:
        """The group [L, 1] of each id."""
        return (self.groups * ids // self.num_ids)[:, None]

    def combine(self) -> "nn.Module":
        """The scales."""
        from recsys_tables.combine import masks as combine_pruning

        return combine_pruning.GroupScales(self.groups, self.embedding_dim, self.l1, self.cut, self.scale_lr)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> Left:
        """See `Masked`. combine: `scales` [groups, D]. Rows score their L1 norms after the cut."""
        scales = combine["scales"]
        kept = scales * (np.abs(scales) >= self.cut)
        return left(table * kept[self.aux(np.arange(len(table)))[:, 0]])
