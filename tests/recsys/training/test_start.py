"""A compact model is an ordinary configuration: ids to keep, widths, and inherited weights to begin from."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from recsys.config import ExperimentConfig, parse_experiment
from recsys.planning import plan_of
from recsys.serving.export import check, export
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.vocabulary import table_bytes
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.lookup import lookup

run_ranks = runpy.run_path(str(Path(__file__).parents[2] / "tables" / "conftest.py"))["run_ranks"]

Configure = Callable[..., ExperimentConfig]
KEPT = {"user_id": 20, "item_id": 9, "tags": 5}  # the most frequent ids of each
WIDTHS = {"user_id": 8, "item_id": 4, "tags": 4}
PLAIN = {  # steps that depend on nothing but weights and one batch of all rows
    **{"training.batch_size": 5120, "training.evaluations_per_epoch": 1, "training.patience": 9},
    **{"training.table_optimizer": "sgd", "training.dense_optimizer": "sgd"},
    **{"training.table_lr": 5.0, "training.dense_lr": 0.2},
}


def tables(**keys: Any) -> dict[str, Any]:
    return {"scheme": "compact", "embedding_dim": 8, "widths": WIDTHS, **keys}


@pytest.fixture(scope="module")
def kept(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of the ids that stay."""
    folder = tmp_path_factory.mktemp("kept")
    for feature in prepared.features().categorical:
        np.save(folder / f"{feature.name}.npy", np.sort(feature.ids[: KEPT[feature.name]]))
    return folder


@pytest.fixture(scope="module")
def compact(configure: Configure, kept: Path) -> ExperimentConfig:
    return configure({"features.keep": str(kept), "training.epochs": 1}, tables=tables())


@pytest.fixture(scope="module")
def small(compact: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(compact.data, compact.features, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def trained(compact: ExperimentConfig, small: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(compact, small, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def inherited(small: Prepared, compact: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file of tables whose values nothing else would begin with."""
    file = tmp_path_factory.mktemp("start") / "inherited.safetensors"
    every = [table for scheme in plan_of(compact, small.features()).schemes for table in scheme.tables()]
    save_file(
        {f"table/{t.name}": torch.full((t.num_embeddings, t.embedding_dim), 0.2) for t in every}
        | {"dense/network.linear.bias": torch.full((1,), -1.0)},
        file,
    )
    return file


def test_bytes_are_those_of_what_is_kept(trained: Run, run: Run) -> None:
    found = trained.metrics["bytes"]
    rows = {name: 2 + count for name, count in KEPT.items()}
    assert found["parameters"] == 4 * sum(rows[name] * WIDTHS[name] for name in rows)
    assert found["optimizer"] == 4 * sum(rows.values())
    assert found["vocabulary"] == sum(table_bytes(count) for count in KEPT.values())
    assert found["full_table"] == run.metrics["bytes"]["full_table"], "a share of it means as much as before"
    saved = Checkpoint(trained.path / "checkpoint").tables()
    assert {name: table.shape for name, table in saved.items()} == {
        f"{name}/compact": (rows[name], WIDTHS[name]) for name in rows
    }


def test_pruned_ids_share_the_row_of_unknown_ids(
    trained: Run, prepared: Prepared, compact: ExperimentConfig
) -> None:
    features = Features.load(trained.path / "features")
    request = [{"user_id": f"u{i}", "item_id": i % 40, "tags": [i % 12], "x": 0.0} for i in range(60)]
    full, encoded = (
        found.transform(request)["user_id"].to_numpy().astype(np.int64)
        for found in (prepared.features(), features)
    )
    pruned = full >= 2 + KEPT["user_id"]
    assert np.array_equal(encoded[~pruned], full[~pruned]), (
        "ids that stay keep their order, and so their codes"
    )
    assert (encoded[pruned] == 1).all()
    saved = Checkpoint(trained.path / "checkpoint").tables()
    scheme, *_ = plan_of(compact, features).schemes
    vectors = lookup(scheme, saved, encoded)
    assert (vectors[pruned] == saved["user_id/compact"][1]).all()
    assert len(np.unique(vectors, axis=0)) == 1 + KEPT["user_id"]


def test_zeros_in_its_place_and_a_field_without_a_table(
    compact: ExperimentConfig, small: Prepared, trained: Run, tmp_path: Path
) -> None:
    config = compact.replace({"tables.unknown": "zero", "tables.widths.tags": 0})
    other = train(config, small, tmp_path)
    saved = Checkpoint(other.path / "checkpoint").tables()
    schemes = {scheme.feature: scheme for scheme in plan_of(config, small.features()).schemes}
    assert len(saved["user_id/compact"]) == 1 + KEPT["user_id"]
    assert lookup(schemes["user_id"], saved, np.arange(4)).any(axis=1).tolist() == [True, False, True, True]
    assert not lookup(schemes["tags"], saved, np.arange(2 + KEPT["tags"])).any()
    assert other.metrics["fields"]["tags"]["effective_rank"] == 0
    assert other.metrics["bytes"]["total"] < trained.metrics["bytes"]["total"]


def test_it_is_exported_like_any_other(trained: Run, tmp_path: Path) -> None:
    export(trained, tmp_path / "artefact", "fp32")
    found = check(trained, tmp_path / "artefact")
    assert found["logloss"] == pytest.approx(trained.metrics["test"]["logloss"], abs=1e-6)


def test_training_from_the_weights_of_a_run_is_to_continue_it(
    configure: Configure, prepared: Prepared, tmp_path: Path
) -> None:
    config = configure(PLAIN)
    whole = train(config.replace({"training.epochs": 2}), prepared, tmp_path / "whole")
    half = train(config.replace({"training.epochs": 1}), prepared, tmp_path / "half")
    assert len(whole.metrics["history"]) == 2
    assert whole.metrics["validation"]["logloss"] < half.metrics["validation"]["logloss"]
    saved = Checkpoint(half.path / "checkpoint")
    save_file({name: saved.read(name) for name in saved.names}, tmp_path / "half.safetensors")
    settings = {"training.epochs": 1, "training.start": str(tmp_path / "half.safetensors")}
    again = train(config.replace(settings), prepared, tmp_path / "again")
    found = Checkpoint(again.path / "checkpoint")
    for name in saved.names:
        wanted = Checkpoint(whole.path / "checkpoint").read(name)
        torch.testing.assert_close(found.read(name), wanted, rtol=0, atol=1e-6)
        assert (wanted - saved.read(name)).abs().max() > 1e-4, "a step moves every tensor by more than that"


def test_weights_that_do_not_fit_are_refused(
    compact: ExperimentConfig, small: Prepared, inherited: Path, tmp_path: Path
) -> None:
    config = compact.replace({"training.start": str(inherited), "tables.widths.item_id": 8})
    with pytest.raises(
        ValueError,
        match=rf"{inherited}: table/item_id/compact: its shape is \[11, 4\], the model's \[11, 8\]",
    ):
        train(config, small, tmp_path)


# ---- ranks


def on_ranks(folder: Path, in_ranks: Callable[..., None]) -> None:
    in_ranks(2, work, folder)


def work(rank: int, folder: Path) -> None:
    found = yaml.safe_load((folder / "setting.yaml").read_text())
    config = parse_experiment(found["config"], "setting.yaml").replace({"job.sharding.default": "row_wise"})
    train(config, Prepared.open(Path(found["prepared"])), folder / "runs")


def test_two_ranks_begin_as_one_does(
    compact: ExperimentConfig,
    small: Prepared,
    trained: Run,
    inherited: Path,
    tmp_path: Path,
    run_ranks: Any,
) -> None:
    config = compact.replace({"training.start": str(inherited)})
    told = {"config": config.model_dump(mode="json"), "prepared": str(small.path)}
    (tmp_path / "setting.yaml").write_text(yaml.safe_dump(told))
    run_ranks(__file__, "on_ranks", tmp_path)
    runs = [train(config, small, tmp_path / "one"), Run.open(next((tmp_path / "runs").glob("*/seed-0")))]
    one, two, other = (run.predictions()["prediction"].to_numpy() for run in (*runs, trained))
    np.testing.assert_allclose(two, one, atol=2e-6)
    assert np.abs(other - one).max() > 0.01
