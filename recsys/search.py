"""Validation trials: every arm of a comparison gets the same number of tries at its settings."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import ConfigError, ExperimentConfig
from recsys.search_config import Choices, Range
from recsys.tables import plan_of
from recsys_pipelines.features import Features
from recsys_pipelines.prepare import Prepared
from recsys_pipelines.shards import locked, write_json
from recsys_tables.plan import BudgetError

Prepare = Callable[[ExperimentConfig], Prepared]

DRAWS = 100  # for each trial, before the rest of the space is taken not to fit the budget


class NothingFits(ConfigError):
    """No setting of an arm fits its budget."""


@dataclass(frozen=True)
class Candidate:
    """One drawn setting of an arm, whose tables fit their budget."""

    config: ExperimentConfig
    settings: dict[str, Any]
    prepared: Path


def candidates(config: ExperimentConfig, prepare: Prepare) -> list[Candidate]:
    """Draw `search.trials` settings, the file's own first, among those that fit the budget.

    Draws are without replacement and a function of `search.seed`. Raises NothingFits when none does.
    """
    found: list[Candidate] = []
    reason: BudgetError | None = None
    drawn = itertools.chain([{}], random_draws(config.search.space, config.search.seed))
    for settings in itertools.islice(drawn, DRAWS * config.search.trials):
        if len(found) == config.search.trials:
            break
        try:
            new = candidate(config, settings, prepare)
        except BudgetError as error:
            reason = error if reason is None or error.needed < reason.needed else reason
            continue
        if all(new.config != known.config for known in found):  # the grid holds the file's own settings too
            found.append(new)
    if not found:
        raise NothingFits(f"{config.name}: none of its settings fits the budget: {reason}")
    return found


def candidate(config: ExperimentConfig, settings: Mapping[str, Any], prepare: Prepare) -> Candidate:
    """`config` with other settings, and its prepared data. Raises BudgetError when its tables do not fit."""
    changed = {**settings, "training.seed": config.search.training_seed}
    drawn = config.replace(changed, where=config.name)
    prepared = prepare(drawn).path
    plan_of(drawn, _features(prepared))
    return Candidate(drawn, dict(settings), prepared)


def random_draws(space: Mapping[str, Choices], seed: int) -> Iterator[dict[str, Any]]:
    """Settings of a space in a random order: without replacement where all values are listed, else for ever."""
    random = np.random.default_rng(seed)
    if any(isinstance(choices, Range) for choices in space.values()):
        while True:
            yield {key: _drawn(choices, random) for key, choices in space.items()}
    grid = list(itertools.product(*space.values()))
    for position in random.permutation(len(grid)):
        yield dict(zip(space, grid[position], strict=True))


def run_trial(config: ExperimentConfig, prepared: Path, runs: Path) -> dict[str, Any]:
    """Train once and return the best validation metrics; a finished trial is read back.

    A trial whose loss is no longer a number returns {"diverged": why} and is never chosen.
    """
    from recsys.training.distributed import process_group
    from recsys.training.loop import NonFiniteLoss, fit
    from recsys_pipelines.batches import Rows

    file = runs / "trials" / f"{config.digest(prepared)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_suffix(".lock")):  # two arms may draw one trial
        if not file.exists():
            Prepared.open(prepared).verify()
            try:
                with process_group():
                    fitted = fit(config, Rows.load(prepared, "train"), Rows.load(prepared, "validation"))
                write_json(fitted.best, file)
            except NonFiniteLoss as error:
                write_json({"diverged": str(error)}, file)
    return json.loads(file.read_text())


def best(config: ExperimentConfig, found: list[Candidate], metrics: list[dict[str, Any]]) -> Candidate:
    """Return the candidate that did best on validation by `training.monitor`; the earlier one of equals.

    Raises ConfigError when every trial diverged.
    """
    scores = [-np.inf if "diverged" in values else config.training.score(values) for values in metrics]
    if np.isneginf(max(scores)):
        raise ConfigError(f"{config.name}: every trial diverged: {metrics[0]['diverged']}")
    return found[int(np.argmax(scores))]


def _drawn(choices: Choices, random: np.random.Generator) -> Any:
    if not isinstance(choices, Range):
        return choices[random.integers(len(choices))]
    if choices.log:
        return math.exp(random.uniform(math.log(choices.low), math.log(choices.high)))
    return float(random.uniform(choices.low, choices.high))


@lru_cache(maxsize=64)
def _features(prepared: Path) -> Features:
    return Features.load(prepared / "features")
