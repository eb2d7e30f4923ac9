"""AutoDim: a field's width is chosen by learned weights of all candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_tables.scheme import Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables
from recsys_tables.schemes.masked import LearnedTable, Masked, scored_by_norm

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AutoDim(Masked):
    """e(i) = Σ_d p_d · [T[i, :d], 0], d in {0, 4, …, D}, p = softmax((a + Gumbel noise) / τ) (Zhao et al., WWW 2021).

    a are learned, one number for each candidate; noise is drawn for every batch, and τ = max(0.01, 1 - annealing · k)
    after k batches. In evaluation there is no noise, and columns beyond the likeliest width are masked.

    Deviations. The paper learns a on validation batches and T on training batches in turns; here both are learned on
    training batches in one pass, which favours wide fields, so that `alpha` · (expected width / D) may be added to the
    loss. The candidates are nested, as in the paper's weight sharing, and meet the network without a projection
    and batch norm for each: T begins with wider rows, so that the mixture of equal p has the variance of a full table.
    In training noise makes p unequal, and the variance 1.33, 1.25, 1.19 and 1.15 times that at D = 4, 8, 16 and 32.
    0 is among them, which gives up the field.

    choice_lr: learning rate of a, that of the dense optimiser unless given.
    """

    alpha: float = 0.0
    annealing: float = 5e-5
    choice_lr: float | None = None
    linear: ClassVar[bool] = True  # all ids of a batch meet one mixture

    @override
    def tables(self) -> tuple[Table, ...]:
        n = self.embedding_dim // 4
        share = (2 * n + 1) / (6 * (n + 1))  # mean over columns of the squares of n/(n+1), …, 1/(n+1)
        bound = self.init_bound / share**0.5
        return (Table(f"{self.feature}/full", self.num_ids, self.embedding_dim, bound),)

    def combine(self) -> "nn.Module":
        """Return the mixture."""
        from recsys_tables.combine.masks import WidthChoice

        return WidthChoice(self.embedding_dim, self.alpha, self.annealing, self.choice_lr)

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> LearnedTable:
        """Return what training has left. All rows are kept, unless the width is 0.

        combine: `choice` [D/4 + 1], a.
        """
        choice = combine["choice"]
        shares = np.exp(choice - choice.max())
        shares /= shares.sum()
        within = np.repeat(np.cumsum(shares[:0:-1])[::-1], 4)
        width = 4 * int(np.flatnonzero(choice == choice.max())[-1])
        return scored_by_norm(table * (within * (np.arange(self.embedding_dim) < width)))


class AutoDimTables(FixedTables):
    """Every feature mixes the widths 0, 4, …, embedding_dim, and learns which is best."""

    scheme_class: ClassVar[type[Scheme]] = AutoDim
    scheme: Literal["auto_dim"]
    alpha: float = Field(0.0, ge=0)  # of (expected width / embedding_dim) in the loss
    annealing: float = Field(5e-5, ge=0)  # what the temperature loses each batch, from 1 down to 0.01
    choice_lr: float | None = Field(None, gt=0)  # `training.dense_lr` unless given

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[AutoDim, ...]:
        return tuple(
            AutoDim(
                feature.name,
                feature.codes("auto_dim"),
                self.embedding_dim,
                self.init_bound,
                self.alpha,
                self.annealing,
                self.choice_lr,
            )
            for feature in features
        )
