"""BCa intervals: bias-corrected and accelerated percentiles of a bootstrap.

Source: Efron 1987, "Better bootstrap confidence intervals", eq. 2.3 and 6.6. The acceleration is taken from the
influence of each unit (infinitesimal jackknife), which is what deleting units in turn approaches, at the cost of one
pass. The interval is second-order right where bias and skewness are smooth; it does not use Student's t, so with few
units it is a little short.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from recsys.evaluation.arms.result import Interval


def bca_interval(
    estimate: float, replicates: np.ndarray, influence: np.ndarray, level: float
) -> Interval | None:
    """Return the interval of an estimate from its bootstrap [R] and the influence of units [U] on it.

    None where all replicates lie on one side of the estimate: the bias is then not to be had. Percentiles beyond the
    replicates are cut at the outermost: 1,000 and more serve a level of 95 %.
    """
    # replicates that equal the estimate count half on either side, as they do in scipy's
    below = float(((replicates < estimate).mean() + (replicates <= estimate).mean()) / 2)
    if below in (0.0, 1.0):
        return None
    bias = ndtri(below)
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread else 0.0
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(replicates, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)
