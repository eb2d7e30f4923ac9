"""Lookup of ids in NumPy, from trained tables and a scheme: without torch, one id a bag."""

from collections.abc import Mapping

import numpy as np

from recsys_tables.out_of_range import Policy, in_range
from recsys_tables.scheme import NO_PARAMETERS, Lookup, Parameters, ServableScheme


def lookup(
    scheme: ServableScheme,
    tables: Mapping[str, np.ndarray],
    ids: np.ndarray,
    out_of_range: Policy = "error",
    oov_id: int | None = None,
    parameters: Parameters = NO_PARAMETERS,
) -> np.ndarray:
    """Return vectors, float32 [L, D], of int64 ids [L]; `tables` maps a physical table's name to its weights.

    parameters: of the scheme's `combine`, where it has some. An id outside the scheme's id space is treated as the field's
    `out_of_range` says; by default ValueError is raised.
    """
    ids = in_range(scheme, ids, out_of_range, oov_id)
    vectors = [pooled(tables[item.table], item) for item in scheme.rows(ids)]
    return scheme.combine_numpy(vectors, scheme.aux(ids), **parameters)


def pooled(table: np.ndarray, item: Lookup) -> np.ndarray:
    """Return Σ over n of weights · rows of one lookup: [L, D]."""
    vectors = table[item.rows]
    return (vectors if item.weights is None else vectors * item.weights[:, :, None]).sum(axis=1)
