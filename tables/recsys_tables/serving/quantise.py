"""A trained table in fewer bytes: narrower rows (PCA), then fewer bits; and its lookup without torch.

These are steps that follow any scheme: what a scheme looks up is replaced, and its `rows` and `combine` stay. Numbers are
rounded to nearest; fp8, int8 and int4 rows are those of `recsys_cython_ext.rowwise`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from recsys_cython_ext import QuantisedTable, dequantise, padded, pooled, quantise
from recsys_cython_ext.rowwise import row_bytes

Dtype = Literal["fp32", "fp16", "fp8", "int8", "int4"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

_BLOCK = 1 << 18  # values taken at a time


@dataclass(frozen=True, eq=False)
class StoredTable:
    """A table [N, D] as it is served.

    data: [N, d] float32 or float16, or the bytes of its rows, uint8; may be mapped. width: d. projection: float32
    [d, D] that looked-up rows are multiplied by, or None where d = D. Raises ValueError where these do not fit.
    """

    data: np.ndarray
    dtype: Dtype
    width: int
    projection: np.ndarray | None = None

    def __post_init__(self) -> None:
        kind, columns = stored_as(self.dtype, self.width)
        if self.data.ndim != 2 or self.data.dtype != kind or self.data.shape[1] != columns:
            raise ValueError(
                f"{self.dtype} rows of width {self.width} are {kind.name} [N, {columns}], "
                f"not {self.data.dtype} {list(self.data.shape)}"
            )
        if self.projection is not None and (
            self.projection.dtype != np.float32 or self.projection.shape[:1] != (self.width,)
        ):
            raise ValueError(
                f"a projection of width {self.width} is float32 [{self.width}, D], "
                f"not {self.projection.dtype} {list(self.projection.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return (N, D) of the table it stands for."""
        return len(self.data), self.width if self.projection is None else self.projection.shape[1]

    @property
    def nbytes(self) -> int:
        """Return the resident bytes of the rows, scales included; the projection's are its own."""
        return self.data.nbytes

    def pooled(self, rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Return Σ over n of weights · rows, float32 [L, D], for int64 rows [L, n] and float32 weights [L, n], else 1."""
        num_bags, n = rows.shape
        flat = np.ascontiguousarray(rows).reshape(-1)
        factors = None if weights is None else np.ascontiguousarray(weights).reshape(-1)
        offsets = None if n == 1 else np.arange(0, num_bags * n + 1, n)
        sums = pooled(self.kernel_table, flat, offsets, factors)
        return sums if self.projection is None else sums @ self.projection

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Return rows, float32 [L, width], for int64 rows [L]: zeros for a row -1, and in columns beyond D."""
        if self.projection is None:
            return padded(self.kernel_table, rows, width)
        out = np.zeros((len(rows), width), np.float32)
        np.matmul(padded(self.kernel_table, rows, self.width), self.projection, out=out[:, : self.shape[1]])
        return out

    def dense(self) -> np.ndarray:
        """Return the values that lookups see, float32 [N, D]."""
        values = dequantise(self.kernel_table)
        return values if self.projection is None else values @ self.projection

    @property
    def kernel_table(self) -> np.ndarray | QuantisedTable:
        """Return the rows as `recsys_cython_ext.lookup` takes them."""
        if self.dtype in ("fp8", "int8", "int4"):
            return QuantisedTable(self.data, self.dtype, self.width)
        return self.data


def stored_as(dtype: str, width: int) -> tuple[np.dtype, int]:
    """Return element type and number of columns of the rows. Raises ValueError for another dtype."""
    match dtype:
        case "fp32":
            return np.dtype(np.float32), width
        case "fp16":
            return np.dtype(np.float16), width
        case "fp8" | "int8" | "int4":
            return np.dtype(np.uint8), row_bytes(dtype, width)
    raise ValueError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")


def compress(table: np.ndarray, dtype: Dtype, width: int | None = None) -> StoredTable:
    """Store a table float32 [N, D] in `dtype`, and where it is wider than `width`, as rows of that width by `pca`.

    Raises ValueError for a dtype or width there is not, and, naming row and column, for a value that is not finite
    or that the dtype cannot hold.
    """
    stored_as(dtype, 4)
    projection = None
    if width is not None and width < table.shape[1]:
        table, projection = pca(table, width)
    d = table.shape[1]
    stored = quantise(table, dtype)
    data = stored.data if isinstance(stored, QuantisedTable) else stored
    return StoredTable(data, dtype, d, projection)


def pca(table: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows [N, d] and a projection [d, D], float32, whose product is nearest to a table [N, D], d = `width`.

    It is the nearest of rank d in the sum of squares over all rows alike (Eckart and Young, 1936): principal components
    without centring, so that a weighted sum of rows is projected like a row. Raises ValueError for a width that is no
    multiple of 4 below D, and for a value that is not finite.
    """
    columns = table.shape[1]
    if width % 4 or not 4 <= width < columns:
        raise ValueError(f"width {width} is none of 4, 8, … below the {columns} columns of the table")
    _check_finite(table)
    step = max(1, _BLOCK // columns)
    moments = np.zeros((columns, columns))
    for first in range(0, len(table), step):
        block = table[first : first + step].astype(np.float64)
        moments += block.T @ block
    directions = np.linalg.eigh(moments).eigenvectors[:, : -width - 1 : -1]
    rows = np.empty((len(table), width), np.float32)
    for first in range(0, len(table), step):
        rows[first : first + step] = table[first : first + step].astype(np.float64) @ directions
    return rows, np.ascontiguousarray(directions.T.astype(np.float32))


def _check_finite(table: np.ndarray) -> None:
    step = max(1, _BLOCK // table.shape[1])
    for first in range(0, len(table), step):
        bad = ~np.isfinite(table[first : first + step])
        if bad.any():
            row, column = np.unravel_index(int(bad.argmax()), bad.shape)
            value = table[first + int(row), column]
            raise ValueError(f"row {first + int(row)}, column {column}: {value} is not finite")
