"""Two variants on a mean per user or a ratio of totals: Welch's test, with or without a covariate, and what it can detect.

The ratio of totals R = Σ numerator / Σ denominator has the error of the mean of z, a value for each user (the delta method:
Deng, Knoblich & Lu 2018); a mean per user is the ratio whose denominator is 1:

    z = (numerator - R denominator) / mean(denominator)

A covariate x from before the test takes off what it foretells (CUPED: Deng, Xu, Kohavi & Walker 2013), with one slope θ for
both variants: R - θ (mean(x) - its mean over both) has the error of the mean of z - θ x.
The tests compare all of it with tea-tasting.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtr, stdtr, stdtrit

ALPHA, POWER = 0.05, 0.8  # of the minimum detectable effect


@dataclass(frozen=True)
class Users:
    """The users of a variant on one metric, an entry each [n]; without a denominator the metric is a mean per user."""

    numerator: np.ndarray
    denominator: np.ndarray | None = None
    covariate: np.ndarray | None = None

    def __add__(self, other: "Users") -> "Users":
        return Users(
            np.concatenate([self.numerator, other.numerator]),
            _joined(self.denominator, other.denominator),
            _joined(self.covariate, other.covariate),
        )

    @property
    def count(self) -> int:
        """Return how many users there are."""
        return len(self.numerator)

    @property
    def value(self) -> float:
        """Return the mean, or the ratio of totals."""
        return float(self.numerator.mean() / self._scale)

    @property
    def contributions(self) -> np.ndarray:
        """Return z [n]: the error of the value is that of its mean."""
        denominator = 1.0 if self.denominator is None else self.denominator
        return (self.numerator - self.value * denominator) / self._scale

    @property
    def slope(self) -> float:
        """Return the slope of the metric on the covariate; 0 without one, or where it does not vary."""
        if self.covariate is None or (variance := self.covariate.var(ddof=1)) == 0:
            return 0.0
        return float(np.cov(self.contributions, self.covariate)[0, 1] / variance)

    @property
    def _scale(self) -> np.floating:
        return np.float64(1.0) if self.denominator is None else self.denominator.mean()


@dataclass(frozen=True)
class Estimate:
    """The value of a variant, the variance of one user's contribution to it, and the number of users."""

    value: float
    variance: float
    count: int

    def relative(self) -> "Estimate":
        """Return the estimate in units of its value, as its logarithm varies."""
        return Estimate(1.0, self.variance / self.value**2, self.count)


def estimate(users: Users, slope: float = 0.0, center: float = 0.0) -> Estimate:
    """Return the estimate of a variant, moved along `slope` to where the covariate has the mean `center`."""
    if users.covariate is None:
        return Estimate(users.value, float(users.contributions.var(ddof=1)), users.count)
    moved = users.value - slope * float(users.covariate.mean() - center)
    return Estimate(moved, float((users.contributions - slope * users.covariate).var(ddof=1)), users.count)


def error_and_df(control: Estimate, variant: Estimate) -> tuple[float, float]:
    """Return the standard error of the difference and its degrees of freedom (Welch)."""
    parts = np.array([control.variance / control.count, variant.variance / variant.count])
    below = parts**2 / (np.array([control.count, variant.count]) - 1)
    return float(np.sqrt(parts.sum())), float(parts.sum() ** 2 / below.sum())


def p_value(control: Estimate, variant: Estimate) -> float:
    """Return the two-sided p-value of the difference."""
    error, df = error_and_df(control, variant)
    return float(2 * stdtr(df, -abs(variant.value - control.value) / error))


def difference_interval(control: Estimate, variant: Estimate, level: float) -> tuple[float, float]:
    """Return the interval of the difference."""
    error, df = error_and_df(control, variant)
    half = error * float(stdtrit(df, (1 + level) / 2))
    return variant.value - control.value - half, variant.value - control.value + half


def lift_interval(control: Estimate, variant: Estimate, level: float) -> tuple[float, float]:
    """Return the interval of the relative difference, symmetric in the logarithm; of values above 0."""
    error, df = error_and_df(control.relative(), variant.relative())
    factor = float(np.exp(error * stdtrit(df, (1 + level) / 2)))
    ratio = variant.value / control.value
    return ratio / factor - 1, ratio * factor - 1


def minimum_detectable_effect(variance: float, counts: tuple[int, int]) -> float:
    """Return the true difference that a two-sided 5 % test finds with power 80 %; both variants have the `variance`."""
    error, df = error_and_df(*(Estimate(0.0, variance, count) for count in counts))
    critical = stdtrit(df, 1 - ALPHA / 2)

    def missing(effect: float) -> float:
        below = np.nan_to_num(nctdtr(df, effect, -critical))  # NaN is too small to be told
        return POWER - float(below + 1 - nctdtr(df, effect, critical))

    enough = 2 * critical
    while missing(enough) > 0:
        enough *= 2
    return error * float(brentq(missing, 0.0, enough))


def _joined(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])
