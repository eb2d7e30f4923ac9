"""DeepLight: the smallest weights of a table are masked, more of them as training goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recsys_tables.schemes.masked import Left, Masked, left

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DeepLight(Masked):
    """e(i) = T[i] · 1[|T[i]| > t], t a quantile of the field's magnitudes (DeepLight, Deng et al., WSDM 2021).

    The quantile after k batches is sparsity · (1 - damping^(k / 100)). A masked weight is trained on as if it were not
    masked and may come back; in the paper it is set to 0 and trained on from there.

    No rank has all of a table, and none reads it: the quantile is that of the weights that batches look up, every id as
    often as it comes, followed over batches. So `sparsity` is the share of looked-up weights that are masked. Of a
    table's own weights it is more where those of rare ids are smaller, as they are where all rows decay
    (`training.table_weight_decay`), and may be less without. What training leaves is the model of its best evaluation,
    which may come before the schedule's end.
    """

    sparsity: float = 0.9
    damping: float = 0.99

    def combine(self) -> "nn.Module":
        """The mask, and the quantile in training."""
        from recsys_tables.combine import masks as combine_pruning

        return combine_pruning.MagnitudeThreshold(self.sparsity, self.damping)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> Left:
        """See `Masked`. combine: `threshold` [1]. Rows score the L1 norms of what is not masked."""
        return left(table * (np.abs(table) > combine["threshold"]))
