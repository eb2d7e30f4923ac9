"""Numbers that reach the model as numbers, and numbers cut into buckets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from recsys_cython_ext import ExactSum, IdCounter
from recsys_cython_ext.vocabulary import FIRST_CODE
from recsys_pipelines.encoding.numbers import FLOAT32_MAX, bucket_codes, standardised, transformed
from recsys_pipelines.encoding.vocabulary import EXACT
from recsys_pipelines.features.base import Arrays, Feature, Fit, floats
from recsys_pipelines.features.plain import TextIds

BIN_BITS = 40  # low bits of a float64 that a bin of the histogram leaves out: 12 of the mantissa stay


@dataclass
class Numeric(Feature):
    """A number, clipped, transformed, standardised by training's moments; missing becomes the training mean."""

    name: str
    low: float | None
    high: float | None
    transform: str
    mean: float
    deviation: float
    fill: float
    indicator: bool  # a second column `<name>:missing`, where training has missing values

    @property
    @override
    def columns(self) -> dict[str, pa.DataType]:
        names = [self.name, f"{self.name}:missing"] if self.indicator else [self.name]
        return dict.fromkeys(names, pa.float32())

    @override
    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        values = transformed(floats(table[self.name]), self.low, self.high, self.transform)
        encoded = {self.name: pa.array(standardised(values, self.mean, self.deviation, self.fill))}
        if self.indicator:
            encoded[f"{self.name}:missing"] = pa.array(np.isnan(values).astype(np.float32))
        return encoded

    @override
    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @override
    def arrays(self) -> Arrays:
        return {}


class NumericFit(Fit):
    """Exact sums of the present values and, where they are to be standardised, of their squares."""

    def __init__(
        self, name: str, low: float | None, high: float | None, transform: str, standardise: bool
    ) -> None:
        self._name, self._low, self._high, self._transform = name, low, high, transform
        self._standardise = standardise
        self._rows = self._present = 0
        self._sum, self._squares = ExactSum(), ExactSum()

    @override
    def add(self, table: pa.Table) -> None:
        values = transformed(floats(table[self._name]), self._low, self._high, self._transform)
        is_present = values == values
        present = values if is_present.all() else values[is_present]
        # What is beyond float32 counts as its largest number: so it reaches the model.
        if max(present.max(initial=0), -present.min(initial=0)) > FLOAT32_MAX:
            present = np.clip(present, -FLOAT32_MAX, FLOAT32_MAX)
        self._rows += len(values)
        self._present += len(present)
        self._sum.add(present)
        if self._standardise:
            self._squares.add_squares(present)

    @override
    def arrays(self) -> Arrays:
        return {
            "rows": np.array([self._rows, self._present], np.int64),
            "sum": self._sum.state(),
            "squares": self._squares.state(),
        }

    @override
    def merge(self, arrays: Arrays) -> None:
        rows, present = arrays["rows"].tolist()
        self._rows, self._present = self._rows + rows, self._present + present
        self._sum.merge(ExactSum.from_state(arrays["sum"]))
        self._squares.merge(ExactSum.from_state(arrays["squares"]))

    @override
    def fitted(self, text: Mapping[str, TextIds]) -> Numeric:
        present = max(self._present, 1)
        mean = self._sum.value() / present
        variance = float(self._squares.value() / present - mean * mean)
        deviation = max(variance, 0.0) ** 0.5 or 1.0  # that of a constant; squares under 2^-970 are cut
        scale = self._standardise
        return Numeric(
            self._name,
            self._low,
            self._high,
            self._transform,
            mean=float(mean) if scale else 0.0,
            deviation=deviation if scale else 1.0,
            fill=float(mean),
            indicator=self._present < self._rows,
        )


@dataclass
class Buckets(Feature):
    """A number as a category: code FIRST_CODE + i where boundaries[i - 1] <= x < boundaries[i]; missing has its own."""

    name: str
    boundaries: np.ndarray  # float64, rising
    multivalued: bool = False
    pooling: str = "sum"
    encoding: str = "vocabulary"
    unknown: str = "code"
    weighted: bool = False
    form: str = EXACT

    @property
    def num_codes(self) -> int:
        """Number of codes: missing, the unused one of unknown ids, and the buckets."""
        return FIRST_CODE + len(self.boundaries) + 1

    full_codes = num_codes

    @property
    def vocabulary_bytes(self) -> int:
        """Resident bytes of the boundaries."""
        return self.boundaries.nbytes

    full_vocabulary_bytes = vocabulary_bytes

    @property
    @override
    def columns(self) -> dict[str, pa.DataType]:
        return {self.name: pa.int32()}

    @override
    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        return {self.name: pa.array(bucket_codes(floats(table[self.name]), self.boundaries))}

    def is_unknown(self, encoded: np.ndarray) -> np.ndarray:
        """Return which encoded values are unknown: none ever is; bool, of the shape of `encoded`."""
        return np.zeros(encoded.shape, bool)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}  # the rest never differs

    @override
    def arrays(self) -> Arrays:
        return {"boundaries": self.boundaries}


class BucketsFit(Fit):
    """A histogram of training over fixed bins, whose ends are floats with a mantissa of 12 bits.

    Counts are exact, and quantiles off by at most 1 in 4,096 of their size. Declared `boundaries` are taken as they are.
    """

    def __init__(self, name: str, boundaries: tuple[float, ...] | None, quantiles: int | None) -> None:
        self._name = name
        self._boundaries = boundaries
        self._quantiles = quantiles
        self._bins = IdCounter()

    @override
    def add(self, table: pa.Table) -> None:
        if self._boundaries is None:
            values = floats(table[self._name])
            self._bins.add(bins_of(values[~np.isnan(values)]))

    @override
    def arrays(self) -> Arrays:
        bins, counts = self._bins.result()
        return {"bins": bins, "counts": counts}

    @override
    def merge(self, arrays: Arrays) -> None:
        self._bins.add_counts(arrays["bins"], arrays["counts"])

    @override
    def fitted(self, text: Mapping[str, TextIds]) -> Buckets:
        if self._boundaries is not None:
            return Buckets(self._name, np.array(self._boundaries, np.float64))
        bins, counts = self._bins.result()
        below = np.cumsum(counts) - counts  # values under the lower end of each bin
        assert self._quantiles is not None
        ranks = counts.sum() * np.arange(1, self._quantiles)
        # Quantiles that fall into one bin leave fewer buckets.
        first = np.unique(np.searchsorted(below * self._quantiles, ranks, side="left"))
        first = first[(first > 0) & (first < len(bins))]
        return Buckets(self._name, lower_ends(bins[first]))


def bins_of(values: np.ndarray) -> np.ndarray:
    """Return bins, ordered as the values are: their bits as integers, those of negative numbers turned round."""
    bits = (values + 0.0).view(np.int64)  # -0.0 becomes 0.0
    return (bits ^ ((bits >> 63) & np.int64(2**63 - 1))) >> BIN_BITS


def lower_ends(bins: np.ndarray) -> np.ndarray:
    """Return the smallest number of each bin."""
    bits = bins << BIN_BITS
    return (bits ^ ((bits >> 63) & np.int64(2**63 - 1))).view(np.float64)
