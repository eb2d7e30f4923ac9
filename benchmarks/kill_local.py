"""A small run of `recsys train` that is killed again and again, against one that is left alone.

python benchmarks/kill_local.py [--kills 100] [--rows 20000] [--seed 0] [--work FOLDER]

Every kill is signal 9 to the process of the command, at a random moment of what it does: while it begins, at a random
time of training, while a checkpoint is being written (a folder `steps-*.tmp` is there), and in the end phase (the run's
`checkpoint/` is there, its `metrics.json` is not). The next start of the same command goes on. When it has finished, its
weights, optimiser's states, predictions and metrics must be those of the undisturbed run to the bit, the runs folder must
hold nothing that the undisturbed one does not, and the prepared set must be unchanged; then a new run begins, until there
were as many kills as asked for. A row twice or none would change weights: rowwise Adagrad's sums of squared gradients and
the dense optimiser's count of steps are compared too.
"""

import argparse
import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

CONFIG = {
    "name": "small",
    "data": {
        "source": "generated",
        "truth": "true_probability",
        "user": "user_id",
        "generator": {
            "rows": 0,
            "fields": [{"name": "user_id", "num_ids": 500}, {"name": "item_id", "num_ids": 300}],
        },
    },
    "features": [
        {"kind": "categorical", "names": ["user_id", "item_id"]},
        {"kind": "categorical", "names": ["history"], "multivalued": True},
    ],
    "tables": {"scheme": "full", "embedding_dim": 8},
    "model": {"name": "deepfm", "hidden": [32, 16], "dropout": 0.1},
    "training": {
        "batch_size": 256,
        "epochs": 2,
        "patience": 9,
        "accumulate": 2,
        "schedule": "cosine",
        "warmup_steps": 5,
    },
    "job": {"checkpoint": {"every_steps": 2, "incremental": True}},
}
RESULTS = ("validation", "test", "history", "fields", "skipped_batches")
PHASES = ("start", "training", "saving", "end")


class Command:
    """`recsys train` on a folder of runs."""

    def __init__(self, config: Path, work: Path, runs: Path) -> None:
        self.runs = runs
        recsys = str(Path(sys.executable).with_name("recsys"))
        self._line = [recsys, "train", str(config), "--prepared", str(work / "prepared"), "--runs", str(runs)]

    def start(self) -> subprocess.Popen[bytes]:
        """Begin it, in silence."""
        return subprocess.Popen(self._line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self) -> Path:
        """Run it to its end -> the run's folder."""
        process = self.start()
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"the command failed with {process.returncode}: {said.decode()}")
        return next(self.runs.glob("*/seed-*/metrics.json")).parent


def killed(command: Command, phase: str, wait: float) -> str | None:
    """Start the command, kill it `wait` seconds into a phase -> what was going on then; None when it had finished."""
    process = command.start()
    reached = {
        "start": lambda: True,
        "training": lambda: any(command.runs.glob("*/seed-*/checkpoints/steps-*")),
        "saving": lambda: any(command.runs.glob("*/seed-*/checkpoints/steps-*.tmp")),
        "end": lambda: ended(command.runs) in ("end", "finished"),
    }[phase]
    if wait_for(lambda: reached() or process.poll() is not None) and process.poll() is None:
        time.sleep(wait)
    if process.poll() is None:
        process.kill()
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        if process.returncode:
            raise SystemExit(f"a command that was not killed ended with {process.returncode}")
        return None
    return ended(command.runs)


def ended(runs: Path) -> str:
    """Return what a run that is no longer alive was doing."""
    run = next(runs.glob("*/seed-*/"), None)
    if run is None or not any(run.glob("checkpoints/*")):
        return "start"
    if (run / "metrics.json").exists():
        return "finished"
    if (run / "checkpoint").exists() or (run / "checkpoint.tmp").exists():
        return "end"
    return "saving" if any(run.glob("checkpoints/*.tmp")) else "training"


def wait_for(condition: Callable[[], bool]) -> bool:
    """Look as often as a millisecond allows."""
    while not condition():
        time.sleep(0.001)
    return True


def differences(whole: Path, other: Path) -> list[str]:
    """Return what is not the same to the bit in two finished runs."""
    import pyarrow.parquet as pq

    from recsys_tables.distributed.checkpoint import Checkpoint

    metrics = [json.loads((run / "metrics.json").read_text()) for run in (whole, other)]
    found = [key for key in RESULTS if metrics[0][key] != metrics[1][key]]
    predictions = [pq.read_table(run / "predictions.parquet") for run in (whole, other)]
    found += [] if predictions[0].equals(predictions[1]) else ["predictions"]
    saved = [Checkpoint(run / "checkpoint") for run in (whole, other)]
    if saved[0].names != saved[1].names:
        return [*found, "names of tensors"]
    return found + [name for name in saved[0].names if not saved[0].read(name).equal(saved[1].read(name))]


def files(runs: Path) -> set[str]:
    """Everything in a runs folder; TensorBoard's files have the time and the process in their names."""
    return {
        str(path.relative_to(runs)).partition(".tfevents.")[0] for path in runs.rglob("*") if path.is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="a folder for data and runs; a temporary one otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        sys.exit(check(work, arguments.kills, arguments.rows, arguments.seed))


def check(work: Path, kills: int, rows: int, seed: int) -> int:
    """Do it all -> the exit code, 1 where anything differed."""
    raw = json.loads(json.dumps(CONFIG))
    raw["data"]["generator"]["rows"] = rows
    config = work / "small.yaml"
    config.write_text(yaml.safe_dump(raw))
    whole = Command(config, work, work / "whole").finish()
    prepared = files(work / "prepared")
    draw = random.Random(seed)
    happened: collections.Counter[str] = collections.Counter()
    wrong = runs = resumes = 0
    while sum(happened.values()) < kills:
        runs += 1
        command = Command(config, work, work / f"killed-{runs}")
        here: list[str] = []
        for _ in range(draw.randint(5, 15)):
            phase = draw.choices(PHASES, (1, 4, 3, 2))[0]
            wait = {"start": draw.uniform(0, 4), "training": draw.uniform(0, 4)}.get(
                phase, draw.uniform(0, 0.005)
            )
            if sum(happened.values()) + len(here) == kills or (at := killed(command, phase, wait)) is None:
                break
            here.append(at)
        happened.update(here)
        finished = command.finish()
        resumes += len(here)
        found = differences(whole, finished)
        extra = sorted(files(command.runs) ^ files(work / "whole"))
        wrong += bool(found or extra)
        print(
            f"run {runs}: killed {len(here)} times ({', '.join(here)}), then finished: "
            f"{'as the undisturbed one, to the bit' if not found else f'DIFFERENT {found}'}; "
            f"{'nothing left over' if not extra else f'LEFT OVER {extra}'}",
            flush=True,
        )
        shutil.rmtree(command.runs)
    wrong += files(work / "prepared") != prepared
    print(f"{sum(happened.values())} kills in {runs} runs, {resumes} resumes, while: {dict(happened)}")
    print(
        f"kept in a finished runs folder: {', '.join(sorted({name.rpartition('/')[2] for name in files(work / 'whole')}))}"
    )
    print("all as the undisturbed run" if not wrong else f"{wrong} DIFFERED")
    return int(wrong > 0)


if __name__ == "__main__":
    main()
