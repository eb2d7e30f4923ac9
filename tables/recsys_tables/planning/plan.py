"""From declared tables and a byte budget to one scheme per feature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recsys_tables.bytes import OptimizerName, ResidentBytes, optimizer_row_bytes, resident_bytes
from recsys_tables.config import (
    AutoDimTables,
    AutoSrhTables,
    ChineseRemainderTables,
    CompactTables,
    DeepLightTables,
    FrequencySplitTables,
    FullTables,
    HashEmbeddingTables,
    HashTables,
    MdeTables,
    MEmComTables,
    MixedDimensionTables,
    MixedRadixTables,
    MultiHashTables,
    OptEmbedTables,
    PathBasedTables,
    PepTables,
    QuotientRemainderTables,
    RobeTables,
    TablesConfig,
    TensorTrainTables,
    UnifiedTables,
    budget_bytes,
)
from recsys_tables.planning import allocation_codes, allocation_hashed, allocation_learners
from recsys_tables.planning.allocation import Builder, FeatureSize, largest_options
from recsys_tables.scheme import Scheme
from recsys_tables.schemes import Shared

__all__ = ["BudgetError", "FeatureSize", "TablePlan", "full_table_bytes", "plan_tables"]

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
    config: TablesConfig,
    features: Sequence[FeatureSize],
    optimizer: OptimizerName = "rowwise_adagrad",
    statistics_bytes: int = 0,
) -> TablePlan:
    """One scheme per feature, the largest that fit the budget when `optimizer` trains the tables.

    `statistics_bytes` of id -> number tables stand beside them, whatever the scheme, and beside the full table too.

    Raises BudgetError when the budget cannot hold the tables, ValueError when a scheme that needs
    vocabulary codes meets a hashed feature.
    """
    vocabulary = sum(feature.vocabulary_bytes for feature in features)
    full_bytes = full_table_bytes(config.budget_embedding_dim, features, optimizer) + statistics_bytes
    build_own = _builder(config, [feature for feature in features if feature.reads is None], optimizer)

    def build(share: float) -> tuple[Scheme, ...]:
        own = {scheme.feature: scheme for scheme in build_own(share)}
        return tuple(
            own[feature.name] if feature.reads is None else Shared(feature.name, own[feature.reads])
            for feature in features
        )

    def weigh(share: float) -> ResidentBytes:
        return resident_bytes(build(share), vocabulary, optimizer, statistics_bytes)

    budget = config.budget
    share = 1.0 if budget is None else _largest_share(weigh, budget, budget_bytes(budget, full_bytes))
    return TablePlan(build(share), weigh(share), full_bytes)


def full_table_bytes(
    embedding_dim: int, features: Sequence[FeatureSize], optimizer: OptimizerName = "rowwise_adagrad"
) -> int:
    """Resident bytes of the full table over every id seen in training: what a budget of '100%' means."""
    row = 4 * embedding_dim + optimizer_row_bytes(embedding_dim, optimizer)
    return sum(feature.full_codes * row + feature.full_vocabulary_bytes for feature in features)


_BUILDERS: dict[type, Callable[..., Builder]] = {
    FullTables: allocation_codes.full,
    CompactTables: allocation_codes.compact,
    OptEmbedTables: allocation_learners.opt_embed,
    PepTables: allocation_learners.pep,
    DeepLightTables: allocation_learners.deep_light,
    AutoDimTables: allocation_learners.auto_dim,
    AutoSrhTables: allocation_learners.auto_srh,
    MdeTables: allocation_learners.mde,
    HashTables: allocation_hashed.hash_,
    MultiHashTables: allocation_hashed.multi_hash,
    HashEmbeddingTables: allocation_hashed.hash_embedding,
    MEmComTables: allocation_hashed.mem_com,
    FrequencySplitTables: allocation_hashed.frequency_split,
    UnifiedTables: allocation_hashed.unified,
    RobeTables: allocation_hashed.robe,
    QuotientRemainderTables: allocation_codes.quotient_remainder,
    MixedDimensionTables: allocation_codes.mixed_dimension,
}
_MENUS: dict[type, Callable[..., allocation_codes.Menu]] = {
    MixedRadixTables: allocation_codes.mixed_radix,
    ChineseRemainderTables: allocation_codes.chinese_remainder,
    PathBasedTables: allocation_codes.path_based,
    TensorTrainTables: allocation_codes.tensor_train,
}


def _builder(config: TablesConfig, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
    if type(config) in _BUILDERS:
        return _BUILDERS[type(config)](config, features)
    menu = _MENUS[type(config)]
    row = 4 * config.embedding_dim + optimizer_row_bytes(config.embedding_dim, optimizer)
    return largest_options(
        [menu(config, feature) for feature in features],
        [feature.num_ids * row for feature in features],
        lambda scheme: resident_bytes([scheme], 0, optimizer).total,
    )


def _largest_share(weigh: Callable[[float], ResidentBytes], budget: str, budget_bytes: int) -> float:
    """Bisect for the most rows per id that fit; bytes only grow with the share."""
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
