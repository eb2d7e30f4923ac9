"""Samples per second of training, against rivals, in one run: every contender in a process of its own, in turn.

python benchmarks/training.py criteo80k.parquet [--rivals PYTHON] [--rounds 3] [--threads 2]

Batch 4,096, width 16, MLP 400-400. Rows: a million in Criteo's form (`criteo_text.py`), vocabularies of ids
that occur three times, about 0.18 M table rows; and, with --large, a million rows of Zipf ids over 20 M table rows.

bare         TorchRec on tensors in memory: the same tables (FBGEMM's kernel) and optimisers, a network of plain torch
             (`plain_networks.py`); nothing is loaded, measured or shown
recsys       the training loop as `recsys train` runs it: batches from mapped shards, losses, progress, checkpoints
recsys bf16  the same with training.precision: bf16
SparseAdam   torch: one table for all features, `nn.Embedding(sparse=True)`, and the plain network, on tensors in memory

CPU time is that of all threads of the process, the loader's too.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

BATCH, WARM, HELD = 4096, 10, 60  # rows; steps before the clock starts; batches in memory
STEPS = {"bare": 150, "SparseAdam": 150, "fuxictr": 60, "deepctr": 60}
SLOW_STEPS = 6  # of what takes seconds a step at 20 M rows
MODELS = {
    "deepfm": {"name": "deepfm", "hidden": [400, 400]},
    "dcn_v2": {"name": "dcn_v2", "hidden": [400, 400], "cross_layers": 3},
}
LARGE_ROWS, FIELDS = 20_000_000, 26


def configuration(model: str, log: str, threads: int, precision: str = "fp32") -> Any:
    from recsys.config import parse_experiment

    large = log.endswith(".parquet")
    numbers = [f"i{i}" for i in range(1, 14)]
    ids: dict[str, Any] = {"kind": "categorical", "names": [f"c{i}" for i in range(1, FIELDS + 1)]}
    ids |= {"encoding": "hash"} if large else {"min_count": 3}
    tables = {"scheme": "full", "embedding_dim": 16}
    if large:  # rows of 16 weights and one number of the optimiser
        tables = {"scheme": "hash", "embedding_dim": 16, "budget": f"{LARGE_ROWS * 68}B"}
    return parse_experiment(
        {
            "name": f"{model}-{precision}",
            "data": {
                "source": "table" if large else "criteo",
                "path": log,
                "split": {"by": "order", "train": 0.9, "validation": 0.05, "test": 0.05},
            },
            "features": [{"kind": "numeric", "names": numbers, "transform": "log"}, ids],
            "tables": tables,
            "model": MODELS[model],
            "training": {
                "batch_size": BATCH,
                "epochs": 1,
                "evaluations_per_epoch": 1,
                "num_threads": threads,
                "precision": precision,
            },
        },
        "benchmark",
    )


def zipf_log(path: Path, rows: int = 1_000_000) -> None:
    """Ids of each field follow Zipf's law over an even share of the table rows; labels are a coin's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    each = LARGE_ROWS // FIELDS
    share = np.cumsum(1 / np.arange(1, each + 1) ** 1.05)
    columns: dict[str, Any] = {"label": (random.random(rows) < 0.25).astype(np.int8)}
    for i in range(1, 14):
        columns[f"i{i}"] = random.exponential(3, rows)
    for i in range(1, FIELDS + 1):
        ranks = np.searchsorted(share, random.random(rows) * share[-1])
        columns[f"c{i}"] = random.permutation(each)[ranks] + i * each
    pq.write_table(pa.table(columns), path)


def held_batches(config: Any, prepared: Path) -> list[Any]:
    """Return the first batches of an epoch, as the loader makes them."""
    from recsys_pipelines.batches.loader import Loader, Rows

    rows = Rows.load(prepared, "train")
    return list(islice(Loader(rows, BATCH, 0).epoch(0), HELD))


def clocks() -> np.ndarray:
    """Return seconds of wall and CPU time, [2]."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(step: Callable[[Any], None], batches: list[Any], steps: int) -> np.ndarray:
    """Return seconds of a step, [2] as `clocks`."""
    turn: Iterator[Any] = cycle(batches)
    for _ in range(WARM):
        step(next(turn))
    started = clocks()
    for _ in range(steps):
        step(next(turn))
    return (clocks() - started) / steps


def bare(config: Any, prepared: Path) -> np.ndarray:
    """Train in a loop as TorchRec's examples have it."""
    import torch
    from plain_networks import plain_network
    from torch import nn
    from torchrec.optim.optimizers import in_backward_optimizer_filter

    from recsys.training.distributed import process_group
    from recsys.training.loop import make_model
    from recsys_pipelines.batches.loader import Rows
    from recsys_tables.distributed.sharding import TableOptimizer, shard

    class Plain(nn.Module):
        def __init__(self, collection: nn.Module, network: nn.Module) -> None:
            super().__init__()
            self.engine = model.engine  # the tables' optimiser is attached through it
            self.collection, self.network = collection, network

        def forward(self, dense: torch.Tensor, ids: Any) -> torch.Tensor:
            return self.network(dense, self.collection(ids).values().view(len(dense), -1, 16))

    torch.set_num_threads(config.training.num_threads)
    features = Rows.load(prepared, "train").features
    model = make_model(config, features)
    rows = [
        (b.dense, model.engine.rows(b.ids).by_group["pooled"], b.label)
        for b in held_batches(config, prepared)
    ]
    network = plain_network(config.model.name, rows[0][0].shape[1] + 16 * FIELDS)
    with process_group():
        collection = model.engine.collections["pooled"]
        module, cpu = Plain(collection, network), torch.device("cpu")
        plain = shard(module, TableOptimizer(), cpu, 0, table_kernel="fbgemm")
        dense = [p for _, p in in_backward_optimizer_filter(plain.named_parameters())]
        optimizer = torch.optim.Adam(dense, lr=1e-3, fused=True)
        loss = nn.BCEWithLogitsLoss()

        def step(batch: Any) -> None:
            optimizer.zero_grad()
            loss(plain(batch[0], batch[1]), batch[2]).backward()
            optimizer.step()

        return timed(step, rows, STEPS["bare"])


def sparse_adam(config: Any, prepared: Path) -> np.ndarray:
    """Sparse gradients of one table, `torch.optim.SparseAdam` for it and Adam for the rest."""
    import torch
    from plain_networks import plain_network
    from torch import nn

    torch.set_num_threads(config.training.num_threads)
    ids, dense, label, sizes = arrays(config, prepared)
    offsets = torch.from_numpy(np.cumsum([0, *sizes[:-1]]))
    table = nn.Embedding(sum(sizes), 16, sparse=True)
    nn.init.uniform_(table.weight, -0.05, 0.05)
    network = plain_network(config.model.name, dense.shape[1] + 16 * FIELDS)
    optimizers = [
        torch.optim.SparseAdam(table.parameters(), lr=1e-3),
        torch.optim.Adam(network.parameters(), lr=1e-3, fused=True),
    ]
    loss = nn.BCEWithLogitsLoss()
    held = [
        (torch.from_numpy(ids[at]).long() + offsets, torch.from_numpy(dense[at]), torch.from_numpy(label[at]))
        for at in (slice(k * BATCH, (k + 1) * BATCH) for k in range(HELD))
    ]

    def step(batch: Any) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(network(batch[1], table(batch[0])), batch[2]).backward()
        for optimizer in optimizers:
            optimizer.step()

    return timed(step, held, STEPS["SparseAdam"])


def arrays(config: Any, prepared: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Table rows [n, F], numbers [n, m] and labels [n] of the held batches, and each table's number of rows."""
    from recsys.planning import fields_of, plan_of
    from recsys_pipelines.batches.loader import Rows
    from recsys_tables.engine.engine import EmbeddingEngine

    features = Rows.load(prepared, "train").features
    import torch

    engine = EmbeddingEngine(fields_of(plan_of(config, features), features), torch.device("meta"))
    batches = held_batches(config, prepared)
    ids = np.concatenate(
        [engine.rows(b.ids).by_group["pooled"].values().view(FIELDS, -1).T.numpy() for b in batches]
    )
    dense = np.concatenate([b.dense.numpy() for b in batches])
    label = np.concatenate([b.label.numpy() for b in batches])
    return ids, dense, label, [table.num_embeddings for table in engine.tables]


def ours(config: Any, prepared: Path) -> np.ndarray:
    """`recsys train`'s loop, up to the evaluation; its progress goes to standard error."""
    from recsys.console import bars
    from recsys.training.loop import Watch
    from recsys.training.train import train
    from recsys_pipelines.preparation.prepared import Prepared

    class Enough(Exception):
        pass

    marks: dict[int, np.ndarray] = {}

    def progress(what: str, done: int, of: int, detail: str) -> None:
        show(what, done, of, detail)
        marks[done] = clocks()
        if done == of - 1:  # the last batch is a small one
            raise Enough

    with tempfile.TemporaryDirectory() as runs, bars() as show, contextlib.suppress(Enough):
        train(config, Prepared.open(prepared), Path(runs), Watch(progress=progress))
    last = max(marks)
    return (marks[last] - marks[WARM]) / (last - WARM)


CONTENDERS = {"bare": bare, "recsys": ours, "recsys bf16": ours, "SparseAdam": sparse_adam}


def one(contender: str, model: str, log: str, prepared: str, threads: str) -> None:
    import resource

    precision = "bf16" if contender.endswith("bf16") else "fp32"
    config = configuration(model, log, int(threads), precision)
    wall, cpu = CONTENDERS[contender](config, Path(prepared)).tolist()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"rate": BATCH / wall, "cpu": cpu, "peak": peak}))


def measured(command: list[str]) -> dict[str, float]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def processor() -> str:
    """Return the processor's name and number of CPUs."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{(names or [platform.processor() or platform.machine()])[0]}, {os.cpu_count()} CPUs"


def compare(
    title: str, models: list[str], log: Path, rivals: str | None, rounds: int, threads: int, slow: bool
) -> dict[str, Any]:
    """Print one table: median rates, ratios to the bare loop, CPU time of a step, peak memory."""
    from recsys_pipelines.preparation.prepare import prepare

    work = log.parent
    contenders = [*CONTENDERS, *(["fuxictr", "deepctr"] if rivals else [])]
    found: dict[str, Any] = {}
    for model in models:
        config = configuration(model, str(log), threads)
        prepared = prepare(config.data, config.features, work / "prepared").path
        batches = work / f"batches-{log.stem}.npz"
        if rivals and not batches.exists():
            ids, dense, label, sizes = arrays(config, prepared)
            np.savez(
                batches, ids=ids.astype(np.int32), dense=dense, label=label, sizes=sizes, batch_size=BATCH
            )
        rates: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for round_ in range(rounds):
            for name in contenders:
                if name in CONTENDERS:
                    command = [
                        sys.executable,
                        __file__,
                        "--one",
                        name,
                        model,
                        str(log),
                        str(prepared),
                        str(threads),
                    ]
                elif slow and round_:
                    continue
                else:
                    steps = SLOW_STEPS if slow else STEPS[name]
                    script = str(Path(__file__).with_name("training_rivals.py"))
                    command = [str(rivals), script, name, model, str(batches), str(steps), str(threads)]
                rates[name].append(measured(command))
        found[model] = {
            name: {key: statistics.median(entry[key] for entry in entries) for key in ("rate", "cpu", "peak")}
            for name, entries in rates.items()
        }
    columns = ("model", "contender", "samples/s", "of the bare loop", "CPU a step", "peak memory")
    table = Table(*columns, title=f"{title}, threads: {threads}, on {processor()}")
    for model, entries in found.items():
        for name, entry in entries.items():
            share = entry["rate"] / entries["bare"]["rate"]
            figures = (f"{entry['rate']:,.0f}", f"{share:.2f}", f"{entry['cpu'] * 1e3:.1f} ms")
            table.add_row(model, name, *figures, f"{entry['peak'] / 1e9:.2f} GB")
    Console(width=120).print(table)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, nargs="?", help="criteo80k.parquet")
    parser.add_argument("--rivals", help="Python of an environment with FuxiCTR and DeepCTR-Torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2)
    parser.add_argument("--large", action="store_true", help="20 M table rows too")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "recsys-training-benchmark"
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(*arguments.one)
    import criteo_text

    arguments.work.mkdir(exist_ok=True)
    text = arguments.work / "train.txt"
    if not text.exists():
        criteo_text.write(arguments.source, text, 1_000_000)
    how = (arguments.rivals, arguments.rounds, arguments.threads)
    found = {"small": compare("0.18 M table rows", list(MODELS), text, *how, slow=False)}
    if arguments.large:
        log = arguments.work / "zipf.parquet"
        if not log.exists():
            zipf_log(log)
        found["large"] = compare("20 M table rows", ["deepfm"], log, *how, slow=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"processor": processor(), "threads": arguments.threads, **found}, indent=1)
        )


if __name__ == "__main__":
    main()
