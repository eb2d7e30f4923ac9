"""Pooled lookup against FBGEMM and torch on the CPU, in one run: million rows a second, and ratios.

python benchmarks/lookup.py [--lookups 1048576] [--repeats 15] [--widths 16 64]

Tables hold 2^28 values (1 GiB in fp32), rows are drawn anew for every call, so that nothing stays in a cache. Everybody
is measured in two processes, one with torch's usual allocator and one in which torch asks for huge pages
(THP_MEM_ALLOC_ENABLE=1: its tables and fresh outputs are then on huge pages, as ours always are), contenders taking
turns; the median call counts, by wall time and by CPU time (of all threads together, for busy machines). FBGEMM is its
training table's forward, and for fp16, int8, int4 its inference table.

`limit` reads every cache line of the rows and writes nothing, so it cannot be reached where the output is as large as what
is read (bags of one). `with output` is the best of plain loops that write every line of the output too; no bound, as
the order of reads and writes counts.
"""

import argparse
import ctypes
import functools
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys_cython_ext import QuantisedTable, empty_huge, pooled, quantise

VALUES = 1 << 28
KINDS = ("fp32", "fp16", "int8", "int4")
AHEAD = (16, 32, 64, 128, 256)
COPIES = 64  # a table repeats a block of random rows: drawing a gigabyte takes longer than the benchmark
CLOCKS = {"wall time": time.perf_counter, "CPU time": time.process_time}  # the latter of all threads together
PAUSE = 0.005  # seconds before a call: torch's threads keep a core busy for a while after their work
RIVALS = ("FBGEMM", "embedding_bag", "index_select")
Call = Callable[[np.ndarray], Any]


def full_table(block: np.ndarray | QuantisedTable) -> np.ndarray | QuantisedTable:
    """Return COPIES of ``block`` on huge pages."""
    stored = block.data if isinstance(block, QuantisedTable) else block
    out = empty_huge((len(stored) * COPIES, stored.shape[1]), stored.dtype)
    for i in range(COPIES):
        out[i * len(stored) : (i + 1) * len(stored)] = stored
    return QuantisedTable(out, block.kind, block.embedding_dim) if isinstance(block, QuantisedTable) else out


def ceilings(table: np.ndarray | QuantisedTable, out: np.ndarray, bag: int, threads: int) -> dict[str, Call]:
    """Build the C gather, without and with an output, at several distances; none without a compiler."""
    stored = table.data if isinstance(table, QuantisedTable) else table.view(np.uint8)
    source = Path(__file__).with_name("ceiling_lookup.c")
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/ceiling.so"
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", str(source), "-o", library]
        sizes = {"STRIDE": stored.shape[1], "ROW_BYTES": stored.shape[1], "OUT_BYTES": out[0].nbytes}
        command += [f"-D{name}={size}" for name, size in sizes.items()]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        loops = ctypes.CDLL(library)
    pool = ThreadPoolExecutor(threads)

    def run(ahead: int, write: bool, stream: bool, rows: np.ndarray) -> None:
        calls = []
        for first, last in itertools.pairwise(len(out) * i // threads for i in range(threads + 1)):
            part = rows[first * bag : last * bag]
            call = [ctypes.c_void_p(stored.ctypes.data), ctypes.c_void_p(part.ctypes.data)]
            call += [ctypes.c_int64(len(part)), ctypes.c_int64(ahead)]
            if write:
                call += [ctypes.c_void_p(out[first:].ctypes.data), ctypes.c_int64(bag), ctypes.c_int(stream)]
            calls.append(call)
        loop = loops.gather_and_write if write else loops.gather
        others = [pool.submit(loop, *call) for call in calls[1:]]
        loop(*calls[0])
        for other in others:
            other.result()

    found: dict[str, Call] = {}
    for ahead in AHEAD:
        found[f"limit {ahead}"] = functools.partial(run, ahead, False, False)
        for stream in (False, True):
            found[f"written {ahead} {stream}"] = functools.partial(run, ahead, True, stream)
    return found


def fbgemm_table(kind: str, block: np.ndarray | QuantisedTable) -> Any:
    """FBGEMM's module for SUM pooling on the CPU, filled with COPIES of ``block``."""
    import torch
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    n, d = block.shape
    if kind == "fp32":
        spec = (n * COPIES, d, EmbeddingLocation.HOST, ComputeDevice.CPU)
        module = SplitTableBatchedEmbeddingBagsCodegen([spec], pooling_mode=PoolingMode.SUM)
        weights = module.split_embedding_weights()[0]
    else:
        spec = ("table", n * COPIES, d, SparseType[kind.upper()], EmbeddingLocation.HOST)
        module = IntNBitTableBatchedEmbeddingBagsCodegen(
            [spec], device="cpu", pooling_mode=PoolingMode.SUM, output_dtype=SparseType.FP32
        )
        module.initialize_weights()
        weights = module.split_embedding_weights_with_scale_bias(split_scale_bias_mode=0)[0][0]
    stored = block.data if isinstance(block, QuantisedTable) else block
    source = torch.from_numpy(stored if kind == "fp32" else stored.view(np.uint8))
    with torch.no_grad():
        for i in range(COPIES):
            weights[i * n : (i + 1) * n] = source
    return module


def contenders(
    kind: str, table: Any, fbgemm: Any, offsets: np.ndarray, out: np.ndarray, threads: int
) -> dict[str, Call]:
    """Everybody who can do the work, by name."""
    import torch

    bags_of_one = len(out) == offsets[-1]
    ends, torch_out = torch.from_numpy(offsets), torch.from_numpy(out)
    calls: dict[str, Call] = {
        "ours": lambda rows: pooled(table, rows, None if bags_of_one else offsets, out=out, threads=threads),
        "FBGEMM": lambda rows: fbgemm(torch.from_numpy(rows), ends),
    }
    if kind == "fp32":  # torch sums fp16 in fp16
        weight = fbgemm.split_embedding_weights()[0]
        calls["embedding_bag"] = lambda rows: torch.nn.functional.embedding_bag(
            torch.from_numpy(rows), weight, ends, mode="sum", include_last_offset=True
        )
        if bags_of_one:
            calls["index_select"] = lambda rows: torch.index_select(
                weight, 0, torch.from_numpy(rows), out=torch_out
            )
    return calls | ceilings(table, out, int(offsets[1]), threads)


def measure(kind: str, width: int, lookups: int, repeats: int) -> list[dict[str, Any]]:
    """Rates of one kind and width: bags of 1 and of 20, one thread and two."""
    import torch

    torch.set_grad_enabled(False)
    rng = np.random.default_rng(0)
    block = quantise(rng.standard_normal((VALUES // COPIES // width, width), np.float32), kind)
    table, fbgemm = full_table(block), fbgemm_table(kind, block)
    turns = itertools.cycle([rng.integers(0, table.shape[0], lookups) for _ in range(8)])
    out = empty_huge((lookups, width))
    results = []
    for bag, threads in itertools.product((1, 20), (1, 2)):
        offsets = np.append(np.arange(0, lookups, bag), lookups)
        torch.set_num_threads(threads)
        calls = contenders(kind, table, fbgemm, offsets, out[: len(offsets) - 1], threads)
        rows = next(turns)
        ours = calls["ours"](rows)
        assert np.allclose(ours, calls["FBGEMM"](rows).numpy(), atol=1e-3)
        seconds: dict[str, list[list[float]]] = {name: [[] for _ in CLOCKS] for name in calls}
        for name in list(calls) * repeats:
            rows = next(turns)
            time.sleep(PAUSE)
            start = [clock() for clock in CLOCKS.values()]
            calls[name](rows)
            for times, clock, begin in zip(seconds[name], CLOCKS.values(), start, strict=True):
                times.append(clock() - begin)
        case = {"kind": kind, "width": width, "bag": bag, "threads": threads}
        for i, clock_name in enumerate(CLOCKS):
            case[clock_name] = {name: lookups / median(times[i]) / 1e6 for name, times in seconds.items()}
        results.append(case)
    return results


def both(plain: dict[str, float], huge: dict[str, float], name: str) -> str:
    return f"{plain[name]:.0f} / {huge[name]:.0f}" if name in plain else ""


def processor() -> str:
    """Name the processor, and say whether it has AVX-512."""
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in described.splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return name + (", AVX-512" if "avx512bw" in described else "")


def best(rates: dict[str, float], kind: str) -> float:
    return max((rate for name, rate in rates.items() if name.startswith(kind)), default=math.nan)


def show(plain: list[dict[str, Any]], huge: list[dict[str, Any]], lookups: int, clock: str) -> None:
    shown = Table(
        *("rows", "width", "bag", "threads", "ours", *RIVALS, "ours / FBGEMM", "ours / best rival"),
        *("2 threads / 1", "limit", "share", "with output", "share"),
        title=f"million rows a second of {clock}, {lookups:,} a call, medians, {processor()}; "
        "rivals: usual allocator / huge pages",
    )
    single = 0.0
    for case, with_huge in zip(plain, huge, strict=True):
        a, b = case[clock], with_huge[clock]
        top = {name: max(a[name], b[name]) for name in a}
        ours, rival = top["ours"], max(top[name] for name in RIVALS if name in top)
        limit, written = best(top, "limit"), best(top, "written")
        single = ours if case["threads"] == 1 else single
        shown.add_row(
            *(str(case[name]) for name in ("kind", "width", "bag", "threads")),
            f"{ours:.0f}",
            *(both(a, b, name) for name in RIVALS),
            f"{ours / a['FBGEMM']:.2f} / {ours / b['FBGEMM']:.2f}",
            f"{ours / rival:.2f}",
            f"{ours / single:.2f}" if case["threads"] == 2 else "",
            *(f"{limit:.0f}", f"{ours / limit:.0%}", f"{written:.0f}", f"{ours / written:.0%}"),
        )
    console = Console(width=170)
    console.print(shown)
    if math.isnan(best(plain[0][clock], "limit")):
        console.print("No C compiler (cc) was found: the machine's own limits were not measured.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lookups", type=int, default=1 << 20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.kinds[0], args.widths[0], args.lookups, args.repeats)))
        return
    results: dict[str, list[dict[str, Any]]] = {"0": [], "1": []}
    for width, kind, huge in itertools.product(args.widths, args.kinds, results):
        command = [sys.executable, __file__, "--child", "--kinds", kind, "--widths", str(width)]
        command += ["--lookups", str(args.lookups), "--repeats", str(args.repeats)]
        environment = os.environ | {"THP_MEM_ALLOC_ENABLE": huge}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        results[huge] += json.loads(done.stdout.splitlines()[-1])  # a process frees all its memory
    for clock in CLOCKS:
        show(results["0"], results["1"], args.lookups, clock)


if __name__ == "__main__":
    main()
