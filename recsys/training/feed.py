"""A rank's batches as the model takes them: made in the loader's thread, and agreed on by the ranks."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from recsys.models.click import ClickBatch
from recsys_pipelines.batches import Batch, Loader, Rows
from recsys_tables.agreement import OtherRankFailed
from recsys_tables.engine import EmbeddingEngine


class Feed:
    """The batches of every epoch of `rows` [of the positions `subset`] for this rank of the process group.

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
            then=partial(click_batch, engine),
        )
        self.num_batches = self._loader.num_batches
        self._told = 2 + len(engine.groups)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ClickBatch]:
        """Batches of an epoch from number `start` on; every rank must take as many as the others."""
        batches = self._loader.epoch(epoch, start)
        return _scaled(batches) if dist.get_world_size() == 1 else _agreed(batches, self._told)

    def positions(self, epoch: int, number: int) -> np.ndarray:
        """Which rows a batch holds for this rank."""
        return self._loader.positions(epoch, number)


def click_batch(engine: EmbeddingEngine, batch: Batch) -> ClickBatch:
    """Everything that can be done with a batch before the tables are read."""
    return ClickBatch(batch.dense, engine.rows(batch.ids), batch.label, batch.weight, batch.rows)


def _scaled(batches: Iterator[ClickBatch]) -> Iterator[ClickBatch]:
    """With weights that sum to 1: a loss is a mean over the batch."""
    for batch in batches:
        yield _with_share(batch, float(batch.weight.sum()))


def agreed_bags(batch: ClickBatch) -> ClickBatch:
    """With equally many bags on every rank."""
    if dist.get_world_size() == 1:
        return batch
    everyone = _exchange([float(bags) for bags in batch.rows.num_bags.values()], len(batch.rows.num_bags))
    return _with_bags(batch, everyone)


def _agreed(batches: Iterator[ClickBatch], width: int) -> Iterator[ClickBatch]:
    """With weights that average to 1 / ranks over the whole batch, and equally many bags on every rank.

    One exchange a batch, of `width` numbers: an error, a weight, and bags by collection. A rank whose batch could not
    be made says so, and raises; the others raise OtherRankFailed.
    """
    while True:
        try:
            batch = next(batches, None)
        except Exception:
            _exchange([1.0], width)
            raise
        told = [0.0] if batch is None else [0.0, float(batch.weight.sum()), *batch.rows.num_bags.values()]
        everyone = _exchange(told, width)
        failed = [rank for rank, said in enumerate(everyone) if said[0]]
        if failed:
            raise OtherRankFailed(f"rank {failed[0]} could not make its batch; its own error says why")
        if batch is None:
            return
        total = sum(said[1] for said in everyone) / len(everyone)
        yield _with_share(_with_bags(batch, [said[2:] for said in everyone]), total)


def _exchange(told: list[float], width: int) -> list[list[float]]:
    """What each rank told, filled up with zeros."""
    mine = torch.zeros(width, dtype=torch.float64)
    mine[: len(told)] = torch.tensor(told, dtype=torch.float64)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return [values.tolist() for values in everyone]


def _with_bags(batch: ClickBatch, everyone: list[list[float]]) -> ClickBatch:
    return replace(batch, rows=batch.rows.padded([int(max(bags)) for bags in zip(*everyone, strict=True)]))


def _with_share(batch: ClickBatch, total: float) -> ClickBatch:
    # a small last batch may hold no row of weight > 0
    return replace(batch, weight=batch.weight / max(total, torch.finfo(torch.float32).tiny))
