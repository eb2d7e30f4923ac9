"""Paired comparison of arms on the same rows: is the difference larger than rows and seeds explain?

Symbols: S training seeds of an arm, n rows, U units of resampling (clusters, or the rows themselves),
B bootstrap replicates of a block, R of all.

The estimand of an arm is its metric, expected over training seeds, on the population the rows come from.
The estimate is the mean over seeds of the metric on these rows. Metric of arm a, seed s:

    M[a, s] = μ[a] + row luck[a] + seed luck[a, s] + interaction[a, s]

- Row luck is common to the seeds of an arm and nearly common to all arms, so it largely cancels in a
  difference. A bootstrap with Poisson(1) weights per unit (Hanley & MacGibbon 2006; Chamandy et al. 2012),
  shared by all arms and seeds, gives the covariance [a, s] x [b, t] over rows. Entries between *different*
  seeds hold row luck alone: their mean, for arms a and b, is the row covariance.
- The sample variance s² of M[a, s] over seeds estimates seed luck plus interaction, and s² / S is their share
  in the mean. The bootstrap's diagonal holds the interaction too; adding it would count it twice, and A/A
  comparisons would reject well below their level.
- SE² = row + seed parts, both unbiased. The row part of a difference is cut at 0, which errs to the safe side
  when arms have the same row luck. Seeds of different arms are taken as independent; arms that share
  initialisation or order of batches are mostly positively correlated, and then intervals are a little wide.
- Student's t with Satterthwaite's degrees of freedom: U - 1 for rows, S - 1 for the seeds of each arm.
- With one seed the two cannot be told apart: intervals and verdict cover rows only, and the result says so.

Intervals are not corrected for the number of arms; the verdict is (Holm).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from recsys.evaluation.metrics import binary_labels, group_codes, improper, row_loss
from recsys_cython_ext.ranks import PoissonStream, WeightedRanks, empty_weights, fill_weights
from recsys_cython_ext.threads import available_cores
from recsys_pipelines.ordered import ordered

POWER = 0.8
POWER_LEVEL = 0.05  # two-sided, of the minimum detectable effect
ONE_SEED = "one seed: intervals cover rows only"
NO_VARIANCE = "no resampling changes this difference: too few rows to judge it"
DRAW_ENTRIES = 2**18  # of the weights [B, n] that are drawn, and drawn again, together
MOST_BYTES = 2**29  # of all blocks of weights in memory, where one thread with 16 replicates needs no more,
MOST_BYTES_A_ROW = 40  # or so many if that is more: sorting took 60
MOST_THREADS = 8
UNITS_AT_ONCE = 2**14  # of a product with weights: their floats stay in the L2 cache

Interval = tuple[float, float]
Evaluator = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A metric of one arm, mean over seeds. With one seed, `seed_std` and `seed_variance` are None.

    Variances are shares of the mean's variance: standard_error² = row_variance + (seed_variance or 0).
    """

    value: float
    interval: Interval
    standard_error: float
    row_variance: float
    seed_variance: float | None
    seed_std: float | None


@dataclass(frozen=True)
class ArmResult:
    """One arm: an `Estimate` for each metric compared. The named properties need theirs in `metrics`."""

    name: str
    seeds: int
    metrics: dict[str, Estimate]

    @property
    def auc(self) -> float:
        """Mean AUC over seeds."""
        return self.metrics["auc"].value

    @property
    def auc_interval(self) -> Interval:
        """Interval of the expected AUC."""
        return self.metrics["auc"].interval

    @property
    def seed_std_auc(self) -> float | None:
        """Standard deviation of AUC over seeds."""
        return self.metrics["auc"].seed_std

    @property
    def logloss(self) -> float:
        """Mean log loss over seeds."""
        return self.metrics["logloss"].value

    @property
    def logloss_interval(self) -> Interval:
        """Interval of the expected log loss."""
        return self.metrics["logloss"].interval


@dataclass(frozen=True)
class Difference:
    """Metric of `arm` minus metric of `baseline`; `verdict` is on the arm, at 1 - level, Holm over arms.

    `minimum_detectable_effect`: the true difference that one two-sided 5 % test finds with power 80 %.
    `seed_variance` is None, and `note` says so, where the arm or the baseline has one seed.
    """

    arm: str
    baseline: str
    metric: str
    estimate: float
    interval: Interval
    standard_error: float
    p_value: float
    adjusted_p_value: float
    row_variance: float
    seed_variance: float | None
    minimum_detectable_effect: float
    verdict: Literal["better", "worse", "undecided"]
    note: str | None


@dataclass(frozen=True)
class Comparison:
    """Arms in the order given; differences by metric, then arm. `redrawn`: replicates that lost a class."""

    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    baseline: str
    level: float
    rows: int
    positives: int
    clusters: int | None
    replicates: int
    redrawn: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Metric:
    """`prepare(positive [n], predictions [n], units [n])` -> weights, integers [B, U] -> metric float64 [B]."""

    prepare: Callable[[np.ndarray, np.ndarray, np.ndarray], Evaluator]
    higher_is_better: bool


class WeightedAUC:
    """AUC of one fixed prediction under many weightings: sorted once, then one pass for 64 weightings."""

    def __init__(self, positive: np.ndarray, predictions: np.ndarray, units: np.ndarray) -> None:
        self._ranks = WeightedRanks(positive, predictions, units)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Weights, integers [B, U] -> AUC float64 [B]."""
        return self._ranks.auc(weights)


class WeightedLogLoss:
    """Log loss of one fixed prediction under many weightings: sums per unit, then a product."""

    def __init__(self, positive: np.ndarray, predictions: np.ndarray, units: np.ndarray) -> None:
        loss = np.bincount(units, weights=row_loss(positive, predictions))
        self._sums = np.column_stack([loss, np.bincount(units)])

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Weights, integers [B, U] -> log loss float64 [B]."""
        total = np.zeros((len(weights), 2))
        for start in range(0, len(self._sums), UNITS_AT_ONCE):
            part = slice(start, start + UNITS_AT_ONCE)
            total += weights[:, part].astype(np.float64) @ self._sums[part]
        return total[:, 0] / total[:, 1]


METRICS: dict[str, Metric] = {
    "auc": Metric(WeightedAUC, higher_is_better=True),
    "logloss": Metric(WeightedLogLoss, higher_is_better=False),
}


def compare(
    arms: Mapping[str, np.ndarray],
    labels: ArrayLike,
    clusters: ArrayLike | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] = ("auc", "logloss"),
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare every arm with `baseline` (the first arm unless named).

    `arms`: probabilities [S, n] by name, S may differ, rows in the same order (`pair` brings them there).
    `labels` [n] 0/1; `clusters` [n] ids that are resampled as a whole (users: their rows are dependent).
    Errors (ValueError): shapes that do not fit, NaN or out-of-range predictions, one class only,
    one cluster only, unknown baseline or metric.
    """
    positive = binary_labels(labels)
    arms = {name: _checked(name, values, positive.size) for name, values in arms.items()}
    _check_options(arms, baseline, metrics, replicates, level)
    baseline = next(iter(arms)) if baseline is None else baseline
    if positive.all() or not positive.any():
        raise ValueError(f"every label is {int(positive[0])}: a comparison needs both classes, use more rows")
    units = np.arange(positive.size) if clusters is None else group_codes(clusters, positive.size)
    count = int(units.max()) + 1
    if count < 2:
        raise ValueError("all rows belong to one cluster: there is nothing to resample, use more clusters")

    evaluators = [
        METRICS[metric].prepare(positive, predictions, units)
        for metric in metrics
        for values in arms.values()
        for predictions in values
    ]
    point = np.array([evaluator(np.ones((1, count), np.uint8))[0] for evaluator in evaluators])
    resampled, redrawn = _bootstrap(evaluators, positive, units, replicates, seed)

    owners = np.repeat(np.arange(len(arms)), [len(values) for values in arms.values()])
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in arms}
    differences: list[Difference] = []
    for m, metric in enumerate(metrics):
        series = slice(m * owners.size, (m + 1) * owners.size)
        # A Poisson bootstrap of U units has (U - 1) / U of the variance, like any plug-in variance.
        covariance = np.atleast_2d(np.cov(resampled[series])) * count / (count - 1)
        parts = _Parts(point[series], covariance, owners, count - 1)
        for a, name in enumerate(arms):
            estimates[name][metric] = _estimate(parts, a, level)
        differences += _differences(parts, list(arms), baseline, metric, level)
    return Comparison(
        arms=tuple(ArmResult(name, len(arms[name]), estimates[name]) for name in arms),
        differences=tuple(differences),
        baseline=baseline,
        level=float(level),
        rows=int(positive.size),
        positives=int(positive.sum()),
        clusters=None if clusters is None else count,
        replicates=int(replicates),
        redrawn=redrawn,
        seed=int(seed),
    )


@dataclass(frozen=True)
class _Parts:
    """One metric of all arms: point estimates [A·S], covariance over rows, arm of each entry."""

    point: np.ndarray
    covariance: np.ndarray
    owners: np.ndarray
    row_df: int

    def of(self, arm: int) -> np.ndarray:
        """Metric of each seed of an arm [S]."""
        return self.point[self.owners == arm]

    def row_covariance(self, a: int, b: int) -> float:
        """Mean covariance over rows between different seeds; the variance itself if there is one seed."""
        block = self.covariance[np.ix_(self.owners == a, self.owners == b)]
        if a != b or len(block) == 1:
            return float(block.mean())
        return float((block.sum() - np.trace(block)) / (block.size - len(block)))


def _bootstrap(
    evaluators: Sequence[Evaluator], positive: np.ndarray, units: np.ndarray, replicates: int, seed: int
) -> tuple[np.ndarray, int]:
    """Each metric under Poisson(1) weights per unit [len(evaluators), R]; replicates drawn again.

    One thread draws, which fixes the order of the random numbers, while others evaluate the blocks before.
    """
    count = int(units.max()) + 1
    room = max(MOST_BYTES, MOST_BYTES_A_ROW * positive.size)
    narrow = room // (16 * count)  # blocks of 16 replicates that fit
    threads = max(1, min(available_cores(), MOST_THREADS, narrow - 3))
    in_memory = threads + 3  # blocks waiting or at work; the one being drawn, before and after it is laid out
    fits = 64 if 4 * in_memory <= narrow else 16
    draws = _Draws(positive, units, replicates, seed)

    def evaluate(block: tuple[np.ndarray, int]) -> np.ndarray:
        weights, drawn = block
        return np.stack([evaluator(weights)[:drawn] for evaluator in evaluators])

    out = list(ordered(evaluate, draws.blocks(fits), threads))
    return np.concatenate(out, axis=1), draws.redrawn


class _Draws:
    """Poisson(1) weights per unit, drawn again where they leave out a class; `redrawn` counts those."""

    def __init__(self, positive: np.ndarray, units: np.ndarray, replicates: int, seed: int) -> None:
        self.redrawn = 0
        self._stream = PoissonStream(np.random.default_rng(seed))
        self._replicates = replicates
        self._together = max(1, min(replicates, DRAW_ENTRIES // positive.size))
        # Units that have rows of a class, for each class.
        self._holders = [np.flatnonzero(np.bincount(units[label])) for label in (positive, ~positive)]
        self._units = int(units.max()) + 1

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, int]]:
        """Weights [B, U] and how many of the B are drawn, about `size`; others, of weight 1, fill the block up."""
        step = self._together * max(1, size // self._together)
        for start in range(0, self._replicates, step):
            stop = min(start + step, self._replicates)
            drawn = np.empty((stop - start, self._units), np.uint8)
            for first in range(0, len(drawn), self._together):
                self._draw(drawn[first : first + self._together])
            weights = empty_weights(len(drawn), self._units)
            weights[len(drawn) :] = 1
            fill_weights(weights, 0, drawn)
            yield weights, len(drawn)

    def _draw(self, weights: np.ndarray) -> None:
        self._stream.fill(weights)
        while (empty := self._lacks_class(weights)).any():
            again = np.empty((int(empty.sum()), self._units), np.uint8)
            self._stream.fill(again)
            weights[empty] = again
            self.redrawn += len(again)

    def _lacks_class(self, weights: np.ndarray) -> np.ndarray:
        """Which replicates [B] have no row of some class."""
        lacks = np.full(len(weights), False)
        for holders in self._holders:
            doubtful = np.flatnonzero(~weights[:, holders[:64]].any(axis=1))  # so few units mostly tell
            lacks[doubtful] |= ~weights[np.ix_(doubtful, holders)].any(axis=1)
        return lacks


def _seed_variance(values: np.ndarray) -> float:
    """Variance over seeds of a mean over seeds [S], S >= 2."""
    return float(values.var(ddof=1) / values.size)


def _standard_error(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Root and Satterthwaite's degrees of freedom of a sum of (variance, its degrees of freedom)."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, 1.0
    return float(np.sqrt(total)), float(total**2 / sum(variance**2 / df for variance, df in parts))


def _interval(value: float, error: float, df: float, level: float) -> Interval:
    half = float(student.ppf((1 + level) / 2, df)) * error
    return (value - half, value + half)


def _estimate(parts: _Parts, arm: int, level: float) -> Estimate:
    values = parts.of(arm)
    value = float(values.mean())
    row = max(parts.row_covariance(arm, arm), 0.0)
    if values.size == 1:
        error, df = _standard_error([(row, parts.row_df)])
        return Estimate(value, _interval(value, error, df, level), error, row, None, None)
    seeds = _seed_variance(values)
    error, df = _standard_error([(row, parts.row_df), (seeds, values.size - 1)])
    std = float(values.std(ddof=1))
    return Estimate(value, _interval(value, error, df, level), error, row, seeds, std)


def _differences(
    parts: _Parts, names: Sequence[str], baseline: str, metric: str, level: float
) -> list[Difference]:
    """Every arm against the baseline on one metric, with Holm's correction over the arms."""
    b = names.index(baseline)
    plain = [_difference(parts, names, a, b, metric, level) for a in range(len(names)) if a != b]
    adjusted = _holm([difference.p_value for difference in plain])
    return [
        replace(d, adjusted_p_value=p, verdict=_verdict(d.estimate, p, metric, level))
        for d, p in zip(plain, adjusted, strict=True)
    ]


def _difference(parts: _Parts, names: Sequence[str], a: int, b: int, metric: str, level: float) -> Difference:
    """Arm a minus arm b, before the correction over arms."""
    of_a, of_b = parts.of(a), parts.of(b)
    estimate = float(of_a.mean() - of_b.mean())
    notes = []
    seeds: float | None = None
    if min(of_a.size, of_b.size) == 1:
        notes.append(ONE_SEED)
        contrast = (parts.owners == a) / of_a.size - (parts.owners == b) / of_b.size
        row = float(contrast @ parts.covariance @ contrast)
        error, df = _standard_error([(row, parts.row_df)])
    else:
        own = parts.row_covariance(a, a) + parts.row_covariance(b, b)
        row = max(own - 2 * parts.row_covariance(a, b), 0.0)
        by_seed = [(_seed_variance(values), values.size - 1) for values in (of_a, of_b)]
        seeds = by_seed[0][0] + by_seed[1][0]
        error, df = _standard_error([(row, parts.row_df), *by_seed])
    if error == 0 and estimate != 0:
        notes.append(NO_VARIANCE)
    p = 1.0 if error == 0 else float(2 * student.sf(abs(estimate) / error, df))
    return Difference(
        arm=names[a],
        baseline=names[b],
        metric=metric,
        estimate=estimate,
        interval=_interval(estimate, error, df, level),
        standard_error=error,
        p_value=p,
        adjusted_p_value=p,
        row_variance=row,
        seed_variance=seeds,
        minimum_detectable_effect=error
        * float(student.ppf(1 - POWER_LEVEL / 2, df) + student.ppf(POWER, df)),
        verdict="undecided",
        note="; ".join(notes) or None,
    )


def _verdict(
    estimate: float, p_value: float, metric: str, level: float
) -> Literal["better", "worse", "undecided"]:
    if p_value >= 1 - level:
        return "undecided"
    return "better" if (estimate > 0) == METRICS[metric].higher_is_better else "worse"


def _holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given."""
    p = np.asarray(p_values)
    order = np.argsort(p)
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    return adjusted.tolist()


def _checked(name: str, values: np.ndarray, rows: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != rows:
        raise ValueError(
            f"arm {name!r} has predictions of shape {values.shape}, but there are {rows} labels: "
            "pass [seeds, rows], and predictions[None, :] for one seed"
        )
    bad = improper(values)
    if bad.any():
        s, row = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(
            f"arm {name!r}, seed {s}, row {row}: prediction is {values[s, row]}, must be within [0, 1]; "
            "pass sigmoid(logit), and look for a diverged model if it is nan"
        )
    return values


def _check_options(
    arms: Mapping[str, np.ndarray],
    baseline: str | None,
    metrics: Sequence[str],
    replicates: int,
    level: float,
) -> None:
    if not arms:
        raise ValueError("no arms to compare: pass at least one, {name: predictions [seeds, rows]}")
    if baseline is not None and baseline not in arms:
        raise ValueError(f"baseline {baseline!r} is not among the arms: choose one of {list(arms)}")
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics or len(set(metrics)) < len(metrics):
        raise ValueError(f"metrics are {list(metrics)}: give each once, out of {list(METRICS)}")
    if replicates < 2 or not 0 < level < 1:
        raise ValueError(f"replicates is {replicates}, level {level}: need >= 2, and within (0, 1)")
