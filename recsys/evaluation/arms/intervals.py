"""Intervals that stay where a metric can be.

Student's interval is symmetric and knows no bounds: an AUC of 0.98 with an error of 0.02 would reach to 1.02. It is made
where the metric has none, and taken back (delta method):

    auc, gauc                   logit(v) ± t · error / (v (1 - v))      within 0 and 1
    logloss, ne, calibration    log(v) ± t · error / v                  above 0

An AUC of exactly 1 (or 0) has no error, which is no knowledge: of m units that hold the rarer class, all on the right
side, a share of up to 1 - (α / 2)^(1 / m) on the wrong one would mostly not be seen (Clopper & Pearson 1934). And of fewer
than ten such units no variance can be estimated, so that the largest there can be is taken, v (1 - v) / m (Birnbaum &
Klose 1957).
"""

from dataclasses import replace

import numpy as np
from scipy.special import expit, logit, stdtrit

from recsys.evaluation.arms.result import Interval
from recsys.evaluation.arms.support import EXACT, LEAST, RANKED
from recsys.evaluation.arms.variance import Contrast

MOST = 300.0  # an exponent whose power is a float


def bounded_interval(metric: str, contrast: Contrast, level: float, holding: int) -> Interval:
    """Return the interval of one arm's metric; `holding` units hold the rarer class."""
    value = contrast.value
    error, df = contrast.error_and_df
    half = float(stdtrit(df, (1 + level) / 2)) * error
    if metric in RANKED:
        if min(value, 1 - value) < EXACT:
            far = ((1 - level) / 2) ** (1 / holding)
            return (far, 1.0) if value > 0.5 else (0.0, 1 - far)
        spread = value * (1 - value)
        if holding < LEAST:
            half = max(half, float(stdtrit(df, (1 + level) / 2)) * np.sqrt(spread / holding))
        half /= spread
        return float(expit(logit(value) - half)), float(expit(logit(value) + half))
    if value == 0:
        return 0.0, 0.0
    half = min(half / value, MOST)
    return float(value * np.exp(-half)), float(value * np.exp(half))


def difference_interval(metric: str, contrast: Contrast, level: float) -> Interval:
    """Return Student's interval of a difference, cut where a difference of two AUCs ends."""
    low, high = contrast.interval(level)
    return (max(low, -1.0), min(high, 1.0)) if metric in RANKED else (low, high)


def margin_interval(contrast: Contrast, aucs: tuple[float, float], holding: int, level: float) -> Interval:
    """Return the interval of a difference of two AUCs from which "not worse than −margin" is said.

    Near 1 the error of an AUC falls with what is missing to 1, so that a lucky sample looks good and sure at once: of
    500 rows with 50 positives "not worse" would be wrong in 9 % of comparisons at AUCs of 0.998. So each AUC is taken
    to have one unit more on either side, of `holding` that hold the rarer class, as Laplace's and Agresti & Coull's
    (1998) intervals of a share do, and the variance of rows is scaled by v (1 - v). A low end above 0 stays: that is
    a verdict of better. The low end is never above that of `difference_interval`.
    """
    low, high = difference_interval("auc", contrast, level)
    spread = sum(v * (1 - v) for v in aucs)
    if low > 0 or spread < EXACT:
        return low, high
    moved = [(holding * v + 1) / (holding + 2) for v in aucs]
    scale = max(1.0, sum(v * (1 - v) for v in moved) / spread)
    wider = replace(contrast, row_variance=contrast.row_variance * scale)
    return difference_interval("auc", wider, level)[0], high
