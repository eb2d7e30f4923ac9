"""The tables of an experiment: its declared scheme, planned for its fitted features."""

from recsys.config import ExperimentConfig
from recsys_pipelines.features import Features
from recsys_tables.plan import FeatureSize, TablePlan, plan_tables


def plan_of(config: ExperimentConfig, features: Features) -> TablePlan:
    """Schemes, bytes, and the full table's bytes. Raises BudgetError when they do not fit."""
    sizes = [
        FeatureSize(
            feature.name,
            feature.num_codes,
            feature.full_codes,
            feature.vocabulary_bytes,
            feature.full_vocabulary_bytes,
        )
        for feature in features.categorical
    ]
    return plan_tables(config.tables, sizes)
