"""A study of hyper-parameters records which trials are drawn and how each ended. `on_ray` runs the trials.

A trial is a function of its settings, and recorded in the store of `trials`. The same command goes on from there, and
from what the study itself records: the order of its draws, and where ASHA stopped a trial.

<runs>/tune/<name>-<digest>/study.json
"""

import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from recsys.config import ConfigError, ExperimentConfig, Range
from recsys.tuning.trials import (
    MISSES,
    Candidate,
    Draws,
    End,
    NothingFits,
    Prepare,
    Trial,
    TrialStore,
    metrics_of,
    random_draws,
    teaching,
)
from recsys_cython_ext.files import locked, text_digest
from recsys_cython_ext.manifest import DamagedFile, Manifest, read_manifest, write_manifest
from recsys_cython_ext.progress import Progress, no_progress
from recsys_tables.planning.plan import BudgetError

How = Literal["random", "grid", "optuna"]

SEARCHED = ("features.", "tables.", "model.", "training.")
FIXED = ("training.seed", "training.monitor")
STUDY = "study.json"
PROPOSALS = 100  # settings that Optuna proposes before it is taken to have no new ones


class DrawnTrial(Manifest):
    """A trial of a study; `stopped_rows` were trained on when ASHA stopped it, None where it did not."""

    digest: str
    settings: dict[str, Any]
    stopped_rows: int | None


class StudyRecord(Manifest):
    """The trials of a study, in the order in which they were drawn."""

    trials: list[DrawnTrial]


@dataclass(frozen=True)
class TuningResult:
    """A finished tuning, with its trials, the best first."""

    config: ExperimentConfig
    how: How
    asha: bool
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """Return the best trial."""
        return self.trials[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "name": self.config.name,
            "how": self.how,
            "asha": self.asha,
            "monitor": self.config.training.monitor,
            "trials": [
                asdict(trial) | {"epochs": trial.epochs, "best": trial.best(self.config)}
                for trial in self.trials
            ],
        }


@contextmanager
def opened(
    config: ExperimentConfig,
    prepare: Prepare,
    runs: str | Path,
    how: How,
    most: int | None,
    asha: bool,
    progress: Progress = no_progress,
) -> Iterator["Study"]:
    """Open the study of a tuning under `runs`, for one process at a time; `progress` is of the teachers of its trials.

    Raises ConfigError as `Study` does.
    """
    _check(config, most)
    settings = config.model_dump(mode="json", exclude={"job", "evaluation", "tuning"})
    tuning = config.tuning.model_dump(mode="json", exclude={"trials"})
    text = json.dumps([settings, tuning, how, asha])  # what trials depend on, but for their number
    folder = Path(runs) / "tune" / f"{config.name}-{text_digest(text)}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        draws = Draws(config, prepare, teaching(config, runs, progress))
        yield Study(config, draws, folder, TrialStore(runs), how, most, asha)


class Study:
    """The trials of a tuning, drawn one after the other and written to disk, from where they are read back.

    `most`: trials, None for all of a grid. The file's own settings are the first. Settings whose tables do not fit the
    budget are not drawn, and none is drawn twice. Trials of a grid and random ones are a function of
    `tuning.seed`, and drawn, with their data prepared, before the first is run; Optuna's depend on earlier scores.

    Raises ConfigError when the space is empty, when its trials could not be compared or one is invalid, and NothingFits.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        draws: Draws,
        folder: Path,
        store: TrialStore,
        how: How,
        most: int | None,
        asha: bool,
    ) -> None:
        self.folder = folder
        self.config, self.how, self.asha = config, how, asha
        self.trials: list[Trial] = []
        self.most = most
        self._store, self._draws = store, draws
        # by digest: settings as they were drawn, before some of them were computed
        self._drawn: dict[str, dict[str, Any]] = {}
        self._optuna = _optuna(config, most) if how == "optuna" else None
        self._before = self._read()
        self._add_from(itertools.chain([{}], self._first_draws()))
        if self._optuna is None:
            self.most = len(self.trials)
        # a trial that is done is reported to the scheduler again, where it has evaluations
        self._waiting = deque(trial for trial in self.trials if trial.history or not trial.is_done)
        if not self.trials and self._optuna is None:
            raise NothingFits(
                f"{config.name}: none of its settings fits the budget: {self._draws.smallest_excess}"
            )

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """Return what is trained, by the trial's digest."""
        return self._draws.candidates

    @property
    def is_done(self) -> bool:
        """Tell whether every trial was run."""
        return len(self.trials) == self.most and all(trial.is_done for trial in self.trials)

    @property
    def has_ended(self) -> bool:
        """Tell whether every trial was run, or could not be."""
        return (
            not self._waiting
            and len(self.trials) == self.most
            and all(trial.end is not None for trial in self.trials)
        )

    def next(self) -> Trial | None:
        """Return the next trial to run, or, when it is done, to be reported again; None after the last."""
        if not self._waiting and self._optuna is not None and len(self.trials) != self.most:
            proposals = iter(self._optuna.ask, None)
            self._waiting.extend(self._add_from(itertools.islice(proposals, PROPOSALS), 1))
            if not self._waiting:
                self.most = len(self.trials)  # nothing new is left in the space
        return self._waiting.popleft() if self._waiting else None

    def note(self, trial: Trial, evaluation: dict[str, Any]) -> None:
        """Record an evaluation; one that is known, of a trial that is reported again, is not recorded twice."""
        if trial.history and evaluation["rows"] <= trial.history[-1]["rows"]:
            return
        trial.history.append(evaluation)
        self._store.write(trial)

    def close(self, trial: Trial, end: End | None, why: str = "") -> None:
        """Record how a trial ended; `end` None: as its evaluations show."""
        if trial.end is not None:
            return
        trial.end = end or ("finished" if self._is_over(trial) else "stopped")
        trial.why = why
        self._store.write(trial)
        self._write()
        self._teach(self._drawn[trial.digest], trial)

    def result(self) -> TuningResult:
        """Return all trials, the best first. Raises ConfigError when none has a metric."""
        ranked = sorted(self.trials, key=lambda trial: (-trial.score(self.config), trial.number))
        if ranked[0].best(self.config) is None:
            ends = "diverged" if all(trial.end == "diverged" for trial in ranked) else "diverged or failed"
            raise ConfigError(f"{self.config.name}: every trial {ends}: {ranked[0].why}")
        return TuningResult(self.config, self.how, self.asha, ranked)

    def _first_draws(self) -> Iterator[dict[str, Any]]:
        """Return what can be drawn before any trial is run; of Optuna, what was tried before."""
        if self.how == "random":
            return random_draws(self.config.tuning.space, self.config.tuning.seed)
        if self.how == "grid":
            return grid(self.config)
        return (drawn.settings for drawn in self._before.values())

    def _add_from(self, draws: Iterable[dict[str, Any]], at_most: int | None = None) -> list[Trial]:
        """Add the trials of `draws` that fit and are new, until there are enough, or `at_most` more."""
        added: list[Trial] = []
        missed = 0
        for settings in draws:
            if missed == MISSES or len(self.trials) == self.most or len(added) == at_most:
                break
            trial = self._added(settings)
            missed = 0 if trial else missed + 1
            added += [trial] if trial else []
        self._write()
        return added

    def _added(self, settings: dict[str, Any]) -> Trial | None:
        try:
            candidate, is_new = self._draws.add(settings)
        except BudgetError:
            if self._optuna is not None:
                self._optuna.tell(settings, None)
            return None
        if not is_new:
            twin = next(trial for trial in self.trials if trial.digest == candidate.digest)
            self._teach(settings, twin)
            return None
        self._drawn[candidate.digest] = settings
        trial = self._trial_of(candidate)
        if trial.is_done:
            self._teach(settings, trial)
        self.trials.append(trial)
        return trial

    def _trial_of(self, candidate: Candidate) -> Trial:
        """Return a new trial with what is recorded of it: to its end, or to where ASHA stopped it in this study."""
        trial = Trial(len(self.trials), candidate.digest, candidate.settings)
        record, before = self._store.read(candidate.digest), self._before.get(candidate.digest)
        if record is None:
            return trial
        if record.end is not None:
            trial.history, trial.end, trial.why = list(record.history), record.end, record.why
        elif before is not None and before.stopped_rows is not None:
            trial.history = [entry for entry in record.history if entry["rows"] <= before.stopped_rows]
            trial.end = "stopped"
        return trial

    def _teach(self, settings: dict[str, Any], trial: Trial) -> None:
        """Pass the score of drawn settings to Optuna, where it draws."""
        if self._optuna is not None:
            self._optuna.tell(settings, trial.score(self.config))

    def _is_over(self, trial: Trial) -> bool:
        """Tell whether training ended by itself: all epochs, or no better metric for as long as it had patience."""
        training = self.candidates[trial.digest].config.training
        scores = [training.score(metrics_of(entry)) for entry in trial.history]
        worse = len(scores) - 1 - scores.index(max(scores))
        return trial.epochs >= training.epochs or worse >= training.patience

    def _read(self) -> dict[str, DrawnTrial]:
        """Return what was drawn before, by digest, in its order."""
        try:
            record = read_manifest(
                self.folder / STUDY, StudyRecord, {}, "delete it, and the same command goes on"
            )
        except FileNotFoundError:
            return {}
        except DamagedFile as error:
            raise ConfigError(str(error)) from None
        return {trial.digest: trial for trial in record.trials}

    def _write(self) -> None:
        trials = [
            DrawnTrial(
                digest=trial.digest,
                settings=self._drawn[trial.digest],
                stopped_rows=trial.history[-1]["rows"] if trial.end == "stopped" and trial.history else None,
            )
            for trial in self.trials
        ]
        known = {trial.digest for trial in trials}
        later = [trial for trial in self._before.values() if trial.digest not in known]
        write_manifest(StudyRecord(trials=[*trials, *later]), self.folder / STUDY)


def grid(config: ExperimentConfig) -> Iterator[dict[str, Any]]:
    """Return all settings of a space, the last key fastest. Raises ConfigError when a range is among them."""
    space = config.tuning.space
    for key, choices in space.items():
        if isinstance(choices, Range):
            raise ConfigError(
                f"{config.name}: tuning.space.{key} is a range, and a grid needs values: list them, "
                "or tune with --how random or optuna"
            )
    values = [choices for choices in space.values() if not isinstance(choices, Range)]
    return (dict(zip(space, combination, strict=True)) for combination in itertools.product(*values))


def _check(config: ExperimentConfig, most: int | None) -> None:
    if not config.tuning.space:
        raise ConfigError(
            f"{config.name}: there is nothing to tune, for tuning.space is empty: list settings there, such as "
            "`tuning: {space: {training.table_lr: [0.02, 0.05, 0.1]}}`"
        )
    for key in config.tuning.space:
        if not key.startswith(SEARCHED) or key in FIXED:
            raise ConfigError(
                f"{config.name}: tuning.space.{key}: tuning may change features, tables, model and training (but its "
                "seed and monitor), or its trials could not be compared; take it out"
            )
    if most is not None and most < 2:
        raise ConfigError(
            f"{config.name}: one trial is no tuning: say how many with --trials or tuning.trials"
        )


def _optuna(config: ExperimentConfig, most: int | None) -> Any:
    try:
        from recsys.tuning.tpe import Optuna
    except ImportError:
        raise ConfigError("--how optuna needs Optuna: pip install 'recsys-embedding-tables[ray]'") from None
    return Optuna(config.tuning.space, config.tuning.seed, most or 1)
