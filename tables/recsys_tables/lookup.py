"""Vectors of ids in NumPy, from trained tables and a scheme: no torch, one id a bag."""

from collections.abc import Mapping

import numpy as np

from recsys_tables.out_of_range import in_range
from recsys_tables.scheme import Lookup, ServableScheme


def lookup(scheme: ServableScheme, tables: Mapping[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Return float32 [L, D] for int64 ids [L]; `tables` maps a physical table's name to its weights.

    Raises ValueError when an id is outside the scheme's id space.
    """
    ids = in_range(scheme, ids, "error", None)
    vectors = [pooled(tables[item.table], item) for item in scheme.rows(ids)]
    return scheme.combine_numpy(vectors, scheme.aux(ids))


def pooled(table: np.ndarray, item: Lookup) -> np.ndarray:
    """Σ over n of weights · rows of one lookup: [L, D]."""
    vectors = table[item.rows]
    return (vectors if item.weights is None else vectors * item.weights[:, :, None]).sum(axis=1)
