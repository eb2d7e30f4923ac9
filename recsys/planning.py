"""The tables of an experiment are planned for its fitted features, and the plan is reported."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.config import ExperimentConfig
from recsys.config.models import targets_of
from recsys_cython_ext import count_ids
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_tables.bytes import (
    OptimizerName,
    ResidentBytes,
    combine_bytes,
    map_bytes,
    optimizer_row_bytes,
    table_bytes,
)
from recsys_tables.config import Sharding
from recsys_tables.distributed.device import default_device
from recsys_tables.distributed.placement import Placement, whole_on_one_rank
from recsys_tables.field import Field
from recsys_tables.planning.collisions import expected_across_features, observed_collisions
from recsys_tables.planning.plan import TablePlan, plan_tables
from recsys_tables.scheme import WEIGHT_BYTES, Precision, Scheme, unique_tables
from recsys_tables.schemes.allocation import FeatureSize

if TYPE_CHECKING:
    import torch


def plan_of(
    config: ExperimentConfig, features: Features, optimizer: OptimizerName | None = None
) -> TablePlan:
    """Plan schemes, bytes with the state of `optimizer` (the config's unless named), and the full table's bytes.

    Raises BudgetError when they do not fit.
    """
    return plan_tables(
        config.tables,
        sizes_of(config, features),
        optimizer or config.training.table_optimizer,
        statistics_bytes(features),
    )


def sizes_of(config: ExperimentConfig, features: Features) -> list[FeatureSize]:
    """Return what the ids of each categorical feature need."""
    return [
        FeatureSize(
            feature.name,
            feature.num_codes,
            feature.full_codes,
            feature.vocabulary_bytes,
            feature.full_vocabulary_bytes,
            open=feature.unknown == "hash",
            reads=targets_of(config.model).get(feature.name),
        )
        for feature in features.categorical
    ]


def statistics_bytes(features: Features) -> int:
    """Count what the features hold of ids beside vocabularies."""
    return sum(statistic.nbytes for statistic in features.statistics)


def fields_of(plan: TablePlan, features: Features, unpooled: Collection[str] = ()) -> list[Field]:
    """Return the engine's fields: each feature's planned scheme, its pooling, and whether its bags have weights.

    `unpooled` are features that the model reads as sequences, whatever their declared pooling.
    """
    return [
        Field(
            scheme,
            pooling="none" if feature.name in unpooled else feature.pooling,  # type: ignore[arg-type]
            multivalued=feature.multivalued,
            weighted=feature.weighted,
        )
        for scheme, feature in zip(plan.schemes, features.categorical, strict=True)
    ]


@dataclass(frozen=True)
class Collisions:
    """Shares of a feature's impressions, either expected or observed; None where a rate has no meaning.

    all_rows: the id has all of its rows, and its path or its slots of them, in common with one other id of the
    feature, so that their vectors are one; any_row: one or more rows with any.
    other_features: of the rows looked up in shared tables, those that an id of another feature uses too.
    """

    all_rows: float | None = None
    any_row: float | None = None
    other_features: float | None = None


@dataclass(frozen=True)
class FeatureReport:
    """One feature: `ids` distinct in training, rows and width of all its tables, and the bytes of what is its alone."""

    feature: str
    scheme: str
    ids: int
    impressions: int
    rows: int
    width: int
    tables: list[str]
    bytes: ResidentBytes
    expected: Collisions
    observed: Collisions


@dataclass(frozen=True)
class SharedTable:
    """A physical table that several features read."""

    table: str
    features: list[str]
    rows: int
    width: int
    bytes: ResidentBytes


@dataclass(frozen=True)
class RankReport:
    """A rank's shards and their bytes; codes, dense parameters and their optimiser's state are on every rank."""

    rank: int
    parameters: int
    optimizer: int
    codes: int
    dense: int
    shards: list[Placement]


@dataclass(frozen=True)
class TableReport:
    """The plan of an experiment's tables.

    `bytes` is the sum over features, shared tables and `statistics`, by name, and of the codes that features share.
    """

    name: str
    scheme: str
    budget: str | None
    optimizer: str
    bytes: ResidentBytes
    full_bytes: int
    features: list[FeatureReport]
    shared: list[SharedTable]
    statistics: dict[str, int]
    sharding: str
    ranks: list[RankReport]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; every `bytes` by kind, with totals."""
        plain = asdict(self) | {"bytes": self.bytes.to_dict()}
        for key in ("features", "shared"):
            for entry, part in zip(plain[key], getattr(self, key), strict=True):
                entry["bytes"] = part.bytes.to_dict()
        return plain


def report_tables(
    config: ExperimentConfig,
    train: Rows,
    ranks: int,
    sharding: Sharding,
    optimizer: OptimizerName,
    device: "torch.device | None" = None,
) -> TableReport:
    """Plan the tables for the rows of training, and shard them over `ranks` on `device`; needs no process group.

    The device is this machine's GPU where it has one, unless given.
    Raises BudgetError when they do not fit, ValueError when they cannot be sharded so.
    """
    plan = plan_of(config, train.features, optimizer)
    readers = _readers(plan.schemes)
    counted = {scheme.feature: count_ids(train.ids_of(scheme.feature)) for scheme in plan.schemes}
    expected = expected_across_features(plan.schemes, {name: len(ids) for name, (ids, _) in counted.items()})
    observed = _across_features(plan.schemes, counted)
    features = []
    for scheme, fitted in zip(plan.schemes, train.features.categorical, strict=True):
        name, tables = scheme.feature, unique_tables([scheme], config.tables.precision)
        unshared = table_bytes([table for table in tables if len(readers[table.name]) == 1], optimizer)
        features.append(
            FeatureReport(
                feature=name,
                scheme=type(scheme).__name__,
                ids=len(counted[name][0]),
                impressions=int(counted[name][1].sum()),
                rows=sum(table.num_embeddings for table in tables),
                width=scheme.embedding_dim,
                tables=[table.name for table in tables],
                bytes=unshared
                + combine_bytes(scheme)
                + ResidentBytes(vocabulary=fitted.vocabulary_bytes, remaps=map_bytes([scheme]).remaps),
                expected=_expected(scheme, *counted[name], expected.get(name)),
                observed=_observed(scheme, *counted[name], observed.get(name)),
            )
        )
    return TableReport(
        name=config.name,
        scheme=config.tables.scheme,
        budget=config.tables.budget,
        optimizer=optimizer,
        bytes=plan.bytes,
        full_bytes=plan.full_bytes,
        features=features,
        shared=_shared_tables(plan.schemes, readers, optimizer, config.tables.precision),
        statistics={statistic.name: statistic.nbytes for statistic in train.features.statistics},
        sharding=sharding,
        ranks=_ranks(plan, config, train, ranks, sharding, optimizer, device),
    )


def _shared_tables(
    schemes: Sequence[Scheme],
    readers: Mapping[str, list[str]],
    optimizer: OptimizerName,
    precision: Precision,
) -> list[SharedTable]:
    return [
        SharedTable(
            table.name,
            readers[table.name],
            table.num_embeddings,
            table.embedding_dim,
            table_bytes([table], optimizer),
        )
        for table in unique_tables(schemes, precision)
        if len(readers[table.name]) > 1
    ]


def _readers(schemes: Sequence[Scheme]) -> dict[str, list[str]]:
    """Return the features that read each table, by its name."""
    readers: dict[str, list[str]] = {}
    for scheme in schemes:
        for table in scheme.tables():
            readers.setdefault(table.name, []).append(scheme.feature)
    return readers


def _expected(scheme: Scheme, ids: np.ndarray, impressions: np.ndarray, others: float | None) -> Collisions:
    rates = scheme.expected_collisions(ids, impressions) if len(ids) else None
    all_rows, any_row = rates or (None, None)
    return Collisions(all_rows, any_row, others)


def _observed(scheme: Scheme, ids: np.ndarray, impressions: np.ndarray, others: float | None) -> Collisions:
    if len(ids) == 0:  # lists that are all empty in training
        return Collisions()
    return Collisions(*observed_collisions(scheme, ids, impressions), others)


def _across_features(
    schemes: Sequence[Scheme], counted: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """Return, by feature that reads a shared table, the share of its looked-up rows that another's id uses too.

    Rows count by impressions.
    """
    lookups = {scheme.feature: scheme.rows(counted[scheme.feature][0]) for scheme in schemes}
    readers = _readers(schemes)
    users = {  # of each row: how many features' ids
        table.name: np.zeros(table.num_embeddings, np.int32)
        for table in unique_tables(schemes)
        if len(readers[table.name]) > 1
    }
    for items in lookups.values():
        for table in {item.table for item in items} & users.keys():
            users[table][np.unique([item.rows for item in items if item.table == table])] += 1
    shares = {}
    for feature, items in lookups.items():
        ids, impressions = counted[feature]
        if len(ids) and any(item.table in users for item in items):
            hits = [
                users[item.table][item.rows] > 1 if item.table in users else np.zeros(item.rows.shape, bool)
                for item in items
            ]
            by_id = np.concatenate(hits, axis=1).mean(axis=1)
            shares[feature] = float(np.average(by_id, weights=impressions))
    return shares


def _ranks(
    plan: TablePlan,
    config: ExperimentConfig,
    train: Rows,
    ranks: int,
    sharding: Sharding,
    optimizer: OptimizerName,
    device: "torch.device | None",
) -> list[RankReport]:
    precision = config.tables.precision
    tables = unique_tables(plan.schemes, precision)
    shards = whole_on_one_rank(tables, sharding, optimizer) if ranks == 1 else None
    if shards is None:
        shards = _planned(plan, config, train, ranks, sharding, optimizer, device)
    dense = sum((combine_bytes(scheme) for scheme in plan.schemes), ResidentBytes())
    return [
        RankReport(
            rank,
            parameters=WEIGHT_BYTES[precision] * sum(shard.num_weights for shard in on_rank),
            optimizer=dense.optimizer
            + sum(shard.rows * optimizer_row_bytes(shard.columns, optimizer) for shard in on_rank),
            codes=plan.bytes.codes,
            dense=dense.dense,
            shards=on_rank,
        )
        for rank in range(ranks)
        for on_rank in [[shard for shard in shards if shard.rank == rank]]
    ]


def _planned(
    plan: TablePlan,
    config: ExperimentConfig,
    train: Rows,
    ranks: int,
    sharding: Sharding,
    optimizer: OptimizerName,
    device: "torch.device | None",
) -> list[Placement]:
    """Return the shards that TorchRec's planner makes."""
    import torch  # here, so that a plan alone needs no torch

    from recsys_tables.distributed.sharding import TableOptimizer, placements, plan_sharding
    from recsys_tables.engine.engine import EmbeddingEngine

    fields = fields_of(plan, train.features, targets_of(config.model))
    engine = EmbeddingEngine(fields, torch.device("meta"), config.tables.precision)
    trained_by = TableOptimizer(optimizer, lr=config.training.table_lr)
    trained_by.attach(engine)
    lists = [feature.name for feature in train.features.categorical if feature.multivalued]
    lengths = {name: len(train.ids_of(name)) / len(train) for name in lists}
    return placements(plan_sharding(engine, sharding, trained_by, ranks, device or default_device(), lengths))
