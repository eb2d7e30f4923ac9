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
- What each difference could have found, and who is best, follow from the same variances (`power`, `best`).
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
from recsys.evaluation.arms.judged import differences, judged, probabilities
from recsys.evaluation.arms.result import (
    ArmResult,
    Comparison,
    Difference,
    Estimate,
    Interval,
    Verdict,
)
from recsys.evaluation.arms.support import rarer_class, support
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
    """Compare every arm with `baseline` (the first arm unless named).

    `arms`: probabilities [S, n] by name, S may differ, rows in the same order (`pair` brings them there).
    `labels` [n] 0/1; `clusters` [n] ids that are resampled as a whole (users: their rows are dependent).
    `metrics`: auc, gauc, logloss, ne, calibration; unless given all, gauc where some cluster has both classes.
    Errors (ValueError): shapes that do not fit, NaN or out-of-range predictions, one class only,
    one cluster only, gauc without clusters of both classes, unknown baseline or metric.
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
    metrics = _metrics(metrics, positive, units)

    predictions = [row for values in arms.values() for row in values]
    owners = np.repeat(np.arange(len(arms)), [len(values) for values in arms.values()])
    weighted = WeightedMetrics(positive, predictions, units, metrics)
    point = weighted(np.ones((1, count), np.uint8))[..., 0]
    resampled, redrawn = poisson_bootstrap(weighted, weighted.needed, count, positive.size, replicates, seed)
    placed = []  # of rows, mean over seeds
    if "auc" in metrics:
        placed = [np.mean([placements(positive, row) for row in rows], 0) for rows in arms.values()]

    names, b = list(arms), list(arms).index(baseline)
    rarer = rarer_class(positive, units, "row" if clusters is None else "user")
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in arms}
    told: list[Difference] = []
    best: dict[str, dict[str, float]] = {}
    for m, metric in enumerate(metrics):
        if metric == "auc":
            influence = [auc_influence(positive, rows, units) for rows in placed]
            shares, owner = placed, units  # of rows
        else:
            influence = [weighted.influence(metric, owners == a) for a in range(len(arms))]
            shares, owner = [weighted.own(metric, owners == a) for a in range(len(arms))], np.arange(count)
        # A Poisson bootstrap of U units has (U - 1) / U of the variance, like any plug-in variance.
        covariance = np.atleast_2d(np.cov(resampled[m])) * count / (count - 1)
        found = Arms(point[m], covariance, owners, np.stack(influence))
        for a, name in enumerate(arms):
            estimates[name][metric] = _estimate(found, a, metric, level, rarer.holding)
        judgements = [
            judged(found, a, b, metric, behind, rarer)
            for a in range(len(arms))
            if a != b
            for behind in [
                support(metric, rarer.holding, shares[a] - shares[b], owner, arms[names[a]], arms[baseline])
            ]
        ]
        best[metric] = probabilities(judgements, found, names, metric)
        told += differences(judgements, found, resampled[m], names, metric, level)
    checked = _delong_p_values(positive, placed, names, baseline)
    return Comparison(
        arms=tuple(ArmResult(name, len(arms[name]), estimates[name]) for name in arms),
        differences=tuple(
            replace(d, delong_p_value=checked.get(d.arm)) if d.metric == "auc" and d.no_verdict is None else d
            for d in told
        ),
        best=best,
        baseline=baseline,
        level=float(level),
        rows=int(positive.size),
        positives=int(positive.sum()),
        clusters=None if clusters is None else count,
        replicates=int(replicates),
        redrawn=redrawn,
        seed=int(seed),
    )


def _metrics(chosen: Sequence[str] | None, positive: np.ndarray, units: np.ndarray) -> list[str]:
    """The metrics to compare: those chosen, or all that the rows allow."""
    up = np.bincount(units, positive)
    judged = bool(((up > 0) & (up < np.bincount(units))).any())
    if chosen is None:
        return [metric for metric in METRICS if metric != "gauc" or judged]
    if "gauc" in chosen and not judged:
        raise ValueError("gauc needs clusters, of which one has rows of both classes: use auc, or more rows")
    return list(chosen)


def _estimate(found: Arms, arm: int, metric: str, level: float, holding: int) -> Estimate:
    own = found.contrast({arm: 1.0})
    values = found.of(arm)
    return Estimate(
        value=own.value,
        interval=bounded_interval(metric, own, level, holding),
        standard_error=own.error_and_df[0],
        row_variance=own.row_variance,
        seed_variance=own.seed_variance,
        seed_std=float(values.std(ddof=1)) if values.size > 1 else None,
    )


def _delong_p_values(
    positive: np.ndarray, placed: Sequence[np.ndarray], names: Sequence[str], baseline: str
) -> dict[str, float]:
    """DeLong's p-value of each arm's mean AUC against the baseline's; none with fewer than two of a class."""
    if not placed or not 2 <= positive.sum() <= positive.size - 2:
        return {}
    found, b = from_placements(positive, np.stack(placed)), names.index(baseline)
    return {name: found.test(a, b).p_value for a, name in enumerate(names) if a != b}


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
