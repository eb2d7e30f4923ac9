"""What goes wrong while a run trains: it stops with a clear sentence, or goes on and ends as it should."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors import SafetensorError

from recsys.config import ExperimentConfig, parse_experiment
from recsys.models.deepfm import DeepFM
from recsys.training import feed, loop
from recsys.training import train as train_module
from recsys.training.loop import Watch
from recsys.training.pipeline import Pipeline
from recsys.training.run import Run, run_folder
from recsys.training.store import listed
from recsys.training.train import train
from recsys_cython_ext.files import locked
from recsys_pipelines.batches.loader import PADDING, Rows
from recsys_pipelines.batches.order import epoch_order
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed import saving
from recsys_tables.distributed.agreement import OtherRankFailed
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.pieces import pieces, snapshot

run_ranks = runpy.run_path(str(Path(__file__).parents[2] / "tables" / "conftest.py"))["run_ranks"]

Configure = Callable[..., ExperimentConfig]
InRanks = Callable[..., list[int]]
NAN_AT = (0, 3)  # calls of the loss that meet a number that is none, on rank 1 alone


def scenarios(folder: Path, in_ranks: InRanks) -> None:
    for name, work in (
        ("stop", stop),
        ("skip", skip),
        ("no_batch", no_batch),
        ("dies", dies),
        ("slow", slow),
        ("few_tables", few_tables),
        ("busy", busy),
    ):
        in_ranks(2, told, folder, name, work)
    in_ranks(4, told, folder, "tiny", tiny)


def told(rank: int, folder: Path, name: str, work: Callable[..., Any]) -> None:
    """Write down what a rank's `work` answers, or raises, and how long it took."""
    found = yaml.safe_load((folder / "setting.yaml").read_text())
    config, prepared = (
        parse_experiment(found["config"], "setting.yaml"),
        Prepared.open(Path(found["prepared"])),
    )
    began = time.monotonic()
    try:
        answer: Any = work(rank, config, prepared, folder / name)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    (folder / f"{name}-{rank}.json").write_text(json.dumps([answer, time.monotonic() - began]))
    if name == "dies":
        os._exit(0)  # the group is broken, and the test's own barrier with it


def nan_on_rank_1(rank: int) -> None:
    calls = 0

    def losses(pipeline: Pipeline, batch: Any) -> Any:
        nonlocal calls
        if rank == 1 and calls in NAN_AT:
            batch = replace(batch, label=torch.full_like(batch.label, torch.nan))
        calls += 1
        return original(pipeline, batch)

    original, Pipeline._losses = Pipeline._losses, losses  # type: ignore[method-assign]


def stop(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    nan_on_rank_1(rank)
    train(config, prepared, runs)


def skip(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    """Which steps changed anything that this rank holds, what was warned of, and the history."""
    nan_on_rank_1(rank)
    changed: list[bool] = []

    def progress(pipeline: Pipeline, batches: Any) -> Any:
        before = snapshot(pipeline._click_model)
        answer = original(pipeline, batches)
        after = pieces(pipeline._click_model)
        changed.append(not all(a.values.equal(b.values) for a, b in zip(before, after, strict=True)))
        return answer

    original, Pipeline.progress = Pipeline.progress, progress  # type: ignore[method-assign]
    warned: list[str] = []
    config = config.replace({"training.on_nonfinite": "skip"})
    found = train(config, prepared, runs, Watch(warn=warned.append)).metrics
    return [changed, warned, found["skipped_batches"], found["history"]]


def no_batch(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    made = 0

    def click_batch(*args: Any) -> Any:
        nonlocal made
        made += 1
        if rank == 1 and made == 3:
            raise ValueError("row 5 is unreadable")
        return original(*args)

    original, feed.click_batch = feed.click_batch, click_batch
    try:
        train(config, prepared, runs)
    finally:
        feed.click_batch = original


def dies(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if rank == 1 and done == 3:
            os._exit(0)  # a code other than 0 would let the test end the others

    train(config, prepared, runs, Watch(step=step))


def slow(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    def forward(*args: Any) -> Any:
        time.sleep(0.3 * rank)
        return original(*args)

    original, DeepFM.forward = DeepFM.forward, forward  # type: ignore[method-assign]
    warned: list[str] = []
    train(config, prepared, runs, Watch(warn=warned.append))
    return warned


def few_tables(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    one = {"user_id": "table_wise"}
    tables = {"scheme": "unified", "embedding_dim": 8, "budget": "50%"}
    config = parse_experiment(config.model_dump(mode="json") | {"tables": tables}, "x")
    train(config.replace({"job.sharding.default": "table_wise"}), prepared, runs)
    return one


def busy(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    """Another job holds the run."""
    folder = run_folder(config, prepared, runs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    train_module.LOCK_SECONDS = 0.2
    with locked(folder.with_name(f".{folder.name}.lock")) if rank == 0 else nullcontext():
        train(config, prepared, runs)


def tiny(rank: int, config: ExperimentConfig, prepared: Prepared, runs: Path) -> Any:
    """Three rows on four ranks."""
    sizes: list[int] = []

    def losses(pipeline: Pipeline, batch: Any) -> Any:
        sizes.append(len(batch.label))
        return original(pipeline, batch)

    original, Pipeline._losses = Pipeline._losses, losses  # type: ignore[method-assign]
    rows, validation = (Rows.load(prepared.path, part) for part in ("train", "validation"))
    few = Rows.from_table(rows.features, rows.table.slice(0, 3))
    fitted = loop.fit(config, few, validation)
    return [sizes, fitted.state.history[-1]["train_loss"]]


@pytest.fixture(scope="module")
def config(configure: Configure) -> ExperimentConfig:
    return configure(
        {
            "training.epochs": 1,
            "training.batch_size": 512,
            "job.checkpoint.every_steps": 2,
            "job.sharding.default": "row_wise",
        }
    )


@pytest.fixture(scope="module")
def results(
    config: ExperimentConfig, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any
) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    found = {"config": config.model_dump(mode="json"), "prepared": str(prepared.path)}
    (folder / "setting.yaml").write_text(yaml.safe_dump(found))
    print(run_ranks(__file__, "scenarios", folder))
    return folder


def answers(results: Path, name: str) -> list[Any]:
    """Return what the ranks said, in their order; a rank that died said nothing."""
    files = [results / f"{name}-{rank}.json" for rank in range(4)]
    return [json.loads(file.read_text())[0] for file in files if file.exists()]


def test_a_loss_that_is_no_number_on_one_rank_stops_all(results: Path, prepared: Prepared) -> None:
    said = answers(results, "stop")
    rows = Rows.load(prepared.path, "train")
    for rank in range(2):
        assert said[rank].startswith("NonFiniteLoss: epoch 0, batch 0: the training loss is nan; lower ")
        written = pq.read_table(said[rank].rpartition(" ")[2])
        index = next(epoch_order(len(rows), 512, 0, 0, rank=rank, ranks=2))
        assert written["row_id"].to_pylist() == rows.row_id[index[index != PADDING]].tolist()


def test_a_loss_that_is_no_number_on_one_rank_is_left_out_by_all(results: Path) -> None:
    """Also the very first, and without a trace: the other ranks' tables were not touched."""
    for changed, warned, skipped, history in answers(results, "skip"):
        assert [step for step, did in enumerate(changed) if not did] == list(NAN_AT)
        assert len(changed) > 5
        assert warned == [f"epoch 0, batch {step}: left out, for its loss is nan" for step in NAN_AT]
        assert skipped == len(NAN_AT)
        assert all(np.isfinite(entry["train_loss"]) for entry in history)


def test_a_batch_that_one_rank_cannot_make_stops_all(results: Path) -> None:
    assert answers(results, "no_batch") == [
        f"{OtherRankFailed.__name__}: rank 1 could not make its batch; its own error says why",
        "ValueError: row 5 is unreadable",
    ]


def test_a_rank_that_dies_is_noticed_by_the_others(results: Path) -> None:
    said = json.loads((results / "dies-0.json").read_text())
    assert said[0] == (
        "ConnectionError: rank 0: another rank has ended or does not answer; its own output says why. The same command "
        "goes on from the newest checkpoint"
    )
    assert said[1] < 60
    assert not (results / "dies-1.json").exists()


def test_a_slow_rank_is_named(results: Path) -> None:
    for warned in answers(results, "slow"):
        assert warned
        assert all(text.startswith("rank 1 is slow: ") for text in warned)


def test_more_ranks_than_tables_can_be_split_over(results: Path) -> None:
    for said in answers(results, "few_tables"):
        assert (
            "2 workers, but the tables can be split over 1 only: take 1 workers, or let job.sharding" in said
        )


def test_a_run_that_another_job_is_at_work_on_is_refused_on_all_ranks(results: Path) -> None:
    first, second = answers(results, "busy")
    assert first.startswith("ValueError: ")
    assert first.endswith(": another job is at work on this run; wait for it, or stop it")
    assert second == f"{OtherRankFailed.__name__}: rank 0: {first.removeprefix('ValueError: ')}"


def test_ranks_may_have_no_row_of_a_batch(results: Path) -> None:
    sizes, losses = zip(*answers(results, "tiny"), strict=True)
    assert sum(map(sum, sizes)) == 3
    assert len(set(losses)) == 1
    assert np.isfinite(losses[0])


# ---- one rank


def stopped_by(signal_number: int, steps: int, warned: list[str]) -> Watch:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done == steps:
            os.kill(os.getpid(), signal_number)

    return Watch(step=step, warn=warned.append)


def check_same(a: Run, b: Run) -> None:
    assert a.metrics["history"] == b.metrics["history"]
    assert a.predictions().equals(b.predictions())
    saved = [Checkpoint(run.path / "checkpoint") for run in (a, b)]
    assert all(saved[0].read(name).equal(saved[1].read(name)) for name in saved[0].names)


@pytest.fixture(scope="module")
def whole(config: ExperimentConfig, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(config, prepared, tmp_path_factory.mktemp("whole"))


def test_a_user_may_interrupt_a_run(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path
) -> None:
    warned: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, prepared, tmp_path, stopped_by(signal.SIGINT, 5, warned))
    finally:
        signal.signal(signal.SIGINT, before)
    folder = run_folder(config, prepared, tmp_path)
    assert warned == [f"{folder}: interrupted; the same command goes on from its newest checkpoint"]
    check_same(train(config, prepared, tmp_path), whole)


def test_a_disk_that_is_full_while_saving(
    config: ExperimentConfig, prepared: Prepared, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As safetensors says it. The checkpoint before is whole, and the same command goes on."""
    saved = 0

    def save_file(tensors: Any, file: Path) -> None:
        nonlocal saved
        saved += 1
        if saved == 2:
            file.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, file)

    original = saving.save_file
    monkeypatch.setattr(saving, "save_file", save_file)
    with pytest.raises(
        OSError, match=r"rank-0\.safetensors: [0-9,]+ bytes cannot be written where [0-9,]+ are free"
    ):
        train(config, prepared, tmp_path)
    found = listed(run_folder(config, prepared, tmp_path))
    assert [(item.name, item.damage) for item in found] == [("steps-0000000002", None)]
    check_same(train(config, prepared, tmp_path), whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_really_is_full(
    config: ExperimentConfig, prepared: Prepared, whole: Run, small_disk: Path
) -> None:
    """Wherever it gets full: there is a message with a path and free bytes, and what is left is whole."""
    ballast, said = small_disk / "ballast", []
    runs = small_disk / "runs"
    for size in (398_000, 330_000, 300_000, 250_000):
        ballast.write_bytes(b"0" * size)
        try:
            train(config, prepared, runs)
        except OSError as error:
            said.append(str(error))
            ballast.unlink()
            assert all(item.damage is None for item in listed(run_folder(config, prepared, runs)))
    ballast.unlink(missing_ok=True)
    assert said
    for text in said:
        assert str(runs) in text
        assert " are free" in text
    check_same(train(config, prepared, runs), whole)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "kill_local.py"
    command = [sys.executable, str(script), "--kills", "5", "--rows", "6000", "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all as the undisturbed run"
