"""How often ids of hashed tables collide: to be expected, and observed.

Symbols: n distinct ids with impression shares p_i, N rows, k rows an id. Hashes are taken to be independent and
uniform. A rate is Σ p_i P(id i collides); where P is the same for every id, the p_i cancel.

One row an id. Another id misses row h(i) with probability 1 - 1/N, all n - 1 others with its power:

    P(shared) = 1 - (1 - 1/N)^(n-1)

k rows in one bag (multi-hash). The k draws of id i form a multiset of u distinct rows, in counts c_1 + … + c_u = k.
The k(n-1) draws of the others all miss those u rows with probability (1 - u/N)^(k(n-1)); another id draws the same
multiset, in one of k!/Πc! orders, with probability q = k!/Πc! / N^k. Over the patterns c of i's own draws, where
m_j counts the j's among c:

    P(c)        = k!/Πc! · N!/(N-u)! / Πm! / N^k
    P(any row)  = 1 - E[(1 - u/N)^(k(n-1))]
    P(all rows) = 1 - E[(1 - q)^(n-1)]

k rows in places of their own (the chunks of unified and ROBE, the components and importances of hash embeddings).
Place c of one id meets place c of another only; it has N_c rows:

    P(any row)  = 1 - Π (1 - 1/N_c)^(n-1)
    P(all rows) = 1 - (1 - Π 1/N_c)^(n-1)

Across features, memory is what counts: of the (feature, chunk, id) keys of a table, m belong to other features,
and a row is used by one of them with P = 1 - (1 - 1/N)^m.

Observed row numbers are physical and global: where an id's lookups go to several tables, offset each table's rows
first, so that equal numbers mean the same memory.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from recsys_tables.scheme import Scheme
from recsys_tables.schemes import (
    FrequencySplit,
    Full,
    Hash,
    HashEmbedding,
    MixedDimension,
    MultiHash,
    Robe,
    Unified,
)


class CollisionRate(NamedTuple):
    """Share of impressions whose id shares all of its rows with one other id; at least one with any."""

    all_rows: float
    any_row: float


class ExpectedCollisions(NamedTuple):
    """Share of impressions whose id shares all of its rows with one other id; at least one row with any."""

    all_rows: float
    any_row: float


def expected_collisions(
    scheme: Scheme, ids: np.ndarray, impressions: np.ndarray
) -> ExpectedCollisions | None:
    """Rates among the distinct `ids` [n] of the scheme's own feature, `impressions` [n] of each.

    None for a scheme that shares rows by arithmetic, or parts of rows: that can only be observed.
    """
    n = len(ids)
    match scheme:
        case Full() | MixedDimension():
            return ExpectedCollisions(0.0, 0.0)
        case Hash():
            return one_bag(n, scheme.num_embeddings, 1)
        case MultiHash():
            return one_bag(n, scheme.num_embeddings, scheme.num_hashes)
        case FrequencySplit():
            tail = (ids < 0) | (ids >= scheme.num_hot)
            share = float(impressions[tail].sum() / max(impressions.sum(), 1))
            rate = share * row_shared(int(tail.sum()) - 1, scheme.num_tail)
            return ExpectedCollisions(rate, rate)
        case Unified():
            return own_places(n, [scheme.num_embeddings] * (scheme.embedding_dim // scheme.chunk_dim))
        case Robe() if scheme.block_dim <= scheme.embedding_dim:
            return own_places(n, [scheme.num_embeddings] * (scheme.embedding_dim // scheme.block_dim))
        case HashEmbedding():
            return own_places(n, [scheme.num_embeddings] * scheme.num_hashes + [scheme.num_importances])
    return None


def expected_across_features(schemes: Sequence[Scheme], num_ids: Mapping[str, int]) -> dict[str, float]:
    """For each feature that shares a hashed table: of its looked-up rows, those that another feature's id uses too."""
    rows = {scheme.feature: _rows_by_table(scheme) for scheme in schemes}
    keys: Counter[str] = Counter()
    readers: Counter[str] = Counter()
    for feature, own in rows.items():
        readers.update(own.keys())
        keys.update({table: number * num_ids[feature] for table, number in own.items()})
    sizes = {table.name: table.num_embeddings for scheme in schemes for table in scheme.tables()}
    return {
        feature: sum(
            number * row_shared(keys[table] - number * num_ids[feature], sizes[table])
            for table, number in own.items()
        )
        / sum(own.values())
        for feature, own in rows.items()
        if any(readers[table] > 1 for table in own)
    }


def row_shared(others: float, num_rows: int) -> float:
    """1 - (1 - 1/N)^others: a given row is drawn by at least one of `others` keys."""
    return _at_least_one(1 / num_rows, others)


def one_bag(num_ids: int, num_rows: int, k: int) -> ExpectedCollisions:
    """k rows an id, summed in one bag; see the module."""
    all_rows = any_row = 0.0
    for counts in _partitions(k, k):
        distinct = len(counts)
        if distinct > num_rows:
            continue
        orders = math.factorial(k) // math.prod(map(math.factorial, counts))
        alike = math.prod(map(math.factorial, Counter(counts).values()))
        chance = orders * math.perm(num_rows, distinct) / (alike * num_rows**k)
        any_row += chance * _at_least_one(distinct / num_rows, k * (num_ids - 1))
        all_rows += chance * _at_least_one(orders / num_rows**k, num_ids - 1)
    return ExpectedCollisions(all_rows, any_row)


def own_places(num_ids: int, num_rows: Sequence[int]) -> ExpectedCollisions:
    """A row an id of each of several tables or parts of tables, in a place of its own; see the module."""
    missed = math.prod(1 - row_shared(num_ids - 1, n) for n in num_rows)
    return ExpectedCollisions(_at_least_one(1 / math.prod(num_rows), num_ids - 1), 1 - missed)


def _at_least_one(chance: float, trials: float) -> float:
    """1 - (1 - chance)^trials, exact for chances far below machine precision."""
    if trials <= 0:
        return 0.0
    return 1.0 if chance >= 1 else -math.expm1(trials * math.log1p(-chance))


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `total` as a sum of falling positive numbers up to `largest`."""
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)


def _rows_by_table(scheme: Scheme) -> Counter[str]:
    """Rows that one id looks up in each table."""
    found: Counter[str] = Counter()
    for lookup in scheme.rows(np.empty(0, np.int64)):
        found[lookup.table] += lookup.rows.shape[1]
    return found


def observed_collisions(scheme: Scheme, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
    """Collisions of a feature's distinct ids [n], weighted by impressions [n]."""
    # lookup j of one id never meets lookup i of another: they fill different places of the vector
    rows = np.concatenate([item.rows + (j << 40) for j, item in enumerate(scheme.rows(ids))], axis=1)
    aux = scheme.aux(ids)
    whole = rows if aux is None else np.concatenate([rows, -1 - aux], axis=1)  # below 0, apart from rows
    return CollisionRate(
        collision_rate(whole, impressions).all_rows, collision_rate(rows, impressions).any_row
    )


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


def _row_numbers(rows: ArrayLike) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim not in (1, 2) or rows.size == 0:
        raise ValueError(f"rows have shape {rows.shape}: pass [n] or [n, k] for at least one id")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"rows have type {rows.dtype}: row numbers are integers")
    return rows.reshape(len(rows), -1)
