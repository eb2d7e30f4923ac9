"""Budgets of schemes that hash: rows follow the share. One builder a scheme."""

from collections.abc import Sequence

from recsys_tables.config import (
    FrequencySplitTables,
    HashEmbeddingTables,
    HashTables,
    MEmComTables,
    MultiHashTables,
    RobeTables,
    UnifiedTables,
)
from recsys_tables.planning.allocation import Builder, FeatureSize, rows_by_feature, whole_rows
from recsys_tables.scheme import MAX_ROWS, Scheme
from recsys_tables.schemes import (
    FrequencySplit,
    Full,
    Hash,
    HashEmbedding,
    MEmCom,
    MultiHash,
    Robe,
    Unified,
)


def hash_(config: HashTables, features: Sequence[FeatureSize]) -> Builder:
    """A table per feature."""
    rows = rows_by_feature([feature.num_ids for feature in features], config.allocation)

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            Hash(feature.name, n, config.embedding_dim, config.init_bound)
            for feature, n in zip(features, rows(share), strict=True)
        )

    return build


def multi_hash(config: MultiHashTables, features: Sequence[FeatureSize]) -> Builder:
    """A table per feature."""
    rows = rows_by_feature([feature.num_ids for feature in features], config.allocation)

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            MultiHash(feature.name, n, config.embedding_dim, config.num_hashes, config.init_bound)
            for feature, n in zip(features, rows(share), strict=True)
        )

    return build


def hash_embedding(config: HashEmbeddingTables, features: Sequence[FeatureSize]) -> Builder:
    """Two tables per feature, of components and of importances, in a fixed ratio of rows."""
    rows = rows_by_feature([feature.num_ids for feature in features], config.allocation)

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            HashEmbedding(
                feature.name,
                components,
                importances,
                config.embedding_dim,
                config.num_hashes,
                config.init_bound,
            )
            for feature, components, importances in zip(
                features, rows(share), rows(share * config.importances_per_row), strict=True
            )
        )

    return build


def mem_com(config: MEmComTables, features: Sequence[FeatureSize]) -> Builder:
    """Hashed rows, dealt by the share, and a multiplier for every id."""
    codes = [feature.codes("mem_com") for feature in features]
    rows = rows_by_feature(codes, config.allocation)

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            MEmCom(feature.name, num_ids, n, config.embedding_dim, config.init_bound)
            for feature, num_ids, n in zip(features, codes, rows(share), strict=True)
        )

    return build


def frequency_split(config: FrequencySplitTables, features: Sequence[FeatureSize]) -> Builder:
    """A row for every code of an open vocabulary; the share deals rows to the ids outside it."""
    hot = [feature.open_codes("frequency_split") for feature in features]
    rows = rows_by_feature(
        [feature.full_codes - num_hot for feature, num_hot in zip(features, hot, strict=True)],
        config.allocation,
    )

    def build(share: float) -> tuple[Scheme, ...]:
        return tuple(
            FrequencySplit(feature.name, num_hot, tail, config.embedding_dim, config.init_bound)
            for feature, num_hot, tail in zip(features, hot, rows(share), strict=True)
        )

    return build


def unified(config: UnifiedTables, features: Sequence[FeatureSize]) -> Builder:
    """One table for all features but those small enough for rows of their own; it is its own allocation."""
    small = {f.name for f in features if not f.open and (f.num_codes or MAX_ROWS) <= config.own_rows_up_to}
    ids = sum(feature.num_ids for feature in features if feature.name not in small)
    chunks = config.embedding_dim // config.chunk_dim

    def build(share: float) -> tuple[Scheme, ...]:
        rows = whole_rows(share * ids * chunks / config.num_tables)
        return tuple(
            Full(feature.name, feature.codes("unified"), config.embedding_dim, config.init_bound)
            if feature.name in small
            else Unified(
                feature.name,
                rows,
                config.embedding_dim,
                config.chunk_dim,
                init_bound=config.init_bound,
                num_tables=config.num_tables,
            )
            for feature in features
        )

    return build


def robe(config: RobeTables, features: Sequence[FeatureSize]) -> Builder:
    """One array for all features; it is its own allocation."""
    blocks = sum(feature.num_ids for feature in features) * config.embedding_dim / config.block_dim

    def build(share: float) -> tuple[Scheme, ...]:
        rows = whole_rows(share * blocks)
        return tuple(
            Robe(
                feature.name,
                rows,
                config.embedding_dim,
                config.block_dim,
                signs=config.signs,
                init_bound=config.init_bound,
            )
            for feature in features
        )

    return build
