"""The order of an epoch: batch k is a pure function of (rows, batch size, seed, epoch, window, k).

An epoch is LANES fixed lanes of consecutive rows, each shuffled by itself; batch k takes the k-th share of every
lane, and ranks own lanes. A lane longer than its part of `window` is shuffled within bounded memory: its runs of
RUN consecutive rows are permuted, then the rows of a few runs at a time.
"""

from collections.abc import Iterator

import numpy as np

LANES = 64
RUN = 1024  # rows that stay together until the inner shuffle: a page of the file or more in every column
WINDOW = 2**20  # rows that the batches of a while come from


def epoch_order(
    rows: int,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    window: int = WINDOW,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[np.ndarray]:
    """Yield the positions of each batch of an epoch, from batch `start` on; over all ranks each comes exactly once.

    A single rank gets [B], less at the end; of several, each gets [B / ranks], -1 where its lanes have come to their
    end. A batch draws from a window of about `window` rows, which is all of them if there are no more.
    Memory: 8 bytes a row of the window, 8 bytes for every RUN rows; batch `start` costs no more than another.

    Raises ValueError unless `batch_size` is a multiple of LANES, `ranks` divides LANES, `rank` is one of them,
    `window` is at least LANES and `start` is not negative.
    """
    if batch_size < LANES or batch_size % LANES:
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of {LANES}, the number of lanes of an epoch"
        )
    check_ranks(rank, ranks)
    if window < LANES:
        raise ValueError(f"window {window} is less than {LANES}, a row for each lane of an epoch")
    if start < 0:
        raise ValueError(f"start must be >= 0, got {start}")
    bounds = np.arange(LANES + 1) * rows // LANES
    share = batch_size // LANES
    lanes = [
        _Lane(int(bounds[lane]), int(bounds[lane + 1]), (seed, epoch, lane), window // LANES)
        for lane in range(rank, LANES, ranks)
    ]
    return _batches(lanes, share, range(start, num_batches(rows, batch_size)), padded=ranks > 1)


def num_batches(rows: int, batch_size: int) -> int:
    """Return how many batches an epoch has."""
    return -(-rows // batch_size)


def check_ranks(rank: int, ranks: int) -> None:
    """Raise ValueError unless `ranks` divides LANES and `rank` is one of them."""
    divisors = [n for n in range(1, LANES + 1) if LANES % n == 0]
    if ranks not in divisors:
        near = divisors[np.searchsorted(divisors, ranks) - 1 :][:2] if ranks > 1 else divisors[:1]
        raise ValueError(
            f"{ranks} ranks cannot share {LANES} lanes; {' or '.join(map(str, near))} can, as all divisors of {LANES}"
        )
    if not 0 <= rank < ranks:
        raise ValueError(f"rank must be in [0, {ranks}), got {rank}")


def _batches(lanes: list["_Lane"], share: int, numbers: range, padded: bool) -> Iterator[np.ndarray]:
    for number in numbers:
        parts = [lane.rows(number * share, (number + 1) * share) for lane in lanes]
        if padded:
            batch = np.full((len(parts), share), -1, np.int64)
            for line, part in zip(batch, parts, strict=True):
                line[: len(part)] = part
            yield batch.ravel()
        else:
            yield np.concatenate(parts)


class _Lane:
    """The shuffled positions [first, last), of which one group is held at a time."""

    def __init__(self, first: int, last: int, key: tuple[int, ...], group: int) -> None:
        self._first, self._last, self._key = first, last, key
        self._group_rows: tuple[int, np.ndarray] | None = None  # the number of a group, and its rows
        self._whole = last - first <= group
        if self._whole:
            return
        self._run = min(RUN, group)
        self._group = group // self._run * self._run  # rows of a group of full runs
        self._runs = _generator(*key).permutation(-(-(last - first) // self._run))
        # The last run may be short by `missing` rows, and with it the group it falls into.
        self._missing = -(last - first) % self._run
        self._short = int(self._runs.argmax()) * self._run // self._group

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return positions number [start, stop) of the lane's order, less at its end."""
        stop = min(stop, self._last - self._first)
        parts = [np.empty(0, np.int64)]
        while start < stop:
            number, offset = self._place(start)
            parts.append(self._rows_of(number)[offset : offset + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts) if len(parts) != 2 else parts[1]

    def _place(self, start: int) -> tuple[int, int]:
        """Return the group that holds number `start`, and where in it."""
        if self._whole:
            return 0, start
        number = start // self._group
        if number >= self._short:
            number = (start + self._missing) // self._group
        return number, start - number * self._group + (self._missing if number > self._short else 0)

    def _rows_of(self, number: int) -> np.ndarray:
        if self._group_rows is None or self._group_rows[0] != number:
            self._group_rows = None  # so that there are never two
            self._group_rows = number, self._shuffled(number)
        return self._group_rows[1]

    def _shuffled(self, number: int) -> np.ndarray:
        if self._whole:
            return self._first + _generator(*self._key).permutation(self._last - self._first)
        runs = self._runs[number * self._group // self._run :][: self._group // self._run]
        rows = (self._first + runs[:, None] * self._run + np.arange(self._run)).ravel()
        # The seeds (key, 0) and (key) are one to NumPy, and the order of the runs has it.
        return _generator(*self._key, 1 + number).permutation(rows[rows < self._last])


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
