"""A run that goes on from another's tables, network and optimisers: yesterday's model, trained on today's rows too."""

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from recsys.config import ConfigError, ExperimentConfig, load_experiment, parse_experiment
from recsys.training.distributed import process_group
from recsys.training.loop import Watch, _Training
from recsys.training.run import Run, run_folder
from recsys.training.start import _new_ids, _require_same, begin
from recsys.training.store import names_in
from recsys.training.train import train
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import read_checkpoint_manifest
from recsys_tables.distributed.pieces import snapshot

run_ranks = runpy.run_path(str(Path(__file__).parents[2] / "tables" / "conftest.py"))["run_ranks"]

Configure = Callable[..., ExperimentConfig]
ONE_BATCH = {  # of all rows, so that the order of epochs does not matter
    **{"training.batch_size": 5120, "training.evaluations_per_epoch": 1, "training.patience": 9},
    **{"training.epochs": 2, "training.dense_lr": 0.01},
}


def saved_of(run: Run) -> Checkpoint:
    return Checkpoint(run.path / "checkpoint")


@pytest.fixture(scope="module")
def yesterday(run: Run) -> dict[str, Any]:
    """Return settings that go on from the session's run."""
    return {"training.start": {"run": str(run.path)}, "training.epochs": 1}


@pytest.mark.parametrize(
    ("tables", "dense"),
    [("rowwise_adagrad", "adam"), ("adagrad", "adamw"), ("sgd", "adagrad"), ("adam", "sgd")],
)
def test_to_go_on_from_a_run_is_to_continue_it(
    configure: Configure, prepared: Prepared, tmp_path: Path, tables: str, dense: str
) -> None:
    optimizers = {"training.table_optimizer": tables, "training.dense_optimizer": dense}
    config = configure(ONE_BATCH | optimizers)
    whole = train(config.replace({"training.epochs": 4}), prepared, tmp_path / "whole")
    half = train(config, prepared, tmp_path / "half")
    third = train(
        config.replace({"training.start": {"run": str(half.path)}, "training.epochs": 1}),
        prepared,
        tmp_path / "third",
    )
    told: list[str] = []
    again = train(
        config.replace({"training.start": {"run": str(third.path)}, "training.epochs": 1}),
        prepared,
        tmp_path / "again",
        Watch(warn=told.append),
    )
    assert len(whole.metrics["history"]) == 4
    for name in saved_of(whole).names:
        torch.testing.assert_close(
            saved_of(again).read(name), saved_of(whole).read(name), rtol=1e-5, atol=1e-6
        )
    assert saved_of(again).extra()["inherited_batches"] == 3
    assert len(told) == 1
    assert "optimiser states after its 1 batches (epoch 1.00)" in told[0]
    assert "begin at 0 of 1, with table_lr 0.05 and dense_lr 0.01 (schedule constant" in told[0]
    assert "No feature has new ids" in told[0]


# ---- vocabularies that grew


@pytest.fixture(scope="module")
def grown(log: Path, configure: Configure, prepared: Prepared, tmp_path_factory: Any) -> Prepared:
    """Append a day to the session's set: users and items that are new, and tags that are not."""
    folder = tmp_path_factory.mktemp("grown")
    rows = pq.read_table(log).slice(0, 400)
    users = pa.array([f"u{i % 80}" for i in range(400)])
    items = pa.array(np.arange(400) % 43)
    rows = rows.set_column(1, "user_id", users).set_column(2, "item_id", items)
    pq.write_table(rows, folder / "monday.parquet")
    config = configure({"data.path": str(folder / "monday.parquet")})
    return prepare(config.data, config.features, folder / "prepared", base=prepared)


def test_known_rows_are_kept_and_new_ones_get_their_first_values(
    configure: Configure, grown: Prepared, run: Run, yesterday: dict[str, Any]
) -> None:
    told: list[str] = []
    with process_group():
        rows, validation = (Rows.load(grown.path, part) for part in ("train", "validation"))
        held = []
        for settings in ({}, yesterday):
            config = configure(settings)
            training = _Training(config, rows, validation, None, Watch(warn=told.append))
            begin(config, rows.features, training._model, training._optimizer, told.append)
            held.append({piece.name: piece.values for piece in snapshot(training._model)})
            state = training._optimizer.state()
    saved, moved = saved_of(run), 0
    for name, first in held[0].items():
        was, now = saved.read(name), held[1][name]
        known = len(was) if was.ndim else 0
        moved += len(first) - known if was.ndim else 0
        assert torch.equal(now[:known], was) if was.ndim else torch.equal(now, was)
        if was.ndim:
            assert torch.equal(now[known:], first[known:])
    assert moved > 0
    assert {name: value for name, value in state.items() if name != "inherited_batches"}.keys() == (
        saved.extra().keys()
    )
    assert all(torch.equal(state[name], value) for name, value in saved.extra().items())
    assert "New ids, which begin with first values: user_id 20, item_id 3" in told[0]


def test_it_ends_as_one_that_was_not_killed_and_does_not_read_the_start_again(
    configure: Configure, grown: Prepared, yesterday: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"job.checkpoint.every_steps": 2, "training.accumulate": 2, "model.dropout": 0.1}
    config = configure(yesterday | settings)
    whole = train(config, grown, tmp_path / "whole")
    done, told = 0, []

    def step() -> None:
        nonlocal done
        done += 1
        if done == 5:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(config, grown, tmp_path, Watch(step=step))
    assert names_in(run_folder(config, grown, tmp_path) / "checkpoints")
    again = train(config, grown, tmp_path, Watch(warn=told.append))
    assert told == []
    assert all(saved_of(again).read(name).equal(saved_of(whole).read(name)) for name in saved_of(whole).names)
    states = [saved_of(run).extra() for run in (again, whole)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    start, first = whole.metrics["history"][0], whole.metrics["history"][1]["train_loss"]
    assert (start["epoch"], start["rows"]) == (0, 0), "what it began with counts among its evaluations"
    fresh = train(configure({"training.epochs": 1}), grown, tmp_path / "fresh")
    assert first < fresh.metrics["history"][0]["train_loss"] - 0.02, "it began with what was learnt"


def test_a_start_that_training_does_not_improve_stays(
    configure: Configure, grown: Prepared, run: Run, yesterday: dict[str, Any], tmp_path: Path
) -> None:
    wild = {"training.table_lr": 50.0, "training.dense_lr": 5.0, "training.epochs": 1}
    again = train(configure(yesterday | wild), grown, tmp_path)
    losses = [entry["validation_logloss"] for entry in again.metrics["history"]]
    assert losses[0] == min(losses) == again.metrics["validation"]["logloss"] < max(losses)
    network = [name for name in saved_of(run).names if name.startswith("dense/")]
    assert all(torch.equal(saved_of(again).read(name), saved_of(run).read(name)) for name in network)


# ---- what does not fit


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"training.table_optimizer": "adagrad"},
            "training.table_optimizer 'rowwise_adagrad', and here it is",
        ),
        ({"training.dense_optimizer": "sgd"}, "training.dense_optimizer 'adam', and here it is 'sgd'"),
        ({"model": {"name": "fm"}}, "model.name 'deepfm', and here it is 'fm'"),
        ({"model.hidden": [8]}, r"network.*shape is \[.*\], the model's"),
        ({"tables.embedding_dim": 4}, "feature 'user_id': embedding_dim was 8, and is 4 here"),
        ({"tables": {"scheme": "hash", "budget": "50%"}}, "feature 'user_id': scheme was 'Full'"),
    ],
)
def test_another_model_is_refused_by_name(
    configure: Configure,
    prepared: Prepared,
    yesterday: dict[str, Any],
    tmp_path: Path,
    settings: dict[str, Any],
    wanted: str,
) -> None:
    with pytest.raises(ValueError, match=wanted):
        train(configure(yesterday | settings), prepared, tmp_path)


def test_other_features_are_refused_by_name(
    configure: Configure, log: Path, yesterday: dict[str, Any], tmp_path: Path
) -> None:
    order = [
        {"kind": "numeric", "names": ["x"]},
        {"kind": "categorical", "names": ["item_id", "user_id"]},
        {"kind": "categorical", "names": ["tags"], "multivalued": True},
    ]
    half = tmp_path / "half.parquet"
    pq.write_table(pq.read_table(log).slice(2000), half)
    for settings, sections, wanted in [
        ({}, {"features": order}, "its features are x, user_id, item_id, tags, and here they are x, item_id"),
        ({"data.path": str(half)}, {}, "feature 'x' was fitted otherwise.*prepare --append"),
        ({"features.min_count": 200}, {}, "feature '(user_id|tags)' was fitted otherwise"),
    ]:
        config = configure(yesterday | settings, **sections)
        ready = prepare(config.data, config.features, tmp_path / "prepared")
        with pytest.raises(ValueError, match=wanted):
            train(config, ready, tmp_path / "runs")


def test_a_sequence_like_a_feature_has_no_vocabulary_to_compare(configure: Configure, tmp_path: Path) -> None:
    data = configure().data.model_dump(mode="json") | {"time": "time", "split": {"by": "time"}}
    items = {"kind": "categorical", "names": ["item_id"]}
    seen = {"kind": "sequence", "name": "seen", "column": "item_id", "length": 5, "like": "item_id"}
    config = configure(data=data, features=[items, seen])
    features = prepare(config.data, config.features, tmp_path / "prepared").features()
    _require_same(tmp_path, features, features)
    assert _new_ids(features, features) == {}


@pytest.mark.parametrize("key", ["hash_version", "format_version"])
def test_another_version_is_refused_by_name(
    configure: Configure, prepared: Prepared, run: Run, tmp_path: Path, key: str
) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    file = copy / "checkpoint" / "manifest.json"
    write_manifest(read_checkpoint_manifest(file.parent).model_copy(update={key: 99}), file)
    with pytest.raises(ValueError, match=rf"manifest\.json.*{key.replace('_', '.')}.*99"):
        train(configure({"training.start": {"run": str(copy)}}), prepared, tmp_path)


# ---- configuration


def test_the_digest_is_of_the_content_that_is_started_from(
    configure: Configure, prepared: Prepared, run: Run, tmp_path: Path
) -> None:
    one, other = (Path(shutil.copytree(run.path, tmp_path / name)) for name in ("one", "other"))
    digests = [
        configure({"training.start": {"run": str(path)}}).digest(prepared.path)
        for path in (run.path, one, other)
    ]
    assert len({*digests, configure().digest(prepared.path)}) == 2, "where it lies does not matter"
    manifest = other / "checkpoint" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert configure({"training.start": {"run": str(other)}}).digest(prepared.path) != digests[0]


def test_a_relative_run_is_relative_to_the_file(
    configure: Configure, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = configure().model_dump(mode="json", exclude_unset=True)
    (tmp_path / "yesterday").symlink_to(run.path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(raw | {"training": {"start": {"run": "yesterday"}}}))
    (tmp_path / "set.yaml").write_text("extends: base.yaml\nset: {training.start: {run: yesterday}}\n")
    (tmp_path / "dotted.yaml").write_text("extends: base.yaml\nset: {training.start.run: ./yesterday}\n")
    monkeypatch.chdir("/")
    for name in ("base", "set", "dotted"):
        start: Any = load_experiment(tmp_path / f"{name}.yaml").training.start
        assert start.run == run.path.resolve()


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        ({"run": "nowhere"}, r"training\.start\.run: .*nowhere is not the folder of a finished run"),
        ({"folder": "x"}, r"training\.start: must be a file of weights, or \{run: FOLDER\}"),
        (7, r"training\.start: must be a file of weights, or \{run: FOLDER\}"),
        (".", r"is a folder: to go on from a run, write `start: \{run: "),
    ],
)
def test_what_cannot_be_started_from_is_said(
    configure: Configure, tmp_path: Path, start: Any, wanted: str
) -> None:
    raw = configure().model_dump(mode="json", exclude_unset=True)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(raw | {"training": {"start": start}}))
    with pytest.raises(ConfigError, match=wanted):
        load_experiment(tmp_path / "a.yaml")


def test_a_file_of_a_checkpoint_says_how_to_name_its_run(
    configure: Configure, prepared: Prepared, run: Run, tmp_path: Path
) -> None:
    file = run.path / "checkpoint" / "rank-0.safetensors"
    with pytest.raises(
        ValueError, match=r"no such tensor; to go on from a run.*write `start: \{run: FOLDER\}`"
    ):
        train(configure({"training.start": str(file)}), prepared, tmp_path)


# ---- ranks


def on_ranks(folder: Path, in_ranks: Callable[..., None]) -> None:
    in_ranks(2, work, folder)


def work(rank: int, folder: Path) -> None:
    found = yaml.safe_load((folder / "setting.yaml").read_text())
    config = parse_experiment(found["config"], "setting.yaml").replace({"job.sharding.default": "row_wise"})
    train(config, Prepared.open(Path(found["prepared"])), folder / "runs")


def test_two_ranks_go_on_as_one_does(
    configure: Configure, grown: Prepared, yesterday: dict[str, Any], tmp_path: Path, run_ranks: Any
) -> None:
    config = configure(yesterday)
    told = {"config": config.model_dump(mode="json"), "prepared": str(grown.path)}
    (tmp_path / "setting.yaml").write_text(yaml.safe_dump(told))
    run_ranks(__file__, "on_ranks", tmp_path)
    runs = [train(config, grown, tmp_path / "one"), Run.open(next((tmp_path / "runs").glob("*/seed-0")))]
    one, two = (run.predictions()["prediction"].to_numpy() for run in runs)
    np.testing.assert_allclose(two, one, atol=2e-5)
    assert runs[1].metrics["ranks"] == 2
