"""Does a Ray run that is killed anywhere end with the weights of one that was not?

python benchmarks/kill_ray.py [--kills 10] [--workers 2] [--seed 0]

Every line is a run of its own: at a random batch SIGKILL ends one of its workers or its driver, drawn by --seed. After
a driver the same command is given again, at once, while processes of the first may still be ending. Weights, metrics
and predictions are compared to the bit with those of an undisturbed run on as many workers, and what lies beside the
run's files is counted.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from recsys.training.run import Run
from recsys.training.store import names_in
from recsys_tables.distributed.checkpoint import Checkpoint

EPOCHS, BATCH, ROWS = 2, 64, 6_000
FIELDS = [{"name": "user_id", "num_ids": 300}, {"name": "item_id", "num_ids": 200}]
EXPERIMENT = {
    "name": "killed",
    "data": {"source": "generated", "generator": {"rows": ROWS, "fields": FIELDS}},
    "features": [{"kind": "categorical", "names": ["user_id", "item_id"]}],
    "tables": {"scheme": "full", "embedding_dim": 8},
    "model": {"name": "deepfm", "hidden": [32], "dropout": 0.2},
    "training": {"batch_size": BATCH, "epochs": EPOCHS, "patience": 9, "evaluations_per_epoch": 1},
    "job": {"checkpoint": {"every_steps": 5}},
}


def started(root: Path, runs: str, workers: int) -> subprocess.Popen[bytes]:
    log = (root / f"{runs}.log").open("ab")
    command = [sys.executable, "-W", "ignore", "-m", "recsys.cli", "train", "killed.yaml"]
    command += ["--workers", str(workers), "--runs", runs]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=log)


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def saved_steps(root: Path, runs: str) -> int:
    """Batches of the newest checkpoint of the only run."""
    names = [name for folder in (root / runs).glob("*/seed-0/checkpoints") for name in names_in(folder)]
    return max((int(name.split("-")[1]) for name in names), default=0)


def digest(run: Run) -> str:
    """Of all weights and of what was measured and predicted."""
    saved = Checkpoint(run.path / "checkpoint")
    summed = hashlib.blake2b(digest_size=8)
    for name in sorted(saved.names):
        summed.update(name.encode() + saved.read(name).numpy().tobytes())
    told = {key: run.metrics[key] for key in ("validation", "test", "history", "fields")}
    summed.update(json.dumps(told, sort_keys=True).encode())
    summed.update(run.predictions()["prediction"].to_numpy().tobytes())
    return summed.hexdigest()


def left_over(folder: Path) -> list[str]:
    """Names in a run's folder, and beside it, that an undisturbed run does not leave."""
    own = {"config.yaml", "features", "checkpoint", "sharding.json", "predictions.parquet", "metrics.json"}
    inside = [p.name for p in folder.rglob("*.tmp")]
    inside += [p.name for p in folder.iterdir() if p.name not in own and "tfevents" not in p.name]
    return inside + [
        p.name for p in folder.parent.iterdir() if p.name not in (folder.name, f".{folder.name}.lock")
    ]


def finished(root: Path, runs: str) -> Run:
    (metrics,) = (root / runs).glob("*/seed-0/metrics.json")
    return Run.open(metrics.parent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "killed.yaml").write_text(yaml.safe_dump(EXPERIMENT))
        assert started(root, "whole", args.workers).wait() == 0, (root / "whole.log").read_text()
        whole = finished(root, "whole")
        steps = EPOCHS * -(-whole.metrics["history"][-1]["rows"] // EPOCHS // BATCH)
        expected = digest(whole)
        print(f"undisturbed: {args.workers} workers, {steps} batches, digest {expected}", flush=True)
        print("kill  of      after batch  rank's pid  seconds  new starts  left over  digest", flush=True)
        identical = 0
        for number in range(1, args.kills + 1):
            runs, began = f"run-{number}", time.monotonic()
            what, after = drawn.choice(["worker", "driver"]), drawn.randrange(1, steps - 10)
            driver = started(root, runs, args.workers)
            while saved_steps(root, runs) < after:
                assert driver.poll() is None, (root / f"{runs}.log").read_text()
                time.sleep(0.02)
            at = saved_steps(root, runs)
            victim = drawn.choice(workers_of(driver)).pid if what == "worker" else driver.pid
            psutil.Process(victim).kill()
            if what == "driver":
                driver.wait()
                driver = started(root, runs, args.workers)
            assert driver.wait() == 0, (root / f"{runs}.log").read_text()
            run = finished(root, runs)
            again = (root / f"{runs}.log").read_text().count("starting all workers again") + (
                what == "driver"
            )
            same = digest(run)
            identical += same == expected
            print(
                f"{number:4}  {what}  {at:11}  {victim:10}  {time.monotonic() - began:7.0f}  {again:10}  "
                f"{len(left_over(run.path)):9}  {same}",
                flush=True,
            )
        print(f"{identical} of {args.kills} identical", flush=True)
        if identical < args.kills:
            sys.exit(1)


if __name__ == "__main__":
    main()
