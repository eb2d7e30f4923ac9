"""The training kernel of tables on a CPU: bags of rows are read, and a batch's gradients update each row once.

    read:    indices ──rows of all lookups, sample by sample──▶ out [B, width]
    update:  gradient [B, width] ──dealt to 64 partitions of the rows──▶ summed by row ──▶ row and state written once

Gradients of a row are added in the order of the batch and a row belongs to one partition, so that neither the sums
nor what becomes of the row depend on the number of threads, to the bit. No lock, no atomic. NumPy only: torch's module
around it is `recsys_tables.distributed.kernel_tables`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import recsys_cython_ext._table_read as _read  # this form spares mypy a stub
import recsys_cython_ext._table_update as _update
from recsys_cython_ext.threads import over_parts
from recsys_tables.bytes import OptimizerName
from recsys_tables.scheme import Precision

PARTITIONS = 64  # of the rows, as in the kernel
_KINDS: dict[Precision, int] = {"fp32": 0, "fp16": 1, "bf16": 2}
_RULES: dict[OptimizerName, int] = {"sgd": 0, "rowwise_adagrad": 1, "adagrad": 2, "adam": 3}
_ENTRY_COST = 16  # of dealing one gradient, in numbers read or written
_MOST_COUNTS = 1 << 20  # updates of a row after which Adam's bias correction is that of its last


@dataclass(frozen=True)
class HeldTable:
    """A table, or a shard of one, rows [num_rows, width], and where they stand in the whole table."""

    name: str
    num_rows: int
    width: int
    salt: int = 0  # of the rounding of its rows, int64
    whole_width: int = 0  # of the whole table; its own where that is not given
    first_row: int = 0
    first_column: int = 0


@dataclass(frozen=True)
class UpdateRule:
    """An optimiser of rows with the settings of a batch.

    SGD: w -= lr g. Rowwise Adagrad: s += mean g², w -= lr g / (√s + eps). Adagrad: the same with one s for each number
    (Duchi et al., JMLR 2011). Adam (Kingma and Ba, ICLR 2015, algorithm 1) of rows that a batch looks up, whose t
    counts the updates of the row, not batches.
    """

    name: OptimizerName
    lr: float
    eps: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999


@dataclass(frozen=True)
class RowStates:
    """The states of all rows, one table after another, float32; None where the rule has none.

    first: rowwise Adagrad's sums [rows]; Adagrad's, or Adam's first moments, [numbers]. second: Adam's second moments
    [numbers]. counts: Adam's updates [rows].
    """

    first: np.ndarray | None = None
    second: np.ndarray | None = None
    counts: np.ndarray | None = None


class TableKernel:
    """The kernel for tables whose rows lie one table after another in one array.

    Args:
        tables: in the order of their rows; widths are multiples of 4.
        tables_of: the position in `tables` of each lookup, in the order of a batch's bags and of the output's columns.
        precision: of the rows. fp16 and bf16 are rounded by chance, so that small steps are not lost: up or down in
            proportion to the distance, by a hash of seed, table, row and column.

    Raises ValueError for a width that is no multiple of 4, and 2^32 rows or more.
    """

    def __init__(self, tables: Sequence[HeldTable], tables_of: Sequence[int], precision: Precision) -> None:
        self._tables, self._tables_of = tuple(tables), tuple(tables_of)
        self._kind = _KINDS[precision]
        if any(table.width % 4 or table.width <= 0 for table in tables):
            raise ValueError(f"widths of tables are multiples of 4, not {[t.width for t in tables]}")
        numbers = np.cumsum([0, *(table.num_rows * table.width for table in tables)])
        rows = np.cumsum([0, *(table.num_rows for table in tables)])
        if rows[-1] >= 2**32:
            raise ValueError(
                f"tables of {rows[-1]:,} rows together on one rank, and the kernel takes fewer than 2^32: take more "
                "workers, or set job.table_kernel to fbgemm"
            )
        columns = np.cumsum([0, *(tables[t].width for t in tables_of)])
        self.width = int(columns[-1])  # of the output
        self._mean_width = self.width // max(1, len(self._tables_of))
        self._entries = np.empty((0, 4), np.uint32)  # of the largest batch so far
        self._lookups = np.array(
            [
                [numbers[t], tables[t].num_rows, tables[t].width, column, rows[t], *_places(tables[t])]
                for t, column in zip(tables_of, columns[:-1], strict=True)
            ],
            np.int64,
        ).reshape(-1, 8)

    def read(
        self,
        weights: int,
        indices: np.ndarray,
        offsets: np.ndarray,
        factors: np.ndarray | None,
        out: np.ndarray,
        threads: int,
    ) -> None:
        """Write the sums of the rows of each bag to `out`, float32 [B, width].

        Args:
            weights: the address of the rows.
            indices: int64 [n], rows of their tables.
            offsets: int64 [F · B + 1]; bag b of lookup f holds indices offsets[f · B + b] to offsets[f · B + b + 1].
            factors: float32 [n] that multiply the rows, or None.
            out: float32 [B, width].
            threads: at most so many run at once.

        Raises ValueError naming table and position where an index is outside its table, or offsets fall, and where the
        arrays do not belong together.
        """
        self._check_lengths(indices, offsets, factors, out)

        def part(first: int, last: int) -> int:
            return _read.read_into(
                weights, self._kind, self._lookups, indices, offsets, factors, out, first, last
            )

        for bad in over_parts(part, len(out), threads, self.width):
            if bad != -1:
                raise ValueError(self._refusal(bad, indices, offsets, len(out)))

    def update(
        self,
        weights: int,
        states: RowStates,
        rule: UpdateRule,
        seed: int,
        indices: np.ndarray,
        offsets: np.ndarray,
        factors: np.ndarray | None,
        gradient: np.ndarray,
        threads: int,
    ) -> None:
        """Move each row that a batch has read by the sum of its gradients, float32 [B, width], once.

        `seed` is of the batch's rounding, uint64. The batch must have been read: its indices are not checked again.
        Raises ValueError where the gradient has 2^32 numbers or more.
        """
        if not len(indices):
            return
        if gradient.size >= 2**32:
            raise ValueError(
                f"a gradient {list(gradient.shape)} has more numbers than the kernel takes, 2^32"
            )
        batch = (self._lookups, indices, offsets)
        num_bags = len(self._lookups) * len(gradient)
        cost = -(-_ENTRY_COST * len(indices) // max(1, num_bags))

        def count(first: int, last: int) -> tuple[int, np.ndarray]:
            counts = np.zeros(PARTITIONS, np.int64)
            _update.count(*batch, len(gradient), first, last, counts)
            return first, counts

        counted = over_parts(count, num_bags, threads, cost)
        starts = np.concatenate([[0], np.cumsum(np.sum([counts for _, counts in counted], axis=0))])
        places, place = {}, starts[:-1].copy()
        for first, counts in counted:
            places[first], place = place, place + counts
        if len(indices) > len(self._entries):
            self._entries = np.empty((len(indices), 4), np.uint32)

        def deal(first: int, last: int) -> None:
            _update.deal(*batch, factors, *gradient.shape, first, last, places[first], self._entries)

        over_parts(deal, num_bags, threads, cost)
        moments = (states.first, states.second, states.counts)
        corrections = _corrections(rule.beta1, rule.beta2) if rule.name == "adam" else None
        settings = (rule.lr, rule.eps, rule.beta1, rule.beta2, seed)
        how = (weights, self._kind, _RULES[rule.name], self._lookups)

        def move(first: int, last: int) -> None:
            of_part = np.searchsorted(starts[:-1], (first, last))
            _update.update(*how, gradient, *moments, corrections, *settings, self._entries, starts, *of_part)

        over_parts(move, len(indices), threads, self._mean_width)

    def _check_lengths(
        self, indices: np.ndarray, offsets: np.ndarray, factors: np.ndarray | None, out: np.ndarray
    ) -> None:
        """Raise ValueError where offsets, factors or the output do not belong to the lookups and indices."""
        bags, numbers = len(self._lookups) * len(out), len(indices) if factors is None else len(factors)
        if len(offsets) != bags + 1 or out.shape[1] != self.width or numbers != len(indices):
            raise ValueError(
                f"{len(self._lookups)} lookups of {len(out)} bags take {bags + 1} offsets, an output of width {self.width} "
                f"and a factor for each index: these are {len(offsets)} offsets, an output of width {out.shape[1]}, "
                f"{len(indices)} indices and {numbers} factors"
            )

    def _refusal(self, bad: int, indices: np.ndarray, offsets: np.ndarray, num_bags: int) -> str:
        """Say which index or which bag the kernel did not take."""
        if bad < -1:
            lookup, bag = divmod(-2 - bad, num_bags)
            table = self._tables[self._tables_of[lookup]]
            return (
                f"table {table.name!r}: the offsets of bag {bag} fall, or leave the {len(indices):,} indices"
            )
        lookup = int(np.searchsorted(offsets, bad, "right") - 1) // num_bags
        table = self._tables[self._tables_of[lookup]]
        return f"table {table.name!r}: index {bad} of the batch is row {indices[bad]}, and it has {table.num_rows:,} rows"


def _places(table: HeldTable) -> tuple[int, int, int]:
    """Return what the rounding of a row is seeded by: salt, groups of four columns of a row, the first here."""
    of_row = (table.whole_width or table.width) // 4
    return table.salt, of_row, table.first_row * of_row + table.first_column // 4


@lru_cache(maxsize=4)
def _corrections(beta1: float, beta2: float) -> np.ndarray:
    """Return 1 - beta1^t, and the root of 1 - beta2^t, for t = 1, 2, … until both are 1: float32 [2, T]."""
    enough = [
        1 if beta == 0 else min(_MOST_COUNTS, int(np.log(1e-9) / np.log(beta)) + 1) for beta in (beta1, beta2)
    ]
    t = np.arange(1, max(enough) + 1)
    return np.stack([1 - beta1**t, np.sqrt(1 - beta2**t)]).astype(np.float32)
