"""What a feature is: a fit that sees training rows, and a transform that is small, saved and the same everywhere."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from recsys_pipelines.encoding.vocabulary import Arrays
from recsys_pipelines.features.plain import TextIds, one_array


class Feature(Protocol):
    """A fitted feature, which makes columns of a prepared shard."""

    name: str

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types of the columns that `encode` makes."""
        ...

    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        """Make the columns from typed ones (`convert.typed`)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Describe the feature, but for its arrays, as values ready for JSON."""
        ...

    def arrays(self) -> Arrays:
        """Return the state that is saved as arrays."""
        ...


class Fit(Protocol):
    """The state of a feature while it is fitted.

    It holds exact counts and sums, so that neither the order of the training rows nor the parts they came in leave a
    trace, on one machine or many.
    """

    def add(self, table: pa.Table) -> None:
        """Count a part of typed training rows."""
        ...

    def arrays(self) -> Arrays:
        """Return all that was counted; another fit can take it by `merge`."""
        ...

    def merge(self, arrays: Arrays) -> None:
        """Add what another fit of the same feature counted."""
        ...

    def fitted(self, text: Mapping[str, TextIds]) -> Feature:
        """Return the fitted feature. text: of each source column of ids, whether it is text."""
        ...


def floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column as float64 [B], NaN where it is missing."""
    return one_array(column).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
