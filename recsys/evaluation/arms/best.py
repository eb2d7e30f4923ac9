"""Which arm is probably the best, when all are looked at together."""

import numpy as np

from recsys.evaluation.arms.weighted import badness

DRAWS = 2**14  # a probability is right to ± 0.008
SEED = 0
EXACT = 1e-12  # relative: what differs by less is rounding


def best_probabilities(
    metric: str,
    means: np.ndarray,
    covariance: np.ndarray,
    seeds: np.ndarray,
    seed_df: float,
    row_df: float = np.inf,
) -> np.ndarray:
    """Return the probability that each arm has the best expected metric [A], from draws around `means` [A].

    Draws over rows have the `covariance` [A, A], those over training seeds are independent with variances `seeds` [A].
    Both are estimated, so that they follow Student's t of `row_df` and of `seed_df` degrees of freedom (one draw of
    either scale for all arms). That is the approximate posterior under a flat prior; of two arms the better has about
    1 - p / 2, p being that of the two-sided test. Arms that tie in a draw share it, so equal arms are equally likely.
    A covariance estimated entry by entry may have negative eigenvalues; they count as 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    values[values < EXACT * values[-1]] = 0.0
    random = np.random.default_rng(SEED)
    rows = random.standard_normal((DRAWS, values.size)) @ (vectors * np.sqrt(values)).T
    draws = means + _scale(random, row_df) * rows
    draws += _scale(random, seed_df) * random.standard_normal(draws.shape) * np.sqrt(seeds)
    bad = badness(metric, draws)
    wins = bad <= bad.min(axis=1, keepdims=True) + EXACT * np.abs(draws).max()
    return (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)


def _scale(random: np.random.Generator, df: float) -> np.ndarray | float:
    """Draw a true over an estimated standard deviation [DRAWS, 1]; 1 where it is known."""
    return np.sqrt(df / random.chisquare(df, (DRAWS, 1))) if np.isfinite(df) else 1.0
