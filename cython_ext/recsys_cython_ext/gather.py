"""Rows of an Arrow table by position, gathered straight from its buffers: nothing is copied before it is asked for.

The buffers may be those of mapped files, so that a table may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.types as pt

import recsys_cython_ext._gather as _gather

_IDS = (pa.int32(), pa.int64())
_ITSELF, _DONOR = 0, 1  # lists of positions a column can be read at


class Gathered(NamedTuple):
    """B rows: lengths int32 [F, B] and values int64 [L] of ids, column after column, totals int64 [F] values of each.

    weights: float32 [L], 1 where a column has none, or None without weights; numbers: float32 [B, n].
    """

    lengths: np.ndarray
    values: np.ndarray
    totals: np.ndarray
    weights: np.ndarray | None
    numbers: np.ndarray


class TableGather:
    """Gather rows of `table` by position, which counts through its chunks.

    ids: names [F] of columns of int32 or int64, or of lists of them; numbers: names [n] of float32 columns; weights:
    for some of `ids`, the name of a float32 list column with lists of the same lengths. Chunks may be slices.

    Raises KeyError for a column that is not there, TypeError for one of another type, ValueError for one with
    nulls and pa.ArrowInvalid for one whose buffers are too small.
    """

    def __init__(
        self,
        table: pa.Table,
        ids: Sequence[str],
        numbers: Sequence[str] = (),
        weights: Mapping[str, str] | None = None,
    ) -> None:
        self.ids, self.numbers, self.weights = tuple(ids), tuple(numbers), dict(weights or {})
        self._table = table  # also keeps the addresses below valid
        self._n_rows = table.num_rows
        table = table.select(dict.fromkeys([*self.ids, *self.numbers, *self.weights.values()]))
        table.validate()
        shards = [shard for shard in table.to_batches() if shard.num_rows]  # one for each chunk, no copy
        self._starts = np.cumsum([0, *(shard.num_rows for shard in shards)], dtype=np.int64)
        self._ids = _Addresses(shards, [_field(table, name, _IDS) for name in self.ids])
        self._numbers = _Addresses(shards, [_field(table, name, (pa.float32(),)) for name in self.numbers])
        self._weights = _Addresses(
            shards, [_field(table, name, (pa.float32(),)) for name in self.weights.values()]
        )
        for fields, lists in ((self._numbers, False), (self._weights, True)):
            for field in fields.fields:
                if pt.is_list(field.type) is not lists:
                    raise TypeError(f"column {field.name!r} is {field.type}")
        self._weighted = [self.ids.index(name) for name in self.weights]

    def __len__(self) -> int:
        return self._n_rows

    def __reduce__(self) -> tuple[type[TableGather], tuple[object, ...]]:
        return TableGather, (
            self._table,
            self.ids,
            self.numbers,
            self.weights,
        )  # addresses are of one process

    def __call__(
        self, index: np.ndarray, donors: np.ndarray | None = None, donated: Collection[str] = ()
    ) -> Gathered:
        """Return the rows `index` [B]; the columns `donated` come from the rows `donors` [B] instead.

        Raises TypeError unless positions are integers, IndexError for a position outside [0, n), ValueError where
        offsets of a list are corrupt or weights are not as many as ids, naming the column and the position.
        """
        donated = () if donors is None else donated
        positions = np.stack([self._checked(index)] + ([] if donors is None else [self._checked(donors)]))
        n = positions.shape[1]
        shard, row = np.empty(positions.shape, np.int32), np.empty(positions.shape, np.int64)
        if n:
            _gather.split_into(self._starts, positions, shard, row)

        def lengths_of(columns: _Addresses, pick: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            lengths = np.empty((len(pick), n), np.int32)
            totals = np.zeros(len(pick), np.int64)
            bad = _gather.lengths_into(columns.offsets, columns.limits, shard, row, pick, lengths, totals)
            if bad >= 0:
                name, position = columns.fields[bad // n].name, positions[pick[bad // n], bad % n]
                raise ValueError(f"column {name!r}: the offsets of row {position} fall or leave its values")
            return lengths, totals

        pick = self._pick(self.ids, donated)
        lengths, totals = lengths_of(self._ids, pick)
        values = np.empty(totals.sum(), np.int64)
        _gather.ids_into(
            self._ids.values, self._ids.offsets, self._ids.wide, shard, row, pick, totals, values
        )
        weights = None
        if self.weights:
            weights = np.ones(len(values), np.float32)
            of_weights, ends = pick[self._weighted], np.cumsum(totals)
            weight_lengths, _ = lengths_of(self._weights, of_weights)
            for number, column in enumerate(self._weighted):
                wrong = np.flatnonzero(weight_lengths[number] != lengths[column])
                if len(wrong):
                    raise ValueError(
                        f"row {positions[of_weights[number], wrong[0]]}: {lengths[column, wrong[0]]} ids in "
                        f"{self.ids[column]!r}, but {weight_lengths[number, wrong[0]]} weights"
                    )
                _gather.floats_into(
                    self._weights.values[number],
                    self._weights.offsets[number],
                    shard[of_weights[number]],
                    row[of_weights[number]],
                    weights[ends[column] - totals[column] : ends[column]],
                )
        numbers = np.empty((n, len(self.numbers)), np.float32)
        _gather.matrix_into(self._numbers.values, shard, row, self._pick(self.numbers, donated), numbers)
        return Gathered(lengths, values, totals, weights, numbers)

    def _checked(self, index: np.ndarray) -> np.ndarray:
        if index.dtype.kind not in "iu" or index.ndim != 1:
            raise TypeError(f"positions must be integers [B], got {index.dtype} {list(index.shape)}")
        if len(index) and (index.min() < 0 or index.max() >= len(self)):
            bad = int(np.flatnonzero((index < 0) | (index >= len(self)))[0])
            raise IndexError(f"position {index[bad]} at {bad} is outside the table's {len(self)} rows")
        return index.astype(np.int64, copy=False)

    def _pick(self, names: Sequence[str], donated: Collection[str]) -> np.ndarray:
        return np.array([_DONOR if name in donated else _ITSELF for name in names], np.int32)


class _Addresses:
    """Where columns [C] of shards [S] lie: addresses of values and of offsets (0: no list), lengths of the values."""

    def __init__(self, shards: Sequence[pa.RecordBatch], fields: Sequence[pa.Field]) -> None:
        self.fields = fields
        shape = len(fields), len(shards)
        self.values, self.offsets, self.limits = (np.zeros(shape, np.int64) for _ in range(3))
        types = [field.type.value_type if pt.is_list(field.type) else field.type for field in fields]
        self.wide = np.array([kind == pa.int64() for kind in types], np.uint8)
        for s, shard in enumerate(shards):
            for c, field in enumerate(fields):
                array = shard.column(shard.schema.get_field_index(field.name))
                if pt.is_list(field.type):
                    self.offsets[c, s] = array.buffers()[1].address + 4 * array.offset
                    _refuse_nulls(field.name, array)
                    array = array.values
                self.limits[c, s] = len(array)
                _refuse_nulls(field.name, array)
                data = array.buffers()[1]
                if data is not None:  # lists that are all empty may have none
                    self.values[c, s] = data.address + array.type.bit_width // 8 * array.offset


def _field(table: pa.Table, name: str, allowed: Collection[pa.DataType]) -> pa.Field:
    field = table.schema.field(name)
    kind = field.type.value_type if pt.is_list(field.type) else field.type
    if kind not in allowed:
        raise TypeError(
            f"column {name!r} is {field.type}, not {' or '.join(map(str, allowed))} or lists of it"
        )
    return field


def _refuse_nulls(name: str, array: pa.Array) -> None:
    if array.null_count:
        raise ValueError(f"column {name!r} holds {array.null_count} nulls")
