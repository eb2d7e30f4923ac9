"""Hashing and vocabularies against their rivals, in one run: million values a second, and ratios.

python benchmarks/hashing.py [--rows 1000000]
"""

import argparse
import timeit
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from rich.console import Console
from rich.table import Table

from recsys_cython_ext import IdTable, hash_rows, salt, string_ids

REPEATS = 7


def rate(function: Callable[[], object], values: int) -> float:
    """Million values a second, the best of REPEATS."""
    return values / min(timeit.repeat(function, number=1, repeat=REPEATS)) / 1e6


def numpy_rows(ids: np.ndarray, key: int, rows: int) -> np.ndarray:
    """The definition of `hash_rows` in NumPy."""
    z = (ids ^ key).view(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (((z >> np.uint64(32)) * np.uint64(rows)) >> np.uint64(32)).view(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    n = parser.parse_args().rows
    rng = np.random.default_rng(0)
    ids = rng.integers(-(2**63), 2**63, n)
    key = salt("c1", 0)
    assert np.array_equal(numpy_rows(ids, key, 1000), hash_rows(ids, key, 1000))
    texts = pa.array([f"{value:08x}" for value in rng.integers(0, 2**32, n)])
    python_texts = [text.encode() for text in texts.to_pylist()]
    vocabulary = rng.choice(2**40, 184_000, replace=False)
    known = rng.choice(vocabulary, n)
    table = IdTable(vocabulary)
    enum = pl.Enum([str(v) for v in vocabulary])
    as_text = pl.Series(known).cast(pl.String)
    results = [
        (
            "64-bit id → row",
            "NumPy",
            rate(lambda: hash_rows(ids, key, 10**6), n),
            rate(lambda: numpy_rows(ids, key, 10**6), n),
        ),
        (
            "8-character text → id",
            "xxhash, value by value",
            rate(lambda: string_ids(texts), n),
            rate(lambda: [xxhash.xxh64_intdigest(text) for text in python_texts], n),
        ),
        (
            "id → code, 184 k keys",
            "pyarrow index_in",
            rate(lambda: table.codes(known, -1), n),
            rate(lambda: pc.index_in(pa.array(known), value_set=pa.array(vocabulary)), n),
        ),
        (
            "id → code, 184 k keys",
            "Polars cast to Enum",
            rate(lambda: table.codes(known, -1), n),
            rate(lambda: as_text.cast(enum), n),
        ),
    ]
    shown = Table(
        "work",
        "rival",
        "ours, M/s",
        "rival, M/s",
        "ratio",
        title=f"one thread, {n:,} values, best of {REPEATS}",
    )
    for work, rival, ours, theirs in results:
        shown.add_row(work, rival, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.1f}")
    Console(width=100).print(shown)


if __name__ == "__main__":
    main()
