"""Criteo text to training-ready shards, against a plain Polars query, and pandas where it is installed.

python benchmarks/pipeline.py criteo80k.parquet [--rows 1000000] [--repeats 3]

Every contender is a process of its own: rows a second and peak memory of the whole process. All of them turn 26
categorical columns into codes of a vocabulary of ids seen at least twice, 13 integers into log(1 + |x|), and write
columnar files. Ours also splits, counts quarantined rows, keeps checksums and can be resumed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from criteo_text import write
from rich.console import Console
from rich.table import Table

INTEGERS = [f"i{i}" for i in range(1, 14)]
IDS = [f"c{i}" for i in range(1, 27)]
COLUMNS = ["label", *INTEGERS, *IDS]


def ours(text: Path, out: Path, encoding: str) -> None:
    from recsys_pipelines.config import CategoricalConfig, DataConfig, NumericConfig, SplitConfig
    from recsys_pipelines.prepare import prepare

    min_count = 2 if encoding == "vocabulary" else 1
    features = (
        NumericConfig(kind="numeric", names=tuple(INTEGERS), transform="log", standardise=False),
        CategoricalConfig(kind="categorical", names=tuple(IDS), encoding=encoding, min_count=min_count),
    )
    prepare(DataConfig(source="criteo", path=text, split=SplitConfig()), features, out)


def polars(text: Path, out: Path) -> None:
    import polars as pl

    schema = {name: pl.Int64 for name in ["label", *INTEGERS]} | {name: pl.String for name in IDS}
    rows = pl.read_csv(text, separator="\t", has_header=False, schema=schema)
    numbers = [(pl.col(n).sign() * pl.col(n).abs().log1p()).fill_null(0).cast(pl.Float32) for n in INTEGERS]
    lazy = rows.lazy().with_columns(numbers)
    for name in IDS:
        counts = rows.lazy().group_by(name).len().filter(pl.col("len") >= 2).sort("len", descending=True)
        vocabulary = counts.select(name, pl.int_range(2, pl.len() + 2, dtype=pl.Int32).alias(f"{name}_code"))
        lazy = lazy.join(vocabulary, on=name, how="left").with_columns(pl.col(f"{name}_code").fill_null(1))
    lazy.select("label", *INTEGERS, *(f"{name}_code" for name in IDS)).collect().write_ipc(out / "rows.arrow")


def pandas(text: Path, out: Path) -> None:
    import numpy as np
    import pandas as pd

    rows = pd.read_csv(text, sep="\t", header=None, names=COLUMNS, dtype=dict.fromkeys(IDS, "str"))
    for name in INTEGERS:
        rows[name] = (np.sign(rows[name]) * np.log1p(rows[name].abs())).fillna(0).astype(np.float32)
    for name in IDS:
        counts = rows[name].value_counts()
        vocabulary = pd.Series(np.arange(2, (counts >= 2).sum() + 2), index=counts.index[counts >= 2])
        rows[name] = rows[name].map(vocabulary).fillna(1).astype(np.int32)
    rows.to_feather(out / "rows.feather")


CONTENDERS = {
    "ours, vocabulary": lambda text, out: ours(text, out, "vocabulary"),
    "ours, hash": lambda text, out: ours(text, out, "hash"),
    "Polars query": polars,
    "pandas": pandas,
}


def run(name: str, text: Path) -> dict[str, float]:
    """Seconds and peak bytes of one contender in a process of its own."""
    with tempfile.TemporaryDirectory(dir=text.parent) as out:
        command = [sys.executable, __file__, "--contender", name, str(text), "--out", out]
        answer = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, env={**os.environ, "POLARS_MAX_THREADS": "2"}
        )
    return json.loads(answer.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    installed = [name for name in CONTENDERS if name != "pandas" or find_spec("pandas")]
    parser.add_argument("--only", nargs="+", default=installed, choices=list(CONTENDERS))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        started = time.perf_counter()
        CONTENDERS[args.contender](args.source, args.out)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak": peak}))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "train.txt"
        write(args.source, text, args.rows)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
        for _ in range(args.repeats):
            for name in args.only:  # in turns, so that a busy moment hits all alike
                found[name].append(run(name, text))
    seconds = {name: statistics.median(r["seconds"] for r in results) for name, results in found.items()}
    shown = Table(
        "", "rows/s", "seconds", "peak MB", "× Polars", title=f"{args.rows:,} rows of text, two threads"
    )
    for name, results in found.items():
        peak = max(r["peak"] for r in results)
        ratio = seconds["Polars query"] / seconds[name] if "Polars query" in seconds else float("nan")
        shown.add_row(
            name,
            f"{args.rows / seconds[name]:,.0f}",
            f"{seconds[name]:.2f}",
            f"{peak / 1e6:,.0f}",
            f"{ratio:.2f}",
        )
    Console(width=100).print(shown)


if __name__ == "__main__":
    main()
