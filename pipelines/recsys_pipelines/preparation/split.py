"""Which rows train, validate and test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_pipelines.config import SplitConfig
from recsys_pipelines.shards import line_of, read_shard, uniform

SPLITS = ("train", "validation", "test")


def split_of(table: pa.Table, split: SplitConfig, bounds: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for each typed row [B]: training, validation, test. bounds: what `split_bounds` gave."""
    return np.searchsorted(bounds, _positions(table, split), side="right")


def split_bounds(split: SplitConfig, parts: Sequence[Path]) -> np.ndarray:
    """Positions [2] at which validation and test begin. By time it takes 8 bytes a row of the whole log.

    Raises ValueError when a split gets no row.
    """
    shares = np.array([split.train, split.train + split.validation])
    rows = [read_shard(part).num_rows for part in parts]
    bounds = shares
    if split.by != "random":
        ranks = np.minimum(np.rint(shares * sum(rows)).astype(np.int64), sum(rows) - 1)
        bounds = _of_rank(split, parts, rows, ranks)
    counts = np.zeros(len(SPLITS), np.int64)
    for part in parts:
        counts += np.bincount(split_of(read_shard(part), split, bounds), minlength=len(SPLITS))
    for name, count in zip(SPLITS, counts, strict=True):
        if count == 0:
            reason = "; rows of one time stay together" if split.by == "time" else ""
            raise ValueError(
                f"data.split: by {split.by}, the {name} part gets none of {sum(rows):,} rows{reason}; "
                "change the shares or bring more rows"
            )
    return bounds


def _of_rank(split: SplitConfig, parts: Sequence[Path], rows: list[int], ranks: np.ndarray) -> np.ndarray:
    """The positions that are number `ranks` [2] in their order."""
    if split.by == "order":  # row numbers rise through the parts
        ends = np.cumsum(rows)
        places = np.searchsorted(ends, ranks, side="right")
        return np.array(
            [
                read_shard(parts[place])["row_id"][int(rank - (ends[place] - rows[place]))].as_py()
                for place, rank in zip(places.tolist(), ranks.tolist(), strict=True)
            ]
        )
    times = np.concatenate([_positions(read_shard(part), split) for part in parts])
    times.partition(ranks)
    return times[ranks]


def _positions(table: pa.Table, split: SplitConfig) -> np.ndarray:
    """What rows [n] are cut by: time, row number, or a draw in [0, 1)."""
    if split.by == "random":
        return uniform(line_of(table), split.seed, "split")
    return table["@time" if split.by == "time" else "row_id"].to_numpy()
