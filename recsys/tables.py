"""The tables of an experiment: its declared scheme, planned for its fitted features."""

from collections.abc import Collection

import numpy as np

from recsys.config import ExperimentConfig
from recsys.evaluation.diagnostics import CollisionRate, collision_rate
from recsys.model_config import targets_of
from recsys_pipelines.features import Features
from recsys_tables.bytes import OptimizerName
from recsys_tables.field import Field
from recsys_tables.plan import FeatureSize, TablePlan, plan_tables
from recsys_tables.scheme import Scheme


def plan_of(
    config: ExperimentConfig, features: Features, optimizer: OptimizerName | None = None
) -> TablePlan:
    """Schemes, bytes with the state of `optimizer` (the config's), and the full table's bytes.

    Raises BudgetError when they do not fit.
    """
    sizes = [
        FeatureSize(
            feature.name,
            feature.num_codes,
            feature.full_codes,
            feature.vocabulary_bytes,
            feature.full_vocabulary_bytes,
            open=feature.unknown == "hash",
            reads=targets_of(config.model).get(feature.name),
        )
        for feature in features.categorical
    ]
    return plan_tables(config.tables, sizes, optimizer or config.training.table_optimizer)


def observed_collisions(scheme: Scheme, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
    """Collisions of a feature's distinct ids [n], weighted by impressions [n]."""
    # lookup j of one id never meets lookup i of another: they fill different places of the vector
    rows = np.concatenate([item.rows + (j << 40) for j, item in enumerate(scheme.rows(ids))], axis=1)
    aux = scheme.aux(ids)
    whole = rows if aux is None else np.concatenate([rows, -1 - aux], axis=1)  # below 0, apart from rows
    return CollisionRate(
        collision_rate(whole, impressions).all_rows, collision_rate(rows, impressions).any_row
    )


def fields_of(plan: TablePlan, features: Features, unpooled: Collection[str] = ()) -> list[Field]:
    """The engine's fields: each feature's planned scheme, its declared pooling, and whether its bags have weights.

    unpooled: features that the model reads as sequences, whatever their declared pooling.
    """
    return [
        Field(
            scheme,
            pooling="none" if feature.name in unpooled else feature.pooling,  # type: ignore[arg-type]
            multivalued=feature.multivalued,
            weighted=feature.weighted,
        )
        for scheme, feature in zip(plan.schemes, features.categorical, strict=True)
    ]
