"""Criteo text to training-ready files: this project, plain Polars queries, pandas and FuxiCTR.

python benchmarks/pipeline.py criteo80k.parquet [--rows 1000000] [--repeats 3] [--fuxictr PYTHON] [--json FILE]

Every contender is a process of its own: rows a second, imports left out, and peak memory of the process. All of
them turn 26 categorical columns into codes of a vocabulary of ids seen at least twice, 13 integers into
log(1 + |x|), and write columnar files. Ours also splits, counts quarantined rows, keeps checksums and can be
resumed. pandas takes part where it is installed, and FuxiCTR with the interpreter of its environment
(`pipeline_fuxictr.py` says how to make one); it reads a CSV with a header, which is made before its clock starts.
Whoever fits on all rows must find the same number of codes in every column.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

INTEGERS = [f"i{i}" for i in range(1, 14)]
IDS = [f"c{i}" for i in range(1, 27)]
COLUMNS = ["label", *INTEGERS, *IDS]
RIVALS = ("Polars query", "pandas", "FuxiCTR")  # everybody is compared with these


def declared(text: Path, encoding: str = "vocabulary") -> tuple[Any, Any]:
    """Return the data and features of a preparation by this project."""
    from recsys_pipelines.config import CategoricalConfig, DataConfig, NumericConfig, SplitConfig

    min_count = 2 if encoding == "vocabulary" else 1
    features = (
        NumericConfig(kind="numeric", names=tuple(INTEGERS), transform="log", standardise=False),
        CategoricalConfig(kind="categorical", names=tuple(IDS), encoding=encoding, min_count=min_count),
    )
    return DataConfig(source="criteo", path=text, split=SplitConfig()), features


def ours(text: Path, out: Path, encoding: str) -> None:
    from recsys_pipelines.preparation.prepare import prepare

    prepare(*declared(text, encoding), out)


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


def polars_streaming(text: Path, out: Path) -> None:
    """Read the text twice, the fastest of the formulations tried.

    One group_by makes the vocabularies of all columns (one for each would parse the text 26 times), then an Enum makes
    the codes (joins and replace_strict are slower).
    """
    import polars as pl

    schema = {name: pl.Int64 for name in ["label", *INTEGERS]} | {name: pl.String for name in IDS}
    rows = pl.scan_csv(text, separator="\t", has_header=False, schema=schema)
    ids = rows.select(IDS).unpivot(on=IDS, variable_name="column", value_name="id").drop_nulls()
    counts = ids.group_by("column", "id").len().filter(pl.col("len") >= 2).sort("len", descending=True)
    vocabularies = counts.collect(engine="streaming").partition_by("column", as_dict=True)
    codes = [
        pl.col(name).cast(pl.Enum(vocabularies[name,]["id"]), strict=False).to_physical().cast(pl.Int32) + 2
        for name in IDS
    ]
    numbers = [(pl.col(n).sign() * pl.col(n).abs().log1p()).fill_null(0).cast(pl.Float32) for n in INTEGERS]
    named = [code.fill_null(1).alias(f"{name}_code") for code, name in zip(codes, IDS, strict=True)]
    rows.select("label", *numbers, *named).sink_ipc(out / "rows.arrow", engine="streaming")


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


CONTENDERS: dict[str, Callable[[Path, Path], None] | None] = {
    "ours, vocabulary": lambda text, out: ours(text, out, "vocabulary"),
    "ours, hash": lambda text, out: ours(text, out, "hash"),
    "Polars query": polars,
    "Polars streaming": polars_streaming,
    "pandas": pandas,
    "FuxiCTR": None,  # in its own environment
}


OURS, POLARS = ("recsys_pipelines.preparation.prepare", "pyarrow"), ("polars",)
MODULES = {
    "ours, vocabulary": OURS,
    "ours, hash": OURS,
    "Polars query": POLARS,
    "Polars streaming": POLARS,
    "pandas": ("pandas", "pyarrow.feather"),
}


def contend(name: str, text: Path, out: Path) -> None:
    """Do the work of one contender in this process; print seconds and peak bytes."""
    work = CONTENDERS[name]
    assert work is not None
    for module in MODULES[name]:
        import_module(module)
    if name.startswith("ours"):
        sys.modules["pyarrow"].array([1])  # the first array imports pandas where it is installed
    started = time.perf_counter()
    work(text, out)
    seconds = time.perf_counter() - started
    # not ru_maxrss: it starts from what the parent held when it started this process
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak": int(peak.split()[1]) * 1024}))


def run(name: str, text: Path, fuxictr: str | None, count: bool) -> dict[str, Any]:
    """Seconds, peak bytes and, if they are to be counted, codes of one contender in a process of its own."""
    command = [sys.executable, __file__, str(text), "--contender", name, "--out"]
    if name == "FuxiCTR":
        assert fuxictr is not None
        command = [
            fuxictr,
            str(Path(__file__).with_name("pipeline_fuxictr.py")),
            str(text.with_suffix(".csv")),
        ]
    with tempfile.TemporaryDirectory(dir=text.parent) as out:
        settings = {"POLARS_MAX_THREADS": "2", "RAY_TMPDIR": str(text.parent), "RAY_USAGE_STATS_ENABLED": "0"}
        answer = subprocess.run([*command, out], capture_output=True, env={**os.environ, **settings})
        if answer.returncode:
            sys.exit(f"{name} failed:\n{answer.stderr.decode()[-4000:]}")
        found = json.loads(answer.stdout.splitlines()[-1])
        return found | {"codes": codes(Path(out)) if count else None}


def codes(out: Path) -> dict[str, int] | None:
    """How many codes every column holds; None of ours, whose vocabularies know the training rows only."""
    import polars as pl

    if (parquet := out / "criteo/train.parquet").exists():
        rows = pl.scan_parquet(parquet)
    elif files := [*out.glob("rows.*")]:
        rows = pl.scan_ipc(files[0])
    else:
        return None
    numbers = rows.select(pl.col(r"^c\d+(_code)?$").n_unique()).collect().row(0, named=True)
    return {name.removesuffix("_code"): numbers[name] for name in sorted(numbers)}


def with_header(text: Path, csv: Path) -> None:
    """Write the text as FuxiCTR wants it."""
    import polars as pl

    schema = {name: pl.String for name in COLUMNS}
    pl.scan_csv(text, separator="\t", has_header=False, schema=schema).sink_csv(csv)


def report(rows: int, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians and ratios by contender, and whether codes agree."""
    seconds = {name: statistics.median(r["seconds"] for r in results) for name, results in found.items()}
    counted = {name: results[0]["codes"] for name, results in found.items() if results[0]["codes"]}
    return {
        "rows": rows,
        "codes_disagree": [n for n in IDS if len({numbers[n] for numbers in counted.values()}) > 1],
        "codes": counted,
        "contenders": {
            name: {
                "rows_per_second": rows / seconds[name],
                "seconds": seconds[name],
                "all_seconds": [r["seconds"] for r in results],
                "peak_bytes": max(r["peak"] for r in results),
                **{f"times {rival}": seconds[rival] / seconds[name] for rival in RIVALS if rival in seconds},
            }
            for name, results in found.items()
        },
    }


def show(results: dict[str, Any]) -> None:
    title = f"{results['rows']:,} rows of text, two threads"
    shown = Table("", "rows/s", "seconds", "peak MB", *(f"× {rival}" for rival in RIVALS), title=title)
    for name, result in results["contenders"].items():
        ratios = [result.get(f"times {rival}") for rival in RIVALS]
        shown.add_row(
            name,
            f"{result['rows_per_second']:,.0f}",
            f"{result['seconds']:.2f}",
            f"{result['peak_bytes'] / 1e6:,.0f}",
            *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        )
    Console(width=110).print(shown)
    if len(results["codes"]) > 1:
        verdict = f"NOT the same in {wrong}" if (wrong := results["codes_disagree"]) else "the same"
        print(f"number of codes of each column by {', '.join(results['codes'])}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--fuxictr", metavar="PYTHON", help="interpreter that has FuxiCTR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        return contend(args.contender, args.source, args.out)
    from criteo_text import write  # not above: it needs Polars, and contenders hold only what is theirs

    there = {"pandas": find_spec("pandas"), "FuxiCTR": args.fuxictr}
    names = [name for name in args.only if there.get(name, True)]
    for name, how in (("pandas", "it is not installed"), ("FuxiCTR", "--fuxictr names no interpreter")):
        if name in args.only and name not in names:
            print(f"{name} is left out: {how}")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "train.txt"
        write(args.source, text, args.rows)
        if "FuxiCTR" in names:
            with_header(text, text.with_suffix(".csv"))
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for repeat in range(args.repeats):
            for name in names:  # in turns, so that a busy moment hits all alike
                found[name].append(run(name, text, args.fuxictr, count=repeat == 0))
    results = report(args.rows, found)
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
