"""Click rates and counts of ids, fitted out of fold so that no training row sees its own label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from recsys_cython_ext import IdCounter, IdTable
from recsys_pipelines.encoding.numbers import UNIT, rates_and_counts
from recsys_pipelines.features.base import Arrays, Feature, Fit
from recsys_pipelines.features.plain import TextIds
from recsys_pipelines.shards import line_of, uniform


def fold_of(line: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each row [B], by a hash of its number, or of its line's."""
    return (uniform(line, 0, "statistic folds") * folds).astype(np.int64)


@dataclass
class Statistic(Feature):
    """What training says of an id, columns `<column>:ctr` and `<column>:count`; see `config.StatisticConfig`.

    ids: int64 [V]; rows and clicks: int64 [V + 1], the weight of an id's rows in training, and of those with a positive
    label, in units of 1 / UNIT; the last line, of ids that training has not, is 0.
    """

    name: str
    column: str
    of: tuple[str, ...]
    smoothing: float
    ids: np.ndarray
    rows: np.ndarray
    clicks: np.ndarray

    def __post_init__(self) -> None:
        self.table = IdTable(self.ids)
        self.ids = self.table.keys  # the table has its own copy
        self.total_rows, self.total_clicks = self.rows.sum(), self.clicks.sum()

    @property
    def nbytes(self) -> int:
        """Resident bytes: the ids' table and their totals."""
        return self.table.nbytes + self.rows.nbytes + self.clicks.nbytes

    @property
    @override
    def columns(self) -> dict[str, pa.DataType]:
        return {f"{self.column}:{statistic}": pa.float32() for statistic in self.of}

    @override
    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        places = self.table.codes(table[self.name].to_numpy(), len(self.ids))
        return self.arrays_of(self.rows[places], self.clicks[places], self.total_rows, self.total_clicks)

    def arrays_of(
        self, rows: np.ndarray, clicks: np.ndarray, total_rows: Any, total_clicks: Any, scale: Any = 1.0
    ) -> dict[str, pa.Array]:
        """Make the columns of ids from their `rows` and `clicks` [B] and the totals of all ids; counts times `scale`."""
        statistics = rates_and_counts(rows, clicks, total_rows, total_clicks, self.smoothing, scale)
        return {f"{self.column}:{name}": pa.array(statistics[name]) for name in self.of}

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "column": self.column, "of": list(self.of), "smoothing": self.smoothing}

    @override
    def arrays(self) -> Arrays:
        return {"ids": self.ids, "rows": self.rows, "clicks": self.clicks}


@dataclass
class OutOfFold(Feature):
    """A statistic as the rows that it was fitted on get it: of the other folds, scaled to all of training.

    Only preparation needs it. rows and clicks: int64 [V + 1, folds], as the statistic's totals, for each fold.
    """

    statistic: Statistic
    rows: np.ndarray
    clicks: np.ndarray

    def __post_init__(self) -> None:
        self.name = self.statistic.name
        self.table = IdTable(self.statistic.ids)
        self._fold_rows, self._fold_clicks = self.rows.sum(axis=0), self.clicks.sum(axis=0)

    @property
    @override
    def columns(self) -> dict[str, pa.DataType]:
        return self.statistic.columns

    @override
    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        places = self.table.codes(table[self.name].to_numpy(), len(self.statistic.ids))
        fold = fold_of(line_of(table), self.rows.shape[1])
        rows = self.statistic.rows[places] - self.rows[places, fold]
        clicks = self.statistic.clicks[places] - self.clicks[places, fold]
        total_rows = self._fold_rows.sum() - self._fold_rows[fold]
        total_clicks = self._fold_clicks.sum() - self._fold_clicks[fold]
        scale = self._fold_rows.sum() / np.maximum(total_rows, 1)
        return self.statistic.arrays_of(rows, clicks, total_rows, total_clicks, scale)

    @override
    def to_dict(self) -> dict[str, Any]:
        return self.statistic.to_dict()

    @override
    def arrays(self) -> Arrays:
        return self.statistic.arrays()  # counts of folds stand beside the prepared features


class StatisticFit(Fit):
    """Weights of ids by fold, of all rows and of those with a positive label; without weights each row has 1."""

    def __init__(self, name: str, column: str, of: tuple[str, ...], folds: int, smoothing: float) -> None:
        self._name, self._column, self._of, self._smoothing = name, column, of, smoothing
        self._rows = [IdCounter() for _ in range(folds)]
        self._clicks = [IdCounter() for _ in range(folds)]

    @override
    def add(self, table: pa.Table) -> None:
        ids, clicked = table[self._name].to_numpy(), table["@label"].to_numpy() > 0
        fold = fold_of(line_of(table), len(self._rows))
        weight = np.full(len(ids), UNIT, np.int64)
        if "@weight" in table.column_names:
            weight = np.rint(table["@weight"].to_numpy() * UNIT).astype(np.int64)
        for number, (rows, clicks) in enumerate(zip(self._rows, self._clicks, strict=True)):
            for counter, chosen in ((rows, fold == number), (clicks, (fold == number) & clicked)):
                chosen &= weight > 0
                counter.add_counts(ids[chosen], weight[chosen])

    @override
    def arrays(self) -> Arrays:
        arrays = {}
        for kind, counters in (("rows", self._rows), ("clicks", self._clicks)):
            for number, counter in enumerate(counters):
                arrays[f"{kind}{number}:ids"], arrays[f"{kind}{number}:counts"] = counter.result()
        return arrays

    @override
    def merge(self, arrays: Arrays) -> None:
        for kind, counters in (("rows", self._rows), ("clicks", self._clicks)):
            for number, counter in enumerate(counters):
                counter.add_counts(arrays[f"{kind}{number}:ids"], arrays[f"{kind}{number}:counts"])

    @override
    def fitted(self, text: Mapping[str, TextIds]) -> Statistic:
        return self.out_of_fold().statistic

    def out_of_fold(self) -> OutOfFold:
        """Return the statistic as it encodes the rows that were counted here."""
        ids = np.unique(np.concatenate([counter.result()[0] for counter in self._rows]))
        rows, clicks = _matrix(ids, self._rows), _matrix(ids, self._clicks)
        totals = {"ids": ids, "rows": rows.sum(axis=1), "clicks": clicks.sum(axis=1)}
        statistic = Statistic(self._name, self._column, self._of, self._smoothing, **totals)
        return OutOfFold(statistic, rows, clicks)


def _matrix(ids: np.ndarray, counters: list[IdCounter]) -> np.ndarray:
    """Return the counts of each id in each fold, int64 [V + 1, folds]; the last line is 0."""
    matrix: np.ndarray = np.zeros((len(ids) + 1, len(counters)), np.int64)
    for number, counter in enumerate(counters):
        ids_of_fold, counts = counter.result()
        matrix[np.searchsorted(ids, ids_of_fold), number] = counts
    return matrix
