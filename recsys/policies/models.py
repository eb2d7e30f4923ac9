"""Models of this engine in off-policy evaluation: a finished run as the target policy, a configuration as the reward model.

Both need the prediction of every action in every row's context: a row is written once for each action, with that action
in place of the logged one, and scored as `recsys predict` scores a file. Columns that go with the action (one value for
each action in the whole log, such as a category) are replaced with it.

Cost, for n rows, A actions and K folds: n · A scorings, 8 · n · A bytes in memory a few times over, and a temporary file
of n · A rows (n · A / K at a time for a reward model). A reward model adds K trainings on n · (K - 1) / K rows, which are
kept with their data under `runs`.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from recsys.config import ConfigError, ExperimentConfig
from recsys.evaluation.off_policy.data import Log, Target, probabilities
from recsys.evaluation.off_policy.policies import epsilon_greedy, softmax
from recsys.evaluation.off_policy.reward import FOLDS, RewardModel, folds_of, model_of
from recsys.policies.log import is_text, read_table
from recsys.serving.scoring import score_file
from recsys.training.loop import Watch
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.files import digest, file_digest, is_sealed, locked, new_path, seal, text_digest
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.features import sequences_of
from recsys_pipelines.features.convert import columns_of
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.steps import column_specs
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import BESIDE


@dataclass(frozen=True)
class Contexts:
    """The columns of a log that a model reads, and what of them changes with the action.

    `frame`: n lines, one per row of the log. `actions`: one line per action, in the order of `Log.action_names`. `beside`:
    files that the model's source reads beside the log.
    """

    frame: pl.DataFrame
    actions: pl.DataFrame
    log: Log
    beside: tuple[Path, ...]
    text: bool

    @property
    def attributes(self) -> list[str]:
        """Columns that go with the action."""
        return self.actions.columns[1:]


def read_contexts(config: ExperimentConfig, path: Path, log: Log) -> Contexts:
    """Read what the features of `config` need from the file that `log` was read from.

    Errors (ConfigError): a model that does not see the action, sees its propensity or its reward, or a user's history.
    """
    if sequences_of(config.features):
        raise ConfigError(
            f"{config.name}: feature {sequences_of(config.features)[0].name!r} is a user's earlier events, which the rows "
            "of a log of actions do not bring: leave it out"
        )
    action = log.columns["action"]
    read = set(columns_of(column_specs(config.data, config.features, labelled=False)))
    if action not in read:
        raise ConfigError(
            f"{config.name}: no feature reads {action!r}, so every action would be predicted the same: add it to features"
        )
    for role, why in (("propensity", "of the logged action alone"), ("reward", "what is to be predicted")):
        if log.columns[role] in read - {action}:
            raise ConfigError(
                f"{config.name}: a feature reads {log.columns[role]!r}, the {role}, which is {why}: leave it out"
            )
    frame = read_table(path)[log.numbers]
    fixed = {action, log.columns["position"], log.columns["user"]}
    kept = [name for name in frame.columns if name in read | fixed]
    attributes = [name for name in kept if name not in fixed and _goes_with(frame, action, name)]
    first = np.unique(log.actions, return_index=True)[1]
    beside = tuple(path.parent / name for name in BESIDE.get(config.data.source, ()))
    return Contexts(
        frame.select(kept),
        frame[first].select(action, *attributes),
        log,
        tuple(file for file in beside if file.exists()),
        is_text(path),
    )


def predict_actions(
    run: Run, contexts: Contexts, rows: np.ndarray, progress: Progress = no_progress
) -> np.ndarray:
    """Click probability of every action in the context of each of `rows`: float64 [len(rows), A].

    Errors (ValueError): a row that the run cannot read; text where training had integers, or the reverse.
    """
    wanted, found = len(rows) * len(contexts.actions), 0
    out = np.full(wanted, np.nan)
    quarantine = Quarantine()
    with tempfile.TemporaryDirectory() as folder:
        file = _write_every_action(contexts, rows, Path(folder))
        for scored, predictions in score_file(run, file, labelled=False, quarantine=quarantine):
            out[scored.row_id] = predictions
            found += len(scored)
            progress("score actions", found, wanted)
    if quarantine.count:
        bad = quarantine.examples[0]
        place = contexts.log.place(int(rows[bad.row % len(rows)]))
        raise ValueError(f"{place}: {bad.field} is {bad.value}: {bad.reason}; {run.path} cannot score it")
    return out.reshape(len(contexts.actions), len(rows)).T


def policy_of(
    run: Run,
    path: Path,
    log: Log,
    *,
    greedy: float | None = None,
    temperature: float | None = None,
    progress: Progress = no_progress,
) -> Target:
    """The policy that shows the actions of `log` by the predictions of a run: ε-greedy or softmax, one of the two.

    Errors (ValueError): both rules or none; rows of the run's own file that it was not tested on (it has seen their
    clicks, and would be judged by its memory), or of a file in its folder. A copy under another name is not noticed.
    """
    if (greedy is None) == (temperature is None):
        raise ValueError(
            f"{run.path}: a run gives scores, and a policy needs probabilities: say how with --greedy EPSILON or "
            "--softmax TEMPERATURE, one of the two"
        )
    if trained_on(run, path):
        seen = ~np.isin(log.numbers, held_out_rows(run))
        if seen.any():
            raise ValueError(
                f"{log.place(int(seen.argmax()))}: {run.path} was trained on {path.name} and has seen "
                f"{int(seen.sum()):,} of these {log.rows:,} rows with their {log.columns['reward']}, so that it would be "
                "judged by its memory: use its test rows (--test-rows), or another log"
            )
    if greedy is not None:
        rule, name = partial(epsilon_greedy, epsilon=greedy), f"{greedy:g}-greedy"
    else:
        assert temperature is not None
        rule, name = partial(softmax, temperature=temperature), f"softmax at {temperature:g}"
    rule(np.full((1, 2), 0.5))  # a bad number is refused before rows are scored
    scores = predict_actions(run, read_contexts(run.config, path, log), np.arange(log.rows), progress)
    return probabilities(log, None, rule(scores), name=f"{run.config.name}, {name}")


def trained_on(run: Run, path: Path) -> bool:
    """Whether a run's data are this very file.

    Errors (ValueError): they are a folder that the file is in; a run numbers the rows of all its files together.
    """
    data = run.config.data.path
    if not isinstance(data, Path):
        return False
    if data.resolve() == path.resolve().parent:
        raise ValueError(
            f"{path}: {run.path} was trained on the folder it is in, {data}, and which of these rows it has seen cannot be "
            "told: use a log of another folder, or train on this file alone and use its test rows (--test-rows)"
        )
    return data.resolve() == path.resolve()


def held_out_rows(run: Run) -> np.ndarray:
    """Numbers of the rows in its file that a run was tested on."""
    return run.predictions()["row_id"].to_numpy()


def cross_fitted(
    config: ExperimentConfig,
    path: Path,
    log: Log,
    target: Target,
    runs: Path,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> RewardModel:
    """Train `config` without each fold in turn and predict that fold (cross-fitting: Chernozhukov et al. 2018, section 3).

    Rows of a user share a fold. `data.split` of the configuration cuts the other folds into training, validation and
    test as it does in `recsys train`; `tuning` is not used. What is finished is kept below
    `runs`/reward-<name>-<digest>, so that the same call again goes on where it was; delete that folder to be rid of it.

    Errors (ValueError): rewards other than 0 and 1, or another label; ConfigError as in `read_contexts`.
    """
    _check_rewards(config, log)
    contexts = read_contexts(config, path, log)
    fold = folds_of(log, folds, seed)
    folder = runs / f"reward-{config.name}-{_digest(config, path, contexts, fold)}"
    predictions = np.empty((log.rows, len(log.action_names)))
    count = int(fold.max()) + 1
    for k in range(count):
        rows = np.flatnonzero(fold == k)

        show = _prefixed(f"fold {k + 1} of {count}", progress)
        file = folder / f"fold-{k}" / "predictions.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent / ".lock"):
            if not is_sealed(file):
                run = _train_without(config, path, contexts, fold == k, file.parent, show)
                found = predict_actions(run, contexts, rows, show)
                with new_path(file) as partial:
                    np.save(partial, found)
                seal(file)
        predictions[rows] = np.load(file)
    told = f"{config.name} ({config.model.name}), {count}-fold out of fold"
    if contexts.attributes:
        told += f"; {', '.join(contexts.attributes)} changed with the action"
    return model_of(log, target, predictions, told)


def _train_without(
    config: ExperimentConfig,
    path: Path,
    contexts: Contexts,
    held: np.ndarray,
    folder: Path,
    progress: Progress,
) -> Run:
    file = folder / ("others.csv" if contexts.text else "others.parquet")
    for other in contexts.beside:
        if not (folder / other.name).exists():
            with new_path(folder / other.name) as partial:
                shutil.copy2(other, partial)
    if not file.exists():  # written once: its time is part of what a preparation depends on
        frame = read_table(path)[contexts.log.numbers[~held]]
        _save(frame, file)
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": file})})
    prepared = prepare(
        config.data,
        config.features,
        folder / "prepared",
        progress,
    )
    return train(config, prepared, folder / "runs", Watch(progress=progress))


def _prefixed(prefix: str, progress: Progress) -> Progress:
    """Return progress whose stages begin with a prefix."""

    def report(stage: str, finished: int, of: int | None, detail: str = "", /) -> None:
        progress(f"{prefix}: {stage}", finished, of, detail)

    return report


def _write_every_action(contexts: Contexts, rows: np.ndarray, folder: Path) -> Path:
    """The rows with the first action, then with the second, and so on."""
    for other in contexts.beside:
        shutil.copy2(other, folder / other.name)
    chosen = contexts.frame[rows]
    parts = (
        chosen.with_columns(contexts.actions[np.full(len(rows), number)].get_columns())
        for number in range(len(contexts.actions))
    )
    if contexts.text:
        file = folder / "actions.csv"
        with file.open("wb") as out:
            for number, part in enumerate(parts):
                part.write_csv(out, include_header=number == 0)
        return file
    file = folder / "actions.parquet"
    writer: pq.ParquetWriter | None = None
    for part in parts:
        table = part.to_arrow()
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return file


def _save(frame: pl.DataFrame, file: Path) -> None:
    with new_path(file) as partial:
        if file.suffix == ".csv":
            frame.write_csv(partial)
        else:
            frame.write_parquet(partial)


def _goes_with(frame: pl.DataFrame, action: str, name: str) -> bool:
    """Whether a column has one value for each action, and not the same for all."""
    pairs = frame.select(action, name).unique()
    return len(pairs) == frame[action].n_unique() and frame[name].n_unique() > 1


def _check_rewards(config: ExperimentConfig, log: Log) -> None:
    label = config.data.label
    if label.column != log.columns["reward"] or label.threshold is not None:
        raise ConfigError(
            f"{config.name}: data.label is {label.column!r}"
            + ("" if label.threshold is None else f" from {label.threshold:g} on")
            + f", and the reward is {log.columns['reward']!r}: a reward model predicts the reward, give it that label"
        )
    other = (log.rewards != 0) & (log.rewards != 1)
    if other.any():
        i = int(other.argmax())
        raise ValueError(
            f"{log.place(i)}: {log.columns['reward']} is {log.rewards[i]:g}: models of this engine predict clicks, 0 or 1; "
            "leave --reward-model out"
        )


def _digest(config: ExperimentConfig, path: Path, contexts: Contexts, fold: np.ndarray) -> str:
    """What the predictions depend on: settings, files, rows and their folds."""
    settings: Mapping[str, object] = config.model_dump(mode="json", exclude={"name", "evaluation", "tuning"})
    settings = {**settings, "data": config.data.model_dump(mode="json", exclude={"path"})}
    files = [file_digest(file) for file in (path, *contexts.beside)]
    rows = digest(contexts.log.numbers.tobytes() + fold.tobytes())
    return text_digest(json.dumps([settings, files, contexts.frame.columns, contexts.actions.columns, rows]))
