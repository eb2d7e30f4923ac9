"""What a verdict on two arms stands on: enough units that hold the rarer class, and enough that the arms see differently.

A variance estimated from a few units says little, and one of nothing says nothing: of 500 rows with one positive the
other 499 vary, the one does not, and 80 % of A/A comparisons would find a difference in AUC. Two models that separate
the classes fully have the same AUC and no variance; the next rows may tell them apart.

One object decides. Where it names a lack there is no verdict, no probability of being the best, and no detectable effect.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEAST = 10  # units that hold the rarer class, and as many that the arms see differently
EXACT = 1e-12  # what differs by less is rounding
RANKED = ("auc", "gauc")


class Rarer(NamedTuple):
    """How many units hold the rarer class, whether it is the positive or the negative one, and what a unit is."""

    holding: int
    kind: str
    unit: str


@dataclass(frozen=True)
class Support:
    """Units of resampling (users, or rows where there are none) behind the difference of two arms on a metric.

    Attributes:
        holding: Units that hold the rarer class, which is the one that fewer of them hold.
        differing: Units whose share in the metric is not the same in both arms.
        same: Whether the rankings of all rows are the same in both arms, seed by seed; of metrics that do not rank,
            whether the predictions are.
    """

    holding: int
    differing: int
    same: bool

    @property
    def enough(self) -> bool:
        """Return whether there can be a verdict."""
        return self.holding >= LEAST and (self.same or self.differing >= LEAST)

    def lack(self, metric: str, rarer: Rarer) -> str | None:
        """Say what is too little for a verdict; None where there can be one."""
        if self.enough:
            return None
        if self.holding < LEAST:
            holders = (
                f"hold{'s' * (self.holding == 1)} a {rarer.kind}" if rarer.unit == "user" else rarer.kind
            )
            return f"too few {rarer.unit}s to judge: {self.holding} {holders}, at least {LEAST} are needed"
        treated = "ranked" if metric in RANKED else "predicted"
        count = f"{self.differing} {'is' if self.differing == 1 else 'are'}"
        return f"too few {rarer.unit}s to judge: the arms differ in how {count} {treated}, in at least {LEAST} is needed"


def rarer_class(positive: np.ndarray, units: np.ndarray, unit: str) -> Rarer:
    """Return the class that fewer units hold, from bool [n] and the unit of each row [n]; `unit` is "row" or "user"."""
    up = int(np.count_nonzero(np.bincount(units[positive])))
    down = int(np.count_nonzero(np.bincount(units[~positive])))
    return Rarer(up, "positive", unit) if up <= down else Rarer(down, "negative", unit)


def support(
    metric: str, holding: int, shares: np.ndarray, units: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Support:
    """Return what stands behind the difference of two arms.

    Args:
        metric: Name of the metric.
        holding: How many units hold the rarer class.
        shares: What each row or unit gives to the metric of the one arm, less what it gives to the other's.
        units: Unit of each entry of `shares`.
        first: Predictions of the one arm [S, n].
        second: Predictions of the other [S, n].
    """
    differing = int(np.count_nonzero(np.bincount(units[np.abs(shares) > EXACT])))
    return Support(holding, differing, differing == 0 and _same(metric, first, second))


def _same(metric: str, first: np.ndarray, second: np.ndarray) -> bool:
    if first.shape != second.shape:
        return False
    if metric in RANKED:
        return all(np.array_equal(_order(a), _order(b)) for a, b in zip(first, second, strict=True))
    return np.array_equal(first, second)


def _order(values: np.ndarray) -> np.ndarray:
    """Return the place of each value among the distinct ones, which tells order and ties."""
    return np.unique(values, return_inverse=True)[1]
