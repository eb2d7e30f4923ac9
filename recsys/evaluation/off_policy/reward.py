"""Reward models of off-policy evaluation: exact means by action and position (the default), or given predictions.

Symbols: n rows, A actions, P positions, K folds.
"""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.target import Target, grouped_mass

FOLDS = 5
PRIOR_ROWS = 100.0
BLOCK_ROWS = 2**14
NEEDS_ALL = "{}: a reward model needs the probabilities of all actions, not of the logged"


@dataclass(frozen=True)
class RewardModel:
    """Predicted rewards q̂ of one target on one log, each row predicted without its own fold.

    Attributes:
        logged: q̂(x_i, a_i) [n].
        policy: Σ_a π(a | x_i) q̂(x_i, a) [n].
        influence: What row i adds to n times the direct method's estimate through the fitted model [n]; 0 where the
            model is taken as given.
        description: The model in words.
    """

    logged: np.ndarray
    policy: np.ndarray
    influence: np.ndarray
    description: str


def folds_of(log: Log, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Draw the fold of each row [n]; rows of a user share one, so there are at most as many folds as users."""
    units = np.arange(log.rows) if log.clusters is None else log.clusters
    unit_count = int(units.max()) + 1
    folds = min(folds, unit_count)
    if folds < 2:
        raise ValueError(f"folds is {folds}: need at least 2 (of rows or users)")
    return (np.random.default_rng(seed).permutation(unit_count) % folds)[units]


def model_of(log: Log, target: Target, predictions: np.ndarray, description: str) -> RewardModel:
    """Make a reward model from predictions q̂ [n, A] of every action in every row, each made without the row's own fold.

    They are taken as given: `influence` is 0, so intervals of the direct method do not hold the error of the training.
    """
    if target.table is None or target.index is None:
        raise ValueError(NEEDS_ALL.format(target.name))
    if predictions.shape != (log.rows, len(log.action_names)) or not np.isfinite(predictions).all():
        raise ValueError(
            f"{description}: predictions have shape {predictions.shape} or are not finite: the log has {log.rows} rows "
            f"and {len(log.action_names)} actions"
        )
    policy = np.empty(log.rows)
    for start in range(0, log.rows, BLOCK_ROWS):  # the target's distributions of all rows may be large
        block = slice(start, start + BLOCK_ROWS)
        policy[block] = np.einsum("na,na->n", target.table[target.index[block]], predictions[block])
    logged = predictions[np.arange(log.rows), log.actions]
    return RewardModel(logged, policy, np.zeros(log.rows), description)


def fit_reward_model(
    log: Log, target: Target, folds: int = FOLDS, prior_rows: float = PRIOR_ROWS, seed: int = 0
) -> RewardModel:
    """Fit the mean reward by action and position, out of fold.

    q̂ = (Σ r + m μ) / (N + m), with μ the position's mean and m prior rows. Clusters stay within one fold, so there
    are at most as many folds as clusters. Cross-fitting: Chernozhukov et al. 2018, section 3. `influence`
    differentiates the direct method's estimate in the weight of each row, through q̂ and μ.
    """
    if target.table is None or target.index is None:
        raise ValueError(NEEDS_ALL.format(target.name))
    if not prior_rows > 0:
        raise ValueError(f"prior_rows is {prior_rows}: need > 0")
    fold = folds_of(log, folds, seed)
    folds = int(fold.max()) + 1
    shape = folds, len(log.position_names), len(log.action_names)
    cell = (fold * shape[1] + log.positions) * shape[2] + log.actions
    count, total = (
        np.bincount(cell, weights=w, minlength=int(np.prod(shape))).reshape(shape)
        for w in (None, log.rewards)
    )
    count, total = count.sum(axis=0) - count, total.sum(axis=0) - total
    rows = count.sum(axis=2)
    everywhere = total.sum(axis=(1, 2)) / rows.sum(axis=1)
    mean = np.where(
        rows > 0, total.sum(axis=2) / np.maximum(rows, 1), everywhere[:, None]
    )  # of a position [K, P]
    q = (total + prior_rows * mean[:, :, None]) / (count + prior_rows)
    group = fold * shape[1] + log.positions
    policy = (target.table @ q.reshape(-1, shape[2]).T)[target.index, group]

    mass = grouped_mass(target.table, target.index, group, folds * shape[1]).reshape(shape)
    pull = mass / (count + prior_rows)
    prior_pull = pull.sum(axis=2) * prior_rows / np.maximum(rows, 1)

    def of_other_folds(values: np.ndarray) -> np.ndarray:
        return values.sum(axis=0) - values

    cells, places = (fold, log.positions, log.actions), (fold, log.positions)
    influence = of_other_folds(pull)[cells] * log.rewards - of_other_folds(pull * q)[cells]
    influence += of_other_folds(prior_pull)[places] * log.rewards - of_other_folds(prior_pull * mean)[places]
    description = (
        f"mean reward by action and position, {folds}-fold out of fold, "
        f"shrunk to the position's mean by {prior_rows:g} rows"
    )
    return RewardModel(q[cells], policy, influence, description)
