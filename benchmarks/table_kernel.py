"""A step of tables in training, forward, backward and update, against FBGEMM and torch's sparse optimisers.

python benchmarks/table_kernel.py [--large] [--rounds 3]

26 lookups of one id, batch 4,096, ids by Zipf's law dealt over each table's rows; every contender in a process of its own,
in turn; medians of milliseconds, wall and CPU. 0.18 M rows, and with --large 20 M (up to 16 GB), of width 16 and 64.

fbgemm       FBGEMM's module as TorchRec makes it: rowwise Adagrad
recsys       the same module with the table kernel (`recsys_tables.table_kernel`), and the same with Adam
recsys bf16  rows in bfloat16, rounded by chance
SparseAdam   torch: one `nn.Embedding(sparse=True)` for all lookups, `torch.optim.SparseAdam`
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

FIELDS, BATCH, HELD, WARM, STEPS = 26, 4096, 20, 5, 40
SMALL, LARGE = 180_000, 20_000_000
ADAGRAD, ADAM = ("fbgemm", "recsys", "recsys bf16"), ("SparseAdam", "recsys adam")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def batches(rows: int) -> list[np.ndarray]:
    """Rows of each table, int64 [FIELDS * BATCH], one lookup after another."""
    random, each = np.random.default_rng(0), rows // FIELDS
    share = np.cumsum(1 / np.arange(1, each + 1) ** 1.05)
    ranks = [np.searchsorted(share, random.random(FIELDS * BATCH) * share[-1]) for _ in range(HELD)]
    return [(rank * 0x9E3779B1 % each).astype(np.int64) for rank in ranks]


def tables(contender: str, rows: int, width: int) -> Callable[[Any, Any], None]:
    """FBGEMM's module, or ours in its place; a step of it."""
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    from recsys_tables.distributed.kernel_tables import KernelTables

    module = (SplitTableBatchedEmbeddingBagsCodegen if contender == "fbgemm" else KernelTables)(
        [(rows // FIELDS, width, EmbeddingLocation.HOST, ComputeDevice.CPU)] * FIELDS,
        optimizer=EmbOptimType.ADAM if contender.endswith("adam") else EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        weights_precision=SparseType.BF16 if contender.endswith("bf16") else SparseType.FP32,
        learning_rate=0.05,
        device=torch.device("cpu"),
    )
    module.weights_host.data.uniform_(-0.05, 0.05)
    offsets = torch.arange(FIELDS * BATCH + 1)
    return lambda ids, gradient: module(ids, offsets).backward(gradient)


def sparse_adam(rows: int, width: int) -> Callable[[Any, Any], None]:
    import torch

    table = torch.nn.Embedding(rows, width, sparse=True)
    first = (torch.arange(FIELDS) * (rows // FIELDS)).repeat_interleave(BATCH)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=1e-3)

    def step(ids: Any, gradient: Any) -> None:
        optimizer.zero_grad()
        table((ids + first).view(FIELDS, BATCH).T).backward(gradient.view(BATCH, FIELDS, width))
        optimizer.step()

    return step


def one(contender: str, rows: int, width: int, threads: int) -> dict[str, float]:
    """Median milliseconds of a step, wall and CPU."""
    import torch

    torch.set_num_threads(threads)
    held = [torch.from_numpy(ids) for ids in batches(rows)]
    gradient = torch.randn(BATCH, FIELDS * width) * 1e-3
    step = sparse_adam(rows, width) if contender == "SparseAdam" else tables(contender, rows, width)
    wall, cpu = [], []
    for turn in range(WARM + STEPS):
        began, before = time.perf_counter(), time.process_time()
        step(held[turn % HELD], gradient)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - before)
    return {"wall": 1e3 * statistics.median(wall[WARM:]), "cpu": 1e3 * statistics.median(cpu[WARM:])}


def measured(contender: str, rows: int, width: int, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", contender, str(rows), str(width), str(threads)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"OMP_WAIT_POLICY": "passive", **os.environ}
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(rows: int, width: int, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    names = (*ADAGRAD, *ADAM)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(measured(name, rows, width, threads))
    return {
        name: {key: statistics.median(run[key] for run in entries) for key in ("wall", "cpu")}
        for name, entries in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="20 M rows too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        contender, *numbers = arguments.one
        return print(json.dumps(one(contender, *map(int, numbers))))
    table = Table(
        *("rows", "width", "threads", "contender", "ms", "CPU ms", "times as fast as", "by CPU time"),
        title=f"A step of tables, {processor()}",
    )
    found = []
    for rows in (SMALL, *((LARGE,) if arguments.large else ())):
        for width in (16, 64):
            for threads in (1, 2):
                figures = compared(rows, width, threads, arguments.rounds)
                found.append({"rows": rows, "width": width, "threads": threads, **figures})
                for name, entry in figures.items():
                    rival = (ADAM if name in ADAM else ADAGRAD)[0]
                    shown = [f"{entry['wall']:.2f}", f"{entry['cpu']:.2f}"]
                    if name != rival:
                        ratio, by_cpu = (figures[rival][key] / entry[key] for key in ("wall", "cpu"))
                        shown += [f"{rival} {ratio:.2f}", f"{by_cpu:.2f}"]
                    table.add_row(f"{rows:,}", str(width), str(threads), name, *shown)
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"processor": processor(), "steps": found}, indent=1))


if __name__ == "__main__":
    main()
