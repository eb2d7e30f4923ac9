"""From declared tables and a byte budget to one scheme per feature."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recsys_tables.bytes import OPTIMIZER_BYTES_PER_ROW, ResidentBytes, resident_bytes
from recsys_tables.config import (
    FullTables,
    HashTables,
    QuotientRemainderTables,
    TablesConfig,
    UnifiedTables,
    budget_bytes,
)
from recsys_tables.scheme import MAX_ROWS, Scheme
from recsys_tables.schemes import Full, Hash, QuotientRemainder, Unified

MAX_SHARE = 16.0  # hashed tables may be this many times larger than the number of ids


class BudgetError(ValueError):
    """The declared tables do not fit their budget; `needed` is the bytes of the smallest such tables."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class FeatureSize:
    """What a feature's ids need.

    `num_codes` counts the codes of its vocabulary, reserved ones included, None when ids are hashed;
    `full_codes` those of a vocabulary that holds every id of training, whatever the minimum count.
    `vocabulary_bytes` and `full_vocabulary_bytes` are the resident sizes of the two.
    """

    name: str
    num_codes: int | None
    full_codes: int
    vocabulary_bytes: int
    full_vocabulary_bytes: int


@dataclass(frozen=True)
class TablePlan:
    """The schemes of all features and what they weigh beside the full table."""

    schemes: tuple[Scheme, ...]
    bytes: ResidentBytes
    full_bytes: int


def plan_tables(config: TablesConfig, features: Sequence[FeatureSize]) -> TablePlan:
    """One scheme per feature, the largest that fit the budget.

    Raises BudgetError when the budget cannot hold the tables, ValueError when a scheme that needs
    vocabulary codes meets a hashed feature.
    """
    vocabulary = sum(feature.vocabulary_bytes for feature in features)
    full_bytes = full_table_bytes(config.budget_embedding_dim, features)
    build = _BUILDERS[type(config)](config, features)

    def weigh(share: float) -> ResidentBytes:
        return resident_bytes(build(share), vocabulary)

    budget = config.budget
    share = 1.0 if budget is None else _largest_share(weigh, budget, budget_bytes(budget, full_bytes))
    return TablePlan(build(share), weigh(share), full_bytes)


def full_table_bytes(embedding_dim: int, features: Sequence[FeatureSize]) -> int:
    """Resident bytes of the full table over every id seen in training: what a budget of '100%' means."""
    row = 4 * embedding_dim + OPTIMIZER_BYTES_PER_ROW
    return sum(feature.full_codes * row + feature.full_vocabulary_bytes for feature in features)


Builder = Callable[[float], tuple[Scheme, ...]]  # rows per id -> schemes


def _full(config: FullTables, features: Sequence[FeatureSize]) -> Builder:
    schemes = tuple(
        Full(feature.name, _codes(feature, "full"), config.embedding_dim, config.init_bound)
        for feature in features
    )
    return lambda share: schemes


def _hash(config: HashTables, features: Sequence[FeatureSize]) -> Builder:
    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            Hash(feature.name, _rows(share * _ids(feature)), config.embedding_dim, config.init_bound)
            for feature in features
        )

    return build


def _quotient_remainder(config: QuotientRemainderTables, features: Sequence[FeatureSize]) -> Builder:
    def build(share: float) -> tuple[Scheme, ...]:
        schemes = []
        for feature in features:
            codes = _codes(feature, "quotient_remainder")
            divisor = _divisor(codes, share)
            schemes.append(
                QuotientRemainder(
                    feature.name, codes, divisor, config.embedding_dim, config.operation, config.init_bound
                )
            )
        return tuple(schemes)

    return build


def _unified(config: UnifiedTables, features: Sequence[FeatureSize]) -> Builder:
    ids = sum(_ids(feature) for feature in features)
    chunks = config.embedding_dim // config.chunk_dim

    def build(share: float) -> tuple[Scheme, ...]:
        rows = _rows(share * ids * chunks)
        return tuple(
            Unified(feature.name, rows, config.embedding_dim, config.chunk_dim, init_bound=config.init_bound)
            for feature in features
        )

    return build


_BUILDERS: dict[type, Callable[..., Builder]] = {
    FullTables: _full,
    HashTables: _hash,
    QuotientRemainderTables: _quotient_remainder,
    UnifiedTables: _unified,
}


def _largest_share(weigh: Callable[[float], ResidentBytes], budget: str, budget_bytes: int) -> float:
    """Bisect for the most rows per id that fit; bytes only grow with the share."""
    low, high = 0.0, MAX_SHARE
    if (least := weigh(low)).total > budget_bytes:
        raise BudgetError(
            f"the smallest such tables need {least.total:,} bytes ({least.vocabulary:,} of them vocabularies), "
            f"the budget {budget} is {budget_bytes:,}; take a smaller embedding_dim, a higher min_count, "
            "or a scheme without a vocabulary",
            least.total,
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if weigh(middle).total <= budget_bytes else (low, middle)
    return low


def _rows(wanted: float) -> int:
    """At least one row, and no more than a table can number."""
    return max(1, min(int(wanted), MAX_ROWS - 1))


def _ids(feature: FeatureSize) -> int:
    return feature.full_codes if feature.num_codes is None else feature.num_codes


def _codes(feature: FeatureSize, scheme: str) -> int:
    if feature.num_codes is None:
        raise ValueError(
            f"feature {feature.name!r} is hashed, but the scheme {scheme!r} needs vocabulary codes; "
            "set `encoding: vocabulary` for it"
        )
    return feature.num_codes


def _divisor(ids: int, share: float) -> int:
    """Smallest m whose ⌈ids/m⌉ + m rows are at most share · ids, else the m of fewest rows, ⌈√ids⌉."""
    rows = share * ids
    fewest = math.isqrt(ids - 1) + 1 if ids > 1 else 1
    if rows * rows < 4 * ids:
        return fewest
    return min(fewest, max(1, math.ceil((rows - math.sqrt(rows * rows - 4 * ids)) / 2)))
