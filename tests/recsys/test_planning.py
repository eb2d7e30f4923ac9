"""The report on planned tables: its bytes are the plan's, its collisions those of the rows, its ranks hold it all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from recsys import planning
from recsys.config import ExperimentConfig, parse_experiment
from recsys.planning import TableReport, fields_of, plan_of, report_tables
from recsys.training.distributed import process_group
from recsys.training.loop import fit, make_model
from recsys.training.size import bytes_of
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.config import FeatureConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_tables.bytes import ResidentBytes
from recsys_tables.distributed import device
from recsys_tables.distributed.sharding import local_shards
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.planning.plan import BudgetError
from recsys_tables.schemes.declared import budget_bytes

CPU = torch.device("cpu")
Configure = Callable[..., ExperimentConfig]
Report = Callable[..., tuple[ExperimentConfig, Rows, TableReport]]
FEATURES = ("user_id", "item_id", "tags")
HASHED = {"features.encoding": "hash"}
OPEN = {"features.unknown": "hash", "features.min_count": 160}
SCHEMES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": ({}, {}),
    "hash": ({"budget": "40%"}, HASHED),
    "multi_hash": ({"budget": "40%"}, HASHED),
    "hash_embedding": ({"budget": "60%"}, HASHED),
    "unified": ({"budget": "40%", "chunk_dim": 4}, HASHED),
    "robe": ({"budget": "40%", "block_dim": 4}, HASHED),
    "frequency_split": ({"budget": "80%"}, OPEN),
    "mem_com": ({"budget": "90%"}, {}),
    "quotient_remainder": ({"budget": "70%"}, {}),
    "mixed_radix": ({"budget": "90%"}, {}),
    "chinese_remainder": ({"budget": "90%"}, {}),
    "path_based": ({"budget": "200%", "hidden_dim": 1}, {}),
    "mixed_dimension": ({"budget": "60%"}, {}),
    "tensor_train": ({"budget": "90%", "max_rank": 2}, {}),
}


@pytest.fixture(scope="session")
def report(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a scheme of SCHEMES over two ranks."""
    root = tmp_path_factory.mktemp("reported")

    def make(
        scheme: str, ranks: int = 2, sharding: Any = "auto", optimizer: Any = "rowwise_adagrad", **keys: Any
    ):
        declared, settings = SCHEMES[scheme]
        config = configure(settings, tables={"scheme": scheme, "embedding_dim": 8} | declared | keys)
        train = rows_of(config, root)
        return config, train, report_tables(config, train, ranks, sharding, optimizer, CPU)

    return make


def parse_features(*declared: dict[str, Any]) -> tuple[Any, ...]:
    return TypeAdapter(tuple[FeatureConfig, ...]).validate_python(declared)


def rows_of(config: ExperimentConfig, root: Path) -> Rows:
    return Rows.load(prepare(config.data, config.features, root).path, "train")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_byte_is_in_one_place(report: Report, scheme: str) -> None:
    config, train, found = report(scheme)
    plan = plan_of(config, train.features)
    parts = [entry.bytes for entry in [*found.features, *found.shared]]
    assert sum(parts, ResidentBytes()) == found.bytes == plan.bytes
    assert [entry.feature for entry in found.features] == list(FEATURES)
    assert sum(rank.parameters for rank in found.ranks) == found.bytes.parameters
    assert {rank.dense for rank in found.ranks} == {found.bytes.dense}, "dense parameters are on every rank"
    adam = 2 * found.bytes.dense
    assert sum(rank.optimizer for rank in found.ranks) == found.bytes.optimizer + adam
    assert [field.scheme for field in fields_of(plan, train.features)] == list(plan.schemes)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_collisions_are_shares_of_the_impressions(report: Report, scheme: str) -> None:
    _, train, found = report(scheme)
    for entry in found.features:
        assert entry.ids == len(np.unique(train.ids_of(entry.feature)))
        assert entry.impressions == len(train.ids_of(entry.feature))
        for rates in (entry.expected, entry.observed):
            for rate in (rates.all_rows, rates.any_row, rates.other_features):
                assert rate is None or 0 <= rate <= 1
        assert entry.observed.all_rows <= entry.observed.any_row
        shares = scheme in ("unified", "robe")
        assert (entry.observed.other_features is not None) is shares
        assert (entry.expected.other_features is not None) is shares
    if scheme in ("full", "mixed_dimension"):
        assert {(e.observed.all_rows, e.observed.any_row) for e in found.features} == {(0.0, 0.0)}
    if scheme in ("path_based", "mem_com", "quotient_remainder", "mixed_radix", "chinese_remainder"):
        assert {entry.observed.all_rows for entry in found.features} == {0.0}, "these tell all ids apart"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_declared_tables_train(configure: Configure, scheme: str, tmp_path: Path) -> None:
    """From YAML to a trained model; what training holds is what was planned."""
    declared, settings = SCHEMES[scheme]
    config = configure(
        settings | {"training.epochs": 1}, tables={"scheme": scheme, "embedding_dim": 8} | declared
    )
    prepared = prepare(config.data, config.features, tmp_path).path
    train, validation = (Rows.load(prepared, split) for split in ("train", "validation"))
    with process_group():
        fitted = fit(config, train, validation)
        pieces = local_shards(fitted.model)
        combines = sum(p.nbytes for p in engine_of(fitted.model).combiner.combines.parameters())
    assert fitted.best["auc"] > 0.55
    planned = plan_of(config, train.features).bytes
    state = sum(value.nbytes for piece in pieces for value in piece.states.values())
    assert sum(piece.weight.nbytes for piece in pieces) == planned.parameters
    assert (state + 2 * combines, combines) == (planned.optimizer, planned.dense)


STATISTICS = [
    ({"kind": "statistic", "columns": ["item_id"]}, 40),
    ({"kind": "statistic", "columns": ["user_id", "item_id"], "of": ["ctr"]}, 100),
    ({"kind": "statistic", "columns": ["user_id"], "folds": 40}, 60),
]


@pytest.mark.parametrize(("declared", "num_ids"), STATISTICS)
@pytest.mark.parametrize("scheme", ["full", "unified"])
def test_statistics_are_counted_for_every_arm_and_in_the_full_table(
    configure: Configure, tmp_path: Path, scheme: str, declared: dict[str, Any], num_ids: int
) -> None:
    """Ids with their place in a perfect hash, and two totals of 8 bytes: as many for 2 folds as for 40."""
    tables, settings = SCHEMES[scheme]
    config = configure(settings, tables={"scheme": scheme, "embedding_dim": 8} | tables)
    plain = plan_of(config, rows_of(config, tmp_path).features)
    with_statistics = config.model_copy(update={"features": (*config.features, *parse_features(declared))})
    train = rows_of(with_statistics, tmp_path)
    plan = plan_of(with_statistics, train.features)
    columns = len(declared["columns"])
    held = 8 * num_ids + sum(
        4 * (len(statistic.ids) * 10 // 7 + 1) + 16 * (len(statistic.ids) + 1)
        for statistic in train.features.statistics
    )
    assert len(train.features.statistics) == columns
    assert (plan.bytes.statistics, plan.full_bytes - plain.full_bytes) == (held, held)
    if tables:
        budget = budget_bytes(tables["budget"], plan.full_bytes)
        assert plan.bytes.total <= budget, "statistics are paid for from the budget"
    found = report_tables(with_statistics, train, 1, "auto", "rowwise_adagrad", CPU)
    parts = [entry.bytes for entry in [*found.features, *found.shared]]
    parts += [ResidentBytes(statistics=held) for held in found.statistics.values()]
    assert sum(parts, ResidentBytes()) == found.bytes == plan.bytes
    assert list(found.to_dict()["statistics"]) == [f"{name}:statistic" for name in declared["columns"]]


NETWORKS: list[dict[str, Any]] = [
    *({"name": name} for name in ("lr", "fm", "fnn", "ipnn", "deepfm", "dcn_v2", "dlrm", "xdeepfm")),
    *({"name": name} for name in ("autoint", "final_mlp")),
    {"name": "deepfm", "hidden": [64, 32]},
    {"name": "dcn_v2", "hidden": [8], "cross_layers": 3},
]


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_the_network_is_counted_beside_the_tables(
    configure: Configure, tmp_path: Path, model: dict[str, Any]
) -> None:
    """Against the model that is trained, whose dense parameters are all but the engine's."""
    config = configure(model=model)
    train = rows_of(config, tmp_path)
    made = make_model(config, train.features)
    held = [*made.network.parameters(), *made.network.buffers()]
    own = {
        id(p) for module in made.modules() if isinstance(module, EmbeddingEngine) for p in module.parameters()
    }
    dense = [parameter for parameter in made.parameters() if id(parameter) not in own]
    found = bytes_of(config, train.features)
    assert found["network"] == sum(value.nbytes for value in held)
    assert found["network_optimizer"] == 2 * sum(parameter.nbytes for parameter in dense), (
        "two moments of Adam"
    )
    plan = plan_of(config, train.features)
    assert found["total"] == plan.bytes.total, "in no budget"
    for optimizer, numbers in (("adagrad", 1), ("sgd", 0), ("adamw", 2)):
        other = bytes_of(config.replace({"training.dense_optimizer": optimizer}), train.features)
        assert other["network_optimizer"] == numbers * sum(parameter.nbytes for parameter in dense)


def test_a_shared_table_stands_once_with_its_features(report: Report) -> None:
    _, _, found = report("unified")
    (shared,) = found.shared
    assert (shared.table, shared.features) == ("unified/shared", list(FEATURES))
    assert shared.bytes.parameters == found.bytes.parameters == 4 * 4 * shared.rows
    assert all(entry.bytes.total == 0 for entry in found.features), "hashed, so not even a vocabulary"
    _, _, dealt = report("unified", num_tables=2)
    assert {table.table for table in dealt.shared} == {"unified/shared_0", "unified/shared_1"}


def test_rows_of_other_features_are_counted_by_impressions(report: Report) -> None:
    """Against one line per lookup."""
    config, train, found = report("unified")
    schemes = {scheme.feature: scheme for scheme in plan_of(config, train.features).schemes}
    used = {
        name: {int(row) for item in scheme.rows(np.unique(train.ids_of(name))) for row in item.rows.ravel()}
        for name, scheme in schemes.items()
    }
    for entry in found.features:
        others = set().union(*(rows for name, rows in used.items() if name != entry.feature))
        looked_up = [
            int(row)
            for item in schemes[entry.feature].rows(train.ids_of(entry.feature))
            for row in item.rows.ravel()
        ]
        assert entry.observed.other_features == pytest.approx(np.mean([row in others for row in looked_up]))


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
def test_sharding_as_asked(report: Report, sharding: str) -> None:
    optimizer = "adagrad" if sharding == "column_wise" else "rowwise_adagrad"
    _, _, found = report("full", 2, sharding, optimizer)
    assert {shard.sharding for rank in found.ranks for shard in rank.shards} == {sharding}
    assert [rank.rank for rank in found.ranks] == [0, 1]
    assert sum(rank.optimizer for rank in found.ranks) == found.bytes.optimizer


@pytest.mark.parametrize("scheme", ["full", "unified", "tensor_train"])
@pytest.mark.parametrize("sharding", ["auto", "table_wise", "row_wise"])
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_on_one_rank_tables_lie_as_the_planner_would_put_them(
    report: Report, monkeypatch: pytest.MonkeyPatch, scheme: str, sharding: str, optimizer: str
) -> None:
    _, _, found = report(scheme, 1, sharding, optimizer)
    monkeypatch.setattr(planning, "whole_on_one_rank", lambda *_: None)
    _, _, planned = report(scheme, 1, sharding, optimizer)
    assert found.ranks == planned.ranks
    assert len(found.ranks[0].shards) > 0


def test_one_rank_refuses_columns_as_several_do(report: Report) -> None:
    with pytest.raises(ValueError, match="column_wise sharding needs an elementwise table optimiser"):
        report("full", 1, "column_wise", "rowwise_adagrad")


def test_tables_that_do_not_fit_one_rank_are_refused(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "container_limits", lambda: [1_000])
    with pytest.raises(
        ValueError, match=r"the tables \([\d,]+ bytes\) cannot be sharded auto over 1 ranks of 1,000"
    ):
        report("full", 1)


def test_an_elementwise_optimiser_leaves_fewer_rows_in_a_budget(report: Report) -> None:
    _, _, rowwise = report("hash", budget="20KB")
    _, _, elementwise = report("hash", optimizer="adagrad", budget="20KB")
    assert elementwise.bytes.optimizer == elementwise.bytes.parameters
    assert 0.5 < sum(e.rows for e in elementwise.features) / sum(e.rows for e in rowwise.features) < 0.6
    assert max(rowwise.bytes.total, elementwise.bytes.total) <= 20_000


def test_what_cannot_be(report: Report) -> None:
    with pytest.raises(ValueError, match="column_wise sharding needs an elementwise table optimiser"):
        report("full", 2, "column_wise")
    with pytest.raises(BudgetError, match="the budget 9B is 9"):
        report("hash", budget="9B")


def test_to_dict_is_plain(report: Report) -> None:
    _, _, found = report("mixed_dimension")
    again = json.loads(json.dumps(found.to_dict()))
    assert again["bytes"] == found.bytes.to_dict()
    assert sum(entry["bytes"]["total"] for entry in again["features"]) == again["bytes"]["total"]
    assert isinstance(found, TableReport)


def test_lists_that_are_all_empty_have_no_rates(log: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(log).slice(0, 400)
    empty = pa.array([[]] * 400, pa.list_(pa.int64()))
    pq.write_table(table.set_column(3, "tags", empty), tmp_path / "empty.parquet")
    raw = {
        "name": "empty",
        "data": {"source": "table", "path": str(tmp_path / "empty.parquet")},
        "features": [
            {"kind": "categorical", "names": ["item_id"], "encoding": "hash"},
            {"kind": "categorical", "names": ["tags"], "encoding": "hash", "multivalued": True},
        ],
        "tables": {"scheme": "unified", "embedding_dim": 8, "budget": "50%"},
        "model": {"name": "lr"},
    }
    config = parse_experiment(raw, "empty.yaml")
    items, tags = report_tables(config, rows_of(config, tmp_path), 1, "auto", "rowwise_adagrad", CPU).features
    assert (tags.ids, tags.observed.all_rows, tags.expected.all_rows) == (0, None, None)
    assert items.observed.other_features == 0
