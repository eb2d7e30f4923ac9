"""Vectors of raw 64-bit ids from an artefact: coded tables against the full table with its vocabulary, in one run.

python benchmarks/coded_serving.py [--ids 2000000] [--width 16] [--batch 100000] [--rounds 15]

Both answer the same ids, all of them known; the full table first looks up their codes in an exact vocabulary (`IdTable`).
Medians of interleaved rounds, one thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from recsys_cython_ext import IdTable
from recsys_cython_ext.vocabulary import FIRST_CODE, UNKNOWN_CODE
from recsys_tables import Coded, Field, Full, artefact
from recsys_tables.codes import Codes
from recsys_tables.serving.write import write

ROWS = 4096


def artefacts(ids: np.ndarray, width: int, folder: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Write both artefacts, and return what answers raw ids from each."""
    random = np.random.default_rng(0)

    def rows_of(shape: dict[str, int]) -> Callable[[str], np.ndarray]:
        return lambda name: random.normal(size=(shape[name], width)).astype(np.float32)

    full = Full("item", FIRST_CODE + len(ids), width)
    codes = Codes.build({"item": ids}, {"item": random.integers(0, ROWS, (len(ids), 1))}, ROWS)
    coded = Coded("item", codes, width)
    for scheme, rows in ((full, full.num_ids), (coded, codes.num_rows)):
        name = type(scheme).__name__
        write(folder / name, [Field(scheme)], rows_of({scheme.tables()[0].name: rows}), "fp32")
    opened = {name: artefact.open(folder / name, verify=False) for name in ("Full", "Coded")}
    vocabulary = IdTable(ids)

    def from_full(batch: np.ndarray) -> np.ndarray:
        known = vocabulary.codes(batch, UNKNOWN_CODE - FIRST_CODE, threads=1)
        return opened["Full"].vectors("item", known.astype(np.int64) + FIRST_CODE)

    return {
        "full table and vocabulary": from_full,
        "coded": lambda batch: opened["Coded"].vectors("item", batch),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=2_000_000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    ids = np.unique(random.integers(-(2**63), 2**63 - 1, arguments.ids))
    random.shuffle(ids)
    with tempfile.TemporaryDirectory() as folder:
        ways = artefacts(ids, arguments.width, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds + 2):
            batch = random.choice(ids, arguments.batch)
            for name, answer in ways.items():
                began = time.perf_counter()
                answer(batch)
                if number >= 2:  # the first rounds fetch pages
                    seconds[name].append(time.perf_counter() - began)
    table = Table("way", "million ids a second", "of the full table's time", title=f"{len(ids):,} ids")
    slowest = median(seconds["full table and vocabulary"])
    for name, times in seconds.items():
        table.add_row(name, f"{arguments.batch / median(times) / 1e6:.1f}", f"{median(times) / slowest:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
