"""One epoch on 1, then 2, 4 and 1 ranks, each time after a kill -9, against the epoch on one rank.

python benchmarks/elasticity.py [--rows 40000] [--batch-size 512] [--work FOLDER]

Every row of training has a number, which the network is given beside its features; what each rank is really fed is
written down from the batches themselves. After a kill the next ranks go on from the newest checkpoint, so a step that
was done and not saved is done again: the last time counts. Printed are the steps and rows of each rank, how often rows
came, and how far weights, optimisers' states and predictions are from those of one rank. Also what 3 ranks are told.
"""

import argparse
import collections
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SHARES = (
    (1, 0.25),
    (2, 0.5),
    (4, 0.8),
    (1, None),
)  # ranks, and the share of the epoch at which one is killed


def config_of(work: Path, batch_size: int) -> Any:
    """Return a model whose result is a function of the batches: no dropout, for its random numbers are each rank's own."""
    from recsys.config import parse_experiment

    raw = {
        "name": "elastic",
        "data": {"source": "table", "path": str(work / "log.parquet"), "split": {"by": "random"}},
        "features": [
            {"kind": "numeric", "names": ["number"]},
            {"kind": "categorical", "names": ["user_id", "item_id"]},
            {"kind": "categorical", "names": ["tags"], "multivalued": True},
        ],
        "tables": {"scheme": "full", "embedding_dim": 16},
        "model": {"name": "deepfm", "hidden": [64, 32]},
        "training": {"batch_size": batch_size, "epochs": 1, "evaluations_per_epoch": 1},
        "job": {"checkpoint": {"every_steps": 5}, "sharding": {"default": "row_wise"}},
    }
    return parse_experiment(raw, "elastic")


def write_log(work: Path, rows: int) -> None:
    """Clicks that depend on the user and the item."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    user, item = random.zipf(1.3, rows) % 5000, random.zipf(1.2, rows) % 2000
    effects = random.normal(0, 1, 5000), random.normal(0, 1, 2000)
    label = random.random(rows) < 1 / (1 + np.exp(1 - effects[0][user] - effects[1][item]))
    tags = [random.choice(50, random.integers(0, 5), replace=False).tolist() for _ in range(rows)]
    columns = {
        "label": label.astype(np.int8),
        "user_id": user,
        "item_id": item,
        "number": np.arange(rows) * 1.0,
    }
    pq.write_table(pa.table(columns | {"tags": pa.array(tags, pa.list_(pa.int64()))}), work / "log.parquet")


def rank_main(work: Path, runs: str, rank: int, ranks: int, dies: int | None, batch_size: int) -> None:
    """One rank: train, and note what it is fed; the last rank is killed after step `dies` of the epoch."""
    import torch.distributed as dist

    from recsys.training.loop import Watch
    from recsys.training.pipeline import Pipeline
    from recsys.training.train import train
    from recsys_pipelines.preparation.prepare import prepare

    store = dist.FileStore(str(work / f"{runs}-{ranks}-{dies}.store"), ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store)
    config = config_of(work, batch_size)
    prepared = prepare(config.data, config.features, work / "prepared")
    notes = (work / f"{runs}.jsonl").open("a")
    original, fed = Pipeline._losses, []

    def losses(pipeline: Pipeline, batch: Any) -> Any:
        fed[:] = batch.dense[:, -1].tolist()
        return original(pipeline, batch)

    def progress(_: str, step: int, of: int, __: str) -> None:
        notes.write(json.dumps([step, rank, ranks, fed]) + "\n")
        notes.flush()
        if step == dies and rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Pipeline._losses = losses  # type: ignore[method-assign]
    train(config, prepared, work / runs, Watch(progress=progress))
    dist.barrier()


def start(arguments: argparse.Namespace, runs: str, ranks: int, dies: int | None) -> list[str]:
    """Run so many ranks to their end -> what each said last."""
    command = [
        sys.executable,
        __file__,
        "--work",
        str(arguments.work),
        "--batch-size",
        str(arguments.batch_size),
    ]
    command += ["--runs", runs, "--ranks", str(ranks), *(() if dies is None else ("--dies", str(dies)))]
    processes = [
        subprocess.Popen([*command, "--rank", str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    said = [process.communicate()[1].strip().rpartition("\n")[2] for process in processes]
    if dies is None and any(process.returncode for process in processes) and ranks != 3:
        raise SystemExit("\n".join(said))
    return said


def report(work: Path, of: int) -> None:
    """Print who was fed what, and compare."""
    import pyarrow.parquet as pq

    from recsys_pipelines.batches.loader import Rows
    from recsys_pipelines.preparation.prepared import Prepared
    from recsys_tables.distributed.checkpoint import Checkpoint

    notes = [json.loads(line) for line in (work / "few.jsonl").read_text().splitlines()]
    times: list[dict[int, dict[int, list[float]]]] = []  # of every start: step -> rank -> rows
    before = 0
    for step, rank, ranks, fed in notes:
        if ranks != before:
            times.append({})
            before = ranks
        times[-1].setdefault(step, {})[rank] = fed
    counted: dict[int, dict[int, list[float]]] = {}
    for (ranks, _), steps in zip(SHARES, times, strict=True):
        counted = {step: fed for step, fed in counted.items() if step < min(steps)} | steps
        print(f"{ranks} rank(s): steps {min(steps)} to {max(steps)} of {of}")
    sizes = {step: [len(rows) for _, rows in sorted(counted[step].items())] for step in sorted(counted)}
    for size, group in itertools.groupby(sizes, sizes.__getitem__):
        steps = list(group)
        print(f"steps {steps[0]:3d} to {steps[-1]:3d}, the last time they were done: rows by rank {size}")
    fed = collections.Counter(
        row for by_rank in counted.values() for rows in by_rank.values() for row in rows
    )
    prepared = Prepared.open(next((work / "prepared").glob("*/manifest.json")).parent)
    wanted = Rows.load(prepared.path, "train").table["number"].to_numpy().astype(np.float32).tolist()
    often = collections.Counter(fed[row] for row in wanted)
    print(
        f"rows of training: {len(wanted):,}; how many came how often: {dict(often)}; others: {len(set(fed) - set(wanted))}"
    )
    run, alone = (next((work / name).glob("*/seed-0")) for name in ("few", "one"))
    for name in ("table/", "optimizer/", "dense/"):
        saved = [Checkpoint(folder / "checkpoint") for folder in (alone, run)]
        far = [
            (saved[0].read(key) - saved[1].read(key)).abs().max()
            for key in saved[0].names
            if key.startswith(name)
        ]
        print(f"largest difference from one rank, {name:10s} {max(map(float, far)):.1e}")
    predictions = [
        pq.read_table(folder / "predictions.parquet")["prediction"].to_numpy() for folder in (alone, run)
    ]
    print(f"largest difference from one rank, prediction {np.abs(predictions[0] - predictions[1]).max():.1e}")
    for key in ("logloss", "auc"):
        values = [json.loads((folder / "metrics.json").read_text())["test"][key] for folder in (alone, run)]
        print(f"test {key}: one rank {values[0]:.9f}, 1-2-4-1 ranks {values[1]:.9f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--work", type=Path, help="a folder for data and runs; a temporary one otherwise")
    for name in ("--rank", "--ranks", "--dies"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--runs", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        rank_main(
            arguments.work,
            arguments.runs,
            arguments.rank,
            arguments.ranks,
            arguments.dies,
            arguments.batch_size,
        )
        return
    with tempfile.TemporaryDirectory() as temporary:
        arguments.work = arguments.work or Path(temporary)
        write_log(arguments.work, arguments.rows)
        start(arguments, "one", 1, None)
        of = max(json.loads(line)[0] for line in (arguments.work / "one.jsonl").read_text().splitlines())
        for ranks, share in SHARES:
            start(arguments, "few", ranks, None if share is None else round(share * of))
        report(arguments.work, of)
        print(f"3 ranks: {start(arguments, 'three', 3, None)[0]}")


if __name__ == "__main__":
    main()
