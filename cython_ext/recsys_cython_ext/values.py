"""Python's own values, such as those of a request, as ids and numbers: a loop in C, and a reader for what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import recsys_cython_ext._values as _values


class UnreadableAt(ValueError):
    """A value could not be read: its position; what was wrong is the error's cause."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the value at position {position} is unreadable")
        self.position = position


def ids_of_values(
    values: Sequence[Any], read: Callable[[Any], int], *, texts: bool, integers: bool
) -> np.ndarray:
    """Return the ids of values, int64 [L]: text by XXH64, whole numbers by themselves, None as `MISSING_ID`.

    Args:
        values: Of any types.
        read: Gives the id of every other value, and of text without `texts` and whole numbers without `integers`.
        texts: Whether text is such an id.
        integers: Whether a whole number is one.

    Raises:
        UnreadableAt: `read` raised ValueError.
    """
    values, out = list(values), np.empty(len(values), np.int64)
    position = _values.ids_into(values, texts, integers, 0, out)
    while position < len(values):
        out[position] = _read(read, values, position)
        position = _values.ids_into(values, texts, integers, position + 1, out)
    return out


def numbers_of_values(values: Sequence[Any], read: Callable[[Any], float]) -> np.ndarray:
    """Return numbers, float64 [L], None as NaN; `read` gives what is neither a float nor a short whole number.

    Raises UnreadableAt where `read` raised ValueError.
    """
    values, out = list(values), np.empty(len(values), np.float64)
    position = _values.numbers_into(values, 0, out)
    while position < len(values):
        out[position] = _read(read, values, position)
        position = _values.numbers_into(values, position + 1, out)
    return out


def _read(read: Callable[[Any], Any], values: Sequence[Any], position: int) -> Any:
    try:
        return read(values[position])
    except ValueError as error:
        raise UnreadableAt(position) from error
