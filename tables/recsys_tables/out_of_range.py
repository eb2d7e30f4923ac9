"""The treatment of ids outside a scheme's id space 0..num_ids-1: an error, one id for all of them, or a hash.

Left to FBGEMM they would be read from row 0 in silence.
"""

from typing import Any, Literal

import numpy as np

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.scheme import MAX_ROWS, Scheme

Policy = Literal["error", "oov", "hash"]

_LOOKUP = 2**20  # salt of `hash`: no scheme has so many lookups


def check_policy(scheme: Scheme, policy: Policy, oov_id: int | None) -> None:
    """Raise ValueError, when a model is built, if `policy` cannot be kept for the scheme."""
    where = f"feature {scheme.feature!r}: out_of_range {policy!r}"
    if policy not in ("error", "oov", "hash"):
        raise ValueError(f"{where} is none of 'error', 'oov', 'hash'")
    if (policy == "oov") != (oov_id is not None):
        raise ValueError(f"{where} and oov_id {oov_id}: 'oov' needs the id to read instead, and only 'oov'")
    if scheme.num_ids is None:
        if policy != "error":
            raise ValueError(f"{where} has no meaning: its {type(scheme).__name__} scheme takes every id")
        return
    if oov_id is not None and not 0 <= oov_id < scheme.num_ids:
        raise ValueError(f"{where}: oov_id {oov_id} is itself outside 0..{scheme.num_ids - 1}")
    if policy == "hash" and scheme.num_ids >= MAX_ROWS:
        raise ValueError(f"{where}: ids are hashed to fewer than 2^31, and the scheme has {scheme.num_ids}")


def in_range(scheme: Scheme, ids: Any, policy: Policy, oov_id: int | None) -> Any:
    """Return ids [L] of the scheme's space, made by `policy` of those outside.

    `error` raises ValueError naming feature, position and value; `oov` reads `oov_id` instead;
    `hash` gives every outside id one of 0..num_ids-1 by the project's hash.
    """
    if scheme.num_ids is None or len(ids) == 0:
        return ids
    if (
        isinstance(ids, np.ndarray) and ids.view(np.uint64).max() < scheme.num_ids
    ):  # one below 0 is above 2^63
        return ids
    bad = (ids < 0) | (ids >= scheme.num_ids)
    if not bad.any():
        return ids
    if policy == "error":
        raise ValueError(_message(scheme, scheme.num_ids, ids, bad))
    ids = ids.copy() if hasattr(ids, "flags") else ids.clone()  # NumPy, or torch
    ids[bad] = (
        oov_id
        if policy == "oov"
        else hash_rows(ids[bad], lookup_salt(scheme.feature, _LOOKUP), scheme.num_ids)
    )
    return ids


def _message(scheme: Scheme, num_ids: int, ids: Any, bad: Any) -> str:
    places = bad.nonzero()
    position = int(places[0][0]) if isinstance(places, tuple) else int(places[0, 0])
    return (
        f"feature {scheme.feature!r}: id {int(ids[position])} at position {position} is outside "
        f"0..{num_ids - 1}, the ids of its {type(scheme).__name__} scheme; encode it with the vocabulary "
        "the table was built for, or set out_of_range to 'oov' or 'hash'"
    )
