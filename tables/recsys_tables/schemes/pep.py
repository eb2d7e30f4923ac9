"""PEP: every weight of a table is shrunk by a threshold that training learns."""

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

ThresholdBy = Literal["field", "field_dimension"]


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

    threshold_by: ThresholdBy = "field"
    threshold_init: float = -15.0
    threshold_decay: float = 1e-5
    threshold_lr: float | None = None

    def combine(self) -> "nn.Module":
        """Return the soft threshold."""
        from recsys_tables.combine.masks import SoftThreshold

        count = 1 if self.threshold_by == "field" else self.embedding_dim
        return SoftThreshold(count, self.threshold_init, self.threshold_decay, self.threshold_lr)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> LearnedTable:
        """Return what training has left. Rows score their L1 norms above thresholds.

        combine: `threshold` [1] or [D], the values of s.
        """
        thresholds = 1 / (1 + np.exp(-combine["threshold"]))
        return scored_by_norm(np.sign(table) * np.maximum(np.abs(table) - thresholds, 0))


class PepTables(FixedTables):
    """Weights are shrunk by σ(s), s of the field or of each of its columns."""

    scheme_class: ClassVar[type[Scheme]] = Pep
    scheme: Literal["pep"]
    threshold_by: ThresholdBy = "field"
    threshold_init: float = -15.0  # of s
    threshold_decay: float = Field(1e-5, ge=0)  # draws s to 0, where σ(s) is 0.5
    threshold_lr: float | None = Field(None, gt=0)  # `training.dense_lr` unless given

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[Pep, ...]:
        return tuple(
            Pep(
                feature.name,
                feature.codes("pep"),
                self.embedding_dim,
                self.init_bound,
                self.threshold_by,
                self.threshold_init,
                self.threshold_decay,
                self.threshold_lr,
            )
            for feature in features
        )
