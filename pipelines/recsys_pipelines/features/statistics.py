"""Click rates and counts of ids, fitted out of fold so that no training row sees its own label."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_cython_ext import IdCounter, IdTable
from recsys_pipelines.features.base import Arrays
from recsys_pipelines.features.plain import TextIds
from recsys_pipelines.shards import line_of, uniform

UNIT = 2**16  # counts are of 65,536ths of a row: weights are rounded to them, and then counted exactly


def fold_of(line: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each row [B], by a hash of its number, or of its line's."""
    return (uniform(line, 0, "statistic folds") * folds).astype(np.int64)


@dataclass
class Statistic:
    """Columns `<column>:ctr` and `<column>:count` of an id; see `config.StatisticConfig`.

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
        self._table = IdTable(self.ids)
        self.ids = self._table.keys  # the table has its own copy
        self._seen, self._clicked = self.rows.sum(), self.clicks.sum()

    @property
    def nbytes(self) -> int:
        """Resident bytes: the ids' table and their totals."""
        return self._table.nbytes + self.rows.nbytes + self.clicks.nbytes

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """float32 columns."""
        return {f"{self.column}:{what}": pa.float32() for what in self.of}

    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        """Ids -> float32, the statistics of all rows of training."""
        places = self._table.codes(table[self.name].to_numpy(), len(self.ids))
        return self.arrays_of(self.rows[places], self.clicks[places], self._seen, self._clicked)

    def arrays_of(
        self, rows: np.ndarray, clicks: np.ndarray, seen: Any, clicked: Any, scale: Any = 1.0
    ) -> dict[str, pa.Array]:
        """The columns of `rows` and `clicks` [B] of ids among `seen` and `clicked` of all ids; counts times `scale`."""
        prior = clicked / np.maximum(seen, 1)
        made = {
            "ctr": (clicks + UNIT * self.smoothing * prior) / (rows + UNIT * self.smoothing),
            "count": np.log1p(rows * scale / UNIT),
        }
        return {f"{self.column}:{what}": pa.array(made[what].astype(np.float32)) for what in self.of}

    def to_dict(self) -> dict[str, Any]:
        """As `Feature.to_dict`."""
        return {"name": self.name, "column": self.column, "of": list(self.of), "smoothing": self.smoothing}

    def arrays(self) -> Arrays:
        """Ids and totals."""
        return {"ids": self.ids, "rows": self.rows, "clicks": self.clicks}


@dataclass
class OutOfFold:
    """A statistic as the rows that it was fitted on get it: of the other folds, scaled to all of training.

    Only preparation needs it. rows and clicks: int64 [V + 1, folds], as the statistic's totals, for each fold.
    """

    statistic: Statistic
    rows: np.ndarray
    clicks: np.ndarray

    def __post_init__(self) -> None:
        self.name = self.statistic.name
        self.columns = self.statistic.columns
        self._table = IdTable(self.statistic.ids)
        self._seen, self._clicked = self.rows.sum(axis=0), self.clicks.sum(axis=0)  # in each fold

    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        """Ids of training rows -> float32, without what the row's own fold tells."""
        places = self._table.codes(table[self.name].to_numpy(), len(self.statistic.ids))
        fold = fold_of(line_of(table), self.rows.shape[1])
        rows = self.statistic.rows[places] - self.rows[places, fold]
        clicks = self.statistic.clicks[places] - self.clicks[places, fold]
        seen, clicked = self._seen.sum() - self._seen[fold], self._clicked.sum() - self._clicked[fold]
        scale = self._seen.sum() / np.maximum(seen, 1)
        return self.statistic.arrays_of(rows, clicks, seen, clicked, scale)

    def to_dict(self) -> dict[str, Any]:
        """As `Feature.to_dict`, of the statistic."""
        return self.statistic.to_dict()

    def arrays(self) -> Arrays:
        """The statistic's: counts of folds stand beside the prepared features, and are not saved with them."""
        return self.statistic.arrays()


class StatisticFit:
    """Weights of ids by fold, of all rows and of those with a positive label; without weights each row has 1."""

    def __init__(self, name: str, column: str, of: tuple[str, ...], folds: int, smoothing: float) -> None:
        self._name, self._column, self._of, self._smoothing = name, column, of, smoothing
        self._rows = [IdCounter() for _ in range(folds)]
        self._clicks = [IdCounter() for _ in range(folds)]

    def add(self, table: pa.Table) -> None:
        """As `Fit.add`."""
        ids, clicked = table[self._name].to_numpy(), table["@label"].to_numpy() > 0
        fold = fold_of(line_of(table), len(self._rows))
        weight = np.full(len(ids), UNIT, np.int64)
        if "@weight" in table.column_names:
            weight = np.rint(table["@weight"].to_numpy() * UNIT).astype(np.int64)
        for number, (rows, clicks) in enumerate(zip(self._rows, self._clicks, strict=True)):
            for counter, chosen in ((rows, fold == number), (clicks, (fold == number) & clicked)):
                chosen &= weight > 0
                counter.add_counts(ids[chosen], weight[chosen])

    def arrays(self) -> Arrays:
        """Ids and counts of each fold."""
        found = {}
        for kind, counters in (("rows", self._rows), ("clicks", self._clicks)):
            for number, counter in enumerate(counters):
                found[f"{kind}{number}:ids"], found[f"{kind}{number}:counts"] = counter.result()
        return found

    def merge(self, arrays: Arrays) -> None:
        """As `Fit.merge`."""
        for kind, counters in (("rows", self._rows), ("clicks", self._clicks)):
            for number, counter in enumerate(counters):
                counter.add_counts(arrays[f"{kind}{number}:ids"], arrays[f"{kind}{number}:counts"])

    def fitted(self, text: Mapping[str, TextIds]) -> Statistic:
        """As `Fit.fitted`."""
        return self.out_of_fold().statistic

    def out_of_fold(self) -> OutOfFold:
        """The statistic as it encodes the rows that were counted here."""
        ids = np.unique(np.concatenate([counter.result()[0] for counter in self._rows]))
        rows, clicks = _matrix(ids, self._rows), _matrix(ids, self._clicks)
        totals = {"ids": ids, "rows": rows.sum(axis=1), "clicks": clicks.sum(axis=1)}
        statistic = Statistic(self._name, self._column, self._of, self._smoothing, **totals)
        return OutOfFold(statistic, rows, clicks)


def _matrix(ids: np.ndarray, counters: list[IdCounter]) -> np.ndarray:
    """int64 [V + 1, folds]."""
    out: np.ndarray = np.zeros((len(ids) + 1, len(counters)), np.int64)
    for number, counter in enumerate(counters):
        found, counts = counter.result()
        out[np.searchsorted(ids, found), number] = counts
    return out
