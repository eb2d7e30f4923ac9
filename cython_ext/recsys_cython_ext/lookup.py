"""Read-only embedding lookup: gather rows, weight them, sum them per bag.

Rows are fp32, fp16, fp8, int8 or int4 (`rowwise`), sums are fp32. Random rows cost cache and TLB misses, so
the kernel asks for rows ahead of their use, and tables and reused outputs belong on huge pages (`empty_huge`).
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

import recsys_cython_ext._lookup as _lookup
from recsys_cython_ext.rowwise import QuantisedTable
from recsys_cython_ext.threads import pool

_KINDS = {"float32": 0, "float16": 1, "int8": 2, "int4": 3, "fp8": 4}  # the enum in _lookup.pyx
_ROWS_PER_THREAD = 8192  # fewer are done before another thread wakes up
_STREAM_BYTES = 32 << 20  # a larger output no cache keeps for its reader: it is written past them
_HUGE_PAGE = 2 << 20


def pooled(
    table: np.ndarray | QuantisedTable,
    rows: np.ndarray,
    offsets: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    out: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Compute ``out[b] = sum of weights[l] * table[rows[l]]`` for ``offsets[b] <= l < offsets[b + 1]``.

        rows     7 2 2 | 5 | | 1      offsets 0 3 4 4 5: B = 4 bags, the third is empty and gives zeros

    table: [N, D], float32, float16 or a `QuantisedTable`, D a multiple of 4; may be a read-only np.memmap.
    rows: int64 [L]; offsets: int64 [B + 1], or None for bags of one (B = L); weights: float32 [L], or None for ones.
    out: float32 [B, D], overwritten and returned; a new one if None. ``threads`` share the bags, by number of rows;
    each bag is summed in its order in fp32, so that neither threads nor the machine change a bit of the result.

    Raises TypeError on a wrong dtype, ValueError on a wrong shape or layout, offsets that do not run from 0 to L
    without falling, and a row outside [0, N) or a weight NaN, naming position and value; ``out`` is then undefined.
    """
    kind, stored, d = _stored(table)
    rows = _checked("rows", rows, np.int64, 1)
    n_bags = len(rows)
    if offsets is not None:
        offsets = _checked("offsets", offsets, np.int64, 1)
        n_bags = len(offsets) - 1
        if n_bags < 0 or offsets[0] != 0 or offsets[-1] != len(rows):
            raise ValueError(
                f"offsets must run from 0 to {len(rows)}, the number of rows, got {_ends(offsets)}"
            )
    if weights is not None:
        weights = _checked("weights", weights, np.float32, 1)
        if len(weights) != len(rows):
            raise ValueError(f"{len(weights)} weights for {len(rows)} rows")
    large = 4 * n_bags * d > _STREAM_BYTES
    if out is None:
        out = empty_huge((n_bags, d)) if large else np.empty((n_bags, d), np.float32)
    elif _checked("out", out, np.float32, 2).shape != (n_bags, d) or not out.flags.writeable:
        raise ValueError(f"out must be writeable and of shape {(n_bags, d)}, got {out.shape}")
    threads = operator.index(threads)
    if threads < 1:
        raise ValueError(f"threads must be >= 1, got {threads}")
    stream = large and out.ctypes.data % 64 == 0 and d % 16 == 0  # whole cache lines
    run = functools.partial(_lookup.pool_into, stored, kind, rows, offsets, weights, out, dim=d, padded=False)
    cuts = _cuts(offsets, n_bags, len(rows), min(threads, 1 + len(rows) // _ROWS_PER_THREAD))
    others = [pool().submit(run, cuts[i], cuts[i + 1], stream) for i in range(1, len(cuts) - 1)]
    for bad in [run(cuts[0], cuts[1], stream), *(other.result() for other in others)]:
        if bad != -1:
            raise ValueError(_reason(bad, len(stored), rows, offsets, weights))
    return out


def padded(table: np.ndarray | QuantisedTable, rows: np.ndarray, width: int) -> np.ndarray:
    """Compute ``out[l] = table[rows[l]]``, then zeros up to ``width`` columns; a row -1 is one of zeros.

    What is left of a wider table by pruning is read as if it were whole, in one pass. table: [N, D] as in `pooled`; rows:
    int64 [L]. Returns float32 [L, width]. Raises as `pooled` does, and ValueError for a width below D.
    """
    kind, stored, d = _stored(table)
    rows = _checked("rows", rows, np.int64, 1)
    if width < d or width % 4:
        raise ValueError(f"width must be a multiple of 4 and at least the table's {d}, got {width}")
    out = np.empty((len(rows), width), np.float32)
    bad = _lookup.pool_into(stored, kind, rows, None, None, out, 0, len(rows), False, dim=d, padded=True)
    if bad != -1:
        raise ValueError(_reason(bad, len(stored), rows, None, None))
    return out


class TableBatchedLookup:
    """One row of each of several tables, side by side: one call instead of one a table, which counts for a few rows."""

    def __init__(
        self, tables: Sequence[np.ndarray | QuantisedTable], columns: Sequence[int], width: int
    ) -> None:
        """Take tables as in `pooled`, the first column that each is written to, and the columns of all.

        Raises ValueError where a table does not end within `width`.
        """
        stored = [_stored(table) for table in tables]
        self._tables = [rows for _, rows, _ in stored]  # whose memory the kernel reads
        self._width = width
        self._places = np.array(
            [
                [rows.ctypes.data, rows.shape[1], rows.shape[0], kind, dim, column]
                for (kind, rows, dim), column in zip(stored, columns, strict=True)
            ],
            np.uint64,
        ).reshape(-1, 6)
        ends = self._places[:, 4] + self._places[:, 5]
        if len(ends) and (ends.max() > width or min(columns) < 0):
            raise ValueError(f"tables end in column {ends.max()}, and there are {width}")

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Write row ``rows[t, b]`` of every table t into its columns of ``out[b]``.

        rows: int64 [T, B]; out: float32 [B, width], whose other columns stay. Raises as `pooled` does.
        """
        rows, out = _checked("rows", rows, np.int64, 2), _checked("out", out, np.float32, 2)
        if len(rows) != len(self._tables) or out.shape != (rows.shape[1], self._width):
            raise ValueError(
                f"rows {list(rows.shape)} of {len(self._tables)} tables do not go into out {list(out.shape)}"
            )
        bad = _lookup.gather_into(self._places, rows, out)
        if bad != -1:
            of_table, n = rows[bad], len(self._tables[bad])
            position = int(np.flatnonzero((of_table < 0) | (of_table >= n))[0])
            raise ValueError(f"table {bad}: {_reason(position, n, of_table, None, None)}")


def empty_huge(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised C-contiguous array, aligned and advised for huge pages where the system has them.

    For tables and for outputs that are used again: random rows then miss the TLB less (1.3 to 1.6 times as fast).
    Below one huge page, and elsewhere than on Linux, it is `np.empty`.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, dtype)
    memory = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared has none
    start = -np.frombuffer(memory, np.uint8).ctypes.data % _HUGE_PAGE
    out = np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
    advise_huge_pages(out)
    return out


def advise_huge_pages(array: np.ndarray) -> None:
    """Ask for huge pages under an existing array (``madvise``); what is already in memory changes only later.

    It is advice: nothing happens elsewhere than on Linux, where the system forbids it, and to most mapped files.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    start = array.ctypes.data + -array.ctypes.data % mmap.PAGESIZE
    length = array.ctypes.data + array.nbytes - start
    if array.flags.c_contiguous and length > 0:
        madvise = ctypes.CDLL(None).madvise
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(mmap.MADV_HUGEPAGE))


def _stored(table: np.ndarray | QuantisedTable) -> tuple[int, np.ndarray, int]:
    """Return (kind of the kernel, bytes of the rows [N, stride], D)."""
    if isinstance(table, QuantisedTable):
        return _KINDS[table.kind], table.data, table.embedding_dim
    dtype = getattr(table, "dtype", type(table))
    if not isinstance(table, np.ndarray) or dtype not in (np.float32, np.float16):
        raise TypeError(f"table must be float32, float16 or a QuantisedTable, got {dtype}")
    if table.ndim != 2 or not table.flags.c_contiguous:
        raise ValueError(f"table must be 2-D and C-contiguous, got shape {table.shape}")
    if table.shape[1] == 0 or table.shape[1] % 4:
        raise ValueError(f"the width of a table must be a positive multiple of 4, got {table.shape[1]}")
    return _KINDS[table.dtype.name], table.view(np.uint8), table.shape[1]


def _checked(name: str, array: np.ndarray, dtype: Any, ndim: int) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype)}, got {getattr(array, 'dtype', type(array))}")
    if array.ndim != ndim or not array.flags.c_contiguous or not array.flags.aligned:
        raise ValueError(f"{name} must be {ndim}-D, C-contiguous and aligned, got shape {array.shape}")
    return array


def _ends(offsets: np.ndarray) -> str:
    return f"{offsets[0]} to {offsets[-1]}" if len(offsets) else "none"


def _cuts(offsets: np.ndarray | None, n_bags: int, n_rows: int, parts: int) -> list[int]:
    """Return the bags where each of ``parts`` begins and the last one ends; every part has about as many rows."""
    shares = [n_rows * i // parts for i in range(1, parts)]
    inner = shares if offsets is None else np.searchsorted(offsets[:-1], shares).tolist()
    cuts = [0, *inner, n_bags]
    return np.maximum.accumulate(cuts).tolist()  # offsets that fall leave no bag out: the kernel refuses them


def _reason(
    bad: int, n: int, rows: np.ndarray, offsets: np.ndarray | None, weights: np.ndarray | None
) -> str:
    if bad < 0:
        assert offsets is not None
        bag = -2 - bad
        return f"offsets of bag {bag} fall or leave the rows: {offsets[bag]} to {offsets[bag + 1]}"
    if not 0 <= rows[bad] < n:
        return f"row {rows[bad]} at position {bad} is outside the table's {n} rows"
    return f"the weight at position {bad} is NaN"
