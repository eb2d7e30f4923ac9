"""Metrics of predicted probabilities against 0/1 labels: ranking, likelihood and calibration.

Symbols: n rows (impressions), G groups (users). `weights` [n] count a row as that many rows.
Everything is computed in float64. Bad input raises ValueError; it never yields a number.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, ndtri

PROBABILITY_CLIP = 1e-15  # applied in float64: a float32 sigmoid that rounded to 1.0 costs 34.5 nats, not inf


class GroupedAUC(NamedTuple):
    """The AUC within groups, and the share of impressions that lie in groups with both classes."""

    value: float
    coverage: float


@dataclass(frozen=True)
class Reliability:
    """A calibration curve: arrays [bins] (fewer where rows tie), by rising probability."""

    mean_probability: np.ndarray
    mean_label: np.ndarray
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return P(score of a positive > score of a negative) + ½ P(tie), of labels, scores and weights [n].

    Source: Mann & Whitney 1947; Hanley & McNeil 1982.

    Raises:
        ValueError: There is one class only, a score is NaN, or a label is not 0 or 1.
    """
    positive = binary_labels(labels)
    scores, weights = _scores(scores, positive.size), _weights(weights, positive.size)
    wins, positives, negatives = pair_wins(positive, scores, weights, np.zeros(positive.size, np.intp))
    if positives[0] == 0 or negatives[0] == 0:
        kind = "positive" if positives[0] == 0 else "negative"
        raise ValueError(f"AUC needs both classes, but no row of weight > 0 is {kind}: evaluate on more rows")
    return float(wins[0] / (positives[0] * negatives[0]))


def gauc(
    labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupedAUC:
    """Return the AUC within each group, averaged by impressions over the groups that have both classes.

    Labels, scores, groups (ids of any sortable type) and weights are arrays [n]. Source: Zhou et al. 2018 (DIN), eq. 7.

    Raises:
        ValueError: As of `auc`; no group has both classes; a group id is missing.
    """
    positive = binary_labels(labels)
    scores, weights = _scores(scores, positive.size), _weights(weights, positive.size)
    result = _grouped_auc(positive, scores, weights, group_codes(groups, positive.size))
    if result is None:
        raise ValueError("no group has rows of both classes: use auc, or coarser groups")
    return result


def logloss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean -log likelihood in nats, probabilities [n] clipped to [1e-15, 1 - 1e-15]."""
    positive = binary_labels(labels)
    probabilities = _probabilities(probabilities, positive.size)
    return float(np.average(row_loss(positive, probabilities), weights=_weights(weights, positive.size)))


def normalized_entropy(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Return log loss over the entropy of the base rate: 1 is what a constant reaches, 0 is perfect.

    Source: He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook".

    Raises:
        ValueError: As of `logloss`; there is one class only (the entropy is 0).
    """
    positive = binary_labels(labels)
    rate = np.average(positive, weights=_weights(weights, positive.size))
    if rate in (0, 1):
        raise ValueError(f"every label is {int(rate)}: normalized entropy needs both classes, use logloss")
    return logloss(labels, probabilities, weights) / float(entr(rate) + entr(1 - rate))


def calibration(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return predicted over observed positives, Σp / Σy: above 1 the model promises too much."""
    positive = binary_labels(labels)
    probabilities, weights = _probabilities(probabilities, positive.size), _weights(weights, positive.size)
    observed = weights @ positive
    if observed == 0:
        raise ValueError("no row of weight > 0 is positive, so Σp / Σy has no value: evaluate on more rows")
    return float(weights @ probabilities / observed)


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 20, level: float = 0.95
) -> Reliability:
    """Compare mean probability with mean label in `bins` bins of equal mass.

    Rows of equal probability share a bin, so the order of rows is irrelevant and bins may be fewer. `low` and `high` are
    Wilson's interval for the label's rate (Wilson 1927), which assumes independent rows.
    """
    positive = binary_labels(labels)
    probabilities = _probabilities(probabilities, positive.size)
    if bins < 1 or not 0 < level < 1:
        raise ValueError(f"bins is {bins} and level {level}: bins must be >= 1 and level within (0, 1)")
    _, tie, size = np.unique(probabilities, return_inverse=True, return_counts=True)
    middle = np.cumsum(size) - size / 2  # of each tie group, in (0, n)
    _, index = np.unique((middle * bins / positive.size).astype(np.intp)[tie], return_inverse=True)
    count = np.bincount(index)
    rate = np.bincount(index, weights=positive) / count
    z = ndtri((1 + level) / 2)
    centre = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    mean = np.bincount(index, weights=probabilities) / count
    return Reliability(mean, rate, count, np.maximum(centre - half, 0), np.minimum(centre + half, 1))


def recalibrate(probabilities: ArrayLike, negative_rate: float) -> np.ndarray:
    """Undo the sampling of negatives at `negative_rate` in (0, 1]: p / (p + (1 - p) / rate), [n] -> [n].

    Source: He et al. 2014, section 6.3.
    """
    if not 0 < negative_rate <= 1:
        raise ValueError(f"negative_rate is {negative_rate}: give the share of negatives kept, in (0, 1]")
    p = _probabilities(probabilities, np.size(probabilities))
    return p / (p + (1 - p) / negative_rate)


def evaluate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> dict[str, float | int | None]:
    """Return auc, logloss, ne, calibration, gauc, gauc_coverage, rows and positives (weight > 0).

    What these rows cannot tell is None, for the other metrics are still of use: `auc` and `ne` of one class only,
    `calibration` without a positive, `gauc` without groups or (with coverage 0) where no group has both classes.

    Raises:
        ValueError: As of each metric, but for those reasons.
    """
    positive = binary_labels(labels)
    probabilities, weights = _probabilities(probabilities, positive.size), _weights(weights, positive.size)
    within: tuple[float | None, float | None] = (None, None)
    if groups is not None:
        codes = group_codes(groups, positive.size)
        within = _grouped_auc(positive, probabilities, weights, codes) or (None, 0.0)
    some, all_rows = bool(weights @ positive > 0), bool(weights @ ~positive == 0)
    both = some and not all_rows
    return {
        "auc": auc(positive, probabilities, weights) if both else None,
        "logloss": logloss(positive, probabilities, weights),
        "ne": normalized_entropy(positive, probabilities, weights) if both else None,
        "calibration": calibration(positive, probabilities, weights) if some else None,
        "gauc": within[0],
        "gauc_coverage": within[1],
        "rows": int(np.count_nonzero(weights)),
        "positives": int(np.count_nonzero(weights * positive)),
    }


def best_possible(
    labels: ArrayLike,
    true_probability: ArrayLike,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> dict[str, float | int | None]:
    """Return `evaluate` of the known truth of a generated log: what no model beats, but for luck.

    Raises:
        ValueError: As of `evaluate`; the truth calls a label impossible.
    """
    positive = binary_labels(labels)
    truth = _probabilities(true_probability, positive.size)
    impossible = truth == np.where(positive, 0, 1)
    if impossible.any():
        i = int(impossible.argmax())
        raise ValueError(
            f"true probability at position {i} is {truth[i]} but the label is {int(positive[i])}: "
            "these are not the probabilities that the labels were drawn from"
        )
    return evaluate(positive, truth, groups, weights)


def row_loss(positive: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the -log likelihood of each row in nats, clipped: bool [n], float64 [..., n] -> float64 [..., n]."""
    p = np.clip(probabilities, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return -np.where(positive, np.log(p), np.log1p(-p))


def binary_labels(labels: ArrayLike) -> np.ndarray:
    """Check that labels [n] are 0 or 1 (n >= 1); return them as bool [n]."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels have shape {labels.shape}: give one label per row, for at least one row")
    positive = np.asarray(labels == 1)
    bad = ~(positive | (labels == 0))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"label at position {i} is {labels[i]}: labels must be 0 or 1, binarise them first")
    return positive


def group_codes(groups: ArrayLike, rows: int) -> np.ndarray:
    """Return the number of each group id [n] among the distinct ones in sorted order: intp [n] in 0..G-1."""
    groups = _one_per_row(np.asarray(groups), rows, "groups")
    missing = np.asarray(groups != groups)  # NaN and NaT
    if groups.dtype == object:
        missing |= np.asarray(groups == None)  # noqa: E711 (element by element)
    if missing.any():
        i = int(missing.argmax())
        raise ValueError(f"group id at position {i} is {groups[i]}: drop such rows, or give them an id")
    return np.unique(groups, return_inverse=True)[1]


def improper(probabilities: np.ndarray) -> np.ndarray:
    """Mark what is no probability, NaN included: float [...] -> bool [...]."""
    return ~((probabilities >= 0) & (probabilities <= 1))


def _grouped_auc(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray, codes: np.ndarray
) -> GroupedAUC | None:
    """Return `gauc` of checked input; None where no group has both classes."""
    wins, positives, negatives = pair_wins(positive, scores, weights, codes)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None
    impressions = positives + negatives
    pairs = positives[both] * negatives[both]
    value = np.average(wins[both] / pairs, weights=impressions[both])
    return GroupedAUC(float(value), float(impressions[both].sum() / impressions.sum()))


def pair_wins(
    positive: np.ndarray, scores: np.ndarray, weights: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per group [G] the weight of pairs won by the positive (ties half), of positives, and of negatives."""
    order = np.lexsort((scores, codes))
    scores, codes = scores[order], codes[order]
    up = (weights * positive)[order]
    down = (weights * ~positive)[order]
    ties = np.flatnonzero(np.r_[True, (scores[1:] != scores[:-1]) | (codes[1:] != codes[:-1])])
    up, down, codes = np.add.reduceat(up, ties), np.add.reduceat(down, ties), codes[ties]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    below = np.cumsum(down) - down
    below -= below[starts][codes]  # negatives of earlier groups do not count
    won = up * (below + down / 2)
    return np.add.reduceat(won, starts), np.add.reduceat(up, starts), np.add.reduceat(down, starts)


def _one_per_row(values: np.ndarray, rows: int, name: str) -> np.ndarray:
    if values.shape != (rows,):
        raise ValueError(f"{name} have shape {values.shape}, labels ({rows},): give one value per row")
    return values


def _scores(scores: ArrayLike, rows: int) -> np.ndarray:
    scores = _one_per_row(np.asarray(scores, np.float64), rows, "scores")
    if np.isnan(scores).any():
        i = int(np.isnan(scores).argmax())
        raise ValueError(f"score at position {i} is nan: a rank needs a number, look for a diverged model")
    return scores


def _probabilities(probabilities: ArrayLike, rows: int) -> np.ndarray:
    p = _one_per_row(np.asarray(probabilities, np.float64), rows, "probabilities")
    bad = improper(p)
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"probability at position {i} is {p[i]}: must be within [0, 1]; "
            "pass sigmoid(logit), and look for a diverged model if it is nan"
        )
    return p


def _weights(weights: ArrayLike | None, rows: int) -> np.ndarray:
    if weights is None:
        return np.ones(rows)
    weights = _one_per_row(np.asarray(weights, np.float64), rows, "weights")
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"weight at position {i} is {weights[i]}: weights must be finite and >= 0")
    if not weights.any():
        raise ValueError("every weight is 0: no row is left to evaluate")
    return weights
