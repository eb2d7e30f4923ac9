"""Paired comparison of arms over several random splits of one log, with rows that several test parts share.

The estimate is the mean over splits of the difference of mean AUC over students. Its variance has two parts: of test rows
(a Poisson bootstrap of the log's rows, or users, with the same weights in all splits, so that what test parts have in
common is counted once) and of students (sample variance within each split / students, over splits²); Student's t with
Satterthwaite's degrees of freedom. Teachers and codes are made anew in each split, and their luck is in neither part: the
spread over splits is shown beside.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.special import stdtr, stdtrit

from recsys.evaluation.arms.variance import satterthwaite
from recsys_cython_ext.ranks import WeightedRanks, fill_poisson

REPLICATES = 1000


@dataclass(frozen=True)
class Difference:
    """AUC of `arm` less that of `other`: its estimate, standard error, degrees of freedom, and that of each split."""

    arm: str
    other: str
    estimate: float
    error: float
    df: float
    by_split: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """Return the two-sided p-value."""
        return 2 * float(stdtr(self.df, -abs(self.estimate) / max(self.error, 1e-300)))

    def interval(self, level: float) -> tuple[float, float]:
        """Return Student's interval."""
        half = float(stdtrit(self.df, (1 + level) / 2)) * self.error
        return self.estimate - half, self.estimate + half


class Predicted:
    """The test predictions of every arm: by split, then student; `arms` maps names to files of predictions.

    only: numbers of the rows of each split's test part that count; all of them unless given.
    """

    def __init__(
        self, arms: dict[str, list[list[Path]]], only: list[np.ndarray] | None = None, seed: int = 0
    ) -> None:
        self._files = arms
        self._only = only
        self._seed = seed
        self._ranks: dict[str, np.ndarray] = {}

    @cached_property
    def _units(self) -> np.ndarray:
        """Return the log's units: users, or rows where there are none."""
        first = next(iter(self._files.values()))
        return np.unique(np.concatenate([self._unit_column(files[0]) for files in first]))

    @cached_property
    def _weights(self) -> np.ndarray:
        bits, count = np.random.PCG64(self._seed), len(self._units)
        weights = np.empty((REPLICATES + 1, count), np.uint8)
        fill_poisson(bits, weights)
        weights[0] = 1  # the estimate
        return weights

    def auc(self, arm: str) -> np.ndarray:
        """Return AUC [splits, students, 1 + replicates]."""
        if arm not in self._ranks:
            splits = enumerate(self._files[arm])
            self._ranks[arm] = np.array(
                [[self._auc(file, split) for file in files] for split, files in splits]
            )
        return self._ranks[arm]

    def difference(self, arm: str, other: str) -> Difference:
        """Compare two arms."""
        first, second = self.auc(arm), self.auc(other)
        replicates = (first.mean(axis=1) - second.mean(axis=1)).mean(axis=0)
        by_split = first[:, :, 0].mean(axis=1) - second[:, :, 0].mean(axis=1)
        rows = float(np.var(replicates[1:], ddof=1))
        parts = [(rows, float(len(self._units) - 1))]
        for values in (first[:, :, 0], second[:, :, 0]):
            splits, students = values.shape
            within = np.var(values, axis=1, ddof=1).mean() / (students * splits)
            parts.append((float(within), float(splits * (students - 1))))
        variance, df = satterthwaite(parts)
        return Difference(arm, other, float(by_split.mean()), float(np.sqrt(variance)), df, tuple(by_split))

    def _unit_column(self, file: Path) -> np.ndarray:
        table = pq.read_table(file)
        name = "user_id" if "user_id" in table.column_names else "row_id"
        return table[name].to_numpy()

    def _auc(self, file: Path, split: int) -> np.ndarray:
        table, of_unit = pq.read_table(file), self._unit_column(file)
        if self._only is not None:
            chosen = np.isin(table["row_id"].to_numpy(), self._only[split])
            table, of_unit = table.filter(chosen), of_unit[chosen]
        units, of_row = np.unique(of_unit, return_inverse=True)
        ranks = WeightedRanks(table["label"].to_numpy() > 0, table["prediction"].to_numpy(), of_row)
        return ranks.auc(np.ascontiguousarray(self._weights[:, np.searchsorted(self._units, units)]))
