"""The candidates of a comparison: for each arm, the settings that fit its budget, on rows that all arms share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.config import ConfigError, ExperimentConfig
from recsys.training.labels import check_measured, check_training
from recsys.tuning.trials import Candidate, NothingFits, candidates, teaching
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared


@dataclass(frozen=True)
class ArmCandidates:
    """An arm with the candidates for its settings, each within its budget."""

    config: ExperimentConfig
    candidates: list[Candidate]


def candidates_of(
    config: ExperimentConfig,
    folder: Path,
    runs: Path,
    progress: Progress,
    prepare_progress: Progress = no_progress,
) -> ArmCandidates:
    """Draw the candidates of an arm, and prepare their data; arguments as of `draw_candidates`. Raises NothingFits."""

    def prepared_for(changed: ExperimentConfig) -> Prepared:
        return prepare(changed.data, changed.features, folder, prepare_progress)

    return ArmCandidates(config, candidates(config, prepared_for, teaching(config, runs, progress)))


def draw_candidates(
    configs: Sequence[ExperimentConfig],
    folder: Path,
    runs: Path,
    progress: Progress,
    prepare_progress: Progress,
) -> tuple[list[ArmCandidates], dict[str, str]]:
    """Draw the candidates of every arm, prepare their data, and say why the arms that are left out do not fit.

    Teachers are trained below `runs`, where they are not there.
    """
    arms: list[ArmCandidates] = []
    left_out: dict[str, str] = {}
    for number, config in enumerate(configs, start=1):
        try:
            arms.append(candidates_of(config, folder, runs, progress, prepare_progress))
        except NothingFits as error:
            left_out[config.name] = str(error)
        progress("draw settings", number, len(configs))
    _check_rows(arms)
    _check_classes(arms)
    if len(arms) < 2:
        fit = "".join(f"only {arm.config.name} fits its budget; " for arm in arms)
        raise ConfigError(f"too few arms are left to compare: {fit}{'; '.join(left_out.values())}")
    return arms, left_out


def check_alike(configs: Sequence[ExperimentConfig]) -> None:
    """Refuse arms of one name, and arms that differ in what all must share."""
    names = [config.name for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"arms need different names, but {', '.join(twice)} stands twice; change `name`")
    first = configs[0]
    for config in configs[1:]:
        if config.data != first.data:
            fields = type(first.data).model_fields
            keys = [key for key in fields if getattr(first.data, key) != getattr(config.data, key)]
            raise ConfigError(
                f"{config.name}: its data differs from {first.name}'s in {', '.join(keys)}; "
                "arms are compared on the same rows, so `data` must be the same"
            )
        expected = _treatment(first)
        for key, value in _treatment(config).items():
            if value != expected[key]:
                raise ConfigError(
                    f"{config.name}: {key} is {value}, but {expected[key]} in {first.name}; arms are treated alike, "
                    "so make it the same"
                )


def _treatment(config: ExperimentConfig) -> dict[str, Any]:
    """Return the settings of the comparison, which are the same for all arms."""
    return {
        "tuning.trials": config.tuning.trials,
        "tuning.training_seed": config.tuning.training_seed,
        "training.monitor": config.training.monitor,
        "evaluation": config.evaluation,
        "tables.budget_embedding_dim": config.tables.budget_embedding_dim,
    }


def _check_rows(arms: Sequence[ArmCandidates]) -> None:
    """Refuse arms whose features quarantine other rows: better said before training than after."""
    first: dict[str, Any] = {}
    for arm in arms:
        for prepared in {candidate.prepared for candidate in arm.candidates}:
            splits = Prepared.open(prepared).manifest.row_counts_by_split
            first = first or splits
            if splits != first:
                raise ConfigError(
                    f"{arm.config.name}: its features leave the rows {splits}, the first arm's {first}; rows that one "
                    "arm can read and another cannot make a comparison unfair, so mend or drop them first"
                )


def _check_classes(arms: Sequence[ArmCandidates]) -> None:
    """Raise OneClass where test rows cannot be compared, or validation rows cannot choose, before anything is trained."""
    for arm in arms:
        splits = Prepared.open(arm.candidates[0].prepared).manifest.splits
        check_training(splits["train"].rows, splits["train"].positives)
        check_measured("test", splits["test"].rows, splits["test"].positives, "a comparison")
        if arm.config.training.monitor == "auc":
            rows, positives = splits["validation"].rows, splits["validation"].positives
            check_measured("validation", rows, positives, "training.monitor: auc")
