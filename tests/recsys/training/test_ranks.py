"""Several ranks: an interrupted run ends to the bit as one that was not, on as many ranks; on others, within rounding.

Ranks are gloo processes, as in tests/tables/conftest.py; what is interrupted is killed with signal 9.
"""

import json
import os
import runpy
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
import yaml
from torch import Tensor, nn

from recsys.config import ExperimentConfig, parse_experiment
from recsys.models.dice import Dice
from recsys.training import loop
from recsys.training.distributed import shard_model
from recsys.training.loop import Watch
from recsys.training.pipeline import Pipeline
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys.training.store import listed
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.device import default_device

run_ranks = runpy.run_path(str(Path(__file__).parents[2] / "tables" / "conftest.py"))["run_ranks"]

Configure = Callable[..., ExperimentConfig]
InRanks = Callable[..., list[int]]
RESULTS = ("validation", "test", "history", "fields", "skipped_batches")
TOLERANCE = 2e-6  # of weights and probabilities: a sum over ranks rounds otherwise

# What may tell ranks or runs apart: every id of `tags` has a bag of its own, for a product is no sum; dropout,
# gradients that accumulate, bfloat16; one table whole and the others by rows; only changed rows in a checkpoint.
STATEFUL = {
    "model.dropout": 0.3,
    "training.accumulate": 2,
    "training.clip_norm": 1.0,
    "training.schedule": "cosine",
    "training.warmup_steps": 5,
    "training.precision": "bf16",
}
MIXED = {"job.sharding.default": "row_wise", "job.sharding.tables": {"user_id/quotient": "table_wise"}}
CHANGES = {"job.checkpoint.incremental": True}
ROWS, TABLES = ({"job.sharding.default": kind} for kind in ("row_wise", "table_wise"))


class WithMoments(nn.Module):
    """A network that keeps moments of its batches, which every rank has others of."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.dice = network, Dice(1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.dice(self.network(*inputs)[:, None])[:, 0]


def work(
    rank: int, folder: Path, runs: str, settings: dict[str, Any], dies: tuple[int, int] | None = None
) -> None:
    """Train, and note which rows each step is fed; `dies`: this rank is killed after so many batches of its own."""
    config, prepared = setting(folder)
    notes = (folder / f"{runs}-fed.jsonl").open("a")
    fed: list[float] = []
    done = 0

    def losses(pipeline: Pipeline, batch: Any) -> Any:
        fed[:] = batch.dense[:, -1].tolist()  # `number`
        return original(pipeline, batch)

    def progress(epoch: str, step: int, of: int, remark: str) -> None:
        nonlocal done
        notes.write(json.dumps([epoch, step, dist.get_world_size(), os.getpid(), fed]) + "\n")
        notes.flush()
        done += 1
        if dies == (rank, done):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_rank_0_only(*args: Any, **kwargs: Any) -> Any:
        assert rank == 0
        return evaluate(*args, **kwargs)

    if runs.startswith("mixed"):
        build, loop.build = loop.build, lambda *args: WithMoments(build(*args))
    original, Pipeline._losses = Pipeline._losses, losses  # type: ignore[method-assign]
    evaluate, loop.evaluate = loop.evaluate, on_rank_0_only
    train(config.replace(settings), prepared, folder / runs, Watch(progress=progress))


def refused(rank: int, folder: Path, name: str, settings: dict[str, Any]) -> None:
    """Try to train, and write down what is said against it."""
    config, prepared = setting(folder)
    try:
        train(config.replace(settings), prepared, folder / "refused")
        why = "nothing"
    except ValueError as error:
        why = str(error)
    (folder / f"{name}-{rank}.txt").write_text(why)


def score(rank: int, folder: Path) -> None:
    """Predict with the model of the run `one`."""
    config, prepared = setting(folder)
    rows = Rows.load(prepared.path, "test")
    config = config.replace(ROWS)
    model = shard_model(loop.make_model(config, rows.features), config, default_device())
    Checkpoint(run_of(folder / "one").path / "checkpoint").load_into(model)
    np.save(folder / f"scores-{rank}.npy", predict(model, rows, config))


def fast(folder: Path, in_ranks: InRanks) -> None:
    interrupted(folder, in_ranks, 2, "mixed", STATEFUL | MIXED, [(0, 1), (1, 6)], CHANGES)
    in_ranks(1, work, folder, "one", {})
    in_ranks(1, work, folder, "few", {}, (0, 5), check=False)
    in_ranks(2, work, folder, "few", ROWS | CHANGES, (1, 5), check=False)
    in_ranks(1, work, folder, "few", {})
    in_ranks(2, score, folder)
    in_ranks(3, refused, folder, "three", ROWS)


def slow(folder: Path, in_ranks: InRanks) -> None:
    deaths = [(rank % 2, steps) for rank, steps in enumerate([1, 2, 3, 5, 8, 1, 1])]
    for name, settings in (("rows", STATEFUL | ROWS), ("tables", TABLES), ("changes", STATEFUL | ROWS)):
        interrupted(folder, in_ranks, 2, name, settings, deaths, CHANGES if name == "changes" else {})
    interrupted(folder, in_ranks, 4, "four", ROWS, [(3, 7), (2, 3), (1, 1)])
    in_ranks(1, work, folder, "one", {})
    # the save after a start's fourth step waits for that after its second, which so is there at the fifth
    for ranks, dies in ((1, (0, 5)), (2, (1, 5)), (4, (2, 5))):
        in_ranks(ranks, work, folder, "few", ROWS, dies, check=False)
    in_ranks(1, work, folder, "few", {})


def interrupted(
    folder: Path,
    in_ranks: InRanks,
    ranks: int,
    name: str,
    settings: dict[str, Any],
    deaths: list[tuple[int, int]],
    changes: dict[str, Any] | None = None,
) -> None:
    """Open the run `<name>-whole`, and `<name>-killed`, one of whose ranks died as often as `deaths` says."""
    in_ranks(ranks, work, folder, f"{name}-whole", settings)
    bases = []
    for dies in deaths:
        in_ranks(ranks, work, folder, f"{name}-killed", settings | (changes or {}), dies, check=False)
        bases += [item.base for item in listed(next((folder / f"{name}-killed").glob("*/seed-0")))]
    (folder / f"{name}-bases.json").write_text(json.dumps(bases))
    in_ranks(ranks, work, folder, f"{name}-killed", settings | (changes or {}))


def save_setting(folder: Path, config: ExperimentConfig, prepared: Prepared) -> None:
    """For the ranks, which are other processes."""
    found = {"config": config.model_dump(mode="json"), "prepared": str(prepared.path)}
    (folder / "setting.yaml").write_text(yaml.safe_dump(found))


def setting(folder: Path) -> tuple[ExperimentConfig, Prepared]:
    found = yaml.safe_load((folder / "setting.yaml").read_text())
    return parse_experiment(found["config"], "setting.yaml"), Prepared.open(Path(found["prepared"]))


def run_of(runs: Path) -> Run:
    return Run.open(next(runs.glob("*/seed-0")))


def folder_of(configure: Configure, log: Path, folder: Path) -> Path:
    """With a log whose rows are told apart by a number."""
    table = pq.read_table(log)
    numbers = np.random.default_rng(3).permutation(len(table))
    table = table.append_column("number", pa.array(numbers * 1.0)).append_column("key", pa.array(numbers))
    pq.write_table(table, folder / "log.parquet")
    raw = configure().model_dump(mode="json")
    config = configure(
        {
            "training.epochs": 1,
            "training.batch_size": 512,
            "evaluation.batch_size": 100,  # so that every rank has a share
            "job.checkpoint.every_steps": 2,
        },
        data=raw["data"] | {"path": str(folder / "log.parquet")},
        features=[
            {"kind": "numeric", "names": ["x", "number"]},
            {"kind": "categorical", "names": ["key"]},  # so many rows that a step leaves most of them
            *raw["features"][1:],
        ],
        tables={"scheme": "quotient_remainder", "embedding_dim": 8, "budget": "80%"},
    )
    save_setting(folder, config, prepare(config.data, config.features, folder / "prepared"))
    return folder


@pytest.fixture(scope="module")
def results(
    configure: Configure, log: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any
) -> Path:
    folder = folder_of(configure, log, tmp_path_factory.mktemp("ranks"))
    run_ranks(__file__, "fast", folder)
    return folder


@pytest.fixture(scope="module")
def more(configure: Configure, log: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> Path:
    folder = folder_of(configure, log, tmp_path_factory.mktemp("ranks"))
    run_ranks(__file__, "slow", folder)
    return folder


def check_same(folder: Path, name: str) -> None:
    """Metrics, predictions, weights and optimisers' states of both runs are equal to the bit; nothing is left over."""
    whole, killed = run_of(folder / f"{name}-whole"), run_of(folder / f"{name}-killed")
    for key in RESULTS:
        assert whole.metrics[key] == killed.metrics[key], key
    assert whole.predictions().equals(killed.predictions())
    saved = [Checkpoint(run.path / "checkpoint") for run in (whole, killed)]
    assert saved[0].names == saved[1].names
    assert [name for name in saved[0].names if not saved[0].read(name).equal(saved[1].read(name))] == []
    names = [
        sorted(path.name for path in run.path.iterdir() if "tfevents" not in path.name)
        for run in (whole, killed)
    ]
    assert names[0] == names[1]


def check_close(folder: Path) -> None:
    one, few = run_of(folder / "one"), run_of(folder / "few")
    np.testing.assert_allclose(
        few.predictions()["prediction"], one.predictions()["prediction"], atol=TOLERANCE
    )
    saved = [Checkpoint(run.path / "checkpoint") for run in (one, few)]
    for name in saved[0].names:
        np.testing.assert_allclose(saved[1].read(name), saved[0].read(name), atol=TOLERANCE, err_msg=name)


def fed_once(folder: Path, runs: str) -> list[int]:
    """Check that the steps that count were fed every row of training once; the numbers of ranks that took part."""
    by_step: dict[tuple[str, int], tuple[int, dict[int, list[float]]]] = {}
    for line in (folder / f"{runs}-fed.jsonl").read_text().splitlines():
        epoch, step, ranks, process, rows = json.loads(line)
        # a step that was done again after a kill counts the last time; the ranks of one time have other processes
        held = by_step.get((epoch, step))
        parts = {} if held is None or held[0] != ranks or len(held[1]) == ranks else held[1]
        by_step[epoch, step] = ranks, parts | {process: rows}
    assert all(len(parts) == ranks for ranks, parts in by_step.values())
    fed = Counter(row for _, parts in by_step.values() for rows in parts.values() for row in rows)
    _, prepared = setting(folder)
    wanted = Counter(Rows.load(prepared.path, "train").table["number"].to_numpy().astype(np.float32).tolist())
    assert fed == wanted
    assert max(wanted.values()) == 1
    return sorted({ranks for ranks, _ in by_step.values()})


def test_two_ranks_of_which_one_is_killed_end_as_if_it_had_not_been(results: Path) -> None:
    check_same(results, "mixed")
    assert any(json.loads((results / "mixed-bases.json").read_text())), "changed rows alone were saved"
    assert fed_once(results, "mixed-killed") == [2]


def test_another_number_of_ranks_goes_on_with_every_row_once(results: Path) -> None:
    assert fed_once(results, "few") == [1, 2]
    assert fed_once(results, "one") == [1]
    check_close(results)


def test_ranks_share_predictions(results: Path) -> None:
    alone = run_of(results / "one").predictions()["prediction"].to_numpy()
    found = [np.load(results / f"scores-{rank}.npy") for rank in range(2)]
    assert np.array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], alone, atol=1e-6)


def test_ranks_that_cannot_share_the_lanes_are_refused(results: Path) -> None:
    for rank in range(3):
        assert "3 ranks cannot share 64 lanes; 2 or 4 can" in (results / f"three-{rank}.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows", "tables", "changes", "four"])
def test_killed_at_any_step(more: Path, name: str) -> None:
    check_same(more, name)
    assert any(json.loads((more / f"{name}-bases.json").read_text())) == (name == "changes")
    fed_once(more, f"{name}-killed")


@pytest.mark.slow
def test_one_two_four_and_one_ranks(more: Path) -> None:
    assert fed_once(more, "few") == [1, 2, 4]
    check_close(more)
