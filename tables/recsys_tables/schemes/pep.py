"""PEP: every weight of a table is shrunk by a threshold that training learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from recsys_tables.schemes.masked import Left, Masked, left

if TYPE_CHECKING:
    from torch import nn

PepThresholdBy = Literal["field", "field_dimension"]


@dataclass(frozen=True)
class Pep(Masked):
    """e(i) = sign(T[i]) · relu(|T[i]| - σ(s)) (PEP, Liu et al., ICLR 2021), s learned for the field, or its columns.

    s begins at `threshold_init`, where σ(s) is next to nothing, and so is its slope: what moves s at first is its own
    decay towards 0, threshold_decay / 2 · s² in the loss. Where σ has a slope the loss of the data answers. With the
    thresholds' learning rate and Adam the way takes |threshold_init| / rate batches or so; a short training needs a
    larger rate, or a beginning nearer 0. The paper stops at the size it wants; here training ends as any other, and a
    search makes it smaller.

    threshold_lr: learning rate of s, that of the dense optimiser unless given.
    """

    threshold_by: PepThresholdBy = "field"
    threshold_init: float = -15.0
    threshold_decay: float = 1e-5
    threshold_lr: float | None = None

    def combine(self) -> "nn.Module":
        """The soft threshold."""
        from recsys_tables.combine import masks as combine_pruning

        count = 1 if self.threshold_by == "field" else self.embedding_dim
        return combine_pruning.SoftThreshold(
            count, self.threshold_init, self.threshold_decay, self.threshold_lr
        )

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> Left:
        """See `Masked`. combine: `threshold` [1] or [D], the values of s. Rows score their L1 norms above thresholds."""
        thresholds = 1 / (1 + np.exp(-combine["threshold"]))
        return left(np.sign(table) * np.maximum(np.abs(table) - thresholds, 0))
