"""Embedding tables: schemes, their bytes, plans for a budget, the engine over TorchRec, and exported artefacts.

Importing this package imports no torch: `EmbeddingEngine` and `DeepHashEmbedding`, which need it, are imported when they
are first used. Every scheme of the union in `recsys_tables.config` can be imported from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recsys_cython_ext.extras import explained as _explained
from recsys_cython_ext.version import __version__
from recsys_tables.bytes import ResidentBytes, resident_bytes
from recsys_tables.config import scheme_classes
from recsys_tables.field import Field
from recsys_tables.planning.plan import BudgetError, TablePlan, plan_tables
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.serving import artefact
from recsys_tables.serving.artefact import Artefact, ArtefactError

if TYPE_CHECKING:
    from recsys_tables.engine.deep_hash import DeepHashEmbedding
    from recsys_tables.engine.engine import EmbeddingEngine

_WITH_TORCH = {
    "DeepHashEmbedding": "recsys_tables.engine.deep_hash",
    "EmbeddingEngine": "recsys_tables.engine.engine",
}

__all__ = [
    "Artefact",
    "ArtefactError",
    "BudgetError",
    "DeepHashEmbedding",
    "EmbeddingEngine",
    "FeatureSize",
    "Field",
    "Lookup",
    "ResidentBytes",
    "Scheme",
    "Table",
    "TablePlan",
    "__version__",
    "artefact",
    "plan_tables",
    "resident_bytes",
]
__all__ += scheme_classes()


def _attribute(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    if name.startswith("_") or name not in (schemes := scheme_classes()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return schemes[name]


__getattr__ = _explained(_attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
