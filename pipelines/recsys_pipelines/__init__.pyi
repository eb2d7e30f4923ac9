from .batches.loader import Batch, Loader, Rows
from .batches.negatives import InBatchNegatives, Items, NegativeSampler
from .config import DataConfig
from .expressions import arrow_id_expr, arrow_row_expr, id_expr, register_arrow_functions, row_expr
from .feature_config import (
    BucketsConfig,
    CategoricalConfig,
    CrossConfig,
    DateConfig,
    NumericConfig,
    PrefixesConfig,
    SequenceConfig,
    StatisticConfig,
    TokensConfig,
)
from .features import Features
from .inspection.drift import compare_sets
from .inspection.inspect import inspect
from .preparation.prepare import prepare
from .preparation.prepared import Prepared

__all__ = [
    "Batch",
    "BucketsConfig",
    "CategoricalConfig",
    "CrossConfig",
    "DataConfig",
    "DateConfig",
    "Features",
    "InBatchNegatives",
    "Items",
    "Loader",
    "NegativeSampler",
    "NumericConfig",
    "PrefixesConfig",
    "Prepared",
    "Rows",
    "SequenceConfig",
    "StatisticConfig",
    "TokensConfig",
    "arrow_id_expr",
    "arrow_row_expr",
    "compare_sets",
    "id_expr",
    "inspect",
    "prepare",
    "register_arrow_functions",
    "row_expr",
]
__version__: str
