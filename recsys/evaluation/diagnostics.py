"""What a trained table looks like: how much of its width and of its rows is used, and who shares rows.

Symbols: N rows of a table, D its width, n distinct ids, k lookups per id.
Row numbers are physical and global: where an id's lookups go to several tables, offset each table's rows
first, so that equal numbers mean the same memory.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class CollisionRate(NamedTuple):
    """Share of impressions whose id shares all of its rows with one other id; at least one with any."""

    all_rows: float
    any_row: float


def effective_rank(table: ArrayLike) -> float:
    """exp(entropy of p), p = s / sum(s), s the singular values of table [N, D], not centred: 1..min(N, D).

    Source: Roy & Vetterli 2007; Garrido et al. 2023 (RankMe), eq. 1, without its ε (0 log 0 = 0).
    Errors: empty, not finite, all zero.
    """
    sigma = _singular_values(table)
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def information_abundance(table: ArrayLike) -> float:
    """sum(s) / max(s), s the singular values of the table [N, D]: 1..min(N, D); low where it collapsed.

    Source: Guo et al. 2024, "On the embedding collapse when scaling up recommendation models", def. 1.
    Errors: empty, not finite, all zero.
    """
    sigma = _singular_values(table)
    return float(sigma.sum() / sigma[0])


def collision_rate(rows: ArrayLike, impressions: ArrayLike) -> CollisionRate:
    """Impression-weighted share of ids that collide; rows [n] or [n, k] of *distinct* ids, impressions [n].

    all_rows: another id has the same k rows, in whatever order, so a sum cannot tell the two apart.
    any_row: at least one of the id's rows is used by another id.
    Errors: lengths that differ, empty, rows that are not integers, impressions negative or all zero.
    """
    rows = _row_numbers(rows)
    impressions = np.asarray(impressions, np.float64)
    if impressions.shape != rows.shape[:1]:
        raise ValueError(f"impressions have shape {impressions.shape}, but there are {len(rows)} ids")
    bad = ~(np.isfinite(impressions) & (impressions >= 0))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(f"impressions at position {i} are {impressions[i]}: counts must be >= 0")
    if not impressions.any():
        raise ValueError("every id has 0 impressions: pass the counts of the log the ids were taken from")

    rows = np.sort(rows, axis=1)
    repeated = np.zeros(rows.shape, bool)  # a row that an id uses twice has one user, not two
    repeated[:, 1:] = rows[:, 1:] == rows[:, :-1]
    _, index = np.unique(rows, return_inverse=True)
    index = index.reshape(rows.shape)
    users = np.bincount(index[~repeated])
    any_row = (users[index] > 1).any(axis=1)

    order = np.lexsort(rows.T)
    twin = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    all_rows = np.zeros(len(rows), bool)
    all_rows[order[1:]] |= twin
    all_rows[order[:-1]] |= twin
    total = impressions.sum()
    return CollisionRate(float(impressions @ all_rows / total), float(impressions @ any_row / total))


def rows_touched(rows: ArrayLike, num_embeddings: int) -> float:
    """Share of the `num_embeddings` physical rows that any id maps to; rows [n] or [n, k].

    Errors: empty, rows that are not integers or lie outside 0..num_embeddings-1.
    """
    rows = _row_numbers(rows)
    outside = (rows < 0) | (rows >= num_embeddings)
    if outside.any():
        i = int(outside.any(axis=1).argmax())
        raise ValueError(f"rows at position {i} are {rows[i]}: must lie in 0..{num_embeddings - 1}")
    touched = np.zeros(num_embeddings, bool)
    touched[rows] = True
    return float(touched.mean())


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


def _row_numbers(rows: ArrayLike) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim not in (1, 2) or rows.size == 0:
        raise ValueError(f"rows have shape {rows.shape}: pass [n] or [n, k] for at least one id")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows have type {rows.dtype}: row numbers are integers")
    return rows.reshape(len(rows), -1)
