"""Metrics of fixed predictions under many weightings of units: what a bootstrap evaluates again and again.

Symbols: n rows, U units (clusters of rows, or the rows), K predictions (every seed of every arm), B weightings.
A weighting counts each row as often as its unit's weight says. AUC is ranked anew (`WeightedRanks`). The others are

    total of a unit's own sums / denominator(totals that all predictions share: rows, positives, judged rows)

    metric       own sum of a unit            denominator                       better is
    logloss      loss                         rows                              lower
    ne           loss                         rows · entropy(positives / rows)  lower
    calibration  predicted probability        positives                         nearer to 1
    gauc         rows · AUC within the unit   judged rows                       higher

so one product of weights and sums serves them all. Judged rows are those of units with both classes. A unit is
repeated as a whole, which leaves the AUC within it as it is: gauc needs no ranking anew.

The influence of a unit is the derivative of a metric by the unit's weight, at weights of 1 (the infinitesimal
jackknife: Jaeckel 1972; Efron 1982, chapter 6). It costs one pass, where deleting each unit in turn costs U.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.evaluation.metrics import pair_wins, row_loss
from recsys_cython_ext.ranks import WeightedRanks

UNITS_AT_ONCE = 2**11  # of a product with weights: their floats stay in the L2 cache, and BLAS in one thread
METRICS = ("auc", "gauc", "logloss", "ne", "calibration")
SHARED = 3  # sums of rows, positives and judged rows


def badness(metric: str, values: np.ndarray) -> np.ndarray:
    """Return how bad values of a metric are, lower being better: calibration's distance from 1, else up to the sign."""
    if metric == "calibration":
        return np.abs(values - 1)
    return values if metric in ("logloss", "ne") else -values


def badness_slope(metric: str, value: float) -> float:
    """Return the derivative of `badness`: 1 or -1."""
    if metric == "calibration":
        return 1.0 if value >= 1 else -1.0
    return float(badness(metric, np.ones(1))[0])


@dataclass(frozen=True)
class _Ratio:
    """A metric Σ unit_sums / denominator(shared [..., 3]), with the denominator's gradient [3] at shared [3]."""

    unit_sums: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    denominator: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray], np.ndarray]


def _loss(positive: np.ndarray, predictions: np.ndarray, units: np.ndarray, both: np.ndarray) -> np.ndarray:
    return np.bincount(units, row_loss(positive, predictions))


def _predicted(
    positive: np.ndarray, predictions: np.ndarray, units: np.ndarray, both: np.ndarray
) -> np.ndarray:
    return np.bincount(units, predictions)


def _won_within(
    positive: np.ndarray, predictions: np.ndarray, units: np.ndarray, both: np.ndarray
) -> np.ndarray:
    """Return rows times AUC of units with both classes, 0 of others."""
    out = np.zeros(both.size)
    rows = both[units]
    codes = (np.cumsum(both) - 1)[units[rows]]
    wins, up, down = pair_wins(positive[rows], predictions[rows], np.ones(codes.size), codes)
    out[both] = wins / (up * down) * (up + down)
    return out


def _entropy(shared: np.ndarray) -> np.ndarray:
    rows, up = shared[..., 0], shared[..., 1]
    return -up * np.log(up / rows) - (rows - up) * np.log1p(-up / rows)


def _entropy_gradient(shared: np.ndarray) -> np.ndarray:
    rate = shared[1] / shared[0]
    return np.array([-np.log1p(-rate), np.log1p(-rate) - np.log(rate), 0.0])


def _shared(column: int) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return one of the shared totals as a denominator, and its gradient."""
    return lambda shared: shared[..., column], lambda shared: np.eye(SHARED)[column]


_RATIOS = {
    "logloss": _Ratio(_loss, *_shared(0)),
    "ne": _Ratio(_loss, _entropy, _entropy_gradient),
    "calibration": _Ratio(_predicted, *_shared(1)),
    "gauc": _Ratio(_won_within, *_shared(2)),
}


class WeightedMetrics:
    """Metrics of K predictions under weightings of their units.

    `needed` holds sets of units; a weighting that leaves out all of a set has no value.
    Memory: 8 bytes for each unit, prediction and kind of sum, and `WeightedRanks` for AUC.
    """

    def __init__(
        self,
        positive: np.ndarray,
        predictions: Sequence[np.ndarray],
        units: np.ndarray,
        metrics: Sequence[str],
    ) -> None:
        """Prepare bool [n], K arrays float64 [n] within [0, 1] and unit codes [n] in 0..U-1, each of them used."""
        self.metrics = tuple(metrics)
        self._count = len(predictions)
        rows, up = np.bincount(units), np.bincount(units, positive)
        both = (up > 0) & (up < rows)
        self.needed = [np.flatnonzero(up > 0), np.flatnonzero(up < rows)]
        if "gauc" in metrics:
            self.needed.append(np.flatnonzero(both))
        self._ranks = [WeightedRanks(positive, p, units) for p in predictions if "auc" in metrics]
        kinds = dict.fromkeys(_RATIOS[metric].unit_sums for metric in metrics if metric != "auc")
        self._columns = {kind: self._columns_from(SHARED + i * self._count) for i, kind in enumerate(kinds)}
        self._sums = np.empty((rows.size, SHARED + len(kinds) * self._count))
        self._sums[:, :SHARED] = np.column_stack([rows, up, rows * both])
        for kind, columns in self._columns.items():
            for target, values in zip(self._sums[:, columns].T, predictions, strict=True):
                target[:] = kind(positive, values, units, both)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return the metrics float64 [metrics, K, B] under weights, integers [B, U]."""
        totals = self._totals(weights)
        shared = totals[:, :SHARED]
        out = np.empty((len(self.metrics), self._count, len(weights)))
        for values, metric in zip(out, self.metrics, strict=True):
            if metric == "auc":
                values[:] = [ranks.auc(weights) for ranks in self._ranks]
            else:
                ratio = _RATIOS[metric]
                values[:] = totals[:, self._columns[ratio.unit_sums]].T / ratio.denominator(shared)
        return out

    def unit_sums(self, metric: str, chosen: np.ndarray) -> np.ndarray:
        """Return the units' own sums [U] of a metric but AUC, mean over predictions chosen by bool [K]."""
        return self._sums[:, self._columns[_RATIOS[metric].unit_sums]][:, chosen].mean(axis=1)

    def influence(self, metric: str, chosen: np.ndarray) -> np.ndarray:
        """Return the influence [U] of units on the mean over predictions chosen by bool [K]; AUC has `auc_influence`."""
        ratio = _RATIOS[metric]
        shared = self._sums[:, :SHARED]
        total = shared.sum(axis=0)
        sums = self.unit_sums(metric, chosen)
        denominator = ratio.denominator(total)
        value = sums.sum() / denominator
        return (sums - value * (shared @ ratio.gradient(total))) / denominator

    def _columns_from(self, start: int) -> slice:
        return slice(start, start + self._count)

    def _totals(self, weights: np.ndarray) -> np.ndarray:
        """Return sums over weighted units [B, columns]."""
        totals = np.zeros((len(weights), self._sums.shape[1]))
        if self._columns:
            for start in range(0, len(self._sums), UNITS_AT_ONCE):
                part = slice(start, start + UNITS_AT_ONCE)
                totals += weights[:, part].astype(np.float64) @ self._sums[part]
        return totals


def auc_influence(positive: np.ndarray, placements: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return the influence [U] of units on an AUC, from placements [n] (`delong.placements`) or their mean over seeds.

    With m positives, AUC is the mean of V10 and, with n negatives, of V01. A row's influence is (V - AUC) over the
    count of its class: the product rule on wins / (m n), where each pair is a win of both its rows.
    """
    value = placements[positive].mean()
    counts = np.where(positive, positive.sum(), (~positive).sum())
    return np.bincount(units, (placements - value) / counts)
