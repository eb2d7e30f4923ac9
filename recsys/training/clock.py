"""A clock tells where the time of steps goes, and which rank is slow."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from recsys.models.click import ClickModel
from recsys_tables.engine.embeddings import Embeddings

Item = TypeVar("Item")


class StepClock:
    """A clock that counts this rank's seconds since the last `read` by what they were spent on.

    It is right for a CPU, which works in order.

    tables: looking up, gradients and fused optimiser; of several ranks, with what they send each other.
    dense: the network, forward and backward, and its optimiser.
    loading: waiting for batches.
    busy: loading and the network's forward pass, where no rank waits for another: what tells a slow rank from the
    others, which wait for it.
    """

    def __init__(self, model: ClickModel) -> None:
        self._seconds = dict.fromkeys(("tables", "dense", "loading", "busy"), 0.0)
        self._mark = 0.0
        self._hook = model.engine.combiner.register_forward_hook(lambda *args: self._looked_up(args[2]))

    def loaded(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield the items of `batches`, counting the time that each is waited for."""
        while True:
            began = time.perf_counter()
            item = next(batches, None)
            waited = time.perf_counter() - began
            self._seconds["loading"] += waited
            self._seconds["busy"] += waited
            if item is None:
                return
            yield item

    def begin(self) -> None:
        """Begin a step's forward pass."""
        self._mark = time.perf_counter()

    def forward_done(self) -> None:
        """Note that the network has answered."""
        self._seconds["busy"] += self._lap("dense")

    def dense_done(self) -> None:
        """Note that the network's gradients, or its optimiser, are done."""
        self._lap("dense")

    def tables_done(self) -> None:
        """Note that the tables' part of the backward pass is done."""
        self._lap("tables")

    def read(self) -> dict[str, float]:
        """Return the seconds, and begin anew."""
        seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return seconds

    def remove(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def _looked_up(self, embeddings: Embeddings) -> None:
        if not torch.is_grad_enabled():  # an evaluation's
            return
        self._lap("tables")
        vectors = embeddings.concatenated
        if vectors.requires_grad:
            vectors.register_hook(self._gradient_arrived)

    def _gradient_arrived(self, _: Tensor) -> None:
        self._lap("dense")

    def _lap(self, activity: str) -> float:
        now = time.perf_counter()
        spent, self._mark = now - self._mark, now
        self._seconds[activity] += spent
        return spent


def stragglers(busy: Sequence[float], ratio: float) -> dict[int, float]:
    """Return the ranks that were busy for more than `ratio` times the median of all, and how many times, by rank.

    All ranks had the same work. Of an even number of ranks the lower of the middle two counts, so that of two ranks one
    can be slow. Less than a second more says nothing.
    """
    median = float(np.quantile(busy, 0.5, method="lower"))
    return {
        rank: seconds / median
        for rank, seconds in enumerate(busy)
        if seconds > max(ratio * median, median + 1)
    }
