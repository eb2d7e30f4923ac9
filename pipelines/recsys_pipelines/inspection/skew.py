"""How unequal the counts of ids are."""

import numpy as np

from recsys_pipelines.inspection.result import Skew

CURVE_POINTS = 64
ZIPF_COUNT = 10  # ids seen less often lie on a staircase of whole counts, which says nothing of a slope
ZIPF_IDS = 10  # fewer ids give no slope


def skew_of(counts: np.ndarray) -> Skew:
    """Describe counts int64 [U], all > 0, in any order, as `Skew` says."""
    n = len(counts)
    if n == 0:
        return Skew(None, None, None, None, 0, [])
    falling = np.sort(counts)[::-1]
    total = float(falling.sum())
    weights = n - 1 - 2.0 * np.arange(n)  # of sum (2i - n - 1) x_i / (n sum x), where x_1 <= ... <= x_n
    frequent = int(np.searchsorted(-falling, -ZIPF_COUNT, side="right"))
    zipf = None
    if frequent >= ZIPF_IDS:
        ranks = _log_spaced(frequent)
        zipf = -float(np.polyfit(np.log(ranks), np.log(falling[ranks - 1]), 1)[0])
    return Skew(
        top_id=float(falling[0] / total),
        top_percent=float(falling[: -(-n // 100)].sum() / total),
        gini=float((weights * falling).sum() / (n * total)),
        zipf=zipf,
        zipf_ranks=frequent if zipf is not None else 0,
        curve=[(int(rank), int(falling[rank - 1])) for rank in _log_spaced(n)],
    )


def _log_spaced(n: int) -> np.ndarray:
    """Return ranks from 1 to n, at most `CURVE_POINTS`, evenly in their logarithm."""
    return np.unique(np.rint(np.geomspace(1, n, CURVE_POINTS)).astype(np.int64))
