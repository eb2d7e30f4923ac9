"""Which rows train, validate and test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_pipelines.config import SplitConfig
from recsys_pipelines.shards import read_shard, uniform

SPLITS = ("train", "validation", "test")


def split_of(table: pa.Table, split: SplitConfig, bounds: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for each typed row [B]: training, validation, test. bounds: what `split_bounds` gave."""
    return np.searchsorted(bounds, _positions(table, split), side="right")


def split_bounds(split: SplitConfig, parts: Sequence[Path]) -> np.ndarray:
    """Positions [2] at which validation and test begin. Takes 8 bytes a row of the whole log.

    Raises ValueError when a split gets no row.
    """
    shares = np.array([split.train, split.train + split.validation])
    positions = np.concatenate([_positions(read_shard(part), split) for part in parts])
    bounds = shares
    if split.by != "random":
        ranks = np.minimum(np.rint(shares * len(positions)).astype(np.int64), len(positions) - 1)
        positions.partition(ranks)
        bounds = positions[ranks]
    counts = np.bincount(np.searchsorted(bounds, positions, side="right"), minlength=len(SPLITS))
    for name, count in zip(SPLITS, counts, strict=True):
        if count == 0:
            reason = "; rows of one time stay together" if split.by == "time" else ""
            raise ValueError(
                f"data.split: by {split.by}, the {name} part gets none of {len(positions):,} rows{reason}; "
                "change the shares or bring more rows"
            )
    return bounds


def _positions(table: pa.Table, split: SplitConfig) -> np.ndarray:
    """What rows [n] are cut by: time, row number, or a draw in [0, 1)."""
    if split.by == "random":
        return uniform(table["row_id"].to_numpy(), split.seed, "split")
    return table["@time" if split.by == "time" else "row_id"].to_numpy()
