"""How often rows of tables collide: across the features of a shared table, and as observed.

Across features, memory is what counts: of the (feature, chunk, id) keys of a table, m belong to other features,
and a row is used by one of them with P = 1 - (1 - 1/N)^m for N rows. What is to be expected within a feature its scheme
says itself (`recsys_tables.collisions`).

Observed row numbers are physical and global: where an id's lookups go to several tables, offset each table's rows
first, so that equal numbers mean the same memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from recsys_tables.collisions import CollisionRate, row_shared
from recsys_tables.scheme import Scheme


def expected_across_features(schemes: Sequence[Scheme], num_ids: Mapping[str, int]) -> dict[str, float]:
    """Return for each feature that shares a hashed table which share of its rows another feature's id uses too.

    num_ids: distinct ids of each feature.
    """
    rows_by_feature = {scheme.feature: _rows_by_table(scheme) for scheme in schemes}
    keys: Counter[str] = Counter()
    readers: Counter[str] = Counter()
    for feature, rows in rows_by_feature.items():
        readers.update(rows.keys())
        keys.update({table: number * num_ids[feature] for table, number in rows.items()})
    sizes = {table.name: table.num_embeddings for scheme in schemes for table in scheme.tables()}
    return {
        feature: sum(
            number * row_shared(keys[table] - number * num_ids[feature], sizes[table])
            for table, number in rows.items()
        )
        / sum(rows.values())
        for feature, rows in rows_by_feature.items()
        if any(readers[table] > 1 for table in rows)
    }


def _rows_by_table(scheme: Scheme) -> Counter[str]:
    """Return how many rows one id looks up in each table."""
    rows: Counter[str] = Counter()
    for lookup in scheme.rows(np.empty(0, np.int64)):
        rows[lookup.table] += lookup.rows.shape[1]
    return rows


def observed_collisions(scheme: Scheme, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
    """Return the collisions of a feature's distinct ids [n], weighted by impressions [n]."""
    # lookup j of one id never meets lookup i of another: they fill different places of the vector
    rows = np.concatenate([item.rows + (j << 40) for j, item in enumerate(scheme.rows(ids))], axis=1)
    aux = scheme.aux(ids)
    whole = rows if aux is None else np.concatenate([rows, -1 - aux], axis=1)  # below 0, apart from rows
    return CollisionRate(
        collision_rate(whole, impressions).all_rows, collision_rate(rows, impressions).any_row
    )


def collision_rate(rows: ArrayLike, impressions: ArrayLike) -> CollisionRate:
    """Return the impression-weighted share of ids that collide.

    The k rows of an id count as all the same in whatever order they are, for a sum cannot tell two orders apart.

    Args:
        rows: row numbers [n] or [n, k] of *distinct* ids.
        impressions: [n].

    Raises:
        ValueError: lengths differ or are 0, rows are not integers, or impressions are negative or all zero.
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
    """Return the share of the `num_embeddings` physical rows that any id maps to; rows [n] or [n, k].

    Raises ValueError where `rows` are empty, not integers, or outside 0..num_embeddings-1.
    """
    rows = _row_numbers(rows)
    outside = (rows < 0) | (rows >= num_embeddings)
    if outside.any():
        i = int(outside.any(axis=1).argmax())
        raise ValueError(f"rows at position {i} are {rows[i]}: must lie in 0..{num_embeddings - 1}")
    touched = np.zeros(num_embeddings, bool)
    touched[rows] = True
    return float(touched.mean())


def _row_numbers(rows: ArrayLike) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim not in (1, 2) or rows.size == 0:
        raise ValueError(f"rows have shape {rows.shape}: pass [n] or [n, k] for at least one id")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows have type {rows.dtype}: row numbers are integers")
    return rows.reshape(len(rows), -1)
