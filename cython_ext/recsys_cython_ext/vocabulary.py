"""Vocabularies over 64-bit ids: a read-only table from id to position, and exact counts of ids."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub
import recsys_cython_ext._vocabulary as _vocabulary
from recsys_cython_ext.arguments import as_int64, output
from recsys_cython_ext.threads import over_parts

MISSING_CODE, UNKNOWN_CODE, FIRST_CODE = 0, 1, 2  # of a vocabulary: no id, an id outside it, its first id
_CACHE_BYTES = 2**23  # tables above this are looked up with prefetches
_FIRST_SLOTS = 1024
_SEEDS = 100


def table_bytes(num_keys: int) -> int:
    """Return the resident bytes of an `IdTable` of so many keys."""
    return 8 * num_keys + _index_bytes(num_keys)


def _index_bytes(num_keys: int) -> int:
    return 4 * (num_keys * 10 // 7 + 1)


class IdTable:
    """Position of an id in ``keys``, by a perfect hash (see `_vocabulary.pyx`).

    keys: int64 [N], unique, N < 2^31; copied. Beside them lie 4 bytes for each of ``N * 10 // 7 + 1`` entries:
    slots with positions, and one byte, the pilot, for every two keys: `index`, which `seed` goes with. A pickle holds the
    keys only.

    Raises ValueError on a duplicate key, naming it, and as `hashing.as_int64` does.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = as_int64(keys).copy()
        self.keys.flags.writeable = False
        n = len(keys)
        if n >= 2**31:
            raise ValueError(f"an IdTable holds fewer than 2^31 keys, got {n}")
        self._take(np.empty(_index_bytes(n), np.uint8))
        self.seed = self._build() if n else 0

    @classmethod
    def restored(cls, keys: np.ndarray, index: np.ndarray, seed: int) -> IdTable:
        """Return the table that has these `keys`, `index` and `seed`, without a copy: they may be mapped from files.

        Raises ValueError where the sizes or types do not belong together. Only the writer of the files can vouch for what
        is in them.
        """
        keys = as_int64(keys)
        if index.dtype != np.uint8 or index.shape != (_index_bytes(len(keys)),) or not 0 <= seed < 2**64:
            raise ValueError(
                f"{len(keys)} keys, an index of {index.nbytes} bytes and seed {seed} are no IdTable"
            )
        table = cls.__new__(cls)
        table.keys, table.seed = keys, seed
        table._take(index)
        return table

    def _take(self, index: np.ndarray) -> None:
        n_slots = (len(index) - max(1, len(self.keys) // 2)) // 4  # 1.3 to a key
        self.index = index
        self._slots = index[: 4 * n_slots].view(np.uint32)
        self._pilots = index[4 * n_slots :]

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[type[IdTable], tuple[np.ndarray]]:
        return IdTable, (self.keys,)

    @property
    def nbytes(self) -> int:
        """Resident bytes: keys, slots and pilots."""
        return self.keys.nbytes + self._slots.nbytes + self._pilots.nbytes

    def codes(
        self, ids: np.ndarray, default: int, out: np.ndarray | None = None, *, threads: int | None = None
    ) -> np.ndarray:
        """Return the position of each id in ``keys``, or ``default``.

        ids: int64 [L]. Returns int32 [L]: ``out`` where it is given (a fresh array costs page faults), in memory
        of its own. threads: as in `hashing.hash_rows`. Raises TypeError when ids are not int64 or out not int32,
        ValueError when ids are not 1-D, out does not fit them or default does not fit int32.
        """
        default = operator.index(default)
        if not -(2**31) <= default < 2**31:
            raise ValueError(f"default must fit int32, got {default}")
        ids = as_int64(ids)
        out = output(out, np.int32, len(ids), ids)
        if not len(self):
            out.fill(default)
            return out
        large = self.nbytes > _CACHE_BYTES

        def part(start: int, stop: int) -> None:
            _vocabulary.codes_into(
                self.keys,
                self.seed,
                self._slots,
                self._pilots,
                large,
                ids[start:stop],
                default,
                out[start:stop],
            )

        over_parts(part, len(ids), threads)
        return out

    def _build(self) -> int:
        """Fill slots and pilots, and return the seed it worked with (nearly always 0)."""
        n_buckets = len(self._pilots)
        ends, order = np.empty(n_buckets, np.int32), np.empty(n_buckets, np.int32)
        members = np.empty(len(self), np.int32)
        for attempt in range(_SEEDS):
            seed = _hashing.mix64_one(attempt)  # 0 at first; small seeds would only permute small keys
            if _vocabulary.build(self.keys, seed, self._slots, self._pilots, ends, members, order):
                return seed
            if attempt == 0:
                self._refuse_duplicates()
        raise RuntimeError(f"no perfect hash of {len(self)} keys with {_SEEDS} seeds")

    def _refuse_duplicates(self) -> None:
        order = np.argsort(self.keys, kind="stable")
        repeats = order[1:][self.keys[order[1:]] == self.keys[order[:-1]]]
        if len(repeats):
            position = repeats.min()
            raise ValueError(f"duplicate key {self.keys[position]} at position {position}")


class IdTables:
    """Several `IdTable` that are asked at once, for a few ids of each: a loop in C instead of one in Python."""

    def __init__(self, tables: Sequence[IdTable]) -> None:
        self._tables = list(tables)  # which keep their arrays alive
        self._places = np.array([_place_of(table) for table in tables], np.uint64).reshape(-1, 8)

    def codes(self, ids: np.ndarray, default: int) -> np.ndarray:
        """Return the position of ``ids[f, i]`` in the keys of table f, or ``default``, int32 [F, L]; ids: int64 [F, L].

        Raises TypeError and ValueError for ids that are not so.
        """
        if ids.dtype != np.int64 or ids.ndim != 2 or not ids.flags.c_contiguous:
            raise TypeError(f"ids must be int64, 2-D and C-contiguous, got {ids.dtype} {list(ids.shape)}")
        if len(ids) != len(self._tables):
            raise ValueError(f"ids of {len(ids)} tables, and there are {len(self._tables)}")
        out = np.empty(ids.shape, np.int32)
        if out.size:
            _vocabulary.codes_of_tables(self._places, ids, default, out)
        return out


def _place_of(table: IdTable) -> list[int]:
    arrays = (table.keys, table._slots, table._pilots)
    large = table.nbytes > _CACHE_BYTES
    return [*(array.ctypes.data for array in arrays), *map(len, arrays), table.seed, large]


class IdCounter:
    """Exact counts of ids seen so far, in a hash table that doubles (16 bytes a slot, load <= 0.7)."""

    def __init__(self) -> None:
        self._table = np.zeros((_FIRST_SLOTS, 2), np.int64)  # (id, count), count 0: empty
        self._used = 0
        self._total = 0

    def __len__(self) -> int:
        return self._used

    def add(self, ids: np.ndarray) -> None:
        """Count ids: int64 [L]; `MISSING_ID` counts like any other. Raises as `hashing.as_int64` does."""
        self._add(as_int64(ids), np.empty(0, np.int64), len(ids))

    def add_counts(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Merge what another counter's `result` returned, or any exact counts.

        ids: int64 [U], repeated or not. counts: int64 [U]. Raises as `hashing.as_int64` does for either, and
        ValueError when they differ in length, a count is < 1 or all counts so far reach 2^62.
        """
        ids, counts = as_int64(ids), as_int64(counts)
        if len(ids) != len(counts):
            raise ValueError(f"ids and counts must be of one length, got {len(ids)} and {len(counts)}")
        bad = np.flatnonzero(counts < 1)
        if len(bad):
            raise ValueError(f"count {counts[bad[0]]} at position {bad[0]} must be >= 1")
        if self._total + counts.sum(dtype=np.float64) >= 2**62:  # far from where int64 or this sum would err
            raise ValueError("counts must add up to less than 2^62")
        self._add(ids, counts, int(counts.sum()))

    def _add(self, ids: np.ndarray, counts: np.ndarray, total: int) -> None:
        self._total += total
        position = 0
        while position < len(ids):
            limit = len(self._table) * 7 // 10
            position, self._used = _vocabulary.count_into(
                ids, counts, position, self._table, self._used, limit
            )
            if position < len(ids):
                larger = np.zeros((2 * len(self._table), 2), np.int64)
                _vocabulary.move_into(self._table, larger)
                self._table = larger

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, counts), both int64 [U], sorted by id: the order of the `add` calls leaves no trace."""
        ids = np.sort(self._table[:, 0][self._table[:, 1] > 0])
        counts = np.empty_like(ids)
        _vocabulary.counts_of(ids, self._table, counts)  # twice as fast as an argsort
        return ids, counts


def count_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return unique ids and how often each occurs. ids: int64 [L]. Returns two int64 [U], sorted by id.

    Raises as `hashing.as_int64` does. Over chunks, use `IdCounter`.
    """
    counter = IdCounter()
    counter.add(ids)
    return counter.result()
