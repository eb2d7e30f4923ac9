"""Embedding tables: schemes, their bytes, and (in `recsys_tables.engine.engine`) the module over TorchRec.

Importing this package imports no torch. Every scheme of `recsys_tables.schemes` can be imported from here too.
"""

from typing import Any

from recsys_tables import schemes
from recsys_tables.bytes import ResidentBytes, resident_bytes
from recsys_tables.planning.plan import BudgetError, TablePlan, plan_tables
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize

__all__ = [
    "BudgetError",
    "FeatureSize",
    "Lookup",
    "ResidentBytes",
    "Scheme",
    "Table",
    "TablePlan",
    "plan_tables",
    "resident_bytes",
]


def __getattr__(name: str) -> Any:
    return getattr(schemes, name)
