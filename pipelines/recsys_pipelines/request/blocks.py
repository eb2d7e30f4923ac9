"""Features that are encoded together: a request has few rows and many features, so one array of all is faster."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from recsys_cython_ext.hashing import MISSING_ID
from recsys_cython_ext.vocabulary import IdTables
from recsys_pipelines.encoding.numbers import bucket_codes, standardised, transformed
from recsys_pipelines.encoding.vocabulary import (
    ExactVocabulary,
    codes_of,
    codes_of_positions,
    is_unknown,
)
from recsys_pipelines.request.inputs import BucketsInput, CategoricalInput, NumericInput, StatisticInput


class NumberBlock:
    """Numeric features and statistics: columns of numbers.

    features: of each of the k columns that `encode` returns, in the order of declaration.
    """

    def __init__(self, inputs: Sequence[tuple[NumericInput | StatisticInput, Any]]) -> None:
        self._numeric = [place for place, (one, _) in enumerate(inputs) if isinstance(one, NumericInput)]
        self._statistics = [
            (place, one, state)
            for place, (one, state) in enumerate(inputs)
            if isinstance(one, StatisticInput)
        ]
        numeric = [one for one, _ in inputs if isinstance(one, NumericInput)]
        self._low = _column([-np.inf if one.low is None else one.low for one in numeric])
        self._high = _column([np.inf if one.high is None else one.high for one in numeric])
        self._mean, self._deviation, self._fill = (
            _column([getattr(one, name) for one in numeric]) for name in ("mean", "deviation", "fill")
        )
        self._transforms = {
            kind: [row for row, one in enumerate(numeric) if one.transform == kind]
            for kind in dict.fromkeys(one.transform for one in numeric)
        }
        self._indicators = [row for row, one in enumerate(numeric) if one.indicator]
        made = chain(
            self._numeric,
            (self._numeric[row] for row in self._indicators),
            *([place] * len(one.of) for place, one, _ in self._statistics),
        )
        places = np.array(list(made), np.int64)
        self._order = np.argsort(places, kind="stable")
        self.features = tuple(inputs[place][0].name for place in places[self._order])

    def encode(
        self, read: Sequence[np.ndarray], rows: int
    ) -> tuple[np.ndarray, Sequence[int], Sequence[int]]:
        """Return columns, float32 [n, k], and how many values of each feature were missing and unknown.

        read: what the reader of each feature gives of n rows.
        """
        missing, unknown = [0] * len(read), [0] * len(read)
        values = np.empty((len(self._numeric), rows))
        for row, place in enumerate(self._numeric):
            values[row] = read[place]
        for kind, of_kind in self._transforms.items():
            values[of_kind] = transformed(values[of_kind], self._low[of_kind], self._high[of_kind], kind)
        absent = np.isnan(values)
        for row in np.flatnonzero(absent.any(axis=1)).tolist():
            missing[self._numeric[row]] = int(absent[row].sum())
        columns = [standardised(values, self._mean, self._deviation, self._fill)]
        columns.append(absent[self._indicators].astype(np.float32))
        for place, one, state in self._statistics:
            statistics, missing[place], unknown[place] = one.columns(read[place], state)
            columns.append(statistics)
        return np.ascontiguousarray(np.concatenate(columns)[self._order].T), missing, unknown


class IdBlock:
    """Features of one id, or of one bucket, a row."""

    def __init__(self, inputs: Sequence[tuple[CategoricalInput | BucketsInput, Any]]) -> None:
        self.features = tuple(one.name for one, _ in inputs)
        self._buckets, self._others = [], []
        exact: dict[bool, list[tuple[int, ExactVocabulary]]] = {}  # by whether unknown ids are hashed
        for place, (one, state) in enumerate(inputs):
            if isinstance(one, BucketsInput):
                self._buckets.append((place, state))
            elif isinstance(state, ExactVocabulary):
                exact.setdefault(one.hash_unknown, []).append((place, state))
            elif state is not None:
                self._others.append((place, state, one.hash_unknown))
        self._exact = [
            (hashes, [place for place, _ in found], IdTables([vocabulary.table for _, vocabulary in found]))
            for hashes, found in exact.items()
        ]

    def encode(
        self, read: Sequence[np.ndarray], rows: int
    ) -> tuple[np.ndarray, Sequence[int], Sequence[int]]:
        """Return encoded ids, int64 [S, n], and how many of each feature were missing and unknown.

        read: what the reader of each feature gives of n rows.
        """
        ids = np.empty((len(read), rows), np.int64)
        unknown = np.zeros(len(read), np.int64)
        buckets = {place: bucket_codes(read[place], bounds) for place, bounds in self._buckets}
        for place, values in enumerate(read):
            ids[place] = buckets.get(place, values)
        missing = np.count_nonzero(ids == MISSING_ID, axis=1)
        for place, _ in self._buckets:
            missing[place] = np.count_nonzero(np.isnan(read[place]))
        for hashes, places, tables in self._exact:
            of_group = ids[places]
            codes = codes_of_positions(tables.codes(of_group, -1), of_group, hashes)
            unknown[places] = np.count_nonzero(is_unknown(codes, hashes), axis=1)
            ids[places] = codes
        for place, vocabulary, hashes in self._others:
            codes = codes_of(ids[place], vocabulary, hashes)
            unknown[place] = np.count_nonzero(is_unknown(codes, hashes))
            ids[place] = codes
        return ids, missing.tolist(), unknown.tolist()


def _column(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, 1)
