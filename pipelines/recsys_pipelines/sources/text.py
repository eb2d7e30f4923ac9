"""Text columns: bytes to strings, and strings to lists."""

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray


def is_text(kind: pa.DataType) -> bool:
    """Tell whether ids of a column of this type are hashes of text; integers are their own ids."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_text(kind.storage_type)
    if hasattr(kind, "value_type"):  # of lists and dictionaries
        return is_text(kind.value_type)
    return not pt.is_primitive(kind) and not pt.is_decimal(kind)


def is_list(kind: pa.DataType) -> bool:
    """Tell whether values of this type are lists."""
    tests = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view)
    return any(test(kind) for test in tests)


def utf8(column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return strings [B] of a binary column [B], null where a value is not UTF-8, and the mask [B] of these."""
    try:
        return pc.cast(column, pa.string()), np.zeros(len(column), bool)
    except pa.ArrowInvalid:
        texts = [_decoded(value) for value in column.to_pylist()]
        strings = pa.array(texts, pa.string())
        return strings, np.asarray(pc.and_not(column.is_valid(), strings.is_valid()))


def split(column: pa.Array, separator: str) -> pa.ListArray:
    """Split texts into lists. An empty or missing text is a null list, an empty piece ("a||b") a missing value."""
    lists = pc.split_pattern(_null_if_empty(column), separator)
    return pa.ListArray.from_arrays(lists.offsets, _null_if_empty(lists.values), mask=lists.is_null())


def bracketed(column: pa.Array) -> pa.ListArray:
    """Return lists of the integers in texts such as "[1, 2]", as strings; null where a text is no such list."""
    texts = pl.DataFrame({"text": pl.Series(pl.from_arrow(column), dtype=pl.String)})
    integers = pl.col("text").str.extract_all(r"-?\d+")
    whole = pl.col("text").str.contains(r"^\s*\[\s*(-?\d+\s*(,\s*-?\d+\s*)*)?\]\s*$")
    lists = texts.select(pl.when(whole).then(integers)).to_series()
    return pc.cast(lists.to_arrow(), pa.list_(pa.string()))


def _null_if_empty(strings: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(strings, ""), pa.scalar(None, strings.type), strings)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
