"""Confidence sequences for a difference of two variants that is looked at every day, for as long as one likes.

Symbols: U users, D days, α error allowed over *all* looks together, θ[d] the difference after day d (of totals per
user so far, or of a ratio of totals), SE[d] its standard error with the user as unit, Z = θ / SE, v[d] a clock.

The boundary is the normal mixture (Robbins 1970; Howard et al. 2021, eq. 14) in the asymptotic form of Waudby-Smith,
Arbour, Sinha, Kennedy & Ramdas (2024, "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6); theorem 2.2). For the mean of t independent users, with σ[t] / √t = SE and ρ > 0 fixed
beforehand,

    mean ± σ[t] √( 2 (t ρ² + 1) / (t² ρ²) · log( √(t ρ² + 1) / α ) )
  = mean ± SE   √(   (t ρ² + 1) / (t  ρ²) · log(   (t ρ² + 1) / α²) )

- Users come back, so the differences of successive days are no sums of independent terms, and t is no count of users.
  What the boundary needs of its clock is corr(Z[s], Z[t]) >= √(v[s] / v[t]) for all s < t: by Slepian's
  inequality (1962) Z then crosses no more often, on either side, than the Brownian motion that the boundary is
  made for. `information_clock` is the slowest clock with this property, from the covariance over users. With new
  users only it is their number; with the same users every day it runs slower, or, where days are independent,
  as the days do. Nothing is assumed of the dependence within a user.
- ρ is fixed by the first day and by the days that were planned, and a day uses nothing of later days. So a path
  never changes when days are added, and looking again tomorrow is covered.
- Asymptotic: the guarantee is for large numbers of users on the first day looked at. The sequence starts on the first
  day with `INFORMATIVE` users of a non-zero value; earlier days have no interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

INFORMATIVE = 25  # users with a value other than 0, both variants together, before the first look
PLANNED_DAYS = 14
LEAST_CORRELATION = 1e-3  # keeps a clock finite; it is met only by days that are as good as unrelated


@dataclass(frozen=True)
class ConfidenceSequence:
    """A confidence sequence, with one entry per day; days before its start have None for all but `days` and `estimates`.

    Attributes:
        intervals: Cover the differences of all days at once with probability 1 - alpha.
        clock: The information of each day, which rises from 1.
        p_values: Anytime-valid; they never rise.
        decided_on: The first day whose interval excludes 0; the decision stands, whatever follows.
        direction: Of the decision: 1, -1, or 0 without one.
    """

    days: tuple[Any, ...]
    estimates: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    standard_errors: tuple[float | None, ...]
    clock: tuple[float | None, ...]
    p_values: tuple[float | None, ...]
    alpha: float
    decided_on: Any
    direction: int


@dataclass(frozen=True)
class DailyDifference:
    """The difference after each day: estimates [D], their covariance [D, D] over users, users with a value [D]."""

    estimates: np.ndarray
    covariance: np.ndarray
    informative: np.ndarray


def boundary(clock: ArrayLike, rho2: float, alpha: float) -> np.ndarray:
    """Return the largest |Z| that is no decision, at each value of the clock > 0 (theorem 2.2, divided by SE)."""
    mixed = np.asarray(clock, np.float64) * rho2
    return np.sqrt((mixed + 1) / mixed * np.log((mixed + 1) / alpha**2))


def anytime_p_values(z: ArrayLike, clock: ArrayLike, rho2: float) -> np.ndarray:
    """Return the smallest α at which the boundary was reached by each day: one over the mixture, at its largest so far."""
    z, mixed = np.asarray(z, np.float64), np.asarray(clock, np.float64) * rho2
    log_p = 0.5 * np.log1p(mixed) - z**2 * mixed / (2 * (mixed + 1))
    return np.exp(np.minimum.accumulate(np.minimum(log_p, 0)))


def tuned_rho2(clock: float, alpha: float) -> float:
    """Return the ρ² that makes the boundary narrowest, nearly, at this value of the clock (Waudby-Smith et al.)."""
    least = -2 * np.log(alpha)
    return float((least + np.log(least + 1)) / clock)


def information_clock(covariance: np.ndarray) -> np.ndarray:
    """Return the slowest rising clock, 1 at first, with corr(Z[s], Z[t]) >= √(v[s] / v[t]) for s < t: [D, D] -> [D]."""
    error = np.sqrt(np.diag(covariance))
    squared = np.clip(covariance / np.outer(error, error), LEAST_CORRELATION, 1) ** 2
    clock = np.ones(len(error))
    for t in range(1, len(clock)):
        clock[t] = max(clock[t - 1], (clock[:t] / squared[:t, t]).max())
    return clock


def daily_difference(
    numerator: np.ndarray,
    denominator: np.ndarray | None,
    covariate: np.ndarray | None,
    first_day: np.ndarray,
    treated: np.ndarray,
) -> DailyDifference:
    """Return the difference of means per user (or of ratios of totals) after each day, treated minus the others.

    A day on which a variant has fewer than two users, or a denominator of 0, has a difference of 0 and no variance.

    Args:
        numerator: What a user had on each day [U, D], 0 before his first.
        denominator: What the ratio divides by [U, D]; None for a mean per user.
        covariate: A value per user from before the test [U] (CUPED, one coefficient for both variants).
        first_day: Place of a user's first day [U].
        treated: Which users are treated, bool [U].
    """
    days = numerator.shape[1]
    present = np.asarray(first_day)[:, None] <= np.arange(days)
    top = np.cumsum(numerator, axis=1, dtype=np.float64)
    bottom = None if denominator is None else np.cumsum(denominator, axis=1, dtype=np.float64)
    estimates, covariance = np.zeros(days), np.zeros((days, days))
    usable = np.ones(days, bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.zeros(days) if covariate is None else _slope(top, bottom, covariate, present)
        for sign, arm in ((1, treated), (-1, ~treated)):
            inside = present[arm]
            users = inside.sum(axis=0)
            value, influence = _influence(top[arm], None if bottom is None else bottom[arm], inside)
            if covariate is not None:
                mean = (covariate[arm] @ inside) / users
                value = value - slope * mean
                influence = influence - slope * inside * (covariate[arm][:, None] - mean)
            usable &= (users > 1) & np.isfinite(value)
            weighted = np.nan_to_num(influence / np.sqrt(users * (users - 1.0)), posinf=0.0, neginf=0.0)
            estimates += sign * np.where(np.isfinite(value), value, 0.0)
            covariance += weighted.T @ weighted
    estimates[~usable] = 0.0
    covariance[~usable] = 0.0
    covariance[:, ~usable] = 0.0
    return DailyDifference(estimates, covariance, np.count_nonzero(top, axis=0))


def _slope(
    top: np.ndarray, bottom: np.ndarray | None, covariate: np.ndarray, present: np.ndarray
) -> np.ndarray:
    """Return CUPED's coefficient of the covariate after each day [D], 0 where there is none."""
    centred = present * (covariate[:, None] - (covariate @ present) / present.sum(axis=0))
    slope = (_influence(top, bottom, present)[1] * centred).sum(axis=0) / (centred**2).sum(axis=0)
    return np.where(np.isfinite(slope), slope, 0.0)


def confidence_sequence(
    days: Sequence[Any],
    difference: DailyDifference,
    alpha: float = 0.05,
    planned_days: float = PLANNED_DAYS,
) -> ConfidenceSequence:
    """Return intervals that hold on all days at once, and the first day on which 0 is outside.

    Args:
        days: The days [D].
        difference: The difference after each of them.
        alpha: Error allowed over all looks together.
        planned_days: Decided before the test, where intervals are narrowest; a wrong guess costs width, not validity.

    Raises:
        ValueError: There is one day only, days do not rise, alpha is outside (0, 1), or planned_days below 1.
    """
    _check(days, difference, alpha, planned_days)
    variance = np.diag(difference.covariance)
    ready = (difference.informative >= INFORMATIVE) & (variance > 0)
    start = int(ready.argmax()) if ready.any() else len(days)
    # a day without variance after the start (a reversed total) has no interval either
    looks = np.flatnonzero(ready)
    low, high, error, clock, p = (np.full(len(days), np.nan) for _ in range(5))
    if looks.size:
        clock[looks] = information_clock(difference.covariance[np.ix_(looks, looks)])
        rho2 = tuned_rho2(max(planned_days / (start + 1), 1.0), alpha)
        error[looks] = np.sqrt(variance[looks])
        half = error[looks] * boundary(clock[looks], rho2, alpha)
        low[looks], high[looks] = difference.estimates[looks] - half, difference.estimates[looks] + half
        p[looks] = anytime_p_values(difference.estimates[looks] / error[looks], clock[looks], rho2)
    outside = np.flatnonzero((low > 0) | (high < 0))
    decided = int(outside[0]) if outside.size else None
    return ConfidenceSequence(
        days=tuple(days),
        estimates=tuple(difference.estimates.tolist()),
        intervals=tuple(
            None if np.isnan(a) else (a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ),
        standard_errors=_known(error),
        clock=_known(clock),
        p_values=_known(p),
        alpha=float(alpha),
        decided_on=None if decided is None else days[decided],
        direction=0 if decided is None else int(np.sign(difference.estimates[decided])),
    )


def _influence(
    top: np.ndarray, bottom: np.ndarray | None, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean, or ratio of means, of the users present [D], and each user's influence on it [U, D]."""
    users = present.sum(axis=0)
    if bottom is None:
        value = top.sum(axis=0) / users
        return value, present * (top - value)
    value = top.sum(axis=0) / bottom.sum(axis=0)
    return value, present * (top - value * bottom) / (bottom.sum(axis=0) / users)


def _check(days: Sequence[Any], difference: DailyDifference, alpha: float, planned_days: float) -> None:
    if len(days) != len(difference.estimates):
        raise ValueError(
            f"{len(days)} days, but {len(difference.estimates)} differences: give one for each day"
        )
    if len(days) < 2:
        raise ValueError(
            f"one day only ({', '.join(map(str, days))}): a sequence needs at least two; leave the day out to test once"
        )
    for before, after in pairwise(days):
        if not before < after:
            raise ValueError(f"days are out of order: {before} comes before {after}; sort them, each once")
    if not 0 < alpha < 1 or not planned_days >= 1:
        raise ValueError(f"alpha is {alpha}, planned_days {planned_days}: need within (0, 1), and >= 1")


def _known(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else value for value in values.tolist())
