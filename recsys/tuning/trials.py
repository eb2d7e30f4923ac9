"""Trials of settings on validation rows are drawn, recorded and run here.

`recsys tune` and `recsys compare` both use them, so that what one has trained the other does not train again:

    <runs>/trials/<digest of the configuration and its prepared data>.json
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recsys.config import FIT, MIN_COUNT, Choices, ConfigError, ExperimentConfig, Range
from recsys.planning import plan_of
from recsys.tuning.min_count import smallest_min_count
from recsys_cython_ext.files import lock_of, locked
from recsys_cython_ext.manifest import DamagedFile, Manifest, read_manifest, write_manifest
from recsys_cython_ext.progress import Progress
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.planning.plan import BudgetError

Prepare = Callable[[ExperimentConfig], Prepared]
Teach = Callable[[ExperimentConfig, Prepared], ExperimentConfig]  # of an experiment on prepared rows
Report = Callable[[dict[str, Any]], None]  # of one evaluation: epoch, rows, losses, metrics
End = Literal["finished", "stopped", "diverged", "failed"]

MISSES = 800  # draws in a row that are twins or do not fit, before the rest of the space is taken to be so


class NothingFits(ConfigError):
    """No setting of an arm fits its budget."""


@dataclass(frozen=True)
class Candidate:
    """One drawn setting of an arm, whose tables fit their budget; `digest` names its trial."""

    config: ExperimentConfig
    settings: dict[str, Any]
    prepared: Path
    digest: str


@dataclass
class Trial:
    """One setting and what came of it: every evaluation, and how it ended; None while it has not.

    finished: trained to the end, or until `training.patience` was over. stopped: by ASHA, for it fell behind.
    diverged: its loss was no number. failed: could not be trained, as `why` says, and is tried again the next time.
    """

    number: int
    digest: str
    settings: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    end: End | None = None
    why: str = ""

    @property
    def is_done(self) -> bool:
        """Tell whether it need not be run again."""
        return self.end is not None and self.end != "failed"

    @property
    def epochs(self) -> float:
        """Return how many epochs it trained."""
        return self.history[-1]["epoch"] if self.history else 0.0

    def best(self, config: ExperimentConfig) -> dict[str, Any] | None:
        """Return the validation metrics of its best evaluation; None of a trial that has none, or diverged."""
        if not self.history or self.end in ("diverged", "failed"):
            return None
        return max((metrics_of(evaluation) for evaluation in self.history), key=config.training.score)

    def score(self, config: ExperimentConfig) -> float:
        """Return the monitored metric of its best evaluation, higher is better; -inf where there is none."""
        metrics = self.best(config)
        return float("-inf") if metrics is None else config.training.score(metrics)


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validation metrics of an evaluation."""
    return {
        key.removeprefix("validation_"): value
        for key, value in evaluation.items()
        if key.startswith("validation_")
    }


def teaching(base: ExperimentConfig, runs: str | Path, progress: Progress) -> Teach:
    """Return what gives variants of an experiment their teachers' predictions: `train.with_teacher`, of one base.

    Teachers that are not there are trained below `runs`.
    """

    def teach(config: ExperimentConfig, prepared: Prepared) -> ExperimentConfig:
        if config.training.teacher is None:
            return config
        from recsys.training.loop import Watch
        from recsys.training.train import with_teacher

        return with_teacher(config, prepared, runs, Watch(progress=progress), base)

    return teach


def untaught(config: ExperimentConfig, prepared: Prepared) -> ExperimentConfig:
    """Return an experiment as it is, where none has a teacher whose runs must be trained."""
    return config


class Draws:
    """The candidates of an arm, each within its budget, whose prepared data hold the same rows."""

    def __init__(self, config: ExperimentConfig, prepare: Prepare, teach: Teach = untaught) -> None:
        self.candidates: dict[str, Candidate] = {}  # by digest
        self.smallest_excess: BudgetError | None = None
        self._config, self._prepare, self._teach = config, prepare, teach
        self._splits: dict[Path, dict[str, dict[str, int]]] = {}

    def add(self, settings: Mapping[str, Any]) -> tuple[Candidate, bool]:
        """Return the candidate of drawn settings, and whether it is new; where a minimum count is `fit`, it has the number.

        Raises BudgetError when its tables do not fit, ConfigError when other rows are left than in those before.
        """
        try:
            settings = self._computed(settings)
            changed = {**settings, "training.seed": self._config.tuning.training_seed}
            config = self._config.replace(changed, where=self._config.name)
            rows = self._prepare(config)
            prepared = rows.path
            plan_of(config, _features(prepared))
        except BudgetError as error:
            if self.smallest_excess is None or error.needed < self.smallest_excess.needed:
                self.smallest_excess = error
            raise
        self._check_rows(prepared, settings)
        config = self._teach(config, rows)
        candidate = Candidate(config, dict(settings), prepared, config.digest(prepared))
        is_new = candidate.digest not in self.candidates
        return self.candidates.setdefault(candidate.digest, candidate), is_new

    def until(self, draws: Iterable[dict[str, Any]], most: int | None) -> Iterator[Candidate]:
        """Yield new candidates, until there are `most`, or `MISSES` draws in a row have brought none."""
        missed = 0
        for settings in draws:
            if missed == MISSES or len(self.candidates) == most:
                return
            missed += 1
            try:
                candidate, is_new = self.add(settings)
            except BudgetError:
                continue
            if is_new:
                missed = 0
                yield candidate

    def _computed(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return settings with the smallest minimum count that fits in the place of `fit`.

        It is computed from what was counted for the file's own features.
        """
        if settings.get(MIN_COUNT) != FIT:
            return settings
        others = {key: value for key, value in settings.items() if key != MIN_COUNT}
        config = self._config.replace(others, where=self._config.name)
        return {**settings, MIN_COUNT: smallest_min_count(config, self._prepare(config).path)}

    def _check_rows(self, prepared: Path, settings: Mapping[str, Any]) -> None:
        """Check a prepared set once, and that all have the same rows."""
        if prepared in self._splits:
            return
        opened = Prepared.open(prepared)
        opened.verify()
        splits = opened.manifest.row_counts_by_split
        first = next(iter(self._splits.values()), splits)
        if splits != first:
            raise ConfigError(
                f"{self._config.name}: with {dict(settings)} the features leave the rows {splits}, and {first} before; "
                "trials on other rows cannot be compared, so mend the rows that cannot be read, or drop them first"
            )
        self._splits[prepared] = splits


def candidates(config: ExperimentConfig, prepare: Prepare, teach: Teach = untaught) -> list[Candidate]:
    """Draw `tuning.trials` settings, the file's own first, among those that fit the budget.

    Draws are without replacement and a function of `tuning.seed`. Raises NothingFits when none does.
    """
    draws = Draws(config, prepare, teach)
    settings = itertools.chain([{}], random_draws(config.tuning.space, config.tuning.seed))
    fitting = list(draws.until(settings, config.tuning.trials))
    if not fitting:
        raise NothingFits(f"{config.name}: none of its settings fits the budget: {draws.smallest_excess}")
    return fitting


def random_draws(space: Mapping[str, Choices], seed: int) -> Iterator[dict[str, Any]]:
    """Yield settings of a space in a random order: without replacement where all values are listed, else for ever."""
    random = np.random.default_rng(seed)
    if any(isinstance(choices, Range) for choices in space.values()):
        while True:
            yield {key: _random_value(choices, random) for key, choices in space.items()}
    grid = list(itertools.product(*space.values()))
    for position in random.permutation(len(grid)):
        yield dict(zip(space, grid[position], strict=True))


class TrialRecord(Manifest):
    """What is recorded of a trial, a function of its configuration; `end` is None while it has not ended by itself."""

    history: list[dict[str, Any]]
    end: Literal["finished", "diverged"] | None
    why: str


class TrialStore:
    """A store of the records of trials below `runs`, by digest."""

    def __init__(self, runs: str | Path) -> None:
        self.folder = Path(runs) / "trials"

    def read(self, digest: str) -> TrialRecord | None:
        """Return a record, if there is one. Raises ConfigError where it is damaged."""
        file = self._file(digest)
        try:
            return read_manifest(file, TrialRecord, {}, "delete it, and the trial is run again")
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            raise ConfigError(str(error)) from None

    def write(self, trial: Trial) -> None:
        """Write what a trial has come to, unless more is written already."""
        end = trial.end if trial.end in ("finished", "diverged") else None
        earlier = self.read(trial.digest)
        if earlier is None or earlier.end is None:
            record = TrialRecord(history=trial.history, end=end, why=trial.why if end else "")
            write_manifest(record, self._file(trial.digest))

    def locked(self, digest: str) -> Any:
        """Hold a trial against all other processes that would train it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return locked(lock_of(self._file(digest)))

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"


def run_trial(candidate: Candidate, runs: str | Path) -> Trial:
    """Train once, or read back what is recorded; a trial whose loss is no longer a number has diverged."""
    from recsys.training.distributed import give_memory_back

    store, trial = TrialStore(runs), Trial(0, candidate.digest, candidate.settings)
    with store.locked(candidate.digest):  # two arms may draw one trial
        record = store.read(candidate.digest)
        if record is not None and record.end is not None:
            trial.history, trial.end, trial.why = record.history, record.end, record.why
            return trial
        prepared = Prepared.open(candidate.prepared)
        prepared.verify()
        trial.end, trial.why = train_trial(candidate.config, prepared, trial.history.append)
        store.write(trial)
    give_memory_back()
    return trial


def train_trial(config: ExperimentConfig, prepared: Prepared | str | Path, report: Report) -> tuple[End, str]:
    """Train once, and report every evaluation; return how it ended, and why where its loss is no number.

    Raises ValueError as `fit` does.
    """
    from recsys.training.distributed import process_group
    from recsys.training.loop import NonFiniteLoss, Watch, fit
    from recsys_pipelines.batches.loader import Rows

    def evaluated(entry: dict[str, Any]) -> None:
        report({k: v for k, v in entry.items() if not k.startswith(("share_", "memory_"))})

    prepared = prepared if isinstance(prepared, Prepared) else Prepared.open(prepared)
    train, validation = (Rows.load(prepared, split) for split in ("train", "validation"))
    try:
        with process_group():
            fit(config, train, validation, watch=Watch(evaluated))
    except NonFiniteLoss as error:
        return "diverged", str(error)
    return "finished", ""


def best(config: ExperimentConfig, tried: list[Candidate], trials: list[Trial]) -> Candidate:
    """Return the candidate that did best on validation by `training.monitor`; the earlier one of equals.

    Raises ConfigError when every trial diverged.
    """
    scores = [trial.score(config) for trial in trials]
    if np.isneginf(max(scores)):
        raise ConfigError(f"{config.name}: every trial diverged: {trials[0].why}")
    return tried[int(np.argmax(scores))]


def _random_value(choices: Choices, random: np.random.Generator) -> Any:
    if not isinstance(choices, Range):
        return choices[random.integers(len(choices))]
    if choices.log:
        return math.exp(random.uniform(math.log(choices.low), math.log(choices.high)))
    return float(random.uniform(choices.low, choices.high))


@lru_cache(maxsize=64)
def _features(prepared: Path) -> Features:
    return Prepared.open(prepared).features()
