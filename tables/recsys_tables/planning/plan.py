"""The way from declared tables and a byte budget to one scheme per feature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recsys_tables.bytes import OptimizerName, ResidentBytes, resident_bytes, row_bytes
from recsys_tables.scheme import Scheme
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import Declaration, budget_bytes
from recsys_tables.schemes.shared import Shared

MAX_SHARE = 16.0  # hashed tables may be this many times larger than the number of ids


class BudgetError(ValueError):
    """The declared tables do not fit their budget; `needed` is the bytes of the smallest such tables."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


@dataclass(frozen=True)
class TablePlan:
    """The schemes of all features and what they weigh beside the full table."""

    schemes: tuple[Scheme, ...]
    bytes: ResidentBytes
    full_bytes: int


def plan_tables(
    config: Declaration,
    features: Sequence[FeatureSize],
    optimizer: OptimizerName = "rowwise_adagrad",
    statistics_bytes: int = 0,
) -> TablePlan:
    """Plan one scheme per feature, the largest that fit the budget when `optimizer` trains the tables.

    `statistics_bytes` of id -> number tables stand beside them, whatever the scheme, and beside the full table too.

    Raises BudgetError when the budget cannot hold the tables, ValueError when a scheme that needs
    vocabulary codes meets a hashed feature.
    """
    vocabulary = sum(feature.vocabulary_bytes for feature in features)
    full_bytes = full_table_bytes(config.budget_embedding_dim, features, optimizer) + statistics_bytes
    owners = [feature for feature in features if feature.reads is None]
    config.check([feature.name for feature in owners])
    build_owners = config.builder(owners, optimizer)

    def build(share: float) -> tuple[Scheme, ...]:
        schemes = {scheme.feature: scheme for scheme in build_owners(share)}
        return tuple(
            schemes[feature.name] if feature.reads is None else Shared(feature.name, schemes[feature.reads])
            for feature in features
        )

    def weigh(share: float) -> ResidentBytes:
        return resident_bytes(build(share), vocabulary, optimizer, statistics_bytes, config.precision)

    budget = config.budget
    share = 1.0 if budget is None else _largest_share(weigh, budget, budget_bytes(budget, full_bytes))
    return TablePlan(build(share), weigh(share), full_bytes)


def full_table_bytes(
    embedding_dim: int, features: Sequence[FeatureSize], optimizer: OptimizerName = "rowwise_adagrad"
) -> int:
    """Return the resident bytes of the full table over every id of training: what a budget of '100%' means.

    Its weights are fp32, whatever the precision of those that are planned.
    """
    row = row_bytes(embedding_dim, optimizer)
    return sum(feature.full_codes * row + feature.full_vocabulary_bytes for feature in features)


def _largest_share(weigh: Callable[[float], ResidentBytes], budget: str, budget_bytes: int) -> float:
    """Bisect for the most rows per id that fit; bytes only grow with the share. Raises BudgetError where none do."""
    low, high = 0.0, MAX_SHARE
    if (least := weigh(low)).total > budget_bytes:
        statistics = f", {least.statistics:,} statistics" if least.statistics else ""
        raise BudgetError(
            f"the smallest such tables need {least.total:,} bytes ({least.vocabulary:,} of them vocabularies{statistics}), "
            f"the budget {budget} is {budget_bytes:,}; take a smaller embedding_dim, a higher min_count, "
            "or a scheme without a vocabulary",
            least.total,
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if weigh(middle).total <= budget_bytes else (low, middle)
    return low
