"""`recsys checkpoints`: what a run can go on from, and which file is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from recsys.cli import app
from recsys.config import ExperimentConfig
from recsys.training.loop import Watch
from recsys.training.run import Run, run_folder
from recsys.training.store import listed, names_in
from recsys.training.train import train
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import read_checkpoint_manifest

Configure = Callable[..., ExperimentConfig]


class Interrupted(Exception):
    pass


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["checkpoints", *map(str, arguments)])


def as_json(*arguments: object) -> list[dict[str, Any]]:
    return json.loads(command(*arguments, "--json").stdout)["checkpoints"]


@pytest.fixture
def folder(configure: Configure, prepared: Prepared, tmp_path: Path) -> Path:
    """Return a run of 19 batches an epoch, interrupted after 26, saved every 4 and at evaluations after 9 and 19."""
    config = configure(
        {"job.checkpoint.every_steps": 4, "job.checkpoint.keep": 4, "job.checkpoint.incremental": True}
    )
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == 26:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, prepared, tmp_path, Watch(step=step))
    return run_folder(config, prepared, tmp_path)


def test_checkpoints_are_listed_oldest_first(folder: Path) -> None:
    found = as_json(folder)
    assert [item["name"] for item in found] == names_in(folder / "checkpoints")
    assert [f"steps-{item['step']:010d}" for item in found] == [item["name"] for item in found]
    assert [item["step"] for item in found] == sorted(item["step"] for item in found)
    assert [item["name"] for item in found if item["best"]] == ["steps-0000000019"], "the last evaluation's"
    assert all(item["damage"] is None and item["bytes"] > 0 for item in found)
    for item in found:
        assert item["epoch"] == item["step"] // 19
        assert item["rows"] <= item["step"] * 256
    names = {item["name"] for item in found}
    assert {item["base"] for item in found} <= {None, *names}
    printed = command(folder)
    assert printed.exit_code == 0
    assert all(name in printed.stdout for name in names)


def test_a_damaged_file_is_named_and_the_exit_status_is_1(folder: Path) -> None:
    newest = names_in(folder / "checkpoints")[-1]
    file = folder / "checkpoints" / newest / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    printed = command(folder)
    assert printed.exit_code == 1
    assert str(file) in printed.stderr.replace("\n", "")
    assert "damaged" in printed.stdout
    assert command(folder, "--json").exit_code == 1
    *others, last = as_json(folder)
    assert str(file) in last["damage"]
    assert last["step"] is None
    assert all(item["damage"] is None for item in others)


def test_what_a_run_removes_meanwhile_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its files are counted, and before they are read."""
    *others, last = listed(folder)

    def gone(path: Path) -> Checkpoint:
        if path.name == last.name:
            shutil.rmtree(path)
        return Checkpoint(path)

    monkeypatch.setattr("recsys.training.store.Checkpoint", gone)
    monkeypatch.setattr("recsys.training.store.names_in", lambda root: ["steps-0000000001", *names_in(root)])
    assert [item.name for item in listed(folder)] == [item.name for item in others]


def test_a_checkpoint_that_does_not_say_where_training_was_is_listed(run: Run, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "steps-0000000001"
    shutil.copytree(run.path / "checkpoint", checkpoint)
    manifest = read_checkpoint_manifest(checkpoint).model_copy(deep=True)
    del manifest.about["state"]
    write_manifest(manifest, checkpoint / "manifest.json")
    (only,) = as_json(tmp_path)
    assert (only["name"], only["step"], only["best"], only["damage"]) == (
        "steps-0000000001",
        None,
        False,
        None,
    )
    assert command(tmp_path).exit_code == 0


def test_a_finished_run_has_the_best_one(run: Run) -> None:
    (only,) = as_json(run.path)
    assert (only["name"], only["best"], only["damage"]) == ("checkpoint", True, None)
    best = max(run.metrics["history"], key=lambda told: -told["validation_logloss"])
    assert only["rows"] == best["rows"]
    assert only["epoch"] == best["epoch"]
    assert only["step"] == round(best["epoch"] * 19)
    printed = command(run.path).stdout
    assert "–" not in printed
    assert f"{best['rows']:,}" in printed


def test_a_folder_without_any_is_no_run(tmp_path: Path) -> None:
    found = command(tmp_path)
    assert isinstance(found.exception, ValueError)
    assert "no checkpoints" in str(found.exception)
