"""How often ids of hashed tables are to be expected to collide: formulas that schemes answer with.

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
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class CollisionRate(NamedTuple):
    """Shares of impressions whose id has all of its rows, or at least one row, in common with others.

    all_rows: another id has the same rows. any_row: at least one of the id's rows is used by another id.
    """

    all_rows: float
    any_row: float


NO_COLLISION = CollisionRate(0.0, 0.0)


def row_shared(others: float, num_rows: int) -> float:
    """Return 1 - (1 - 1/N)^others: a given row is drawn by at least one of `others` keys."""
    return _at_least_one(1 / num_rows, others)


def one_bag(num_ids: int, num_rows: int, k: int) -> CollisionRate:
    """Return the rates of k rows an id, summed in one bag; the module has the formula."""
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
    return CollisionRate(all_rows, any_row)


def places_of_their_own(num_ids: int, num_rows: Sequence[int]) -> CollisionRate:
    """Return the rates of a row an id in each of several tables, or parts of tables; the module has the formula."""
    missed = math.prod(1 - row_shared(num_ids - 1, n) for n in num_rows)
    return CollisionRate(_at_least_one(1 / math.prod(num_rows), num_ids - 1), 1 - missed)


def _at_least_one(chance: float, trials: float) -> float:
    """Return 1 - (1 - chance)^trials, exact for chances far below machine precision."""
    if trials <= 0:
        return 0.0
    return 1.0 if chance >= 1 else -math.expm1(trials * math.log1p(-chance))


def _partitions(total: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to write `total` as a sum of falling positive numbers up to `largest`."""
    if total == 0:
        yield ()
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, first):
            yield (first, *rest)
