"""The checkpoint of a run: the model at its best, or a reason; the format itself is tested in tests/tables."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recsys.config import ConfigError, ExperimentConfig
from recsys.serving.scoring import Scorer
from recsys.training.distributed import process_group, shard_model
from recsys.training.loop import make_model
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.distributed.pieces import snapshot
from recsys_tables.distributed.saving import save

from ..conftest import forget_checksums

Configure = Callable[..., ExperimentConfig]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


@pytest.fixture
def folder(run: Run) -> Path:
    return run.path / "checkpoint"


def fresh(config: ExperimentConfig, rows: Rows) -> Any:
    return shard_model(make_model(config, rows.features), config, torch.device("cpu"))


def state_of(model: Any) -> dict[str, torch.Tensor]:
    return {piece.name: piece.values for piece in snapshot(model)}


def test_a_round_trip_gives_identical_predictions(
    run: Run, prepared: Prepared, folder: Path, tmp_path: Path
) -> None:
    rows = Rows.load(prepared.path, "test")
    torch.manual_seed(77)
    model = fresh(run.config, rows)
    before = predict(model, rows, run.config)
    saved = Checkpoint(folder)
    saved.load_into(model)
    after = predict(model, rows, run.config)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, run.predictions()["prediction"].to_numpy())
    save(tmp_path / "again", model, saved.about, extra=saved.extra())
    for file in ("manifest.json", "rank-0.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "no temporary folder stays"


def test_names_are_logical(run: Run, prepared: Prepared, folder: Path) -> None:
    saved = Checkpoint(folder)
    tables = {"user_id/full", "item_id/full", "tags/full"}
    assert {name for name in saved.names if not name.startswith("dense/")} == {
        name for table in tables for name in (f"table/{table}", f"optimizer/{table}/momentum1")
    }
    assert saved.read("table/item_id/full").shape == (42, 8)
    assert saved.read("optimizer/item_id/full/momentum1").shape == (42,)
    assert saved.tables().keys() == tables
    assert saved.about["config"] == run.config.digest(prepared.path)
    assert saved.about["state"].keys() == {"steps", "epoch", "rows"}, "of its best evaluation"


@pytest.mark.parametrize(
    ("settings", "sections", "why"),
    [
        (
            {},
            {"tables": {"scheme": "hash", "embedding_dim": 8, "budget": "100%"}},
            "was 'Full', and is 'Hash'",
        ),
        ({"tables.embedding_dim": 12}, {}, "feature 'user_id': embedding_dim was 8, and is 12 here"),
        ({"model.hidden": [16, 8]}, {}, r"dense/network\.mlp\.2\.bias: the checkpoint lacks it"),
        ({"model.hidden": [8]}, {}, r"shape is \[16\], the model's \[8\]"),
    ],
)
def test_another_scheme_width_or_network_is_refused_and_the_model_stays_as_it_was(
    folder: Path, configure: Configure, prepared: Prepared, settings: Any, sections: Any, why: str
) -> None:
    model = fresh(configure(settings, **sections), Rows.load(prepared.path, "test"))
    before = state_of(model)
    with pytest.raises(CheckpointError, match=why):
        Checkpoint(folder).load_into(model)
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


def test_a_checkpoint_of_another_configuration_is_not_scored(run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(run.path, tmp_path / "run"))
    settings = yaml.safe_load((path / "config.yaml").read_text())
    settings["training"]["table_lr"] = 0.5
    (path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"config\.yaml: missing, damaged or changed since the run was"):
        Run.open(path)
    forget_checksums(path)
    with pytest.raises(CheckpointError, match="belongs to another configuration"):
        Scorer(Run.open(path))


def test_a_damaged_checkpoint_is_not_scored(run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(run.path, tmp_path / "run"))
    file = path / "checkpoint" / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank-0\.safetensors: damaged"):
        Scorer(Run.open(path))
    shutil.rmtree(path / "checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint: no such checkpoint"):
        Scorer(Run.open(path))


def test_the_manifest_is_json_that_a_person_can_read(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["schemes"]["item_id"] == {
        "scheme": "Full",
        "feature": "item_id",
        "num_ids": 42,
        "embedding_dim": 8,
        "init_bound": 0.05,
    }
