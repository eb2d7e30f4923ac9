"""How much of its width a trained table uses.

Symbols: N rows of a table, D its width.
"""

import numpy as np
from numpy.typing import ArrayLike


def effective_rank(table: ArrayLike) -> float:
    """Return exp(entropy of p), p = s / sum(s), s the singular values of table [N, D], not centred: 1..min(N, D).

    Source: Roy & Vetterli 2007; Garrido et al. 2023 (RankMe), eq. 1, without its ε (0 log 0 = 0).

    Raises:
        ValueError: The table is empty, not finite, or all zero.
    """
    sigma = _singular_values(table)
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def information_abundance(table: ArrayLike) -> float:
    """Return sum(s) / max(s), s the singular values of the table [N, D]: 1..min(N, D); low where it collapsed.

    Source: Guo et al. 2024, "On the embedding collapse when scaling up recommendation models", def. 1.

    Raises:
        ValueError: The table is empty, not finite, or all zero.
    """
    sigma = _singular_values(table)
    return float(sigma.sum() / sigma[0])


def _singular_values(table: ArrayLike) -> np.ndarray:
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"table has shape {table.shape}: pass a table [N, D] with at least one entry")
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {int(finite.argmin())} of the table is not finite: training diverged")
    sigma = np.linalg.svd(table, compute_uv=False)
    if sigma[0] == 0:
        raise ValueError("every entry of the table is 0: it has no direction to measure")
    return sigma
