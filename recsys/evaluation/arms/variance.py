"""Variance of arms and their differences from two sources, test rows and training seeds, with degrees of freedom.

Symbols: A arms, K predictions (all seeds of all arms), U units of resampling. Why the parts are what they are is
told in `comparison`.

Degrees of freedom of the row part: a sum of squares of few large influences varies more than one of many equal ones.
Let the influence I[u] of a unit on the contrast be normal with a variance of its own. Then v = Σ I² has the variance
2 Σ var[u]², and Σ I⁴ / 3 estimates Σ var[u]²; matching a chi-square (Satterthwaite 1946) gives

    df = 3 v² / Σ I⁴,   cut to [1, U - 1]

which is U + 2 in the mean for U normal influences of one variance (E Σ I⁴ / v² = 3 / (U + 2), exactly), so U - 1 after
the cut, and far below where clicks are rare or a few users have most rows. There, U - 1 rejects up to 7 % of A/A
comparisons at a level of 5 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import stdtr, stdtrit

from recsys.evaluation.arms.result import Interval

EXACT = 1e-13  # relative: what is less is rounding


@dataclass(frozen=True)
class Contrast:
    """A sum of arms' metrics with signs: its value, and the variance of it over rows and over seeds.

    `seed_variance` and `seed_df` are None where some arm has one seed.
    """

    value: float
    row_variance: float
    row_df: float
    seed_variance: float | None
    seed_df: float | None

    @property
    def error_and_df(self) -> tuple[float, float]:
        """Return the standard error, and Satterthwaite's degrees of freedom of its square."""
        parts = [(self.row_variance, self.row_df)]
        if self.seed_variance is not None and self.seed_df is not None:
            parts.append((self.seed_variance, self.seed_df))
        total, df = satterthwaite(parts)
        return float(np.sqrt(total)), df

    def interval(self, level: float) -> Interval:
        """Return Student's interval."""
        error, df = self.error_and_df
        half = float(stdtrit(df, (1 + level) / 2)) * error
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float:
        """Return the two-sided p-value of the value being 0; 1 where nothing varies, which is not evidence."""
        error, df = self.error_and_df
        return 1.0 if error == 0 else float(2 * stdtr(df, -abs(self.value) / error))


@dataclass(frozen=True)
class Arms:
    """One metric of all arms, with what its variances are estimated from.

    Attributes:
        point: Metric of each prediction [K].
        covariance: Covariance of these over rows [K, K].
        owners: Number of the arm of each prediction [K].
        influence: Influence of units on each arm's mean over seeds [A, U].
    """

    point: np.ndarray
    covariance: np.ndarray
    owners: np.ndarray
    influence: np.ndarray

    def of(self, arm: int) -> np.ndarray:
        """Return the metric of each seed of an arm [S]."""
        return self.point[self.owners == arm]

    def mean(self, arm: int) -> float:
        """Return an arm's mean over seeds."""
        return float(self.of(arm).mean())

    def row_covariance(self, a: int, b: int) -> float:
        """Return the mean covariance over rows between different seeds; the variance itself if there is one seed."""
        block = self.covariance[np.ix_(self.owners == a, self.owners == b)]
        if a != b or len(block) == 1:
            return float(block.mean())
        return float((block.sum() - np.trace(block)) / (block.size - len(block)))

    def contrast(self, signs: Mapping[int, float]) -> Contrast:
        """Return Σ sign · mean over the arms in `signs`."""
        seeds = [self.of(arm) for arm in signs]
        value = float(sum(sign * metric.mean() for sign, metric in zip(signs.values(), seeds, strict=True)))
        df = influence_df(sum(sign * self.influence[arm] for arm, sign in signs.items()))
        if min(metric.size for metric in seeds) == 1:
            weights = np.array([signs.get(arm, 0.0) / self.of(arm).size for arm in self.owners.tolist()])
            return Contrast(value, _variance(weights, self.covariance), df, None, None)
        between = np.array([[self.row_covariance(a, b) for b in signs] for a in signs])
        total, seed_df = satterthwaite([(seed_variance(metric), metric.size - 1) for metric in seeds])
        return Contrast(value, _variance(np.array([*signs.values()]), between), df, total, seed_df)

    def joint(
        self, arms: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
        """Return what a draw of all arms' means needs, of `arms` or of all.

        That is their means [A], their covariance over rows [A, A], their variances over seeds [A], and the degrees of
        freedom of the seeds' part and of the rows': the fewest of the difference of any two arms. An arm of one seed
        has a variance over seeds of 0.
        """
        arms = range(len(self.influence)) if arms is None else arms
        covariance = np.array([[self.row_covariance(a, b) for b in arms] for a in arms])
        seeds = np.array([seed_variance(self.of(a)) if self.of(a).size > 1 else 0.0 for a in arms])
        parts = [(float(v), self.of(a).size - 1.0) for a, v in zip(arms, seeds, strict=True) if v > 0]
        pairs = [list(pair) for pair in combinations(parts, 2)] or [parts]
        seed_df = min(satterthwaite(pair)[1] for pair in pairs)
        row_df = min(
            (influence_df(self.influence[a] - self.influence[b]) for a, b in combinations(arms, 2)),
            default=float(self.influence.shape[1] - 1),
        )
        return np.array([self.mean(a) for a in arms]), covariance, seeds, seed_df, row_df


def _variance(weights: np.ndarray, covariance: np.ndarray) -> float:
    """Return the variance of a weighted sum; 0 where an estimate is below, or no more than rounding of what cancels."""
    variance = float(weights @ covariance @ weights)
    return variance if variance > EXACT * np.abs(weights) @ np.abs(covariance) @ np.abs(weights) else 0.0


def influence_df(influence: np.ndarray) -> float:
    """Degrees of freedom of Σ I² [U] as an estimate of variance; see the module."""
    squares = influence**2
    fourth = float((squares**2).sum())
    most = influence.size - 1.0
    return float(np.clip(3 * squares.sum() ** 2 / fourth, 1.0, most)) if fourth else most


def seed_variance(values: np.ndarray) -> float:
    """Return the variance over seeds of a mean over seeds [S], S >= 2."""
    return float(values.var(ddof=1) / values.size)


def satterthwaite(parts: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of independent variances, which come with their degrees of freedom, and the degrees of the sum."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, 1.0
    return total, total**2 / sum(variance**2 / df for variance, df in parts)
