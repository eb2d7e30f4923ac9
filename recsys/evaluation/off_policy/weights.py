"""How far the weights of an off-policy estimate can be relied on: whether they average 1, and how few rows decide.

E w is the target's mass that the log supports: more than 1 is impossible, less is lost support.
"""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.off_policy.errors import effective_rows
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.target import Target

FEW_ROWS = 100  # effective rows below which no verdict is given
FEW_REWARDS = 10  # effective rewards, likewise: with fewer, a normal interval of rare clicks is too narrow
HEAVY_ROW = 0.1  # share of the weight that one row may carry in a verdict
REFUSE_AT, WARN_AT = 5.0, 3.0  # standard errors by which the mean weight may miss 1
MARGIN = 0.05  # by which it may always miss it
CUT_WEIGHT = 0.01  # share of the weight that a threshold may cut in a verdict: the bias is of this order


@dataclass(frozen=True)
class WeightSummary:
    """The figures of `result.Estimate` on the weights that an estimator used."""

    effective_rows: float
    effective_rewards: float
    largest_weight: float
    largest_share: float
    clipped_rows: float
    clipped_weight: float

    def doubt(self) -> str:
        """Return why the weights are too uneven, or cut too much, to be relied on; empty where they are not."""
        if self.clipped_weight > CUT_WEIGHT:
            return f"{self.clipped_weight:.1%} of the weight is cut"
        if self.largest_share > HEAVY_ROW:
            return f"one row carries {self.largest_share:.0%} of the weight"
        if self.effective_rows < FEW_ROWS:
            return f"{self.effective_rows:.0f} effective rows"
        if self.effective_rewards < FEW_REWARDS:
            return f"{self.effective_rewards:.1f} effective rewards"
        return ""


def summarised(
    used: np.ndarray, weights: np.ndarray, rewards: np.ndarray, threshold: float, cut: bool
) -> WeightSummary:
    """Summarise the weights that an estimator used [n].

    Args:
        used: Weights as the estimator used them.
        weights: Weights before any were cut.
        rewards: Reward of each row.
        threshold: Weight above which they are cut.
        cut: Whether the estimator cuts weights at all.
    """
    return WeightSummary(
        effective_rows=effective_rows(used) if used.any() else 0.0,
        effective_rewards=effective_rows(np.abs(used * rewards)) if (used * rewards).any() else 0.0,
        largest_weight=float(used.max()),
        largest_share=float(used.max() / used.sum()) if used.any() else 0.0,
        clipped_rows=float((weights > threshold).mean()) if cut else 0.0,
        clipped_weight=float(1 - used.sum() / weights.sum()) if cut else 0.0,
    )


def mean_weight_doubt(mean: float, error: float) -> str:
    """Return what a mean weight far from 1 says of an estimate; empty where it is near."""
    if abs(mean - 1) < MARGIN or abs(mean - 1) < WARN_AT * error:
        return ""
    return f"weights average {mean:.3g} ± {error:.2g}, not 1: propensities or support are doubtful"


def check_mean_weight(log: Log, target: Target, weights: np.ndarray, error: float | None) -> None:
    """Refuse weights [n] that do not average 1; `error` is the standard error of their mean.

    Where few heavy rows decide, heavier ones may not have been seen: the error is then too small to refuse a low mean
    by it, and `mean_weight_doubt` is all that can be said.

    Raises:
        ValueError: The weights average more or less than 1 by more than chance allows.
    """
    off = float(weights.mean()) - 1
    if error is None or abs(off) < MARGIN or abs(off) < REFUSE_AT * error:
        return
    fault = f"{log.source}: the weights of {target.name} average {1 + off:.4g} ± {error:.2g}"
    propensity = log.columns["propensity"]
    if off > 0:
        raise ValueError(
            f"{fault}, and at most 1 is possible: {propensity} or the target's probabilities are not those of these rows"
        )
    if effective_rows(weights) < FEW_ROWS or weights.max() > HEAVY_ROW * weights.sum():
        return
    if target.table is None:
        raise ValueError(
            f"{fault}, and would average 1 if the logging policy had shown all that the target shows: no support for the "
            "rest, or probabilities that are not of these rows; give the target's probabilities of all actions to see which"
        )
    raise ValueError(
        f"{fault}, not 1: in some contexts the log never, or too rarely, shows what the target shows (no support), or "
        f"{propensity} is too large; use a log with randomisation in every context, or correct it"
    )
