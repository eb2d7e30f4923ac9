"""Numbers as the model reads them: clipped, transformed and standardised, cut into buckets, or rates and counts of ids."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_cython_ext.vocabulary import FIRST_CODE, MISSING_CODE

FLOAT32_MAX = float(np.finfo(np.float32).max)
UNIT = (
    2**16
)  # counts of statistics are of 65,536ths of a row: weights are rounded to them, and then counted exactly


def squared_log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return floor(ln(x)^2) for x > 2, else x cut to a whole number; NaN stays (Criteo's winners of 2014)."""
    return np.where(x > 2, np.floor(np.log(np.where(x > 2, x, 1)) ** 2), np.trunc(x))


def _log(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.log1p(np.abs(x)), x)


TRANSFORMS = {"none": lambda x: x, "log": _log, "squared_log": squared_log}


Constant = float | np.ndarray  # of all numbers, or [F, 1] of features whose numbers are [F, n]


def transformed(
    values: np.ndarray, low: Constant | None, high: Constant | None, transform: str
) -> np.ndarray:
    """Clip and transform numbers: float64 [n], NaN where they are missing."""
    if low is not None or high is not None:
        values = np.clip(values, low, high)
    return TRANSFORMS[transform](values)


def standardised(values: np.ndarray, mean: Constant, deviation: Constant, fill: Constant) -> np.ndarray:
    """Return transformed numbers less the mean, over the deviation, float32 [n]; missing ones become `fill` before."""
    missing = np.isnan(values)
    values = np.where(missing, fill, values) if missing.any() else values
    with np.errstate(over="ignore"):
        numbers = ((values - mean) / deviation).astype(np.float32)
    if np.isinf(numbers).any():
        numbers = np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX, dtype=np.float32)
    return numbers


def bucket_codes(values: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Return FIRST_CODE + i where boundaries[i - 1] <= x < boundaries[i], int32 [n]; a missing number has its own code."""
    codes = np.searchsorted(boundaries, values, side="right") + FIRST_CODE
    codes[np.isnan(values)] = MISSING_CODE
    return codes.astype(np.int32)


def rates_and_counts(
    rows: np.ndarray,
    clicks: np.ndarray,
    total_rows: Any,
    total_clicks: Any,
    smoothing: float,
    scale: Any = 1.0,
) -> dict[str, np.ndarray]:
    """Return smoothed click rates and logarithms of counts of ids, float32 [n], by the name of the statistic.

    rows, clicks: in units of 1 / UNIT, of the ids [n]; the totals are of all ids. Counts are multiplied by `scale`.
    """
    prior = total_clicks / np.maximum(total_rows, 1)
    statistics = {
        "ctr": (clicks + UNIT * smoothing * prior) / (rows + UNIT * smoothing),
        "count": np.log1p(rows * scale / UNIT),
    }
    return {name: values.astype(np.float32) for name, values in statistics.items()}
