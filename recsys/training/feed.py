"""A rank's batches are made as the model takes them in the loader's thread, and agreed on by the ranks."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from recsys.models.click import ClickBatch
from recsys_pipelines.batches.loader import PADDING, Batch, Loader, Rows
from recsys_tables.distributed.agreement import OtherRankFailed
from recsys_tables.engine.engine import EmbeddingEngine


class Feed:
    """A feed of the batches of every epoch of `rows`, or of their positions `subset`, for this rank of the process group.

    Where its lanes have come to their end, a rank's batch is smaller than others', or holds no row at all.
    Raises ValueError when the number of ranks does not divide the lanes of an epoch, or no row is left.
    """

    def __init__(
        self, rows: Rows, engine: EmbeddingEngine, batch_size: int, seed: int, subset: np.ndarray | None
    ) -> None:
        self._loader = Loader(
            rows,
            batch_size,
            seed,
            rank=dist.get_rank(),
            ranks=dist.get_world_size(),
            subset=subset,
            negatives=_WithoutPadding(rows),
            then=partial(click_batch, engine),
        )
        self.num_batches = self._loader.num_batches
        self._engine = engine

    def epoch(
        self, epoch: int, start: int = 0, timed: Callable[[Iterator[ClickBatch]], Iterator[ClickBatch]] = iter
    ) -> Iterator[ClickBatch]:
        """Yield the batches of an epoch from number `start` on; every rank must take as many as the others.

        `timed` is what is done with this rank's own batches, before it waits for the other ranks.
        """
        return agreed(timed(self._loader.epoch(epoch, start)), self._engine)

    def positions(self, epoch: int, number: int) -> np.ndarray:
        """Return the positions of the rows that a batch holds for this rank."""
        return self._loader.positions(epoch, number)


def click_batch(engine: EmbeddingEngine, batch: Batch) -> ClickBatch:
    """Do everything that can be done with a batch before the tables are read."""
    return ClickBatch(batch.dense, engine.rows(batch.ids), batch.label, batch.weight, batch.rows)


def agreed(batches: Iterator[ClickBatch], engine: EmbeddingEngine) -> Iterator[ClickBatch]:
    """Yield batches whose weights make a loss a mean over all ranks' rows, and whose rows can be looked up.

    Every rank must take as many as the others. A rank whose batch cannot be made raises, and the others
    OtherRankFailed.
    """
    return _scaled(batches) if dist.get_world_size() == 1 else _shared(batches, 2 + len(engine.groups))


class _WithoutPadding:
    """Rows that become a batch without padding: a single-valued feature has no empty bags, which networks would read."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def batch(self, index: np.ndarray, epoch: int) -> Batch:
        """Return the rows of `index` but PADDING."""
        return self._rows.batch(index[index != PADDING])


def _scaled(batches: Iterator[ClickBatch]) -> Iterator[ClickBatch]:
    """Yield batches with weights that sum to 1, so that a loss is a mean over the batch."""
    for batch in batches:
        yield _with_share(batch, float(batch.weight.sum()))


def _shared(batches: Iterator[ClickBatch], width: int) -> Iterator[ClickBatch]:
    """Yield batches with weights that average to 1 / ranks over the whole batch, and equally many bags on every rank.

    One exchange a batch, of `width` numbers: an error, a weight, and bags by collection.
    """
    while True:
        try:
            batch = next(batches, None)
        except Exception:
            _exchange([1.0], width)
            raise
        numbers = [0.0] if batch is None else [0.0, float(batch.weight.sum()), *batch.rows.num_bags.values()]
        by_rank = _exchange(numbers, width)
        failed = [rank for rank, (error, *_) in enumerate(by_rank) if error]
        if failed:
            raise OtherRankFailed(f"rank {failed[0]} could not make its batch; its own error says why")
        if batch is None:
            return
        total = sum(weight for _, weight, *_ in by_rank) / len(by_rank)
        yield _with_share(_with_bags(batch, [bags for _, _, *bags in by_rank]), total)


def _exchange(numbers: list[float], width: int) -> list[list[float]]:
    """Return the numbers of each rank, filled up with zeros to `width`."""
    mine = torch.zeros(width, dtype=torch.float64)
    mine[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    by_rank = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(by_rank, mine)
    return [values.tolist() for values in by_rank]


def _with_bags(batch: ClickBatch, by_rank: list[list[float]]) -> ClickBatch:
    return replace(batch, rows=batch.rows.padded([int(max(bags)) for bags in zip(*by_rank, strict=True)]))


def _with_share(batch: ClickBatch, total: float) -> ClickBatch:
    # a small last batch may hold no row of weight > 0
    return replace(batch, weight=batch.weight / max(total, torch.finfo(torch.float32).tiny))
