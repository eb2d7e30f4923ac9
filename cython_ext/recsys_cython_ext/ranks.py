"""AUC of one ranking of rows under many weightings: sorted once, then one pass for each group of replicates."""

from __future__ import annotations

import math

import numpy as np

import recsys_cython_ext._ranks as _ranks  # this form spares mypy a stub

LANES = 16  # replicates of the narrowest pass
WIDE_LANES = 64  # replicates of a full pass, one cache line of weights
_LIMIT = 2**31  # of a replicate's total weight: sums are of 32 bits, wins below (2^31)^2 / 2
_STAGE = 2**15  # random words drawn at a time, 128 KiB
# 2^32 P(X <= k) of a Poisson(1) X, for k below 12: P(X > 12) is less than 2^-33.
_POISSON_STEPS = np.rint(2**32 * np.cumsum([math.exp(-1.0) / math.factorial(k) for k in range(12)])).astype(
    np.uint32
)


class WeightedRanks:
    """AUC of scores [n] under weights uint8 [B, U] of units: clusters of rows, or the rows themselves.

    A replicate counts each row as often as its unit's weight says. Ties count half. Integers carry the whole sum, so
    a result is that of exact arithmetic to 2 ulp, whatever the order of rows.
    Memory: 4 bytes a row and 12 for each run of positives.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, units: np.ndarray) -> None:
        """Sort bool [n] and float [n] by score; units [n] are integers >= 0.

        Raises TypeError for another dtype, ValueError for shapes that differ, no rows, NaN, units that do not fit.
        """
        if positive.dtype != np.bool_ or scores.dtype.kind != "f" or units.dtype.kind not in "iu":
            raise TypeError(
                "positive must be bool, scores floats, units integers; got "
                f"{positive.dtype}, {scores.dtype}, {units.dtype}"
            )
        if positive.ndim != 1 or not positive.size or not positive.shape == scores.shape == units.shape:
            raise ValueError(
                "positive, scores and units must have one value per row, for at least one row; got shapes "
                f"{positive.shape}, {scores.shape}, {units.shape}"
            )
        if np.isnan(scores).any():
            raise ValueError(f"score at position {np.isnan(scores).argmax()} is nan: a rank needs a number")
        if units.min() < 0 or int(units.max()) >= _LIMIT or positive.size >= _LIMIT:
            raise ValueError(
                f"units must lie in [0, 2^31), of fewer than 2^31 rows; got {units.min()} to {units.max()} "
                f"of {positive.size} rows"
            )
        # Positives before negatives of equal score, which the stable sort leaves there.
        order = np.concatenate([np.flatnonzero(positive), np.flatnonzero(~positive)])
        order = order[np.argsort(scores[order], kind="stable")]
        self._codes = units[order].astype(np.int32)
        self._units = int(units.max()) + 1
        self._ends = _segments(positive[order], scores[order])

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """Return the AUC float64 [B] of weights [B, U], integers in 0..255; NaN where a class has weight 0.

        As they are from `empty_weights`; others are copied into that layout. Releases the GIL.
        Raises TypeError for another dtype, ValueError for another U, a weight that does not fit, a sum of weights
        that might reach 2^31.
        """
        wins, positives, negatives = self.wins(weights)
        with np.errstate(invalid="ignore"):
            return wins / (2.0 * positives * negatives)

    def wins(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return twice the weight of pairs won by the positive, and the weights of positives and of negatives, uint64 [B].

        Exact: equal rankings have equal wins. Raises as `auc` does.
        """
        weights = _bytes(weights, self._units)
        rows, largest = self._codes.size, int(weights.max(initial=0))
        if rows * largest >= _LIMIT:
            raise ValueError(
                f"{rows} rows of weight up to {largest} might sum to 2^31 or more: use smaller weights"
            )
        laid = weights
        if len(weights) % LANES or not weights.T.flags.c_contiguous:
            laid = empty_weights(len(weights), self._units)
            laid[len(weights) :] = 0
            _ranks.transpose_into(np.ascontiguousarray(weights), laid.T)
        out = np.empty((3, len(laid)), np.uint64)
        _ranks.wins_into(laid.T, self._codes, self._ends, *out)
        return out[0, : len(weights)], out[1, : len(weights)], out[2, : len(weights)]


def empty_weights(replicates: int, units: int) -> np.ndarray:
    """Return room for weights uint8 [B, U] as `WeightedRanks` reads them; B is `replicates` rounded up.

    It is the transpose of [U, B] that starts at a cache line: the weights of a unit lie side by side. B is a multiple
    of 64, or 16 more where that is enough: a full pass takes less time than two narrow ones.
    """
    wide, left = divmod(replicates, WIDE_LANES)
    width = WIDE_LANES * wide + (0 if not left else LANES if left <= LANES else WIDE_LANES)
    room = np.empty(units * width + 63, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + units * width].reshape(units, width).T


def fill_weights(weights: np.ndarray, start: int, values: np.ndarray) -> None:
    """Write uint8 values [b, U] to weights[start : start + b] of `empty_weights`, block by block."""
    if not weights.T.flags.c_contiguous or values.shape[1:] != weights.shape[1:] or start < 0:
        raise ValueError(f"weights {weights.shape} of `empty_weights` cannot take {values.shape} at {start}")
    if start + len(values) > len(weights) or values.dtype != np.uint8:
        raise ValueError(
            f"{len(values)} replicates of {values.dtype} do not fit at {start} of {len(weights)}"
        )
    target = weights.T[:, start : start + len(values)]
    _ranks.transpose_into(np.ascontiguousarray(values), target)


def fill_poisson(bits: np.random.PCG64, out: np.ndarray) -> None:
    """Fill ``out``, uint8, C-contiguous, of any shape, with Poisson(1) numbers: inversion, 32 random bits a number.

    Every probability is right to 2^-32, so 12 is the largest number. Half a word of the generator is lost after an
    odd number of them.
    """
    if out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous uint8, got {out.dtype}")
    flat = out.reshape(-1)
    for start in range(0, flat.size, _STAGE):
        part = flat[start : start + _STAGE]
        words = bits.random_raw((part.size + 1) // 2).view(np.uint32)
        _ranks.poisson_into(words, _POISSON_STEPS, part)


def _bytes(weights: np.ndarray, units: int) -> np.ndarray:
    if weights.dtype.kind not in "iu":
        raise TypeError(f"weights must be integers, got {weights.dtype}")
    if weights.ndim != 2 or weights.shape[1] != units:
        raise ValueError(f"weights must have shape [B, {units}], got {weights.shape}")
    if weights.dtype == np.uint8:
        return weights
    if weights.size and (weights.min() < 0 or weights.max() > 255):
        raise ValueError(f"weights must lie in 0..255, got {weights.min()} to {weights.max()}")
    return weights.astype(np.uint8)


def _segments(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return ends [S, 3] as `_ranks.wins_into` takes them, of rows in order."""
    first = np.r_[True, scores[1:] != scores[:-1]]  # of equal scores
    starts = np.flatnonzero(first)
    mixed = positive[starts]  # has a positive, which then comes first
    mixed &= ~np.logical_and.reduceat(positive, starts)
    kind = np.where(positive, np.uint8(0), np.uint8(2))
    kind[np.repeat(mixed, np.diff(starts, append=positive.size)) & ~positive] = 1
    begins = np.r_[True, kind[1:] < kind[:-1]]
    begins[starts[mixed]] = True
    starts = np.flatnonzero(begins)
    ends = np.empty((starts.size, 3), np.int32)
    ends[:, 0] = starts + np.add.reduceat(kind == 0, starts, dtype=np.int64)
    ends[:, 1] = ends[:, 0] + np.add.reduceat(kind == 1, starts, dtype=np.int64)
    ends[:-1, 2] = starts[1:]
    ends[-1, 2] = positive.size
    return ends
