"""Which arm is probably the best, when all are looked at together."""

import numpy as np

from recsys.evaluation.weighted import badness

DRAWS = 2**14  # a probability is right to ± 0.008
SEED = 0
EXACT = 1e-12  # relative: what differs by less is rounding


def best_probabilities(metric: str, means: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """P(arm has the best expected metric) [A], of draws from the normal with these means [A] and covariance [A, A].

    That is the approximate posterior under a flat prior. Arms that tie in a draw share it, so equal arms are equally
    likely. A covariance estimated entry by entry may have negative eigenvalues; they count as 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    values[values < EXACT * values[-1]] = 0.0
    normal = np.random.default_rng(SEED).standard_normal((DRAWS, values.size))
    drawn = means + normal @ (vectors * np.sqrt(values)).T
    bad = badness(metric, drawn)
    wins = bad <= bad.min(axis=1, keepdims=True) + EXACT * np.abs(drawn).max()
    return (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)
