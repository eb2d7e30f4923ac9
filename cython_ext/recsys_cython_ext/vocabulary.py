"""Vocabularies over 64-bit ids: a read-only table from id to position, and exact counts of ids."""

from __future__ import annotations

import operator

import numpy as np

import recsys_cython_ext._vocabulary as _vocabulary
from recsys_cython_ext.hashing import as_int64

_FIRST_SLOTS = 1024


class IdTable:
    """Position of an id in ``keys``: open addressing, linear probing (Knuth 6.4, algorithm L).

    keys: int64 [N], unique, N < 2^31; copied. Slots of 4 bytes hold positions, at a load of at most 0.7.
    A pickle holds the keys only.

    Raises ValueError on a duplicate key, naming it, and as `hashing.as_int64` does.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = as_int64(keys).copy()
        self.keys.flags.writeable = False
        if len(keys) >= 2**31:
            raise ValueError(f"an IdTable holds fewer than 2^31 keys, got {len(keys)}")
        self._bits = len(keys).bit_length()  # of a slot, for the position
        self._slots = np.full(len(keys) * 10 // 7 + 1, 2**32 - 1, np.uint32)
        duplicate = _vocabulary.build(self.keys, self._bits, self._slots)
        if duplicate >= 0:
            raise ValueError(f"duplicate key {self.keys[duplicate]} at position {duplicate}")

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[type[IdTable], tuple[np.ndarray]]:
        return IdTable, (self.keys,)

    @property
    def nbytes(self) -> int:
        """Resident bytes: keys and slots."""
        return self.keys.nbytes + self._slots.nbytes

    def codes(self, ids: np.ndarray, default: int) -> np.ndarray:
        """Position of each id in ``keys``, or ``default``.

        ids: int64 [L]. Returns int32 [L]. Raises TypeError when ids are not int64, ValueError when they are
        not 1-D or default does not fit int32.
        """
        default = operator.index(default)
        if not -(2**31) <= default < 2**31:
            raise ValueError(f"default must fit int32, got {default}")
        ids = as_int64(ids)
        out = np.empty(len(ids), np.int32)
        _vocabulary.codes_into(self.keys, self._bits, self._slots, ids, default, out)
        return out


class IdCounter:
    """Exact counts of ids seen so far, in a hash table that doubles (16 bytes a slot, load <= 0.7)."""

    def __init__(self) -> None:
        self._table = np.zeros((_FIRST_SLOTS, 2), np.int64)  # (id, count), count 0: empty
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def add(self, ids: np.ndarray) -> None:
        """Count ids: int64 [L]; `MISSING_ID` counts like any other. Raises as `hashing.as_int64` does."""
        ids = as_int64(ids)
        position = 0
        while position < len(ids):
            limit = len(self._table) * 7 // 10
            position, self._used = _vocabulary.count_into(ids, position, self._table, self._used, limit)
            if position < len(ids):
                larger = np.zeros((2 * len(self._table), 2), np.int64)
                _vocabulary.move_into(self._table, larger)
                self._table = larger

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, counts), both int64 [U], sorted by id: the order of the `add` calls leaves no trace."""
        ids = np.sort(self._table[:, 0][self._table[:, 1] > 0])
        counts = np.empty_like(ids)
        _vocabulary.counts_of(ids, self._table, counts)  # twice as fast as an argsort
        return ids, counts


def count_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unique ids and how often each occurs. ids: int64 [L]. Returns two int64 [U], sorted by id.

    Raises as `hashing.as_int64` does. Over chunks, use `IdCounter`.
    """
    counter = IdCounter()
    counter.add(ids)
    return counter.result()
