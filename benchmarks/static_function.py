"""Codes of ids by `StaticFunction` and by vocabularies of either form, beside `IdTable`, pyarrow and Polars, in one run.

python benchmarks/static_function.py [--keys 100000 1000000 10000000] [--lookups 1000000] [--repeats 5]

For so many random 64-bit ids: million keys a second to build from, bytes a key, and million lookups a second of random
keys inside. `StaticFunction` has codes of 10 bits, as of learned rows; a vocabulary has a code of its own for each id, and
its lookups are those of a prepared feature, into a fresh array. All by CPU time, which a busy machine disturbs less than
the clock, so a second is one of one core. The contestants take turns, and the best of so many turns counts; each turn
starts with a call that is not timed, so that each finds the caches as it left them itself. Building is timed once where it
takes more than a second. pyarrow and Polars build their tables in every call; their bytes are of keys and, for Polars,
codes. `IdTable` returns positions: its bytes are of ids and index, without the codes.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read on import

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from recsys_cython_ext import IdTable, StaticFunction
from recsys_pipelines.encoding.vocabulary import EXACT, FINGERPRINT, vocabulary_of

NUM_VALUES = 982  # rows of Frappe's shared table at 10 %


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--lookups", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    shown = Table("keys", "what", "built, M keys/s", "bytes a key", "lookups, M/s")
    for n in arguments.keys:
        for row in measure(n, arguments.lookups, arguments.repeats):
            shown.add_row(f"{n:,}", *row)
        shown.add_section()
    shown.title = f"{arguments.lookups:,} lookups, best of {arguments.repeats}; load {os.getloadavg()[0]:.1f}"
    Console(width=110).print(shown)


@dataclass
class Contestant:
    """Something that finds codes: lookup takes what make returned."""

    name: str
    make: Callable[[], object] | None
    size: Callable[[object], int]
    lookup: Callable[[object], object]


def measure(n: int, lookups: int, repeats: int) -> list[tuple[str, str, str, str]]:
    rng = np.random.default_rng(0)
    keys = rng.integers(-(2**63), 2**63, n)
    values = rng.integers(0, NUM_VALUES, n)
    ids = rng.choice(keys, lookups)
    rows = []
    contestants = [*ours(keys, values, ids), *rivals(keys, values, ids)]
    built = [build(contestant, n) for contestant in contestants]
    best = [float("inf")] * len(contestants)
    for _ in range(repeats):
        for number, (contestant, (made, _)) in enumerate(zip(contestants, built, strict=True)):
            contestant.lookup(made)  # finds the caches as the others left them
            best[number] = min(best[number], seconds(contestant.lookup, made))
    for contestant, (made, rate), took in zip(contestants, built, best, strict=True):
        rows.append(
            (contestant.name, rate, f"{contestant.size(made) / n:.2f}", f"{lookups / took / 1e6:.1f}")
        )
    return rows


def ours(keys: np.ndarray, values: np.ndarray, ids: np.ndarray) -> list[Contestant]:
    wide, narrow = np.empty(len(ids), np.int64), np.empty(len(ids), np.int32)
    return [
        *(
            Contestant(
                f"StaticFunction, {bits} bits of fingerprint",
                lambda bits=bits: StaticFunction.build(keys, values, NUM_VALUES, fingerprint_bits=bits),
                lambda function: function.nbytes,
                lambda function: function.lookup(ids, wide, threads=1),
            )
            for bits in (0, 8)
        ),
        Contestant(
            "IdTable",
            lambda: IdTable(keys),
            lambda table: table.nbytes,
            lambda table: table.codes(ids, -1, narrow, threads=1),
        ),
        *(
            Contestant(
                f"vocabulary, form: {form}",
                lambda form=form: vocabulary_of(keys, form),
                lambda vocabulary: vocabulary.nbytes,
                lambda vocabulary: vocabulary.positions(ids),
            )
            for form in (EXACT, FINGERPRINT)
        ),
    ]


def rivals(keys: np.ndarray, values: np.ndarray, ids: np.ndarray) -> list[Contestant]:
    key_array, id_array = pa.array(keys), pa.array(ids)
    frame = pl.DataFrame({"id": keys, "code": values.astype(np.int16)})
    looked_up = pl.DataFrame({"id": ids})
    return [
        Contestant(
            "pyarrow index_in",
            None,
            lambda _: 8 * len(keys),
            lambda _: pc.index_in(id_array, value_set=key_array),
        ),
        Contestant(
            "Polars left join",
            None,
            lambda _: 10 * len(keys),
            lambda _: looked_up.join(frame, on="id", how="left", maintain_order="left"),
        ),
        Contestant(
            "Polars replace_strict",
            None,
            lambda _: 10 * len(keys),
            lambda _: looked_up["id"].replace_strict(frame["id"], frame["code"], default=-1),
        ),
    ]


def build(contestant: Contestant, n: int) -> tuple[object, str]:
    """Return what a contestant looks up in, and the shown speed of building it."""
    if contestant.make is None:
        return None, "in every call"
    made: list[object] = []
    took = seconds(lambda: made.append(contestant.make()))
    if took < 1:
        took = min(took, *(seconds(contestant.make) for _ in range(3)))
    return made[0], f"{n / took / 1e6:.1f}"


def seconds(run: Callable[..., object], *arguments: object) -> float:
    start = time.process_time()
    run(*arguments)
    return time.process_time() - start


if __name__ == "__main__":
    main()
