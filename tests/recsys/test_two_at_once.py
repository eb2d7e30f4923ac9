"""Two processes at work on one target: both end well, and what they leave is whole, for every verb that writes."""

import contextlib
import functools
import io
import json
import multiprocessing
import os
import runpy
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

run_ranks = runpy.run_path(str(Path(__file__).parents[1] / "tables" / "conftest.py"))["run_ranks"]
ROUNDS = int(os.environ.get("ROUNDS", "20"))
SECONDS = 300  # that a process may take
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "table", "path": "log.parquet", "user": "user"},
    "features": [
        {"kind": "numeric", "names": ["x"]},
        {"kind": "categorical", "names": ["user", "item/of the shop"]},
    ],
    "tables": {"scheme": "full", "embedding_dim": 4},
    "model": {"name": "fnn", "hidden": [4]},
    "training": {"batch_size": 128, "epochs": 1},
    "evaluation": {"replicates": 100},
    "tuning": {"trials": 2, "space": {"training.table_lr": [0.01, 0.1]}},
    "compression": {
        "learner": {"tables.scheme": "opt_embed"},
        **{"population": 4, "mutations": 2, "crossovers": 2, "generations": 1},
    },
}


def write_log(file: Path, rows: int = 600, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    user, item = random.integers(0, 30, rows), random.integers(0, 20, rows)
    click = random.random(rows) < np.where((user + item) % 3 == 0, 0.7, 0.2)
    columns = {"label": click.astype(np.int8), "user": [f"u{i}" for i in user], "item/of the shop": item}
    pq.write_table(pa.table({**columns, "x": random.normal(size=rows)}), file)


def lay_out(folder: Path) -> None:
    """Write the logs and the experiments, and prepare and train what the verbs begin with."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(("log", "first", "second")):
        write_log(folder / f"{name}.parquet", 600 + 100 * seed, seed)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    rival = {"extends": "tiny.yaml", "name": "rival", "tables": {"scheme": "hash", "budget": "50%"}}
    rival |= {"tuning": {"trials": 1}, "set": {"features.encoding": "hash"}}
    (folder / "rival.yaml").write_text(yaml.safe_dump(rival))
    one = {"extends": "tiny.yaml", "name": "one", "tuning": {"trials": 1}}
    (folder / "one.yaml").write_text(yaml.safe_dump(one))
    assert at_once((folder / "tiny.yaml", folder / "start", "train"))[0][0] == 0


def command(file: Path, root: Path, verb: str, *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run a verb on an experiment in this process; return its exit code and its JSON."""
    from recsys import cli

    places = ("--runs", root / "runs", "--prepared", root / "prepared")
    sys.argv = ["recsys", verb, str(file), *map(str, (*places, *arguments)), "--json"]
    if verb in ("predict", "export"):
        sys.argv = ["recsys", verb, *map(str, arguments), "--json"]
    if verb == "prepare":
        sys.argv = ["recsys", verb, str(file), "--prepared", str(root / "prepared"), "--json"]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
    return code, json.loads(told.getvalue() or "{}")


def at_once(*commands: tuple[object, ...]) -> list[tuple[int, dict[str, Any]]]:
    """Run commands in processes that begin together; return what each came to."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(len(commands)), context.SimpleQueue()

    def work(number: int) -> None:
        try:
            start.wait()
            results.put((number, command(*commands[number])))  # type: ignore[arg-type]
        except BaseException:
            results.put((number, (1, {"error": traceback.format_exc()})))

    processes = [context.Process(target=work, args=(number,)) for number in range(len(commands))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"a process ran longer than {SECONDS} s")
    found = dict(results.get() for _ in commands)
    return [found[number] for number in range(len(commands))]


def prepare(folder: Path, root: Path) -> None:
    from recsys_pipelines.batches.loader import Rows
    from recsys_pipelines.preparation.prepared import Prepared

    both = at_once(*2 * [(folder / "tiny.yaml", root, "prepare")])
    assert [code for code, _ in both] == [0, 0], both
    (out,) = (path for path in (root / "prepared").iterdir() if path.is_dir())
    Prepared.open(out).verify()
    assert sum(len(Rows.load(out, split)) for split in ("train", "validation", "test")) == 600
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        "features",
        "train",
        "validation",
        "test",
    }


def train(folder: Path, root: Path) -> None:
    from recsys.training.run import Run

    both = at_once(*2 * [(folder / "tiny.yaml", root, "train")])
    assert [code for code, _ in both] == [0, 0], both
    assert both[0][1] == both[1][1]
    run = Run.open(both[0][1]["path"])
    assert run.predictions().equals(Run.open(next((folder / "start/runs").glob("*/seed-0"))).predictions())


def export(folder: Path, root: Path) -> None:
    from recsys.serving.export import ArtefactScorer

    run = next((folder / "start" / "runs").glob("tiny-*/seed-0"))
    out = root / "served"
    both = at_once(*2 * [(None, root, "export", run, "--out", out, "--check")])
    assert [code for code, _ in both] == [0, 0], both
    assert both[0][1] == both[1][1]
    ArtefactScorer(out)
    assert [path.name for path in root.iterdir()] == ["served"]


def predict(folder: Path, root: Path) -> None:
    run = next((folder / "start" / "runs").glob("tiny-*/seed-0"))
    out = root / "scores.parquet"
    inputs = [folder / "first.parquet", folder / "second.parquet"]
    both = at_once(*[(None, root, "predict", run, file, "--out", out) for file in inputs])
    assert [(code, told["rows_scored"]) for code, told in both] == [(0, 700), (0, 800)], both
    alone = []
    for file in inputs:
        at_once((None, root, "predict", run, file, "--out", root / "alone.parquet"))
        alone.append(pq.read_table(root / "alone.parquet"))
    assert pq.read_table(out) in alone
    assert sorted(path.name for path in root.iterdir()) == ["alone.parquet", "scores.parquet"]


def tune(folder: Path, root: Path) -> None:
    shutil.copytree(folder / "start" / "prepared", root / "prepared")
    report = ("--report", root / "report.html", "--workers", 1)
    both = at_once(*2 * [(folder / "tiny.yaml", root, "tune", *report)])
    assert [code for code, _ in both] == [0, 0], both
    assert both[0][1]["trials"] == both[1][1]["trials"]
    assert len(list((root / "runs" / "trials").glob("*.json"))) == 2


def compare(folder: Path, root: Path) -> None:
    from recsys.training.run import Run

    options = ("--seeds", 1, "--jobs", 1, "--report", root / "report.html")
    both = at_once(*2 * [(folder / "one.yaml", root, "compare", folder / "rival.yaml", *options)])
    assert [code for code, _ in both] == [0, 0], both
    assert both[0][1]["verdict"] == both[1][1]["verdict"]
    for path in (root / "runs").glob("*/seed-*"):
        Run.open(path).predictions()


def compress(folder: Path, root: Path) -> None:
    from recsys.compression.evaluations import EvaluationLog
    from recsys.config import load_experiment
    from recsys_pipelines.features import kept_ids

    options = ("--into", "compact", "--budget", "60%", "--seeds", 0, "--report", root / "report.html")
    both = at_once(*2 * [(folder / "tiny.yaml", root, "compress", *options)])
    assert [code for code, _ in both] == [0, 0], both
    assert both[0][1]["compact"] == both[1][1]["compact"]
    assert both[0][1]["front"] == both[1][1]["front"]
    (log,) = (root / "runs").glob("*/evaluations.jsonl")
    assert len(EvaluationLog(log)) == len(log.read_text().splitlines())
    for file in both[0][1]["compact"].values():
        for feature in load_experiment(file).features:
            for name in feature.names if feature.kind == "categorical" else ():
                kept_ids(feature.keep, name)


VERBS: dict[str, Callable[[Path, Path], None]] = {
    work.__name__: work for work in (prepare, train, export, predict, tune, compare, compress)
}


def all_rounds(verb: str, folder: Path, in_ranks: object) -> None:
    """Do the rounds of a verb; in a process of its own, which has imported what its children need."""
    import recsys.cli
    import recsys.training.train  # noqa: F401

    lay_out(folder)
    for number in range(ROUNDS):
        root = folder / f"round-{number}"
        root.mkdir()
        VERBS[verb](folder, root)
        shutil.rmtree(root)


for _verb in VERBS:
    globals()[f"rounds_of_{_verb}"] = functools.partial(all_rounds, _verb)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", VERBS)
def test_two_processes_at_one_target_leave_it_whole(verb: str, tmp_path: Path, run_ranks: Any) -> None:
    run_ranks(__file__, f"rounds_of_{verb}", tmp_path)
