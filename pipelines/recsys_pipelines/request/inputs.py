"""The model's columns in a request: a reader of values, and how what was read is encoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from recsys_cython_ext.hashing import MISSING_ID
from recsys_cython_ext.static_function import Shape, StaticFunction
from recsys_cython_ext.vocabulary import IdTable
from recsys_pipelines.encoding.numbers import rates_and_counts
from recsys_pipelines.encoding.vocabulary import (
    EXACT,
    Arrays,
    ExactVocabulary,
    FingerprintVocabulary,
    Vocabulary,
    codes_of,
    is_unknown,
)
from recsys_pipelines.request.readers import NumberReader, Reader, WeightsReader
from recsys_pipelines.strict import Strict


@dataclass(frozen=True)
class Bags:
    """Encoded ids of n rows: values int64 [L], offsets int64 [n + 1], and weights float32 [L] where the feature has some.

    missing: values, or lists, that were missing; unknown: ids outside the vocabulary.
    """

    values: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray | None
    missing: int
    unknown: int


class Lists(NamedTuple):
    """Lists of n rows, one after the other: values [L], and offsets int64 [n + 1]."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, lists: Sequence[Sequence[Any]], dtype: type[np.generic]) -> "Lists":
        """Return lists of Python values as arrays."""
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(of_row) for of_row in lists], out=offsets[1:])
        return cls(np.fromiter((one for of_row in lists for one in of_row), dtype, offsets[-1]), offsets)


class VocabularyInput(Strict):
    """What a vocabulary's arrays do not say: its form, the seed of an exact one, the shape of one of fingerprints."""

    form: Literal["exact", "fingerprint"]
    seed: int = 0
    shape: Shape | None = None

    def restored(self, arrays: Arrays) -> Vocabulary:
        """Return the vocabulary of these arrays, which may be mapped."""
        if self.form == EXACT:
            return ExactVocabulary.of_table(IdTable.restored(arrays["keys"], arrays["index"], self.seed))
        assert self.shape is not None
        return FingerprintVocabulary(StaticFunction(self.shape, arrays["slots"]))


class CategoricalInput(Strict):
    """Ids that are looked up in tables: as they are, or as codes of a vocabulary, which may be another feature's."""

    kind: Literal["categorical"] = "categorical"
    name: str
    reader: Reader
    weights: WeightsReader | None = None
    hash_unknown: bool = False
    vocabulary: VocabularyInput | None = (
        None  # none where ids are hashed, or the vocabulary is that of `like`
    )
    like: str | None = None

    @property
    def readers(self) -> dict[str, Reader]:
        """Return the readers by the name of what they read."""
        return {self.name: self.reader} | (
            {} if self.weights is None else {f"{self.name}:weights": self.weights}
        )

    def state(self, arrays: Arrays) -> Vocabulary | None:
        """Return the vocabulary that this feature owns."""
        return None if self.vocabulary is None else self.vocabulary.restored(arrays)

    def bags(self, read: Mapping[str, Any], vocabulary: Vocabulary | None) -> Bags:
        """Encode the lists, `Lists`, that were read of n rows."""
        ids, offsets = read[self.name].values, read[self.name].offsets
        weights = None if self.weights is None else read[f"{self.name}:weights"].values
        missing = int(np.count_nonzero(np.diff(offsets) == 0))
        if vocabulary is None:
            return Bags(ids, offsets, weights, missing, 0)
        codes = codes_of(ids, vocabulary, self.hash_unknown)
        unknown = np.count_nonzero(is_unknown(codes, self.hash_unknown))
        return Bags(codes.astype(np.int64, copy=False), offsets, weights, missing, int(unknown))


class BucketsInput(Strict):
    """A number as the code of its bucket."""

    kind: Literal["buckets"] = "buckets"
    name: str
    reader: NumberReader

    @property
    def readers(self) -> dict[str, Reader]:
        """Return the readers by the name of what they read."""
        return {self.name: self.reader}

    def state(self, arrays: Arrays) -> np.ndarray:
        """Return the boundaries."""
        return arrays["boundaries"]


class NumericInput(Strict):
    """A number as the network reads it, and perhaps whether it was missing."""

    kind: Literal["numeric"] = "numeric"
    name: str
    reader: NumberReader
    low: float | None
    high: float | None
    transform: str
    mean: float
    deviation: float
    fill: float
    indicator: bool

    @property
    def readers(self) -> dict[str, Reader]:
        """Return the readers by the name of what they read."""
        return {self.name: self.reader}

    def state(self, arrays: Arrays) -> None:
        """Return nothing: the moments stand in the declaration."""


class StatisticInput(Strict):
    """Rates and counts of an id; the last of `rows` and `clicks` are of ids that training had not."""

    kind: Literal["statistic"] = "statistic"
    name: str
    reader: Reader
    of: tuple[str, ...]
    smoothing: float
    total_rows: int
    total_clicks: int
    seed: int  # of the table of ids

    @property
    def readers(self) -> dict[str, Reader]:
        """Return the readers by the name of what they read."""
        return {self.name: self.reader}

    def state(self, arrays: Arrays) -> tuple[IdTable, np.ndarray, np.ndarray]:
        """Return the table of ids, and their rows and clicks."""
        table = IdTable.restored(arrays["keys"], arrays["index"], self.seed)
        return table, arrays["rows"], arrays["clicks"]

    def columns(
        self, ids: np.ndarray, state: tuple[IdTable, np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, int, int]:
        """Return the columns, float32 [k, n], of n ids, and how many of these were missing and unknown."""
        table, rows, clicks = state
        places = table.codes(ids, len(table))
        rows, clicks = rows[places], clicks[places]
        statistics = rates_and_counts(rows, clicks, self.total_rows, self.total_clicks, self.smoothing)
        missing = ids == MISSING_ID
        unknown = np.count_nonzero((places == len(table)) & ~missing)
        return np.array([statistics[name] for name in self.of]), int(missing.sum()), int(unknown)


Input = Annotated[
    CategoricalInput | BucketsInput | NumericInput | StatisticInput, Field(discriminator="kind")
]
