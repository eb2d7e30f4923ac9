"""Hashing and vocabularies against their rivals and against plain C loops, in one run.

python benchmarks/hashing.py [--rows 1000000] [--repeats 30]

Million values a second, the best of so many repeats; the two sides take turns, so that they meet the same machine,
and each turn starts with a call that is not timed, so that each finds the caches as it left them itself. One thread,
except where a row says two. Outputs are reused by both sides where both can. `ceiling_hashing.c` is compiled here,
portably (-O3) and for this machine (-march=native); our own build is the one of the wheel.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # read on import

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from rich.console import Console
from rich.table import Table

from recsys_cython_ext import IdTable, hash_rows, hash_rows_jagged, lookup_salt, string_ids

FEATURES = 26  # of the jagged batch
SIZE = 1_000_003  # rows of a table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        loops = compile_loops(Path(folder))
        shown = Table("work", "ours, M/s", "rival", "rival, M/s", "ratio", "share of C")
        for measure in (rows, jagged, strings, codes):
            for work, ours, rivals in measure(arguments.rows, loops):
                add_rows(shown, work, ours, rivals, arguments.rows, arguments.repeats)
            shown.add_section()
    shown.title = f"{arguments.rows:,} values, best of {arguments.repeats}"
    console = Console(width=130)
    console.print(shown)
    console.print(
        "Not stable: Polars' hash changes between its versions. index_in builds its table in every call; "
        "dictionary_encode and Categorical make codes of their own."
    )
    if not loops:
        console.print("No C compiler (cc) was found, so there is no share of C.")


Run = Callable[[], object]
Loops = dict[str, ctypes.CDLL]  # by the name shown
Case = tuple[str, Run, dict[str, Run]]  # work, ours, rivals


def add_rows(shown: Table, work: str, ours: Run, rivals: dict[str, Run], values: int, repeats: int) -> None:
    best = dict.fromkeys(["", *rivals], float("inf"))
    spent = dict.fromkeys(best, 0.0)
    for _ in range(repeats):
        for name, run in {"": ours, **rivals}.items():
            if spent[name] > 2:
                continue  # a slow rival: its best of a few seconds
            run()
            start = time.perf_counter()
            run()
            took = time.perf_counter() - start
            best[name], spent[name] = min(best[name], took), spent[name] + took
    mine = values / best[""] / 1e6
    if not rivals:
        shown.add_row(work, f"{mine:.0f}", "", "", "", "")
    for name in rivals:
        theirs = values / best[name] / 1e6
        share = f"{mine / theirs:.0%}" if name.startswith("C loop") else ""
        rate = f"{theirs:.0f}" if theirs >= 100 else f"{theirs:.1f}"
        shown.add_row(work, f"{mine:.0f}", name, rate, "" if share else f"{mine / theirs:.1f}", share)


def compile_loops(folder: Path) -> Loops:
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    source = Path(__file__).with_name("ceiling_hashing.c")
    builds = {"C loop, portable": [], "C loop, -march=native": ["-march=native"]}
    found = {}
    for number, (name, options) in enumerate(builds.items()):
        library = folder / f"loops{number}.so"
        subprocess.run([compiler, "-O3", *options, "-shared", "-fPIC", "-o", library, source], check=True)
        found[name] = ctypes.CDLL(str(library))
    return found


def c_call(function: object, *arguments: np.ndarray | int) -> Run:
    packed = [ctypes.c_int64(a) if isinstance(a, int) else np.ctypeslib.as_ctypes(a) for a in arguments]
    return lambda: function(*packed)  # as_ctypes keeps its array alive


def rows(n: int, loops: Loops) -> Iterator[Case]:
    ids, key, out = (
        np.random.default_rng(0).integers(-(2**63), 2**63, n),
        lookup_salt("c1", 0),
        np.empty(n, np.int64),
    )
    scratch = [np.empty(n, np.uint64) for _ in range(2)]

    def numpy_rows() -> np.ndarray:
        z, t = scratch
        np.bitwise_xor(ids.view(np.uint64), np.uint64(key % 2**64), out=z)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            np.right_shift(z, np.uint64(shift), out=t)
            np.bitwise_xor(z, t, out=z)
            np.multiply(z, np.uint64(factor), out=z)
        np.right_shift(z, np.uint64(31), out=t)
        np.bitwise_xor(z, t, out=z)
        np.right_shift(z, np.uint64(32), out=z)
        np.multiply(z, np.uint64(SIZE), out=z)
        return np.right_shift(z, np.uint64(32), out=z)

    assert np.array_equal(numpy_rows(), hash_rows(ids, key, SIZE))
    rivals: dict[str, Run] = {
        name: c_call(loop.rows, ids, n, key, SIZE, np.empty(n, np.int64)) for name, loop in loops.items()
    }
    rivals["NumPy, in place"] = numpy_rows
    if pandas_hash := optional_pandas():
        rivals["pandas hash_array"] = partial(pandas_hash, ids)
    rivals["Polars hash (not stable)"] = pl.Series(ids).hash
    yield "id → row", partial(hash_rows, ids, key, SIZE, out, threads=1), rivals
    yield "id → row, fresh output", partial(hash_rows, ids, key, SIZE, threads=1), {}
    yield "id → row, two threads", partial(hash_rows, ids, key, SIZE, out, threads=2), {}


def jagged(n: int, loops: Loops) -> Iterator[Case]:
    ids, out = np.random.default_rng(0).integers(-(2**63), 2**63, n), np.empty(n, np.int64)
    features = range(FEATURES)
    offsets = [n * f // FEATURES for f in range(FEATURES + 1)]
    salts, sizes = [lookup_salt(f"c{f}", 0) for f in features], [SIZE + f for f in features]

    def one_by_one() -> None:
        for f in features:
            part = slice(offsets[f], offsets[f + 1])
            hash_rows(ids[part], salts[f], sizes[f], out[part], threads=1)

    ours = partial(hash_rows_jagged, ids, offsets, salts, sizes, out, threads=1)
    yield f"batch of {FEATURES} features → rows", ours, {"feature by feature": one_by_one}


def strings(n: int, loops: Loops) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    eights = [f"{value:08x}" for value in rng.integers(0, 2**32, n)]
    texts, encoded, series = pa.array(eights), [text.encode() for text in eights], pl.Series(eights)
    rivals = c_strings(texts, loops)
    rivals["xxhash, value by value"] = lambda: list(map(xxhash.xxh64_intdigest, encoded))
    if pandas_hash := optional_pandas():
        rivals["pandas hash_array"] = partial(pandas_hash, np.array(eights, object), categorize=False)
    rivals["Polars hash (not stable)"] = series.hash
    out = np.empty(n, np.int64)
    yield "8-character text → id", partial(string_ids, texts, out, threads=1), rivals
    yield "8-character text → id, two threads", partial(string_ids, texts, out, threads=2), {}
    views = texts.cast(pa.string_view())
    yield "8-character string view → id", partial(string_ids, views, out, threads=1), {}
    others = {
        "text of 1-7 digits → id": [str(value) for value in (10 ** rng.uniform(0, 7, n)).astype(int)],
        "text of 1-20 characters → id": ["x" * length for length in rng.integers(1, 21, n)],
    }
    for work, values in others.items():
        texts = pa.array(values)
        yield work, partial(string_ids, texts, out, threads=1), c_strings(texts, loops)


def c_strings(texts: pa.StringArray, loops: Loops) -> dict[str, Run]:
    _, offsets, data = texts.buffers()
    buffers = np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int32)
    out = np.empty(len(texts), np.int64)
    return {name: c_call(loop.strings, *buffers, len(texts), out) for name, loop in loops.items()}


def codes(n: int, loops: Loops) -> Iterator[Case]:
    for keys in (1_000, 184_000, 5_000_000):
        rng = np.random.default_rng(0)
        vocabulary = rng.permutation(np.unique(rng.integers(0, 2**40, keys + keys // 100 + 10)))[:keys]
        known, unknown = rng.choice(vocabulary, n), rng.integers(2**41, 2**50, n)
        table, out = IdTable(vocabulary), np.empty(n, np.int32)
        slots = np.full((keys * 10 // 7 + 1, 2), -1, np.int64)
        for loop in list(loops.values())[:1]:
            c_call(loop.enter, vocabulary, keys, slots, len(slots))()
        half = np.where(rng.random(n) < 0.5, known, unknown)
        for which, ids in {"known": known, "half known": half}.items():
            theirs = np.empty(n, np.int32)
            rivals = {
                name: c_call(loop.codes, slots, len(slots), ids, n, theirs) for name, loop in loops.items()
            }
            shown_in_full = keys == 184_000 and which == "known"
            if shown_in_full:
                rivals |= vocabulary_rivals(vocabulary, known)
            work = f"{which} id → code, {keys:,} keys"
            yield work, partial(table.codes, ids, -1, out, threads=1), rivals
            if shown_in_full:
                yield f"{work}, two threads", partial(table.codes, ids, -1, out, threads=2), {}


def vocabulary_rivals(vocabulary: np.ndarray, ids: np.ndarray) -> dict[str, Run]:
    values, text = pa.array(ids), pl.Series(ids).cast(pl.String)
    return {
        "pyarrow index_in": partial(pc.index_in, values, value_set=pa.array(vocabulary)),
        "pyarrow dictionary_encode": partial(pc.dictionary_encode, values),
        "Polars text to Enum": partial(text.cast, pl.Enum([str(value) for value in vocabulary])),
        "Polars text to Categorical": partial(text.cast, pl.Categorical),
    }


def optional_pandas() -> Callable[..., np.ndarray] | None:
    try:
        from pandas.util import hash_array
    except ImportError:
        return None
    return hash_array


if __name__ == "__main__":
    main()
