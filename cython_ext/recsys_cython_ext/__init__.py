"""Floor 1: compiled hashing and lookup loops, each with a Python face that validates and allocates.

Importing this package never imports torch: `recsys_cython_ext.torch_hashing` is left out on purpose.
"""

from recsys_cython_ext.hashing import HASH_VERSION, MISSING_ID, hash_rows, ids, mix64, salt, string_ids, xxh64
from recsys_cython_ext.vocabulary import IdCounter, IdTable, count_ids

__all__ = [
    "HASH_VERSION",
    "MISSING_ID",
    "IdCounter",
    "IdTable",
    "count_ids",
    "hash_rows",
    "ids",
    "mix64",
    "salt",
    "string_ids",
    "xxh64",
]
