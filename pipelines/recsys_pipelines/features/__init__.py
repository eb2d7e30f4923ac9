"""Features: declared in a config, fitted on training rows, and the same numbers wherever they are applied."""

from recsys_cython_ext.vocabulary import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE
from recsys_pipelines.features.categorical import Categorical
from recsys_pipelines.features.declared import sequences_of, serving_specs_of, specs_of
from recsys_pipelines.features.features import FeatureFitter, Features
from recsys_pipelines.features.kept import kept_ids, write_kept_ids
from recsys_pipelines.features.numeric import Buckets, Numeric
from recsys_pipelines.features.statistics import Statistic

__all__ = [
    "FIRST_CODE",
    "MISSING_CODE",
    "UNKNOWN_CODE",
    "Buckets",
    "Categorical",
    "FeatureFitter",
    "Features",
    "Numeric",
    "Statistic",
    "kept_ids",
    "sequences_of",
    "serving_specs_of",
    "specs_of",
    "write_kept_ids",
]
