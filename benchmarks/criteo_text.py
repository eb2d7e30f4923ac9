"""A log in Criteo's published text, made from a small Parquet by resampling rows with fresh ids: for benchmarks.

python benchmarks/criteo_text.py criteo80k.parquet train.txt --rows 1000000

5 % of the ids of every column are replaced by ids that occur nowhere else, so vocabularies grow with the rows.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

FRESH = 0.05
CHUNK = 250_000
INTEGERS = [f"i{i}" for i in range(1, 14)]
IDS = [f"c{i}" for i in range(1, 27)]
FOUR_DIGITS = np.array([f"{number:04x}" for number in range(2**16)], "S4")


def write(source: Path, target: Path, rows: int, seed: int = 0) -> None:
    """Write `rows` rows of tab-separated text; ids are 8 hexadecimal digits, missing fields are empty."""
    log = pl.read_parquet(source)
    numbers = log.select("label", *INTEGERS)
    texts = {name: hexadecimal(log[name]) for name in IDS}  # formatted once: chunks gather them
    random = np.random.default_rng(seed)
    with target.open("wb") as out:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            places = random.integers(0, len(log), count)
            chunk = numbers[places]
            for name in IDS:
                fresh = random.random(count) < FRESH
                ids = random.integers(0, 2**32, count)[fresh]
                index = places.copy()
                index[fresh] = len(log) + np.arange(len(ids))
                text = pl.concat([texts[name], hexadecimal(pl.Series(ids))], rechunk=True)
                chunk = chunk.with_columns(text.gather(index).alias(name))
            chunk.write_csv(out, separator="\t", include_header=False)


def hexadecimal(column: pl.Series) -> pl.Series:
    """Eight digits of the low 32 bits, null where missing."""
    low = column.fill_null(0).to_numpy().astype(np.uint32)
    digits = np.stack([FOUR_DIGITS[low >> 16], FOUR_DIGITS[low & 0xFFFF]], axis=1)
    ends = np.arange(0, 8 * len(low) + 1, 8, dtype=np.int32)
    texts = pa.StringArray.from_buffers(len(low), pa.py_buffer(ends), pa.py_buffer(digits))
    return pl.Series(texts).set(column.is_null(), None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    write(arguments.source, arguments.target, arguments.rows)
