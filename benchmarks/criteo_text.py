"""A log in Criteo's published text, made from a small Parquet by resampling rows with fresh ids: for benchmarks.

python benchmarks/criteo_text.py criteo80k.parquet train.txt --rows 1000000

5 % of the ids of every column are replaced by ids that occur nowhere else, so vocabularies grow with the rows.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

FRESH = 0.05
CHUNK = 250_000
COLUMNS = ["label", *(f"i{i}" for i in range(1, 14)), *(f"c{i}" for i in range(1, 27))]


def write(source: Path, target: Path, rows: int, seed: int = 0) -> None:
    """Write `rows` rows of tab-separated text; ids are 8 hexadecimal digits, missing fields are empty."""
    log = pl.read_parquet(source).select(COLUMNS)
    random = np.random.default_rng(seed)
    with target.open("wb") as out:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            chunk = log[random.integers(0, len(log), count)]
            fresh = [
                pl.when(pl.Series(random.random(count) < FRESH))
                .then(pl.Series(random.integers(0, 2**32, count)))
                .otherwise(pl.col(f"c{i}"))
                .alias(f"c{i}")
                for i in range(1, 27)
            ]
            chunk = chunk.with_columns(fresh)
            chunk = chunk.with_columns(hexadecimal(chunk[f"c{i}"]).alias(f"c{i}") for i in range(1, 27))
            chunk.write_csv(out, separator="\t", include_header=False)


def hexadecimal(column: pl.Series) -> pl.Series:
    """Eight digits of the low 32 bits, null where missing."""
    low = column.fill_null(0).to_numpy().astype(np.uint64) & np.uint64(0xFFFFFFFF)
    digits = np.frombuffer(low.astype(">u4").tobytes().hex().encode(), "S8").astype(str)
    return pl.Series(digits).set(column.is_null(), None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    write(arguments.source, arguments.target, arguments.rows)
