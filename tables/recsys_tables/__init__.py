"""Embedding tables: schemes, their bytes, and (in `recsys_tables.engine.engine`) the module over TorchRec.

Importing this package imports no torch.
"""

from recsys_tables.bytes import ResidentBytes, resident_bytes
from recsys_tables.planning.plan import BudgetError, FeatureSize, TablePlan, plan_tables
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes import (
    ChineseRemainder,
    DeepHash,
    FrequencySplit,
    Full,
    Hash,
    HashEmbedding,
    MEmCom,
    MixedDimension,
    MixedRadix,
    MultiHash,
    PathBased,
    QuotientRemainder,
    Robe,
    TensorTrain,
    Unified,
    coprime_moduli,
    popularity_dims,
)

__all__ = [
    "BudgetError",
    "ChineseRemainder",
    "DeepHash",
    "FeatureSize",
    "FrequencySplit",
    "Full",
    "Hash",
    "HashEmbedding",
    "Lookup",
    "MEmCom",
    "MixedDimension",
    "MixedRadix",
    "MultiHash",
    "PathBased",
    "QuotientRemainder",
    "ResidentBytes",
    "Robe",
    "Scheme",
    "Table",
    "TablePlan",
    "TensorTrain",
    "Unified",
    "coprime_moduli",
    "plan_tables",
    "popularity_dims",
    "resident_bytes",
]
