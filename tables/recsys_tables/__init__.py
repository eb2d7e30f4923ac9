"""Embedding tables: schemes, their bytes, and (in `recsys_tables.engine`) the module over TorchRec.

Importing this package imports no torch.
"""

from recsys_tables.bytes import ResidentBytes, resident_bytes
from recsys_tables.plan import BudgetError, FeatureSize, TablePlan, plan_tables
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes import Full, Hash, QuotientRemainder, Unified

__all__ = [
    "BudgetError",
    "FeatureSize",
    "Full",
    "Hash",
    "Lookup",
    "QuotientRemainder",
    "ResidentBytes",
    "Scheme",
    "Table",
    "TablePlan",
    "Unified",
    "plan_tables",
    "resident_bytes",
]
