"""Sums of floats without rounding, so that order and partition leave no trace."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np

import recsys_cython_ext._sums as _sums  # this form spares mypy a stub

_ROWS = 2048  # exponent fields of float64
_ADDS = _ROWS - 1  # infinite and NaN in floats, so free to hold how many adds the others have seen
_MOST_ADDS = 2**36  # of less than 2^27 each to an int64
_ADDS_OF_SQUARE = 3  # the halves of a square have up to 54 bits and may meet in a row
_HALF = 26  # bits of the low half of a mantissa
_LARGEST_ROOT = 2.0**500
_INFINITE = 0x7FF << 52
_EDGES = (*range(1, 2046, 53), 2046)  # rows that hold any sum, 53 bits each and the last the rest


class ExactSum:
    """Return the exact sum of float64 values: any order of adding and merging gives the same value, to the last bit.

    State, int64 [2048, 2]: for each exponent field e the sums of the high halves and of the low 26 bits of signed
    53-bit mantissas; their unit is 2^(max(e, 1) - 1075). Row 2047 holds the number of adds: 2^36 of them fit, then
    rows are carried over. The state is not unique to the sum; `value` is.
    """

    def __init__(self) -> None:
        self._state = np.zeros((_ROWS, 2), np.int64)

    @classmethod
    def from_state(cls, state: np.ndarray) -> ExactSum:
        """Make the sum with a copy of a state, which may be several `state` added up, as an all-reduce does.

        Raises TypeError unless it is int64, ValueError when it has another shape or more than 2^36 adds.
        """
        if not isinstance(state, np.ndarray) or state.dtype != np.int64:
            raise TypeError(
                f"a state must be an int64 ndarray, got {getattr(state, 'dtype', type(state).__name__)}"
            )
        if state.shape != (_ROWS, 2):
            raise ValueError(f"a state must have shape ({_ROWS}, 2), got {state.shape}")
        if not 0 <= state[_ADDS, 0] <= _MOST_ADDS or state[_ADDS, 1]:
            raise ValueError(f"a state must have 0 to 2^36 adds, got {state[_ADDS].tolist()}")
        out = cls()
        out._state[:] = state
        return out

    def state(self) -> np.ndarray:
        """Return a copy of the state, int64 [2048, 2], to be sent and given to `from_state`."""
        return self._state.copy()

    def add(self, values: np.ndarray) -> None:
        """Add float64 [L]. Raises TypeError on another dtype, ValueError unless 1-D and all finite; then adds nothing."""
        bits = _bits(values)
        if _sums.largest_magnitude(bits) >= _INFINITE:
            raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]}")
        self._make_room(len(bits))
        _sums.add_into(bits, self._state)

    def add_squares(self, values: np.ndarray) -> None:
        """Add the squares of float64 [L], exactly from 2^-485 on; smaller ones lose what lies below 2^-1074.

        They do so alike in any order. Raises as `add` does, and ValueError when some value is beyond 2^500.
        """
        bits = _bits(values)
        if _sums.largest_magnitude(bits) > int(np.float64(_LARGEST_ROOT).view(np.uint64)):
            bad = values[~(np.abs(values) <= _LARGEST_ROOT)][0]
            raise ValueError(f"values to be squared must be finite and within 2^500, got {bad}")
        self._make_room(_ADDS_OF_SQUARE * len(bits))
        _sums.add_squares_into(bits, self._state)

    def merge(self, other: ExactSum) -> None:
        """Add the sum of `other`, which stays as it is."""
        if self._adds() + other._adds() > _MOST_ADDS:
            other = ExactSum.from_state(other._state)
            other._carry()
        self._make_room(other._adds())
        self._state[:_ADDS] += other._state[:_ADDS]

    def value(self) -> Fraction:
        """Return the exact sum; ``float`` of it is correctly rounded."""
        return Fraction(self._units(), 2**1074)

    def _units(self) -> int:
        """Return the sum in units of 2^-1074."""
        rows = np.flatnonzero(self._state[:_ADDS].any(axis=1))
        pairs = zip(rows.tolist(), self._state[rows].tolist(), strict=True)
        return sum(((high << _HALF) + low) << max(row - 1, 0) for row, (high, low) in pairs)

    def _adds(self) -> int:
        return int(self._state[_ADDS, 0])

    def _make_room(self, adds: int) -> None:
        """Count so many adds, carrying over first where they would not fit."""
        if self._adds() + adds > _MOST_ADDS:
            self._carry()
        total = self._adds() + adds
        if total > _MOST_ADDS:
            raise OverflowError(f"the sum is too large for {adds} more adds")
        self._state[_ADDS, 0] = total

    def _carry(self) -> None:
        """Return the same sum in few bits a row."""
        rest = self._units()
        self._state[:] = 0
        for row, following in pairwise(_EDGES):
            bits = following - row
            self._set(row, rest & (2**bits - 1))
            rest >>= bits
        self._set(_EDGES[-1], rest)
        self._state[_ADDS, 0] = 1 + (abs(rest) >> 53)

    def _set(self, row: int, mantissa: int) -> None:
        self._state[row] = mantissa >> _HALF, mantissa & (2**_HALF - 1)


def _bits(values: np.ndarray) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        got = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"values must be a float64 ndarray, got {got}")
    if values.ndim != 1:
        raise ValueError(f"values must be 1-D, got shape {values.shape}")
    return np.ascontiguousarray(values).view(np.uint64)
