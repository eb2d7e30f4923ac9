"""A run that is interrupted anywhere and goes on ends as one that was not, to the bit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from recsys.config import ExperimentConfig
from recsys.training.loop import Watch
from recsys.training.run import Run, run_folder
from recsys.training.store import listed, names_in
from recsys.training.train import train
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import CheckpointError

Configure = Callable[..., ExperimentConfig]
RESULTS = ("validation", "test", "history", "fields", "skipped_batches")


class Interrupted(Exception):
    pass


def after(steps: int) -> Watch:
    """Return a watcher that fails after so many batches."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == steps:
            raise Interrupted

    return Watch(step=step)


def same(a: Run, b: Run) -> bool:
    """Metrics, predictions, weights and optimisers' states, to the bit."""
    saved = [Checkpoint(run.path / "checkpoint") for run in (a, b)]
    return (
        all(a.metrics[key] == b.metrics[key] for key in RESULTS)
        and a.predictions().equals(b.predictions())
        and saved[0].names == saved[1].names
        and all(saved[0].read(name).equal(saved[1].read(name)) for name in saved[0].names)
    )


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    """Everything that has a state: dropout, momentum, a schedule, accumulated gradients, early stopping."""
    return configure(
        {
            "model.dropout": 0.2,
            "training.accumulate": 2,
            "training.warmup_steps": 5,
            "training.schedule": "cosine",
            "training.clip_norm": 1.0,
            "training.patience": 2,
            "training.epochs": 3,
            "job.checkpoint.every_steps": 3,
        }
    )


@pytest.fixture(scope="module")
def whole(config: ExperimentConfig, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(config, prepared, tmp_path_factory.mktemp("whole"))


def interrupted(config: ExperimentConfig, prepared: Prepared, runs: Path, *steps: int) -> Path:
    for count in steps:
        with pytest.raises(Interrupted):
            train(config, prepared, runs, after(count))
    return run_folder(config, prepared, runs)


@pytest.mark.parametrize("steps", [(1,), (3,), (4,), (9, 1, 5), (11, 2), (17,), (30, 8)])
def test_an_interrupted_run_ends_as_one_that_was_not(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    interrupted(config, prepared, tmp_path, *steps)
    again = train(config, prepared, tmp_path)
    assert same(again, whole)
    assert sorted(path.name for path in again.path.iterdir() if "tfevents" not in path.name) == sorted(
        path.name for path in whole.path.iterdir() if "tfevents" not in path.name
    ), "nothing temporary is left"


def test_inherited_weights_are_where_a_run_begins_and_not_where_it_goes_on(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    saved = Checkpoint(whole.path / "checkpoint")
    names = [name for name in saved.names if not name.startswith("optimizer/")]
    save_file({name: saved.read(name) for name in names}, tmp_path / "start.safetensors")
    started = config.replace({"training.start": str(tmp_path / "start.safetensors")})
    one = train(started, prepared, tmp_path / "one")
    first = [one.metrics["history"][1]["train_loss"], whole.metrics["history"][0]["train_loss"]]
    assert first[0] < first[1] - 0.02
    interrupted(started, prepared, tmp_path, 4, 9)
    assert same(train(started, prepared, tmp_path), one)


def test_changes_alone_can_be_saved(config: ExperimentConfig, prepared: Prepared, tmp_path: Path) -> None:
    small = config.replace(
        {
            "training.batch_size": 64,
            "training.epochs": 1,
            "job.checkpoint.incremental": True,
            "job.checkpoint.every_steps": 1,
        }
    )
    whole = train(small.replace({"job.checkpoint.incremental": False}), prepared, tmp_path / "whole")
    folder = interrupted(small, prepared, tmp_path, 14, 20)
    assert any(item.base for item in listed(folder))
    assert same(train(small, prepared, tmp_path), whole)


def test_the_newest_few_and_the_best_are_kept(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    folder = interrupted(config.replace({"job.checkpoint.keep": 1}), prepared, tmp_path, 32)
    names = [item.name for item in listed(folder)]
    best = [item.name for item in listed(folder) if item.best]
    newest = Checkpoint(folder / "checkpoints" / names[-1]).about["state"]
    assert len(names) <= 2
    assert set(names) == {names[-1], *best, f"steps-{newest['best_steps']:010d}"}


def test_a_damaged_checkpoint_is_named_and_an_older_one_is_taken(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    folder = interrupted(config.replace({"job.checkpoint.keep": 3}), prepared, tmp_path, 16)
    newest = folder / "checkpoints" / names_in(folder / "checkpoints")[-1]
    file = newest / "rank-0.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    damage = [item.damage for item in listed(folder)]
    assert str(file) in str(damage[-1])
    assert damage[:-1] == [None] * (len(damage) - 1)
    warned: list[str] = []
    assert same(train(config, prepared, tmp_path, Watch(warn=warned.append)), whole)
    assert any(str(file) in text and "going on from an older checkpoint" in text for text in warned)


def test_half_written_folders_are_cleared(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    folder = interrupted(config, prepared, tmp_path, 8)
    (folder / "checkpoints" / "steps-0000000099.tmp").mkdir()
    assert same(train(config, prepared, tmp_path), whole)


def test_a_checkpoint_of_another_prepared_set_is_refused(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path
) -> None:
    folder = interrupted(config, prepared, tmp_path, 8)
    copy = Path(shutil.copytree(prepared.path, tmp_path / prepared.path.name))
    name, shard = next(iter(prepared.manifest.shards.items()))
    shards = prepared.manifest.shards | {name: shard.model_copy(update={"positives": shard.positives + 1})}
    changed = Prepared(copy, prepared.manifest.model_copy(update={"shards": shards}))
    assert run_folder(config, changed, tmp_path) == folder
    with pytest.raises(CheckpointError, match=r"its prepared is .*delete .* to train from the beginning"):
        train(config, changed, tmp_path)


def test_a_lost_folder_comes_back_from_its_url(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/mirror"
    mirrored = config.replace({"job.checkpoint.url": url})
    folder = interrupted(mirrored, prepared, tmp_path / "a", 14)
    steps = Checkpoint(folder / "checkpoints" / names_in(folder / "checkpoints")[-1]).about["state"]["steps"]
    shutil.rmtree(tmp_path / "a")
    told: list[tuple[int, int]] = []
    again = train(
        mirrored, prepared, tmp_path / "b", Watch(progress=lambda _, done, of, __: told.append((done, of)))
    )
    assert same(again, whole)
    assert told[0][0] == steps % told[0][1] + 1, "it went on, and did not begin"
    assert not [path for path in (tmp_path / "mirror").rglob("*") if path.is_file()], (
        "a finished run needs none"
    )


@pytest.mark.parametrize("finished", [False, True])
def test_what_a_lost_driver_of_ray_has_left_goes_when_the_run_is_finished_without_ray(
    config: ExperimentConfig, prepared: Prepared, tmp_path: Path, finished: bool
) -> None:
    short = config.replace({"training.epochs": 1})
    folder = run_folder(short, prepared, tmp_path)
    if finished:
        train(short, prepared, tmp_path)
    (folder.parent / ".seed-0.ray" / "0123").mkdir(parents=True)
    train(short, prepared, tmp_path)
    assert not list(folder.parent.glob("*.ray")) + list(folder.parent.glob(".*.ray"))
