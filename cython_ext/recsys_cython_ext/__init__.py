"""Floor 1: compiled hashing and lookup loops, each with a Python face that validates and allocates.

Importing this package never imports torch: `torch_hashing` and `triton_hashing` are left out on purpose. `arrow_ids` and
`string_ids` are imported when they are first used, for what serves single requests needs no Arrow.
"""

from typing import TYPE_CHECKING, Any

from recsys_cython_ext.hashing import (
    HASH_VERSION,
    MISSING_ID,
    hash_rows,
    hash_rows_jagged,
    lookup_salt,
    mix64,
    text_id,
    xxh64,
)
from recsys_cython_ext.lookup import advise_huge_pages, empty_huge, padded, pooled
from recsys_cython_ext.rowwise import QuantisedTable, dequantise, quantise
from recsys_cython_ext.static_function import StaticFunction, feature_keys
from recsys_cython_ext.sums import ExactSum
from recsys_cython_ext.version import __version__
from recsys_cython_ext.vocabulary import IdCounter, IdTable, count_ids

if TYPE_CHECKING:
    from recsys_cython_ext.column_ids import arrow_ids, string_ids

__all__ = [
    "HASH_VERSION",
    "MISSING_ID",
    "ExactSum",
    "IdCounter",
    "IdTable",
    "QuantisedTable",
    "StaticFunction",
    "__version__",
    "advise_huge_pages",
    "arrow_ids",
    "count_ids",
    "dequantise",
    "empty_huge",
    "feature_keys",
    "hash_rows",
    "hash_rows_jagged",
    "lookup_salt",
    "mix64",
    "padded",
    "pooled",
    "quantise",
    "string_ids",
    "text_id",
    "xxh64",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in ("arrow_ids", "string_ids"):
        from recsys_cython_ext import column_ids

        return getattr(column_ids, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
