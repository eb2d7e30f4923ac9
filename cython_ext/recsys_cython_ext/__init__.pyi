from .column_ids import arrow_ids, string_ids
from .hashing import (
    HASH_VERSION,
    MISSING_ID,
    hash_rows,
    hash_rows_jagged,
    lookup_salt,
    mix64,
    text_id,
    xxh64,
)
from .lookup import advise_huge_pages, empty_huge, padded, pooled
from .rowwise import QuantisedTable, dequantise, quantise
from .static_function import StaticFunction, feature_keys
from .sums import ExactSum
from .vocabulary import IdCounter, IdTable, count_ids

__all__ = [
    "HASH_VERSION",
    "MISSING_ID",
    "ExactSum",
    "IdCounter",
    "IdTable",
    "QuantisedTable",
    "StaticFunction",
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
__version__: str
