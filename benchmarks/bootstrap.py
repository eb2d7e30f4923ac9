"""The clustered bootstrap of ΔAUC against NumPy and scikit-learn, in one run.

python benchmarks/bootstrap.py [--rows 1000000] [--users 50000] [--replicates 1000] [--numpy 40] [--sklearn 3]

Two models on the same rows, 25 % positive, rows spread over users unevenly; `--users 0` resamples rows. Each line is a
process of its own, bound to so many cores. Ours is the whole call of `compare`, of arrays in memory to a verdict with
sorting, drawing, BCa intervals and DeLong's check, the best of --repeats processes. Rivals draw weights in NumPy's way;
they run so many replicates only, after one that is not timed, and are scaled, without their sorting. Memory is VmHWM,
with Python, its packages and the data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

Run = Callable[[np.ndarray, np.ndarray, np.ndarray | None, int], tuple[float, int]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--numpy", type=int, default=40, help="replicates of NumPy's way, 0 to leave it out")
    parser.add_argument(
        "--sklearn", type=int, default=3, help="replicates of scikit-learn's loop, 0 likewise"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes for each line of ours; 1 for a rival"
    )
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, cores, replicates, folder = arguments.child
        print(json.dumps(measured(way, int(cores), int(replicates), Path(folder))))
        return
    lines = [
        ("ours, 1 core", "ours", 1, arguments.replicates),
        ("ours, 2 cores", "ours", 2, arguments.replicates),
        ("ours, all metrics, 2 cores", "all", 2, arguments.replicates),
    ]
    lines += [
        ("NumPy, 1 core", "numpy", 1, arguments.numpy),
        ("scikit-learn, 1 core", "sklearn", 1, arguments.sklearn),
    ]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.rows, arguments.users)
        found = [
            (
                name,
                replicates,
                best(way, cores, replicates, folder, arguments.repeats if way in ("ours", "all") else 1),
            )
            for name, way, cores, replicates in lines
            if replicates
        ]
    shown = Table(
        "way",
        "replicates run",
        "seconds, scaled to all",
        "peak MiB",
        "of it before",
        "times ours on 1",
        "on 2",
    )
    seconds = [line["seconds"] * arguments.replicates / replicates for _, replicates, line in found]
    for (name, replicates, line), took in zip(found, seconds, strict=True):
        memory = (f"{line[key] / 2**20:,.0f}" for key in ("peak", "before"))
        ratios = (f"{took / ours:,.1f}" for ours in seconds[:2])
        shown.add_row(name, f"{replicates:,}", f"{took:,.2f}", *memory, *ratios)
    units = f"{arguments.users:,} users" if arguments.users else "rows"
    shown.title = f"{arguments.rows:,} rows x 2 models, {arguments.replicates:,} replicates of {units}"
    Console(width=120).print(shown)


def write(folder: Path, rows: int, users: int) -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=rows) - 1.3
    np.save(folder / "labels.npy", rng.random(rows) < 1 / (1 + np.exp(-logit)))
    noise = rng.normal(size=(2, rows)) * [[0.5], [0.6]]
    np.save(folder / "predictions.npy", 1 / (1 + np.exp(-logit - noise)))
    if users:
        np.save(folder / "users.npy", (users * rng.random(rows) ** 2).astype(np.int64))


def best(way: str, cores: int, replicates: int, folder: str, repeats: int) -> dict[str, float]:
    return min(
        (child(way, cores, replicates, folder) for _ in range(repeats)), key=lambda line: line["seconds"]
    )


def child(way: str, cores: int, replicates: int, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", way, str(cores), str(replicates), folder]
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "OPENBLAS_NUM_THREADS": str(cores)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout)


def measured(way: str, cores: int, replicates: int, folder: Path) -> dict[str, float]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    labels, predictions = np.load(folder / "labels.npy"), np.load(folder / "predictions.npy")
    users = np.load(folder / "users.npy") if (folder / "users.npy").exists() else None
    run: Run = {"ours": ours, "all": all_metrics, "numpy": numpy_way, "sklearn": sklearn_loop}[way]
    seconds, before = run(labels, predictions, users, replicates)
    return {"seconds": seconds, "before": before, "peak": peak()}


def peak() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def ours(labels, predictions, users, replicates, metrics=("auc",)):
    from recsys.evaluation.arms.compare import compare

    before, start = peak(), time.perf_counter()
    arms = {"a": predictions[:1], "b": predictions[1:]}
    compare(arms, labels, users, metrics=metrics, replicates=replicates)
    return time.perf_counter() - start, before


def all_metrics(labels, predictions, users, replicates):
    """Every metric that the rows allow: with users AUC, GAUC, log loss, NE and calibration."""
    return ours(labels, predictions, users, replicates, metrics=None)


def numpy_way(labels, predictions, users, replicates):
    """Do what `comparison.py` did before `WeightedRanks`, at its block of one replicate from 262,144 rows on."""
    units = np.arange(len(labels)) if users is None else np.unique(users, return_inverse=True)[1]
    before, rng, sums = peak(), np.random.default_rng(0), []
    for scores in predictions:
        order = np.argsort(scores, kind="stable")
        negatives, positives = order[~labels[order]], order[labels[order]]
        below = scores[negatives]
        places = [np.searchsorted(below, scores[positives], side) for side in ("left", "right")]
        sums.append((places, units[negatives], units[positives]))
    for replicate in range(replicates + 1):
        if replicate == 1:
            start = time.perf_counter()
        weights = rng.poisson(1.0, (1, units.max() + 1)).astype(np.int32)
        for places, negatives, positives in sums:
            below = np.zeros((1, negatives.size + 1), np.int32)
            np.cumsum(weights.take(negatives, axis=1), axis=1, out=below[:, 1:])
            twice = below.take(places[0], axis=1)
            twice += below.take(places[1], axis=1)
            up = weights.take(positives, axis=1).astype(np.float64)
            np.vecdot(up, twice.astype(np.float64)) / (2.0 * up.sum(axis=1) * below[:, -1])
    return time.perf_counter() - start, before


def sklearn_loop(labels, predictions, users, replicates):
    from sklearn.metrics import roc_auc_score

    units = np.arange(len(labels)) if users is None else np.unique(users, return_inverse=True)[1]
    before, rng = peak(), np.random.default_rng(0)
    for replicate in range(replicates + 1):
        if replicate == 1:
            start = time.perf_counter()
        weights = rng.poisson(1.0, units.max() + 1)[units]
        for scores in predictions:
            roc_auc_score(labels, scores, sample_weight=weights)
    return time.perf_counter() - start, before


if __name__ == "__main__":
    main()
