"""Off-policy estimates as ratios of sums over rows, and their errors: influence values or a bootstrap, by cluster."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

BLOCK_ENTRIES = 2**20  # of a block's weights [B, units]: 8 MiB

Interval = tuple[float, float]


@dataclass(frozen=True)
class Settings:
    """The threshold on weights, and how intervals are made: `method` is "normal" or "bootstrap"."""

    threshold: float
    method: str
    replicates: int
    level: float
    seed: int


@dataclass(frozen=True)
class Terms:
    """The sums that an estimate is the ratio of: value = Σ top / Σ bottom over rows.

    `extra` is influence beyond these sums, `used` the weights or None.
    """

    top: np.ndarray
    bottom: np.ndarray
    used: np.ndarray | None = None
    extra: np.ndarray | float = 0.0

    def value(self) -> float:
        """Return the estimate."""
        return float(self.top.sum() / self.bottom.sum())

    def influence(self) -> np.ndarray:
        """Return the influence of each row on the value [n]: the value's error is that of their mean."""
        return np.asarray((self.top - self.value() * self.bottom) / self.bottom.mean() + self.extra)


def terms_of(
    estimator: str,
    rewards: np.ndarray,
    weights: np.ndarray,
    model: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    threshold: float,
) -> Terms:
    """Write an estimator as sums; arrays [n], `model` the arrays of a `RewardModel` for the estimators that need one."""
    ones = np.ones_like(weights)
    if estimator == "ips":
        return Terms(weights * rewards, ones, weights)
    if estimator == "snips":
        return Terms(weights * rewards, weights, weights)
    if estimator == "clipped":
        cut = np.minimum(weights, threshold)
        return Terms(cut * rewards, ones, cut)
    assert model is not None
    logged, policy, influence = model
    if estimator == "dm":
        return Terms(policy, ones, None, influence)
    used = weights if estimator == "dr" else np.where(weights <= threshold, weights, 0.0)
    return Terms(policy + used * (rewards - logged), ones, used)


class Ratio:
    """One estimator on one slice: its value, errors by cluster, and the sums by cluster that a bootstrap reweights."""

    def __init__(self, terms: Terms, plain: Terms, units: np.ndarray) -> None:
        self.terms, self.value = terms, terms.value()
        influence = terms.influence()
        self.errors = standard_error(influence, units), standard_error(influence - plain.influence(), units)
        self.values = self.value, self.value - plain.value()
        self.units = int(units.max()) + 1
        extra = np.broadcast_to(terms.extra, terms.top.shape)
        top = terms.top + extra - extra.mean()
        self.sums = np.column_stack([np.bincount(units, weights=side) for side in (top, terms.bottom)])

    def interval(
        self, draws: np.ndarray | None, settings: Settings, paired: bool = False
    ) -> tuple[Interval, float]:
        """Return interval and standard error of the value, or `paired` of its difference from the logging policy's.

        `draws` [R] of the bootstrap give percentiles; without them the interval is Student's.
        """
        value, error = self.values[paired], self.errors[paired]
        if draws is not None:
            tail = (1 - settings.level) / 2
            low, high = np.quantile(draws[np.isfinite(draws)], [tail, 1 - tail])
            return (float(low), float(high)), error
        half = float(student.ppf((1 + settings.level) / 2, self.units - 1)) * error
        return (value - half, value + half), error


def standard_error(influence: np.ndarray, units: np.ndarray) -> float:
    """Return the standard error of a mean of influence values, which are independent between units."""
    sums = np.bincount(units, weights=influence)
    sums -= sums.mean()
    return float(np.sqrt(sums @ sums * sums.size / (sums.size - 1)) / influence.size)


def bootstrap(ratios: list[Ratio], units: int, settings: Settings) -> np.ndarray:
    """Return each ratio's value under Poisson(1) weights per unit: [ratios, R], NaN where no weight is left."""
    rng = np.random.default_rng(settings.seed)
    sums = np.concatenate([ratio.sums for ratio in ratios], axis=1)
    out = np.empty((len(ratios), settings.replicates))
    block = max(1, BLOCK_ENTRIES // units)
    for start in range(0, settings.replicates, block):
        stop = min(start + block, settings.replicates)
        totals = rng.poisson(1.0, (stop - start, units)).astype(np.float64) @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, start:stop] = (totals[:, ::2] / totals[:, 1::2]).T
    return out


def effective_rows(weights: np.ndarray) -> float:
    """Return Kish's effective sample size (Σw)² / Σw² of weights [n], not all 0."""
    scaled = weights / weights.max()
    return float(scaled.sum() ** 2 / (scaled @ scaled))
