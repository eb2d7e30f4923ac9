"""What a feature is: a fit that sees training rows, and a transform that is small, saved and the same everywhere."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from recsys_pipelines.features.plain import TextIds, one_array

Arrays = Mapping[str, np.ndarray]


class Feature(Protocol):
    """A fitted feature named `name` that makes the columns `columns` of a prepared shard."""

    name: str

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Names and types of what `encode` makes."""
        ...

    def encode(self, table: pa.Table) -> dict[str, pa.Array]:
        """Make the columns from typed ones (`convert.typed`)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON-able description: everything but `arrays`."""
        ...

    def arrays(self) -> Arrays:
        """What is saved as arrays."""
        ...


class Fit(Protocol):
    """What a feature keeps of the training rows: exact counts and sums, so that neither the order of the rows nor
    the parts they came in leave a trace, on one machine or many.
    """

    def add(self, table: pa.Table) -> None:
        """Count a part of typed training rows."""
        ...

    def arrays(self) -> Arrays:
        """All that was counted; another fit can take it by `merge`."""
        ...

    def merge(self, arrays: Arrays) -> None:
        """Add what another fit of the same feature counted."""
        ...

    def fitted(self, text: Mapping[str, TextIds]) -> Feature:
        """The feature. text: of each source column of ids, whether it is text."""
        ...


def floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """float64 [B], NaN where missing."""
    return one_array(column).to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
