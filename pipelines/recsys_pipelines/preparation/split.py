"""Which rows train, validate and test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys_pipelines.config import SplitConfig
from recsys_pipelines.shards import line_of, read_shard, uniform

SPLITS = ("train", "validation", "test")
TIME_CUT = "nearer cut"  # how a split by time places its cuts: a part of a prepared folder's name


def split_of(table: pa.Table, split: SplitConfig, bounds: np.ndarray) -> np.ndarray:
    """Return 0, 1 or 2 for each typed row [B]: training, validation, test. bounds: those of `split_bounds`."""
    return np.searchsorted(bounds, _positions(table, split), side="right")


def split_bounds(split: SplitConfig, parts: Sequence[Path]) -> np.ndarray:
    """Return the positions [2] at which validation and test begin.

    By time it takes 8 bytes a row of the whole log. A split by time begins where a time does, at the places nearest to the
    shares. Raises ValueError when a split gets no row.
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
    """Return the positions that are number `ranks` [2] in their order."""
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
    times.sort()
    return times[_cuts(times, ranks)]


def _cuts(times: np.ndarray, ranks: np.ndarray) -> list[int]:
    """Return the two places in sorted times [n], each where a time begins, that are nearest to `ranks` [2].

    Both are nearest together, so that no part is empty: of 3 days the only cuts are the beginnings of the last two.
    With fewer than 3 times the ranks themselves come back, and leave a part empty.
    """
    firsts, seconds = (_beginnings(times, int(rank)) for rank in ranks)
    pairs = [(a, b) for a in firsts for b in seconds if a < b]
    distance = [abs(a - int(ranks[0])) + abs(b - int(ranks[1])) for a, b in pairs]
    return list(pairs[int(np.argmin(distance))]) if pairs else [int(rank) for rank in ranks]


def _beginnings(times: np.ndarray, place: int) -> list[int]:
    """Return where a time begins, in sorted times [n]: at most two places on each side of one, and none is 0."""

    def of(position: int) -> tuple[int, int]:
        same = times[position]
        return int(np.searchsorted(times, same, "left")), int(np.searchsorted(times, same, "right"))

    left, right = of(place)
    beginnings = {left, right}
    if left > 0:
        beginnings.add(of(left - 1)[0])
    if right < len(times):
        beginnings.add(of(right)[1])
    return sorted(beginnings - {0, len(times)})


def _positions(table: pa.Table, split: SplitConfig) -> np.ndarray:
    """Return what rows [n] are cut by: time, row number, or a draw in [0, 1)."""
    if split.by == "random":
        return uniform(line_of(table), split.seed, "split")
    return table["@time" if split.by == "time" else "row_id"].to_numpy()
