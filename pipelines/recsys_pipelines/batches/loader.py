"""Batches as a pure function of (prepared data, seed, epoch, number), gathered straight from mapped shards.

torch is imported where the first batch is made, so that reading rows needs none.
"""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from recsys_cython_ext.extras import require
from recsys_cython_ext.gather import TableGather
from recsys_pipelines.arrow import as_numpy
from recsys_pipelines.batches.order import WINDOW, epoch_order, num_batches
from recsys_pipelines.batches.prefetch import prefetched
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.shards import PUBLISHED_USER, uniform

if TYPE_CHECKING:
    import torch
    from torchrec import KeyedJaggedTensor

PADDING = -1  # the position of no row


@dataclass(frozen=True)
class Batch:
    """B rows as tensors. Those that are padding have empty bags, weight 0, label 0 and numbers 0.

    Attributes:
        dense: The numbers, float32 [B, n].
        ids: One key per categorical feature, with weights where a feature is weighted.
        label: What the loss sees of a row, float32 [B]: its soft label where rows have such.
        weight: float32 [B].
        rows: How many of the B rows are not padding.
        log_q: Log of the probability that the item of a row is sampled, float32 [B].
    """

    dense: "torch.Tensor"
    ids: "KeyedJaggedTensor"
    label: "torch.Tensor"
    weight: "torch.Tensor"
    rows: int
    log_q: "torch.Tensor | None" = None


@dataclass(frozen=True)
class Rows:
    """Rows of a prepared split. label and weight [n] are in memory, features stay in the table's buffers.

    table: transformed columns; its chunks may be mapped files, together larger than memory.
    soft_label: what the loss sees in the place of the label, float32 [n] in [0, 1]; metrics and samples do not.
    """

    features: Features
    table: pa.Table
    label: np.ndarray
    weight: np.ndarray
    soft_label: np.ndarray | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    @classmethod
    def load(cls, prepared: Prepared | str | os.PathLike[str], split: str, *, verify: bool = True) -> "Rows":
        """Map all shards of a split of a prepared set, or of its folder, in the order of their names.

        With `verify` each file is read once, and its checksum compared: leave it out only where that was just done.
        Raises ManifestError as `Prepared.open` and `Prepared.verify` do.
        """
        whole = prepared if isinstance(prepared, Prepared) else Prepared.open(prepared)
        table = whole.table(split, verify=verify)  # before features are read, which it verifies too
        return cls.from_table(whole.features(), table)

    @classmethod
    def from_table(cls, features: Features, table: pa.Table) -> "Rows":
        """Return the rows of a table of transformed columns; without labels all are 0, without weights all are 1."""

        def floats(name: str, default: float) -> np.ndarray:
            if name not in table.column_names:
                return np.full(table.num_rows, default, np.float32)
            return as_numpy(table[name]).astype(np.float32)

        return cls(features, table, floats("@label", 0.0), floats("@weight", 1.0))

    @property
    def loss_label(self) -> np.ndarray:
        """What batches have as the label, float32 [n]."""
        return self.label if self.soft_label is None else self.soft_label

    @cached_property
    def row_id(self) -> np.ndarray:
        """Number of each row in the log, int64 [n]."""
        return as_numpy(self.table["row_id"])

    @cached_property
    def user(self) -> np.ndarray | None:
        """User of each row, int64 [n], where known."""
        return self._column("@user")

    @cached_property
    def published_user(self) -> pa.ChunkedArray | None:
        """User of each row as it stands in the log, where known; one without a user has a number of its own."""
        column = next((name for name in (PUBLISHED_USER, "@user") if name in self.table.column_names), None)
        return None if column is None else self.table[column]

    @cached_property
    def truth(self) -> np.ndarray | None:
        """True click probability of each row, float64 [n], where known."""
        return self._column("@truth")

    def batch(
        self, index: np.ndarray, donors: np.ndarray | None = None, donated: Collection[str] = ()
    ) -> Batch:
        """Return the rows of `index` [B] as a batch, with the features `donated` of the rows `donors` [B] instead.

        Position PADDING stands for a row of padding. Raises IndexError for another position outside [0, n).
        """
        import torch
        from torchrec import KeyedJaggedTensor

        index = np.asarray(index)
        real = index != PADDING
        columns = {
            column
            for feature in self.features.features
            if feature.name in donated
            for column in feature.columns
        }
        positions = index[real]
        gathered = self._gather(positions, None if donors is None else np.asarray(donors)[real], columns)
        lengths = _spread(gathered.lengths.T, real).T  # [F, B]
        ids = KeyedJaggedTensor(  # with all that `sync` would compute
            keys=[feature.name for feature in self.features.categorical],
            values=torch.from_numpy(gathered.values),
            weights=None if gathered.weights is None else torch.from_numpy(gathered.weights),
            lengths=torch.from_numpy(lengths.reshape(-1)),
            stride=len(index),
            length_per_key=gathered.totals.tolist(),
            offset_per_key=np.cumsum([0, *gathered.totals]).tolist(),
        )
        return Batch(
            dense=torch.from_numpy(_spread(gathered.numbers, real)),
            ids=ids,
            label=torch.from_numpy(_spread(self.loss_label[positions], real)),
            weight=torch.from_numpy(_spread(self.weight[positions], real)),
            rows=len(positions),
        )

    def ids_of(self, feature: str) -> np.ndarray:
        """Return every id of a categorical feature, int64, bags one after the other."""
        chunks = [c.flatten() if pa.types.is_list(c.type) else c for c in self.table[feature].chunks]
        return np.concatenate([np.empty(0, np.int64), *map(as_numpy, chunks)])

    def keep_negatives(self, rate: float, seed: int) -> np.ndarray:
        """Return row numbers [m] of all positives and of a share `rate` of negatives, chosen by (seed, row id)."""
        if rate >= 1:
            return np.arange(len(self))
        return np.flatnonzero((self.label > 0) | (uniform(self.row_id, seed, "negatives") < rate))

    @cached_property
    def _gather(self) -> TableGather:
        categorical = self.features.categorical
        return TableGather(
            self.table,
            [feature.name for feature in categorical],
            self.features.numeric_columns,
            {f.name: f"{f.name}:weights" for f in categorical if f.weighted},
        )

    def _column(self, name: str) -> np.ndarray | None:
        return as_numpy(self.table[name]) if name in self.table.column_names else None


class Negatives(Protocol):
    """What makes larger batches of the rows it is given, or says more of them: see `negatives`."""

    def batch(self, index: np.ndarray, epoch: int) -> Batch:
        """Return a batch for the rows of `index` [B], some of them padding."""
        ...


class Loader:
    """The batches of a rank, each made while the one before is used: `epoch_order` of `rows`.

    Args:
        rows: The rows of a split.
        batch_size: Rows of a batch, over all ranks.
        seed: What the order is drawn by.
        window: Rows that the batches of a while come from.
        rank: The number of this rank.
        ranks: How many there are.
        subset: Positions [m] of the rows to load, all unless given; batches, lanes and windows then count these.
        negatives: Makes the batch of the chosen rows, which is `Rows.batch` unless given.
        then: What becomes of each batch, in the loader's thread too.

    Raises:
        ValueError: An argument is one that `epoch_order` refuses.
        MissingExtra: torch is not installed, which batches are made of.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        seed: int,
        *,
        window: int = WINDOW,
        rank: int = 0,
        ranks: int = 1,
        subset: np.ndarray | None = None,
        negatives: Negatives | None = None,
        then: Callable[[Batch], Any] = lambda batch: batch,
    ) -> None:
        require("torch", "torchrec")
        self._rows, self._subset, self._negatives, self._then = rows, subset, negatives, then
        n = len(rows) if subset is None else len(subset)
        self._order = partial(epoch_order, n, batch_size, seed, window=window, rank=rank, ranks=ranks)
        self._order(0)  # what is wrong with the arguments shows now
        self.num_batches = num_batches(n, batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch from number `start` on, or what `then` made of them, as `prefetched` does."""
        return prefetched(self._then(self._batch(index, epoch)) for index in self._positions(epoch, start))

    def positions(self, epoch: int, number: int) -> np.ndarray:
        """Return the rows [B] of batch `number` of an epoch, PADDING where it has none."""
        return next(self._positions(epoch, number))

    def _positions(self, epoch: int, start: int) -> Iterator[np.ndarray]:
        for index in self._order(epoch, start=start):
            if self._subset is not None:
                real = index != PADDING
                index = np.where(real, self._subset[np.where(real, index, 0)], PADDING)
            yield index

    def _batch(self, index: np.ndarray, epoch: int) -> Batch:
        return self._rows.batch(index) if self._negatives is None else self._negatives.batch(index, epoch)


def _spread(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Put values [m, ...] where `real` [B] is true, m times; zeros elsewhere."""
    if len(values) == len(real):
        return values
    spread = np.zeros((len(real), *values.shape[1:]), values.dtype)
    spread[real] = values
    return spread
