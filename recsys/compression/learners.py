"""A finished run of a learner's tables says which rows and widths matter, which is where the search begins."""

from typing import Any

import numpy as np

from recsys.compression.space import Learned
from recsys.config import ConfigError
from recsys.planning import plan_of
from recsys.training.run import Run, combine_parameters
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.scheme import LearnerScheme


def learned_of(run: Run) -> Learned:
    """Read weights, scores and widths of every feature with a table of its own, from the run's best evaluation.

    Features that read another's table have masks of their own in training; a compact table has one: each row counts as
    the feature does that scores it highest.

    Raises ConfigError where the run's tables learn no masks, CheckpointError as `Run.checkpoint` does.
    """
    saved = run.checkpoint()
    by_feature: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for position, scheme in enumerate(plan_of(run.config, run.features()).schemes):
        learner: Any = scheme.owner  # a LearnerScheme
        if not hasattr(learner, "learned"):
            raise ConfigError(
                f"{run.path}: tables of scheme {run.config.tables.scheme!r} learn no masks; train a scheme that does, "
                "such as opt_embed"
            )
        table = _tensor(saved, f"table/{learner.tables()[0].name}")
        weights, score, width = learner.learned(table, _parameters_of(saved, learner, position))
        if learner.feature in by_feature:
            others, before, widest = by_feature[learner.feature]
            weights = np.where((score > before)[:, None], weights, others)
            score, width = np.maximum(score, before), max(width, widest)
        by_feature[learner.feature] = weights, score, width
    return Learned(
        weights={feature: weights for feature, (weights, _, _) in by_feature.items()},
        score={feature: score for feature, (_, score, _) in by_feature.items()},
        widths={feature: width for feature, (_, _, width) in by_feature.items()},
    )


def _parameters_of(saved: Checkpoint, scheme: LearnerScheme, position: int) -> dict[str, Any]:
    """Read the parameters and buffers of the combine at `position`, and further tables of its scheme, by name."""
    tables = {
        table.name.rpartition("/")[2]: _tensor(saved, f"table/{table.name}") for table in scheme.tables()[1:]
    }
    return combine_parameters(saved, position) | tables


def _tensor(saved: Checkpoint, name: str) -> np.ndarray:
    return saved.read(name).numpy()
