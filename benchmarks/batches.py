"""Prepared shards to shuffled batches of Criteo's 39 columns, on one core, against other ways to do it.

python benchmarks/batches.py criteo80k.parquet [--rows 1000000] [--batch-size 4096] [--repeats 3]

Every contender is a process of its own, pinned to one core, that makes the same batches: dense [B, 13], a
KeyedJaggedTensor of 26 features, label and weight. Rows a second are of an epoch after a first one, in which pages of
the shards were touched; the median of the repeats counts. Memory is what the process allocated (RssAnon) from before
it opened the shards to the end; mapped shards are the page cache's, which gives them up when others need memory.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Batches = Callable[[int], Iterator[Any]]  # of an epoch


def prepared(source: Path, rows: int, folder: Path, encoding: str) -> Path:
    """Make a folder of shards of `rows` rows for training, and a few for the other parts."""
    from criteo_text import write

    from recsys_pipelines.config import CategoricalConfig, DataConfig, NumericConfig, SplitConfig
    from recsys_pipelines.preparation.prepare import prepare

    text = folder / "train.txt"
    write(source, text, round(rows / 0.98))
    integers, ids = (tuple(f"{kind}{i}" for i in range(1, n + 1)) for kind, n in (("i", 13), ("c", 26)))
    features = (
        NumericConfig(kind="numeric", names=integers, transform="log", standardise=False),
        CategoricalConfig(kind="categorical", names=ids, encoding=encoding),
    )
    split = SplitConfig(train=0.98, validation=0.01, test=0.01)
    path = prepare(DataConfig(source="criteo", path=text, split=split), features, folder).path
    text.unlink()
    return path


def columns_of(rows: Any) -> tuple[list[str], list[str]]:
    return [f.name for f in rows.features.categorical], list(rows.features.numeric_columns)


def kjt(keys: list[str], values: Any, n: int) -> Any:
    import torch
    from torchrec import KeyedJaggedTensor

    lengths = torch.ones(len(keys) * n, dtype=torch.int32)
    return KeyedJaggedTensor.from_lengths_sync(keys=keys, values=values, lengths=lengths)


def batch_of(dense: Any, ids: Any, label: Any, weight: Any) -> Any:
    from recsys_pipelines.batches.loader import Batch

    return Batch(dense, ids, label, weight, len(label))


def order(n: int, size: int, epoch: int) -> Iterator[np.ndarray]:
    from recsys_pipelines.batches.order import epoch_order

    return epoch_order(n, size, 0, epoch)


def ours(rows: Any, size: int) -> Batches:
    return lambda epoch: (rows.batch(index) for index in order(len(rows), size, epoch))


def ours_loader(rows: Any, size: int) -> Batches:
    from recsys_pipelines.batches.loader import Loader

    return Loader(rows, size, 0).epoch


def ours_in_order(rows: Any, size: int) -> Batches:
    n = len(rows)
    return lambda _: (rows.batch(np.arange(at, min(at + size, n))) for at in range(0, n, size))


def in_memory(rows: Any, size: int) -> Batches:
    """Read all columns into one matrix of each kind, as Rows did before."""
    import torch

    keys, numbers = columns_of(rows)
    single, dense = (
        np.empty((len(rows), len(keys)), np.int64),
        np.empty((len(rows), len(numbers)), np.float32),
    )
    for matrix, names in ((single, keys), (dense, numbers)):
        for place, name in enumerate(names):
            matrix[:, place] = rows.table[name].to_numpy()

    def batch(index: np.ndarray) -> Any:
        values = np.concatenate(list(single[index].T))
        tensors = (torch.from_numpy(array[index]) for array in (rows.label, rows.weight))
        ids = kjt(keys, torch.from_numpy(values), len(index))
        return batch_of(torch.from_numpy(dense[index]), ids, *tensors)

    return lambda epoch: map(batch, order(len(rows), size, epoch))


def tensor_dataset(rows: Any, size: int) -> Any:
    import torch
    from torch.utils.data import TensorDataset

    keys, numbers = columns_of(rows)
    ids = torch.stack([torch.from_numpy(rows.table[name].to_numpy().astype(np.int64)) for name in keys], 1)
    dense = torch.stack([torch.from_numpy(rows.table[name].to_numpy().copy()) for name in numbers], 1)
    return TensorDataset(dense, ids, torch.from_numpy(rows.label), torch.from_numpy(rows.weight))


def data_loader(rows: Any, size: int, whole: bool) -> Batches:
    """Use torch's DataLoader, in this process: whole lists of positions, or one by one and collated (its default)."""
    from torch.utils.data import DataLoader

    keys, _ = columns_of(rows)
    dataset = tensor_dataset(rows, size)

    def batches(epoch: int) -> Iterator[Any]:
        lists = [index.tolist() for index in order(len(rows), size, epoch)]
        loader = (
            DataLoader(dataset, sampler=lists, batch_size=None)
            if whole
            else DataLoader(dataset, batch_sampler=lists)
        )
        for dense, ids, label, weight in loader:
            yield batch_of(dense, kjt(keys, ids.T.reshape(-1), len(label)), label, weight)

    return batches


def arrow_take(rows: Any, size: int) -> Batches:
    """Use pyarrow's take over the mapped table, in one chunk."""
    import pyarrow as pa
    import torch

    keys, numbers = columns_of(rows)
    table = rows.table.select([*keys, *numbers]).combine_chunks()

    def batch(index: np.ndarray) -> Any:
        got = table.take(pa.array(index))
        values = np.concatenate([got[name].to_numpy() for name in keys]).astype(np.int64, copy=False)
        dense = np.stack([got[name].to_numpy() for name in numbers], axis=1)
        tensors = (torch.from_numpy(array[index]) for array in (rows.label, rows.weight))
        return batch_of(torch.from_numpy(dense), kjt(keys, torch.from_numpy(values), len(index)), *tensors)

    return lambda epoch: map(batch, order(len(rows), size, epoch))


CONTENDERS: dict[str, Callable[[Any, int], Batches]] = {
    "ours, shuffled": ours,
    "ours, shuffled, prefetched": ours_loader,
    "ours, in order": ours_in_order,
    "matrix in memory": in_memory,
    "DataLoader, lists": lambda rows, size: data_loader(rows, size, True),
    "DataLoader, rows": lambda rows, size: data_loader(rows, size, False),
    "pyarrow take": arrow_take,
}
FEW = {"DataLoader, rows": 20}  # batches timed of who is slow


def anonymous() -> int:
    """Bytes of memory that no file is behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024


def measure(name: str, folder: Path, size: int) -> dict[str, float]:
    """Rows a second and bytes of one contender, which must make the batches that ours makes."""
    import torch

    from recsys_pipelines.batches.loader import Rows

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    Rows.load(folder, "validation").batch(np.arange(64))  # what is loaded at the first use is nobody's memory
    before = anonymous()
    rows = Rows.load(folder, "train")
    make = CONTENDERS[name](rows, size)
    few = FEW.get(name)
    for _ in itertools.islice(make(0), few):
        pass
    started, n = time.perf_counter(), 0
    for batch in itertools.islice(make(1), few):
        n += batch.rows
    seconds = time.perf_counter() - started
    used = anonymous() - before
    del batch
    expected = (ours_in_order if name == "ours, in order" else ours)(rows, size)
    for own, theirs in itertools.islice(zip(expected(2), make(2), strict=True), 3):
        for one in ("dense", "label", "weight"):
            assert torch.equal(getattr(own, one), getattr(theirs, one)), one
        assert torch.equal(own.ids.values(), theirs.ids.values())
        assert torch.equal(own.ids.lengths(), theirs.ids.lengths())
        assert own.ids.keys() == theirs.ids.keys()
    return {"rate": n / seconds, "bytes": used}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--encoding", default="vocabulary", choices=["vocabulary", "hash"])
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args.contender, args.source, args.batch_size)))
        return
    from rich.console import Console
    from rich.table import Table

    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    with tempfile.TemporaryDirectory() as folder:
        path = prepared(args.source, args.rows, Path(folder), args.encoding)
        for name in args.only * args.repeats:  # in turns, so that a busy moment hits all alike
            command = [sys.executable, __file__, "--contender", name, str(path)]
            command += ["--batch-size", str(args.batch_size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    rates = {name: statistics.median(result["rate"] for result in results) for name, results in found.items()}
    first = rates[args.only[0]]
    shown = Table(
        *("", "rows/s", f"{args.only[0]} / this", "memory, MB"),
        title=f"{args.rows:,} rows of 39 columns ({args.encoding}), batches of {args.batch_size:,}, one core",
    )
    for name, results in found.items():
        memory = statistics.median(result["bytes"] for result in results)
        shown.add_row(name, f"{rates[name]:,.0f}", f"{first / rates[name]:.2f}", f"{memory / 1e6:,.0f}")
    Console(width=100).print(shown)


if __name__ == "__main__":
    main()
