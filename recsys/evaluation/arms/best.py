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
    """P(arm has the best expected metric) [A]: draws around `means` [A].

    Rows: their `covariance` [A, A]. Training seeds: independent with variances `seeds` [A]. Both are estimated, so
    Student's t of `row_df` and of `seed_df` degrees of freedom (one draw of either scale for all arms). That is the
    approximate posterior under a flat prior; of two arms the better has about 1 - p / 2, p being that of the two-sided
    test. Arms that tie in a draw share it, so equal arms are equally likely. A covariance estimated entry by entry may
    have negative eigenvalues; they count as 0.
    """
    values, vectors = np.linalg.eigh(covariance)
    values[values < EXACT * values[-1]] = 0.0
    random = np.random.default_rng(SEED)
    rows = random.standard_normal((DRAWS, values.size)) @ (vectors * np.sqrt(values)).T
    drawn = means + _scale(random, row_df) * rows
    drawn += _scale(random, seed_df) * random.standard_normal(drawn.shape) * np.sqrt(seeds)
    bad = badness(metric, drawn)
    wins = bad <= bad.min(axis=1, keepdims=True) + EXACT * np.abs(drawn).max()
    return (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)


def _scale(random: np.random.Generator, df: float) -> np.ndarray | float:
    """Draws [DRAWS, 1] of a true over an estimated standard deviation; 1 where it is known."""
    return np.sqrt(df / random.chisquare(df, (DRAWS, 1))) if np.isfinite(df) else 1.0
