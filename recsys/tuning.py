"""A search over settings: what is tried, what each trial told, and what came out. `tuning_ray` runs the trials.

A trial is a function of its settings, so all that is kept of it is what it told. The same command goes on from there:

<runs>/tune/<name>-<digest>/<trial's digest>.json
"""

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from recsys.config import ConfigError, ExperimentConfig
from recsys.search import DRAWS, Candidate, NothingFits, Prepare, candidate, random_draws
from recsys.search_config import Range
from recsys_pipelines.prepare import Prepared
from recsys_pipelines.shards import locked, write_json
from recsys_tables.plan import BudgetError

How = Literal["random", "grid", "optuna"]
End = Literal["finished", "stopped", "diverged", "failed"]
Told = Callable[[dict[str, Any]], None]  # one evaluation: epoch, rows, losses, metrics

SEARCHED = ("features.", "tables.", "model.", "training.")
FIXED = ("training.seed", "training.monitor")


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
        """Whether it need not be run again."""
        return self.end is not None and self.end != "failed"

    @property
    def epochs(self) -> float:
        """How long it trained."""
        return self.history[-1]["epoch"] if self.history else 0.0

    def best(self, config: ExperimentConfig) -> dict[str, Any] | None:
        """Validation metrics of its best evaluation; None of a trial that has none, or diverged."""
        if not self.history or self.end in ("diverged", "failed"):
            return None
        return max((metrics_of(told) for told in self.history), key=config.training.score)

    def score(self, config: ExperimentConfig) -> float:
        """The monitored metric of its best evaluation, higher is better; -inf where there is none."""
        metrics = self.best(config)
        return float("-inf") if metrics is None else config.training.score(metrics)


def metrics_of(told: dict[str, Any]) -> dict[str, Any]:
    """Validation metrics of an evaluation."""
    return {
        key.removeprefix("validation_"): value for key, value in told.items() if key.startswith("validation_")
    }


@dataclass(frozen=True)
class Search:
    """A finished search: its trials, the best first."""

    config: ExperimentConfig
    how: How
    asha: bool
    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """The best trial."""
        return self.trials[0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
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
    config: ExperimentConfig, prepare: Prepare, runs: Path, how: How, most: int | None, asha: bool
) -> Iterator["Study"]:
    """The study of a search under `runs`, for one process at a time. Raises ConfigError as `Study` does."""
    _check(config, most)
    own = config.model_dump(mode="json", exclude={"job", "evaluation", "search"})
    search = config.search.model_dump(mode="json", exclude={"trials"})
    text = json.dumps([own, search, how, asha])  # what trials depend on, but for their number
    folder = runs / "tune" / f"{config.name}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        yield Study(config, prepare, folder, how, most, asha)


class Study:
    """The trials of a search, drawn one after the other and kept on disk; what was kept is read back.

    `most`: trials, None for all of a grid. The file's own settings are the first. Settings whose tables do not fit the
    budget are not drawn, and none is drawn twice. Trials of a grid and random ones are a function of
    `search.seed`, and drawn, with their data prepared, before the first is run; Optuna's depend on what was found.

    Raises ConfigError when the space is empty, when its trials could not be compared or one is invalid, and NothingFits.
    """

    def __init__(
        self, config: ExperimentConfig, prepare: Prepare, folder: Path, how: How, most: int | None, asha: bool
    ) -> None:
        self.folder = folder
        self.config, self.how, self.asha = config, how, asha
        self.trials: list[Trial] = []
        self.candidates: dict[str, Candidate] = {}  # by the trial's digest
        self.most = most
        self._prepare = prepare
        self._verified: dict[Path, dict[str, Any]] = {}  # splits of prepared sets
        self._over: BudgetError | None = None
        self._optuna = None
        if how == "optuna":
            try:
                from recsys.tuning_optuna import Optuna
            except ImportError:
                raise ConfigError(
                    "--how optuna needs Optuna: pip install 'recsys-embedding-tables[ray]'"
                ) from None

            self._optuna = Optuna(config.search.space, config.search.seed, most or 1)
        self._kept = self._read()
        self._add_from(itertools.chain([{}], self._first_draws()))
        if self._optuna is None:
            self.most = len(self.trials)
        # what is done is told to the scheduler again, where it told anything
        self._waiting = deque(trial for trial in self.trials if trial.history or not trial.is_done)
        if not self.trials and self._optuna is None:
            raise NothingFits(f"{config.name}: none of its settings fits the budget: {self._over}")

    @property
    def is_done(self) -> bool:
        """Whether every trial was run."""
        return len(self.trials) == self.most and all(trial.is_done for trial in self.trials)

    @property
    def has_ended(self) -> bool:
        """Whether every trial was run, or could not be."""
        return (
            not self._waiting
            and len(self.trials) == self.most
            and all(trial.end is not None for trial in self.trials)
        )

    def next(self) -> Trial | None:
        """The next trial to run, or, when it is done already, to be told of again; None after the last."""
        if not self._waiting and self._optuna is not None and len(self.trials) != self.most:
            asked = iter(self._optuna.ask, None)
            self._waiting.extend(self._add_from(itertools.islice(asked, DRAWS), 1))
            if not self._waiting:
                self.most = len(self.trials)  # nothing new is left in the space
        return self._waiting.popleft() if self._waiting else None

    def note(self, trial: Trial, told: dict[str, Any]) -> None:
        """Keep an evaluation; one that is known, of a trial that is told again, is not kept twice."""
        if trial.history and told["rows"] <= trial.history[-1]["rows"]:
            return
        trial.history.append(told)
        self._write(trial)

    def close(self, trial: Trial, end: End | None, why: str = "") -> None:
        """Keep how a trial ended; `end` None: as its evaluations show."""
        if trial.end is not None:
            return
        trial.end = end or ("finished" if self._is_over(trial) else "stopped")
        trial.why = why
        self._write(trial)
        self._tell(trial)

    def result(self) -> Search:
        """All trials, the best first. Raises ConfigError when none has a metric."""
        found = sorted(self.trials, key=lambda trial: (-trial.score(self.config), trial.number))
        if found[0].best(self.config) is None:
            what = "diverged" if all(trial.end == "diverged" for trial in found) else "diverged or failed"
            raise ConfigError(f"{self.config.name}: every trial {what}: {found[0].why}")
        return Search(self.config, self.how, self.asha, found)

    def _first_draws(self) -> Iterator[dict[str, Any]]:
        """What can be drawn before any trial is run; of Optuna, what was tried before."""
        if self.how == "random":
            return random_draws(self.config.search.space, self.config.search.seed)
        if self.how == "grid":
            return grid(self.config)
        return (trial.settings for trial in sorted(self._kept.values(), key=lambda trial: trial.number))

    def _add_from(self, draws: Iterator[dict[str, Any]], at_most: int | None = None) -> list[Trial]:
        """Add the trials of `draws` that fit and are new, until there are enough, or `at_most` more."""
        added: list[Trial] = []
        missed = 0
        while len(self.trials) != self.most and len(added) != at_most and missed < DRAWS:
            if (settings := next(draws, None)) is None:
                break
            trial = self._added(settings)
            missed = 0 if trial else missed + 1
            added += [trial] if trial else []
        return added

    def _added(self, settings: dict[str, Any]) -> Trial | None:
        try:
            found = candidate(self.config, settings, self._prepare)
        except BudgetError as error:
            if self._over is None or error.needed < self._over.needed:
                self._over = error
            if self._optuna is not None:
                self._optuna.tell(settings, None)
            return None
        self._verify(found)
        digest = found.config.digest(found.prepared)
        if digest in self.candidates:
            twin = next(trial for trial in self.trials if trial.digest == digest)
            self._tell(Trial(-1, digest, settings, twin.history, twin.end))
            return None
        kept = self._kept.get(digest)
        trial = Trial(len(self.trials), digest, settings)
        if kept is not None and kept.is_done:
            trial.history, trial.end, trial.why = kept.history, kept.end, kept.why
            self._tell(trial)
        self.candidates[digest] = found
        self.trials.append(trial)
        return trial

    def _tell(self, trial: Trial) -> None:
        if self._optuna is not None:
            self._optuna.tell(trial.settings, trial.score(self.config))

    def _verify(self, found: Candidate) -> None:
        """Check a prepared set once, and that all have the same rows."""
        if found.prepared in self._verified:
            return
        prepared = Prepared.open(found.prepared)
        prepared.verify()
        splits = prepared.manifest["splits"]
        first = next(iter(self._verified.values()), splits)
        if splits != first:
            raise ConfigError(
                f"{self.config.name}: with {found.settings} the features leave the rows {splits}, and {first} before; "
                "trials on other rows cannot be compared, so mend the rows that cannot be read, or drop them first"
            )
        self._verified[found.prepared] = splits

    def _is_over(self, trial: Trial) -> bool:
        """Whether training ended by itself: all epochs, or no better metric for as long as it had patience."""
        training = self.candidates[trial.digest].config.training
        scores = [training.score(metrics_of(told)) for told in trial.history]
        worse = len(scores) - 1 - scores.index(max(scores))
        return trial.epochs >= training.epochs or worse >= training.patience

    def _read(self) -> dict[str, Trial]:
        found = {}
        for file in self.folder.glob("*.json"):
            try:
                trial = Trial(**json.loads(file.read_text()))
            except (ValueError, TypeError) as error:
                raise ConfigError(
                    f"{file}: damaged ({error}); delete it, and the trial is run again"
                ) from None
            found[trial.digest] = trial
        return found

    def _write(self, trial: Trial) -> None:
        write_json(asdict(trial), self.folder / f"{trial.digest}.json")


def grid(config: ExperimentConfig) -> Iterator[dict[str, Any]]:
    """All settings of a space, the last key fastest. Raises ConfigError when a range is among them."""
    space = config.search.space
    for key, choices in space.items():
        if isinstance(choices, Range):
            raise ConfigError(
                f"{config.name}: search.space.{key} is a range, and a grid needs values: list them, "
                "or search with --how random or optuna"
            )
    values = [choices for choices in space.values() if not isinstance(choices, Range)]
    return (dict(zip(space, found, strict=True)) for found in itertools.product(*values))


def _check(config: ExperimentConfig, most: int | None) -> None:
    if not config.search.space:
        raise ConfigError(
            f"{config.name}: there is nothing to search, for search.space is empty: list settings there, such as "
            "`search: {space: {training.table_lr: [0.02, 0.05, 0.1]}}`"
        )
    for key in config.search.space:
        if not key.startswith(SEARCHED) or key in FIXED:
            raise ConfigError(
                f"{config.name}: search.space.{key}: a search may change features, tables, model and training (but its "
                "seed and monitor), or its trials could not be compared; take it out"
            )
    if most is not None and most < 2:
        raise ConfigError(
            f"{config.name}: one trial is no search: say how many with --trials or search.trials"
        )


def train_trial(config: ExperimentConfig, prepared: Path, told: Told) -> None:
    """Train once, and tell every evaluation. Raises NonFiniteLoss, and ValueError as `fit` does."""
    from recsys.training.distributed import process_group
    from recsys.training.loop import Watch, fit
    from recsys_pipelines.batches import Rows

    def report(entry: dict[str, Any]) -> None:
        told({k: v for k, v in entry.items() if not k.startswith(("share_", "memory_"))})

    train, validation = (Rows.load(prepared, part) for part in ("train", "validation"))
    with process_group():
        fit(config, train, validation, watch=Watch(report))
