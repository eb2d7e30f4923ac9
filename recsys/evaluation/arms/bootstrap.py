"""A Poisson bootstrap of units in streaming blocks: one thread draws, others evaluate the blocks before.

Every unit (a cluster of rows, or a row) weighs Poisson(1) in a replicate, independently of the others. That is the
multinomial bootstrap with its total left free, so that no replicate needs all units at once.

Sources: Hanley & MacGibbon 2006; Chamandy et al. 2012, "Estimating uncertainty for massive data streams".
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from recsys_cython_ext.ranks import empty_weights, fill_poisson, fill_weights
from recsys_cython_ext.threads import available_cores
from recsys_pipelines.parallel import ordered

DRAW_ENTRIES = 2**18  # weights of as many rows are drawn, and drawn again, together
MOST_BYTES = 2**29  # of all blocks of weights in memory, where one thread with 16 replicates needs no more,
MOST_BYTES_A_ROW = 40  # or so many if that is more: sorting took 60
MOST_THREADS = 8


def poisson_bootstrap(
    evaluate: Callable[[np.ndarray], np.ndarray],
    needed: Sequence[np.ndarray],
    units: int,
    rows: int,
    replicates: int,
    seed: int,
) -> tuple[np.ndarray, int]:
    """Return the values [..., R] of a statistic in R replicates, and how many replicates were drawn again.

    The same seed draws the same weights, whatever the threads and the memory.

    Args:
        evaluate: The statistic, which turns weights uint8 [B, U] into values [..., B].
        needed: Sets of units, such as those with positives; a replicate that leaves out all units of one is drawn
            again.
        units: How many units there are.
        rows: How many rows there are.
        replicates: How many replicates to draw.
        seed: Seed of the draws.
    """
    room = max(MOST_BYTES, MOST_BYTES_A_ROW * rows)
    narrow = room // (16 * units)  # blocks of 16 replicates that fit
    threads = max(1, min(available_cores(), MOST_THREADS, narrow - 3))
    in_memory = threads + 3  # blocks waiting or at work; the one being drawn, before and after it is laid out
    fits = 64 if 4 * in_memory <= narrow else 16
    together = max(1, min(replicates, DRAW_ENTRIES // rows))
    draws = _Draws(needed, units, together, seed)

    def values(block: tuple[np.ndarray, int]) -> np.ndarray:
        weights, count = block
        return evaluate(weights)[..., :count]

    with threadpool_limits(1, "blas"):  # whose own threads would spin beside these
        out = list(ordered(values, draws.blocks(replicates, fits), threads))
    return np.concatenate(out, axis=-1), draws.redrawn


class _Draws:
    """Draws Poisson(1) weights per unit, again where they leave out a needed set; `redrawn` counts those."""

    def __init__(self, needed: Sequence[np.ndarray], units: int, together: int, seed: int) -> None:
        self.redrawn = 0
        self._bits = np.random.PCG64(seed)
        self._together = together
        self._needed = needed
        self._units = units

    def blocks(self, replicates: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
        """Yield weights [B, U] and how many of the B are replicates, about `size`; others, of weight 1, fill it up."""
        step = self._together * max(1, size // self._together)
        for start in range(0, replicates, step):
            draws = np.empty((min(step, replicates - start), self._units), np.uint8)
            for first in range(0, len(draws), self._together):
                self._draw(draws[first : first + self._together])
            weights = empty_weights(len(draws), self._units)
            weights[len(draws) :] = 1
            fill_weights(weights, 0, draws)
            yield weights, len(draws)

    def _draw(self, weights: np.ndarray) -> None:
        fill_poisson(self._bits, weights)
        while (lacking := self._lacking(weights)).any():
            again = np.empty((int(lacking.sum()), self._units), np.uint8)
            fill_poisson(self._bits, again)
            weights[lacking] = again
            self.redrawn += len(again)

    def _lacking(self, weights: np.ndarray) -> np.ndarray:
        """Return which replicates [B] have no unit of some needed set."""
        lacking = np.full(len(weights), False)
        for units in self._needed:
            doubtful = np.flatnonzero(~weights[:, units[:64]].any(axis=1))  # so few units mostly tell
            lacking[doubtful] |= ~weights[np.ix_(doubtful, units)].any(axis=1)
        return lacking
