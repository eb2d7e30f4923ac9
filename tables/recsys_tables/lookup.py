"""Vectors of ids in NumPy, from trained tables and a scheme: no torch, one id a bag."""

from collections.abc import Mapping

import numpy as np

from recsys_tables.scheme import Scheme, check_ids


def lookup(scheme: Scheme, tables: Mapping[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Return float32 [L, D] for int64 ids [L]; `tables` maps a physical table's name to its weights.

    Raises ValueError when an id is outside the scheme's id space.
    """
    check_ids(scheme, ids)
    vectors = [tables[item.table][item.rows].sum(axis=1) for item in scheme.rows(ids)]
    return scheme.combine_numpy(vectors)
