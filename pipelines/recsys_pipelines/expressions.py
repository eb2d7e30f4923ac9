"""Hashing inside queries: Polars expressions and Arrow functions that give the numbers of training and serving.

A row number holds as long as the feature's name, the lookup and the number of rows are those the model was trained
with: pass the feature's name as the model knows it, whatever the query calls its column. Errors are those of
`recsys_cython_ext.arrow_ids`: no floats, and the bits of -2^63 are reserved for missing. A position in an error
counts within the batch that the engine handed over. Polars has no type for UUIDs and holds them as bytes, which are
hashed as bytes here: hash their text instead.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recsys_cython_ext import arrow_ids, hash_rows, lookup_salt
from recsys_cython_ext.arguments import check_hash_arguments

ARROW_TYPES = (
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()),
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.bool_(), pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.large_string())),
)

# Polars


def id_expr(column: pl.Expr | str) -> pl.Expr:
    """Return 64-bit ids of a column: Int64, never null; a null becomes `recsys_cython_ext.MISSING_ID`.

    column: strings, categoricals (by their text), binary, integers (unsigned ones by their bits), whole decimals or
    booleans. Elementwise, so it streams; Polars' buffers are read in place.
    """
    return _elementwise(column, arrow_ids)


def row_expr(column: pl.Expr | str, feature: str, lookup: int, num_embeddings: int) -> pl.Expr:
    """Return row numbers in [0, num_embeddings) for one lookup of a feature: Int64, never null.

    column: what `id_expr` takes, not what it makes. Raises ValueError as `lookup_salt` and `hash_rows` do.
    """
    key, num_embeddings = check_hash_arguments(lookup_salt(feature, lookup), num_embeddings)
    return _elementwise(column, lambda array: hash_rows(arrow_ids(array), key, num_embeddings))


def _elementwise(column: pl.Expr | str, function: Callable[[pa.Array], np.ndarray]) -> pl.Expr:
    def over_series(series: pl.Series) -> pl.Series:
        array = series.to_arrow(compat_level=pl.CompatLevel.newest())  # views, as Polars keeps them: no copy
        return pl.Series(series.name, function(array))

    expression = pl.col(column) if isinstance(column, str) else column
    return expression.map_batches(over_series, return_dtype=pl.Int64, is_elementwise=True)


# Arrow


@cache  # Arrow refuses a second registration, and cannot be asked to forget the first
def register_arrow_functions() -> None:
    """Make `arrow_id_expr` and `arrow_row_expr` work in this process; calling it again does nothing.

    An Arrow function of Python's takes one type, so there is a pair for each of `ARROW_TYPES`:
    ``recsys_ids[string](column)`` and ``recsys_rows[string](column, salt, num_embeddings)``.
    """
    for kind in ARROW_TYPES:
        doc = {"summary": "64-bit ids", "description": "recsys_cython_ext.arrow_ids"}
        pc.register_scalar_function(_ids_udf, f"recsys_ids[{kind}]", doc, {"column": kind}, pa.int64())
        doc = {"summary": "row numbers", "description": "recsys_cython_ext.hash_rows of ids"}
        arguments = {"column": kind, "salt": pa.int64(), "num_embeddings": pa.int64()}
        pc.register_scalar_function(_rows_udf, f"recsys_rows[{kind}]", doc, arguments, pa.int64())


def arrow_id_expr(column: str, kind: pa.DataType) -> pc.Expression:
    """Return what `id_expr` does, for projections of `pyarrow.dataset`.

    kind: the column's type, one of `ARROW_TYPES`; TypeError for another.
    """
    return _call("recsys_ids", column, kind)


def arrow_row_expr(
    column: str, kind: pa.DataType, feature: str, lookup: int, num_embeddings: int
) -> pc.Expression:
    """Return what `row_expr` does, for projections of `pyarrow.dataset`; `kind` is that of `arrow_id_expr`."""
    key, num_embeddings = check_hash_arguments(lookup_salt(feature, lookup), num_embeddings)
    return _call("recsys_rows", column, kind, pa.scalar(key), pa.scalar(num_embeddings))


def _call(function: str, column: str, kind: pa.DataType, *constants: pa.Scalar) -> pc.Expression:
    if kind not in ARROW_TYPES:
        raise TypeError(f"{function} takes one of {', '.join(map(str, ARROW_TYPES))}, got {kind}")
    register_arrow_functions()
    arguments = [pc.field(column), *(pc.scalar(constant) for constant in constants)]
    # Arrow's guide to user-defined functions calls them in projections by this name, underscore and all.
    return pc.Expression._call(f"{function}[{kind}]", arguments)


def _ids_udf(context: Any, column: pa.Array) -> pa.Array:
    return pa.array(arrow_ids(column))


def _rows_udf(
    context: Any, column: pa.Array, key: pa.Scalar | pa.Array, num_embeddings: pa.Scalar | pa.Array
) -> pa.Array:
    return pa.array(hash_rows(arrow_ids(column), _constant(key), _constant(num_embeddings)))


def _constant(value: pa.Scalar | pa.Array) -> int:
    if isinstance(value, pa.Scalar):
        return value.as_py()
    if len(value) != 1:  # Arrow makes arrays of one value when every argument is a scalar
        raise ValueError(f"salt and num_embeddings must be scalars, got arrays of {len(value)} values")
    return value[0].as_py()
