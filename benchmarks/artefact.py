"""Exported tables in one run: bytes on disk and in memory, lookup time against the full fp32 table, change of the AUC.

python benchmarks/artefact.py RUN [RUN …] [--ids 8192] [--rows 2000000] [--repeats 50]

A RUN is a finished run of full tables. Each is exported in every dtype, and at half the width. Then a made-up field of
--rows codes of width 64: full, and compact with a fifth of the rows at a quarter of the width. All artefacts of a table
are opened in one process without torch, and take turns with --ids codes of each feature, drawn anew, each code equally
likely; the best turn counts. `mapped` are the bytes of the artefact's own pages that are in memory after all codes were
looked up.
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

from recsys_tables import artefact
from recsys_tables.artefact_write import write
from recsys_tables.field import Field
from recsys_tables.quantise import DTYPES
from recsys_tables.schemes import Full, compact_from


def mapped_bytes(folder: Path) -> int:
    """Resident pages of the folder's files in this process, by /proc/self/smaps."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first:
            ours = str(folder.resolve()) in line
        elif ours and first == "Rss:":
            total += 1024 * int(line.split()[1])
    return total


def turns(opened: list[artefact.Artefact], ids: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds of the best turn, and mapped bytes, of each artefact: `ids` codes of each of its features."""
    random = np.random.default_rng(0)
    fields = opened[0].fields
    best = [float("inf")] * len(opened)
    for _ in range(repeats):
        codes = {f.feature: random.integers(0, f.scheme.num_ids, ids) for f in fields}
        for place, one in enumerate(opened):
            start = time.perf_counter()
            for feature, own in codes.items():
                one.vectors(feature, own)
            best[place] = min(best[place], time.perf_counter() - start)
    for one in opened:
        for field in one.fields:
            for first in range(0, field.scheme.num_ids, 1 << 18):
                one.vectors(field.feature, np.arange(first, min(first + (1 << 18), field.scheme.num_ids)))
    return [
        {"seconds": seconds, "mapped": mapped_bytes(one.folder)}
        for seconds, one in zip(best, opened, strict=True)
    ]


def measured(folders: list[Path], ids: int, repeats: int) -> list[dict[str, Any]]:
    """`turns` in a process of its own, which must not have imported torch."""
    command = [
        sys.executable,
        __file__,
        *map(str, folders),
        "--ids",
        str(ids),
        "--repeats",
        str(repeats),
        "--child",
    ]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def of_run(run: Path, folder: Path) -> Iterator[tuple[str, artefact.Artefact, float | None]]:
    """Name, artefact and AUC of every arm of a run."""
    from recsys.exporting import check, export
    from recsys.training.run import Run

    finished = Run.open(run)
    half = finished.config.tables.embedding_dim // 2
    for dtype in DTYPES:
        for width in (None, half):
            name = dtype if width is None else f"{dtype}, PCA to {width}"
            made = export(finished, folder / f"{dtype}-{width}", dtype, width)
            yield name, made, check(finished, made.folder)["auc"]


def made_up(rows: int, folder: Path) -> Iterator[tuple[str, artefact.Artefact, None]]:
    """A full table and compact ones."""
    random = np.random.default_rng(1)
    full = Full("field", rows, 64)
    tables = {"field/full": random.standard_normal((rows, 64), np.float32)}
    compact, small = compact_from([full], tables, {"field": random.random(rows) < 0.2}, {"field": 16})
    for dtype in DTYPES:
        yield dtype, write(folder / dtype, [Field(full)], tables.__getitem__, dtype), None
    for dtype in DTYPES:
        made = write(folder / f"c-{dtype}", [Field(compact[0])], small.__getitem__, dtype)
        yield f"compact, {dtype}", made, None


def show(title: str, arms: list[tuple[str, artefact.Artefact, float | None]], ids: int, repeats: int) -> None:
    from rich.console import Console
    from rich.table import Table

    found = measured([made.folder for _, made, _ in arms], ids, repeats)
    columns = ("tables on disk", "mapped", "counted", "smaller", "M ids/s", "time / fp32", "AUC", "change")
    grid = Table("arm", *columns, title=title)
    first = arms[0][1].bytes
    for (name, made, auc), got in zip(arms, found, strict=True):
        counted = made.bytes.parameters + made.bytes.dense + made.bytes.remaps
        files = [f for part in ("tables", "projections", "remaps") for f in (made.folder / part).iterdir()]
        grid.add_row(
            name,
            f"{sum(file.stat().st_size for file in files):,}",
            f"{got['mapped']:,}",
            f"{counted:,}",
            f"{first.parameters / counted:.2f}",
            f"{ids * len(made.fields) / got['seconds'] / 1e6:.1f}",
            f"{got['seconds'] / found[0]['seconds']:.2f}",
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
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        opened = [artefact.open(folder) for folder in args.runs]
        found = turns(opened, args.ids, args.repeats)
        assert "torch" not in sys.modules
        print(json.dumps(found))
        return
    for run in args.runs:
        with tempfile.TemporaryDirectory() as folder:
            show(str(run), list(of_run(run, Path(folder))), args.ids, args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        show(f"{args.rows:,} rows of 64", list(made_up(args.rows, Path(folder))), args.ids, args.repeats)


if __name__ == "__main__":
    main()
