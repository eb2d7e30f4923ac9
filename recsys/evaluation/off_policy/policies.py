"""From scores of actions to probabilities: how a model that ranks becomes a policy that chooses.

Symbols: n rows, A actions, s [n, A] scores (probabilities of a click), π [n, A] the policy.
"""

import numpy as np


def epsilon_greedy(scores: np.ndarray, epsilon: float) -> np.ndarray:
    """Return π = ε / A for every action, and the rest on the best-scored, which several best ones share.

    Source: Sutton & Barto, "Reinforcement learning", section 2.2.

    Raises:
        ValueError: ε is outside [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(
            f"greedy: ε is {epsilon}: must be within [0, 1]; 0 always shows the best-scored action"
        )
    best = scores == scores.max(axis=1, keepdims=True)
    return (1 - epsilon) * best / best.sum(axis=1, keepdims=True) + epsilon / scores.shape[1]


def softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return π ∝ exp(logit(s) / T), over the log-odds that the model is linear in; at T = 1, in proportion to the odds.

    T → 0 is greedy, T → ∞ uniform.

    Raises:
        ValueError: T is not above 0, or scores are no probabilities.
    """
    if not temperature > 0 or not np.isfinite(temperature):
        raise ValueError(f"softmax: the temperature is {temperature}: must be above 0")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("softmax: scores must be probabilities, within [0, 1]")
    tiny = np.finfo(np.float64).tiny
    inner = np.clip(scores, tiny, 1 - np.finfo(np.float64).epsneg)
    exponents = (np.log(inner) - np.log1p(-inner)) / temperature
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
