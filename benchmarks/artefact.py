"""Exported tables in one run: bytes on disk and in memory, lookup time against the full table, change of the AUC.

python benchmarks/artefact.py RUN [RUN …] [--ids 8192] [--rows 2000000] [--skew 1.05] [--repeats 50] [--processes 3]

A RUN is a finished run of full tables. Each is exported in every dtype, and at half the width. Then a made-up field of
--rows codes of width 64: full, and compact with the most frequent fifth of the rows at a quarter of the width.

Time: all artefacts of a table are opened in one process without torch, and take turns with --ids codes of each feature,
drawn anew with chance ∝ (code + 1)^-skew, since codes go by falling count (0: all alike); the best turn of a process
counts, and of --processes their median. `time / fp32` is against the first arm, `time / full` against the first of the
same dtype. Memory: `resident` is the growth of /proc/self/smaps_rollup's Rss in a fresh process that opens one artefact
and looks all its codes up; `counted` is what its manifest says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recsys_tables import Full
from recsys_tables.field import Field
from recsys_tables.schemes.compact import compact_from
from recsys_tables.serving import artefact
from recsys_tables.serving.quantise import DTYPES
from recsys_tables.serving.write import write

TOUCHED = 1024  # codes looked up at a time where memory is measured: vectors leave little behind


def resident() -> int:
    """Bytes of this process that are in memory, pages of mapped files included."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def growth(folder: Path) -> int:
    """Resident bytes of an artefact that was opened and looked up in, every code of every feature."""
    before = resident()
    opened = artefact.open(folder)
    for field in opened.fields:
        for first in range(0, field.scheme.num_ids, TOUCHED):
            opened.vectors(field.feature, np.arange(first, min(first + TOUCHED, field.scheme.num_ids)))
    return resident() - before


def turns(folders: list[Path], ids: int, repeats: int, skew: float) -> list[float]:
    """Seconds of the best turn of each artefact: `ids` codes of each of its features."""
    random = np.random.default_rng(0)
    opened = [artefact.open(folder) for folder in folders]
    chances = {f.feature: np.cumsum(np.arange(1, f.scheme.num_ids + 1) ** -skew) for f in opened[0].fields}
    best = [float("inf")] * len(opened)
    for _ in range(repeats):
        codes = {
            feature: np.searchsorted(up_to, up_to[-1] * random.random(ids)).clip(max=len(up_to) - 1)
            for feature, up_to in chances.items()
        }
        for place, one in enumerate(opened):
            start = time.perf_counter()
            for feature, own in codes.items():
                one.vectors(feature, own)
            best[place] = min(best[place], time.perf_counter() - start)
    return best


def child(folders: list[Path], args: argparse.Namespace, what: str) -> Any:
    """`growth` or `turns` in a process of its own, which must not have imported torch."""
    command = [sys.executable, __file__, *map(str, folders), "--child", what]
    command += ["--ids", str(args.ids), "--repeats", str(args.repeats), "--skew", str(args.skew)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def of_run(run: Path, folder: Path) -> Iterator[tuple[str, artefact.Artefact, float | None]]:
    """Name, artefact and AUC of every arm of a run."""
    from recsys.serving.export import check, export
    from recsys.training.run import Run

    finished = Run.open(run)
    half = finished.config.tables.embedding_dim // 2
    for dtype in DTYPES:
        for width in (None, half):
            name = dtype if width is None else f"{dtype}, PCA to {width}"
            made = export(finished, folder / f"{dtype}-{width}", dtype, width)
            yield name, made, check(finished, made.folder)["auc"]


def made_up(rows: int, folder: Path) -> Iterator[tuple[str, artefact.Artefact, None]]:
    """Make a full table and compact ones."""
    random = np.random.default_rng(1)
    full = Full("field", rows, 64)
    tables = {"field/full": random.standard_normal((rows, 64), np.float32)}
    compact, small = compact_from([full], tables, {"field": np.arange(rows) < rows // 5}, {"field": 16})
    for dtype in DTYPES:
        yield dtype, write(folder / dtype, [Field(full)], tables.__getitem__, dtype), None
    for dtype in DTYPES:
        made = write(folder / f"c-{dtype}", [Field(compact[0])], small.__getitem__, dtype)
        yield f"compact, {dtype}", made, None


def show(
    title: str, arms: list[tuple[str, artefact.Artefact, float | None]], args: argparse.Namespace
) -> None:
    from rich.console import Console
    from rich.table import Table

    folders = [made.folder for _, made, _ in arms]
    seconds = np.median([child(folders, args, "turns") for _ in range(args.processes)], axis=0)
    columns = (
        "on disk",
        "resident",
        "counted",
        "smaller",
        "M ids/s",
        "time / fp32",
        "time / full",
        "AUC",
        "change",
    )
    grid = Table("arm", *columns, title=title)
    first, full = arms[0][1].bytes, {}
    for (name, made, auc), own in zip(arms, seconds, strict=True):
        counted = made.bytes.parameters + made.bytes.dense + made.bytes.remaps
        files = [f for part in ("tables", "projections", "remaps") for f in (made.folder / part).iterdir()]
        grid.add_row(
            name,
            f"{sum(file.stat().st_size for file in files):,}",
            f"{child([made.folder], args, 'growth'):,}",
            f"{counted:,}",
            f"{first.parameters / counted:.2f}",
            f"{args.ids * len(made.fields) / own / 1e6:.1f}",
            f"{own / seconds[0]:.2f}",
            f"{own / full.setdefault(made.dtype, own):.2f}",
            "" if auc is None else f"{auc:.6f}",
            "" if auc is None else f"{auc - (arms[0][2] or 0):+.6f}",
        )
    Console(width=150).print(grid)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--ids", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--skew", type=float, default=1.05)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--child", choices=("growth", "turns"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        growing = args.child == "growth"
        found = growth(*args.runs) if growing else turns(args.runs, args.ids, args.repeats, args.skew)
        assert "torch" not in sys.modules
        print(json.dumps(found))
        return
    for run in args.runs:
        with tempfile.TemporaryDirectory() as folder:
            show(str(run), list(of_run(run, Path(folder))), args)
    with tempfile.TemporaryDirectory() as folder:
        show(f"{args.rows:,} rows of 64", list(made_up(args.rows, Path(folder))), args)


if __name__ == "__main__":
    main()
