"""What a server says of itself: its version, what a request may hold, and an example that it answers."""

import dataclasses
from typing import Any

from recsys.serving.columns import columns_of, names_of
from recsys.serving.server.limits import Limits
from recsys.serving.server.versions import Served, Versions
from recsys_cython_ext.hashing import HASH_VERSION
from recsys_cython_ext.version import __version__


def describe(served: Served, versions: Versions, limits: Limits) -> dict[str, Any]:
    """Return what `/metadata` answers."""
    artefact = served.predictor.artefact
    inputs = served.predictor.transform.inputs
    columns = columns_of(inputs)
    return {
        "model": served.predictor.model.name,
        "version": served.version,
        "name": served.name,
        "served_since": served.since,
        "available": versions.source.names(),
        "refused": None if versions.refused is None else dataclasses.asdict(versions.refused),
        "program": __version__,
        "hash_version": HASH_VERSION,
        "dtype": artefact.dtype,
        "bytes": artefact.bytes.to_dict(),
        "features": [{"name": one.name, "kind": one.kind, "columns": names_of(one)} for one in inputs],
        "columns": [{"name": column.name, "type": column.type} for column in columns],
        "example": {column.name: column.example for column in columns},
        "limits": dataclasses.asdict(limits),
    }
