"""DeLong's test of AUCs on the same rows: a fast check, which assumes independent rows.

Symbols: K models, m positives, n negatives. For positive i and negative j of a model, ψ(i, j) is 1 where i scores
higher, ½ where they tie, 0 else; AUC is its mean. Structural components are its means over one side:

    V10[i] = mean over j of ψ(i, j)      V01[j] = mean over i of ψ(i, j)

and cov(AUC) = cov(V10) / m + cov(V01) / n. Midranks, here as counts of the other class up to
each group of ties, give both in O(n log n).

Rows of one user are not independent. Where users have several rows, these errors are too small and the test rejects
too often: use `compare.compare` with clusters for the verdict.

Sources: DeLong, DeLong & Clarke-Pearson 1988; Sun & Xu 2014, "Fast implementation of DeLong's algorithm".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from recsys.evaluation.metrics import binary_labels


@dataclass(frozen=True)
class DeLongTest:
    """A difference of two AUCs, first minus second: two-sided normal test; assumes independent rows."""

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    z: float
    p_value: float


@dataclass(frozen=True)
class DeLong:
    """AUCs of K models [K] and their covariance over rows [K, K]; assumes independent rows."""

    auc: np.ndarray
    covariance: np.ndarray

    def interval(self, model: int, level: float = 0.95) -> tuple[float, float]:
        """Return the normal interval of one AUC, not cut at 0 or 1; assumes independent rows."""
        return _interval(float(self.auc[model]), float(np.sqrt(self.covariance[model, model])), level)

    def test(self, first: int, second: int, level: float = 0.95) -> DeLongTest:
        """Test whether two AUCs differ; assumes independent rows.

        Without variance (equal rankings, or too few rows to see any) nothing is judged: z is 0 and p 1.
        """
        estimate = float(self.auc[first] - self.auc[second])
        c = self.covariance
        # of the difference, exactly 0 for equal rankings
        variance = float(c[first, first] - c[first, second] + (c[second, second] - c[second, first]))
        error = float(np.sqrt(max(variance, 0.0)))
        z = estimate / error if error else 0.0
        return DeLongTest(estimate, error, _interval(estimate, error, level), z, float(2 * ndtr(-abs(z))))


def delong(labels: ArrayLike, scores: ArrayLike) -> DeLong:
    """Return the AUCs of K models on the same rows and their covariance; assumes independent rows.

    Time O(K n log n), memory O(K n).

    Args:
        labels: Labels [n], 0 or 1.
        scores: Scores [K, n], or [n] for one model.

    Raises:
        ValueError: Shapes do not fit, a score is NaN, or a class has fewer than two rows (no variance can be had).
    """
    positive = binary_labels(labels)
    scores = np.atleast_2d(np.asarray(scores, np.float64))
    if scores.ndim != 2 or scores.shape[1] != positive.size or not len(scores):
        raise ValueError(f"scores have shape {scores.shape}, labels ({positive.size},): pass [models, rows]")
    if np.isnan(scores).any():
        model, row = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"score of model {model} at position {row} is nan: a rank needs a number")
    m = int(positive.sum())
    n = positive.size - m
    if min(m, n) < 2:
        raise ValueError(
            f"{m} positives and {n} negatives: DeLong's variance needs two of each, use more rows"
        )
    return from_placements(positive, np.stack([placements(positive, row) for row in scores]))


def placements(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return V10 of positives and V01 of negatives, in the order of rows: bool [n], float [n] -> float64 [n], by one sort.

    That is the share of the other class that a row is ranked rightly against. There must be rows of both classes.
    """
    order = np.argsort(scores)
    ordered, up = scores[order], positive[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of ties
    sizes = np.diff(starts, append=positive.size)
    positives = np.add.reduceat(up, starts, dtype=np.int64)
    negatives = sizes - positives
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    out = np.empty(positive.size)
    out[order] = np.where(
        up, np.repeat(below / negatives.sum(), sizes), np.repeat(above / positives.sum(), sizes)
    )
    return out


def from_placements(positive: np.ndarray, rows: np.ndarray) -> DeLong:
    """Return `delong` of `placements` [K, n], or of their means over some models, whose AUC is the mean AUC.

    There must be two rows or more of each class.
    """
    m = int(positive.sum())
    n = positive.size - m
    up, down = rows[:, positive], rows[:, ~positive]
    covariance = np.atleast_2d(np.cov(up)) / m + np.atleast_2d(np.cov(down)) / n
    return DeLong(up.mean(axis=1), covariance)


def _interval(value: float, error: float, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: must be within (0, 1)")
    half = float(ndtri((1 + level) / 2)) * error
    return value - half, value + half
