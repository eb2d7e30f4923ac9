"""DeepLight: the smallest weights of a table are masked, more of them as training goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

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
        """Return the mask, and in training the quantile."""
        from recsys_tables.combine.masks import MagnitudeThreshold

        return MagnitudeThreshold(self.sparsity, self.damping)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> LearnedTable:
        """Return what training has left. Rows score the L1 norms of what is not masked.

        combine: `threshold` [1].
        """
        return scored_by_norm(table * (np.abs(table) > combine["threshold"]))


class DeepLightTables(FixedTables):
    """The smallest of the weights that batches look up are masked: after k batches sparsity · (1 - damping^(k/100))."""

    scheme_class: ClassVar[type[Scheme]] = DeepLight
    scheme: Literal["deep_light"]
    sparsity: float = Field(0.9, gt=0, lt=1)  # share of weights that is masked in the end
    damping: float = Field(0.99, gt=0, lt=1)  # the nearer to 1, the slower

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[DeepLight, ...]:
        return tuple(
            DeepLight(
                feature.name,
                feature.codes("deep_light"),
                self.embedding_dim,
                self.init_bound,
                self.sparsity,
                self.damping,
            )
            for feature in features
        )
