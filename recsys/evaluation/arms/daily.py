"""The difference in log loss of two arms on the same rows as days pass, with the user as unit.

Symbols: n rows, U units (users, or the rows themselves), D days, d[i] loss of the arm minus loss of the baseline on row
i, t[u, k] and b[u, k] sum of d and number of rows of unit u up to day k. After day k the difference is

    θ[k] = Σ_u t[u, k] / Σ_u b[u, k],    influence of u: (t[u, k] - θ[k] b[u, k]) / mean of b over the units present

(delta method for a ratio of means; Deng, Knoblich & Lu 2018), whose products over units, divided by
U[j] (U[k] - 1), estimate the covariance of θ[j] and θ[k]. That is what `sequential.confidence_sequence` asks for.
It is the paired counterpart of `sequential.daily_difference`, whose two variants are different users.
"""

import numpy as np

from recsys.evaluation.online.sequential import DailyDifference

ENTRIES_AT_ONCE = 2**22  # of units by days


def daily_loss_difference(
    difference: np.ndarray, days: np.ndarray, count: int, units: np.ndarray | None = None
) -> DailyDifference:
    """Return the mean of `difference` [n] over all rows up to each of `count` days.

    `days` [n] and `units` [n] are codes from 0; without units each row is one. A day before which fewer than two
    units have rows has a difference of 0 and no variance. Memory: the rows sorted by unit, and a few times
    ENTRIES_AT_ONCE and D x D numbers.
    """
    units = np.arange(difference.size) if units is None else units
    order = np.argsort(units, kind="stable")
    difference, days, units = difference[order], days[order], units[order]
    ends = np.flatnonzero(np.diff(units, append=-1)) + 1  # after the last row of each unit
    total = np.cumsum(np.bincount(days, weights=difference, minlength=count))
    rows = np.cumsum(np.bincount(days, minlength=count))
    with np.errstate(invalid="ignore"):
        theta = total / rows
    products, present = np.zeros((count, count)), np.zeros(count, np.int64)
    informative = np.zeros(count, np.int64)
    start = 0
    at_once = max(ENTRIES_AT_ONCE // count, 1)
    for block in np.array_split(ends, range(at_once, ends.size, at_once)):
        part = slice(start, block[-1])
        unit = np.searchsorted(block, np.arange(start, block[-1]), side="right")
        place = unit * count + days[part]
        shape = (block.size, count)
        top = np.cumsum(np.bincount(place, difference[part], block.size * count).reshape(shape), axis=1)
        bottom = np.cumsum(np.bincount(place, minlength=block.size * count).reshape(shape), axis=1)
        influence = top - np.nan_to_num(theta) * bottom
        products += influence.T @ influence
        present += np.count_nonzero(bottom, axis=0)
        informative += np.count_nonzero(top, axis=0)
        start = block[-1]
    usable = present > 1
    # Of j < k the units present on day j are among those of day k; others have no influence on j.
    scale = np.where(usable, np.sqrt(present / np.maximum(present - 1.0, 1)) / np.maximum(rows, 1), 0.0)
    return DailyDifference(
        np.where(usable, np.nan_to_num(theta), 0.0), products * np.outer(scale, scale), informative
    )
