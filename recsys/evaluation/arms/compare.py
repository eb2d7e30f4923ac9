"""Paired comparison of arms on the same rows: is the difference larger than rows and seeds explain?

Symbols: S training seeds of an arm, n rows, U units of resampling (clusters, or the rows themselves), R replicates.

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
- Student's t with Satterthwaite's degrees of freedom: for rows from the fourth moment of the units' influences
  (`variance`), S - 1 for the seeds of each arm.
- With one seed the two cannot be told apart: intervals and verdict cover rows only, and the result says so.
- What each comparison can detect, and who is best, follow from the same variances (`power`, `best`).
- BCa intervals (`bca`) stand beside: they follow a skewed bootstrap, but hold seeds fixed.

- There is a verdict only where ten units hold the rarer class and the arms see ten differently (`support`).

Intervals are not corrected for the number of arms; the verdict is (Holm).
Calibration is better the nearer it is to 1: the difference and its verdict are of |M - 1|, taking each arm to be on the
side of 1 where its estimate is. Arms on one side are tested by their difference, arms on opposite sides by their sum less
2. Where an arm's side is itself in doubt, the test errs to the safe side (it rejects 1 to 2 % of A/A comparisons at 5 %).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from recsys.evaluation.arms.bootstrap import poisson_bootstrap
from recsys.evaluation.arms.delong import from_placements, placements
from recsys.evaluation.arms.intervals import bounded_interval
from recsys.evaluation.arms.judged import Judged, differences, judged, probabilities
from recsys.evaluation.arms.result import (
    ArmResult,
    Comparison,
    Difference,
    Estimate,
    Interval,
    Verdict,
)
from recsys.evaluation.arms.support import Rarer, rarer_class, support
from recsys.evaluation.arms.variance import Arms
from recsys.evaluation.arms.weighted import METRICS, WeightedMetrics, auc_influence
from recsys.evaluation.metrics import binary_labels, group_codes, improper

__all__ = ["ArmResult", "Comparison", "Difference", "Estimate", "Interval", "Verdict", "compare"]


def compare(
    arms: Mapping[str, np.ndarray],
    labels: ArrayLike,
    clusters: ArrayLike | None = None,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare every arm with the baseline.

    Args:
        arms: Predicted probabilities [S, n] by name, S may differ, rows in the same order (`pair` brings them there).
        labels: Labels [n], 0 or 1.
        clusters: Ids [n] that are resampled as a whole (users: their rows are dependent); None: each row by itself.
        baseline: Name of the arm that the others are compared with; the first unless given.
        metrics: Some of auc, gauc, logloss, ne and calibration; unless given all, gauc where some cluster has both
            classes.
        replicates: Replicates of the bootstrap.
        seed: Seed of the bootstrap.
        level: Level of the intervals; a verdict is at 1 - level.

    Raises:
        ValueError: Shapes do not fit, predictions are NaN or out of range, there is one class or one cluster only, gauc
            is asked for without clusters of both classes, or baseline or metric is unknown.
    """
    positive = binary_labels(labels)
    arms = {name: _checked(name, values, positive.size) for name, values in arms.items()}
    _check_options(arms, baseline, metrics, replicates, level)
    baseline = next(iter(arms)) if baseline is None else baseline
    units = _checked_units(positive, clusters)
    sample = _Sample(arms, positive, units, _metrics(metrics, positive, units), replicates, seed)
    rarer = rarer_class(positive, units, "row" if clusters is None else "user")
    b = sample.names.index(baseline)
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in arms}
    results: list[Difference] = []
    best: dict[str, dict[str, float]] = {}
    for metric in sample.metrics:
        values = sample.values(metric)
        for a, name in enumerate(arms):
            estimates[name][metric] = _estimate(values, a, metric, level, rarer.holding)
        judgements = sample.judgements(metric, values, b, rarer)
        best[metric] = probabilities(judgements, values, sample.names, metric)
        results += differences(judgements, values, sample.resampled(metric), sample.names, metric, level)
    return Comparison(
        arms=tuple(ArmResult(name, len(arms[name]), estimates[name]) for name in arms),
        differences=tuple(_with_delong(results, sample.delong_p_values(b))),
        best=best,
        baseline=baseline,
        level=float(level),
        rows=int(positive.size),
        positives=int(positive.sum()),
        clusters=None if clusters is None else sample.unit_count,
        replicates=int(replicates),
        redrawn=sample.redrawn,
        seed=int(seed),
    )


class _Sample:
    """The metrics of all arms on the rows as they are, and in bootstrap replicates of their units.

    `redrawn` counts the replicates that were drawn again for want of a class.
    """

    def __init__(
        self,
        arms: Mapping[str, np.ndarray],
        positive: np.ndarray,
        units: np.ndarray,
        metrics: Sequence[str],
        replicates: int,
        seed: int,
    ) -> None:
        self.names, self.metrics = list(arms), list(metrics)
        self.unit_count = int(units.max()) + 1
        self._arms, self._positive, self._units = list(arms.values()), positive, units
        self._owners = np.repeat(np.arange(len(arms)), [len(values) for values in self._arms])
        predictions = [row for values in self._arms for row in values]
        self._weighted = WeightedMetrics(positive, predictions, units, metrics)
        self._point = self._weighted(np.ones((1, self.unit_count), np.uint8))[..., 0]
        self._resampled, self.redrawn = poisson_bootstrap(
            self._weighted, self._weighted.needed, self.unit_count, positive.size, replicates, seed
        )
        self._placements: list[np.ndarray] = []  # of rows, mean over seeds
        if "auc" in metrics:
            self._placements = [
                np.mean([placements(positive, row) for row in rows], 0) for rows in self._arms
            ]

    def resampled(self, metric: str) -> np.ndarray:
        """Return a metric of every prediction in every replicate [K, R]."""
        return self._resampled[self.metrics.index(metric)]

    def values(self, metric: str) -> Arms:
        """Return a metric of all arms with what its variance is estimated from."""
        if metric == "auc":
            influence = [auc_influence(self._positive, rows, self._units) for rows in self._placements]
        else:
            influence = [self._weighted.influence(metric, self._owners == a) for a in range(len(self.names))]
        # A Poisson bootstrap of U units has (U - 1) / U of the variance, like any plug-in variance.
        count = self.unit_count
        covariance = np.atleast_2d(np.cov(self.resampled(metric))) * count / (count - 1)
        point = self._point[self.metrics.index(metric)]
        return Arms(point, covariance, self._owners, np.stack(influence))

    def judgements(self, metric: str, values: Arms, b: int, rarer: Rarer) -> list[Judged]:
        """Judge every arm but b against b on a metric."""
        if metric == "auc":
            shares, units = self._placements, self._units
        else:
            shares = [self._weighted.unit_sums(metric, self._owners == a) for a in range(len(self.names))]
            units = np.arange(self.unit_count)
        judgements = []
        for a in range(len(self.names)):
            if a != b:
                behind = support(
                    metric, rarer.holding, shares[a] - shares[b], units, self._arms[a], self._arms[b]
                )
                judgements.append(judged(values, a, b, metric, behind, rarer))
        return judgements

    def delong_p_values(self, b: int) -> dict[str, float]:
        """Return DeLong's p-value of each arm's mean AUC against b's; none with fewer than two rows of a class."""
        if not self._placements or not 2 <= self._positive.sum() <= self._positive.size - 2:
            return {}
        delong = from_placements(self._positive, np.stack(self._placements))
        return {name: delong.test(a, b).p_value for a, name in enumerate(self.names) if a != b}


def _with_delong(results: Sequence[Difference], p_values: Mapping[str, float]) -> list[Difference]:
    """Add DeLong's p-values to the differences in AUC of which there is a verdict."""
    return [
        replace(d, delong_p_value=p_values.get(d.arm)) if d.metric == "auc" and d.no_verdict is None else d
        for d in results
    ]


def _checked_units(positive: np.ndarray, clusters: ArrayLike | None) -> np.ndarray:
    """Return the unit of each row [n]; rows must be of both classes, and of several units."""
    if positive.all() or not positive.any():
        raise ValueError(f"every label is {int(positive[0])}: a comparison needs both classes, use more rows")
    units = np.arange(positive.size) if clusters is None else group_codes(clusters, positive.size)
    if units.max() < 1:
        raise ValueError("all rows belong to one cluster: there is nothing to resample, use more clusters")
    return units


def _metrics(chosen: Sequence[str] | None, positive: np.ndarray, units: np.ndarray) -> list[str]:
    """Return the metrics to compare: those chosen, or all that the rows allow."""
    up = np.bincount(units, positive)
    both_classes = bool(((up > 0) & (up < np.bincount(units))).any())
    if chosen is None:
        return [metric for metric in METRICS if metric != "gauc" or both_classes]
    if "gauc" in chosen and not both_classes:
        raise ValueError("gauc needs clusters, of which one has rows of both classes: use auc, or more rows")
    return list(chosen)


def _estimate(values: Arms, arm: int, metric: str, level: float, holding: int) -> Estimate:
    """Estimate one arm's metric; `holding` units hold the rarer class."""
    mean = values.contrast({arm: 1.0})
    seeds = values.of(arm)
    return Estimate(
        value=mean.value,
        interval=bounded_interval(metric, mean, level, holding),
        standard_error=mean.error_and_df[0],
        row_variance=mean.row_variance,
        seed_variance=mean.seed_variance,
        seed_std=float(seeds.std(ddof=1)) if seeds.size > 1 else None,
    )


def _checked(name: str, values: np.ndarray, rows: int) -> np.ndarray:
    """Return an arm's predictions as float64 [S, n], once they are known to be probabilities of the rows."""
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
    metrics: Sequence[str] | None,
    replicates: int,
    level: float,
) -> None:
    if not arms:
        raise ValueError("no arms to compare: pass at least one, {name: predictions [seeds, rows]}")
    if baseline is not None and baseline not in arms:
        raise ValueError(f"baseline {baseline!r} is not among the arms: choose one of {list(arms)}")
    if metrics is not None and (
        not metrics or len(set(metrics)) < len(metrics) or not set(metrics) <= {*METRICS}
    ):
        raise ValueError(f"metrics are {list(metrics)}: give each once, out of {list(METRICS)}")
    if replicates < 2 or not 0 < level < 1:
        raise ValueError(f"replicates is {replicates}, level {level}: need >= 2, and within (0, 1)")
