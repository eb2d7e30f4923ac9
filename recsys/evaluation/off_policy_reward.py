"""The default reward model of off-policy evaluation: exact means by action and position, out of fold.

Symbols: n rows, A actions, P positions, K folds.
"""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.off_policy_data import Log, Target, grouped_mass

FOLDS = 5
PRIOR_ROWS = 100.0


@dataclass(frozen=True)
class RewardModel:
    """Predicted rewards q̂ of one target on one log, arrays [n], each row predicted without its own fold.

    `logged`: q̂(x_i, a_i). `policy`: Σ_a π(a | x_i) q̂(x_i, a). `influence`: what row i adds to n times the direct
    method's estimate through the fitted model (0 where the model is taken as given).
    """

    logged: np.ndarray
    policy: np.ndarray
    influence: np.ndarray
    description: str


def fit_reward_model(
    log: Log, target: Target, folds: int = FOLDS, prior_rows: float = PRIOR_ROWS, seed: int = 0
) -> RewardModel:
    """Mean reward by action and position, out of fold: q̂ = (Σ r + m μ) / (N + m), μ the position's mean, m prior rows.

    Clusters stay within one fold, so there are at most as many folds as clusters. Cross-fitting: Chernozhukov et al.
    2018, section 3. `influence` differentiates the direct method's estimate in the weight of each row, through q̂ and μ.
    """
    if target.table is None or target.index is None:
        raise ValueError(
            f"{target.name}: a reward model needs the probabilities of all actions, not of the logged"
        )
    units = np.arange(log.rows) if log.clusters is None else log.clusters
    unit_count = int(units.max()) + 1
    folds = min(folds, unit_count)
    if folds < 2 or not prior_rows > 0:
        raise ValueError(
            f"folds is {folds} and prior_rows {prior_rows}: need at least 2 (of rows or users), and > 0"
        )
    fold = (np.random.default_rng(seed).permutation(unit_count) % folds)[units]
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
