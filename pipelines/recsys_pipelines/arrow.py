"""Columns of Arrow as arrays of NumPy."""

import numpy as np
import polars as pl
import pyarrow as pa


def as_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return numbers, truth values or text as an array [n], without copying numbers.

    pyarrow's own `to_numpy` imports pandas where that is installed, which takes a tenth of a second.
    """
    return pl.Series(pl.from_arrow(column)).to_numpy()
