"""Models of this engine in off-policy evaluation: a finished run as the target policy, a configuration as the reward model.

Both need the prediction of every action in every row's context (`contexts`). A reward model of K folds adds K trainings on
n · (K - 1) / K of n rows, which are kept with their data under `runs`, and scores n / K rows at a time.
"""

import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from recsys.config import ConfigError, ExperimentConfig
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.policies import epsilon_greedy, softmax
from recsys.evaluation.off_policy.reward import FOLDS, RewardModel, folds_of, model_of
from recsys.evaluation.off_policy.target import Target, probabilities
from recsys.policies.contexts import Contexts, predict_actions, read_contexts
from recsys.policies.log import read_table
from recsys.training.loop import Watch
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.files import digest, file_digest, is_sealed, locked, new_path, seal, text_digest
from recsys_cython_ext.progress import Progress, no_progress, prefixed
from recsys_pipelines.preparation.prepare import prepare


def policy_of(
    run: Run,
    path: Path | str,
    log: Log,
    *,
    greedy: float | None = None,
    temperature: float | None = None,
    progress: Progress = no_progress,
) -> Target:
    """Return the policy that shows the actions of `log` by the predictions of a run: ε-greedy or softmax, one of the two.

    Args:
        run: The finished run.
        path: The file that `log` was read from.
        log: The log.
        greedy: ε of the ε-greedy policy.
        temperature: Temperature of the softmax policy.
        progress: Progress of the scoring.

    Raises:
        ValueError: Both rules are there or none, or rows are of the run's own file and it was not tested on them (it has
            seen their clicks, and would be judged by its memory), or of a file in its folder. A copy under another name
            is not noticed.
    """
    path = Path(path)
    if (greedy is None) == (temperature is None):
        raise ValueError(
            f"{run.path}: a run gives scores, and a policy needs probabilities: say how with --greedy EPSILON or "
            "--softmax TEMPERATURE, one of the two"
        )
    if trained_on(run, path):
        trained = ~np.isin(log.numbers, held_out_rows(run))
        if trained.any():
            raise ValueError(
                f"{log.place(int(trained.argmax()))}: {run.path} was trained on {path.name} and has seen "
                f"{int(trained.sum()):,} of these {log.rows:,} rows with their {log.columns['reward']}, so that it would "
                "be judged by its memory: use its test rows (--test-rows), or another log"
            )
    if greedy is not None:
        rule, name = partial(epsilon_greedy, epsilon=greedy), f"{greedy:g}-greedy"
    else:
        assert temperature is not None
        rule, name = partial(softmax, temperature=temperature), f"softmax at {temperature:g}"
    rule(np.full((1, 2), 0.5))  # a bad number is refused before rows are scored
    scores = predict_actions(run, read_contexts(run.config, path, log), np.arange(log.rows), progress)
    return probabilities(log, None, rule(scores), name=f"{run.config.name}, {name}")


def trained_on(run: Run, path: Path | str) -> bool:
    """Return whether a run's data are this very file.

    Raises:
        ValueError: They are a folder that the file is in; a run numbers the rows of all its files together.
    """
    path = Path(path)
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
    """Return the numbers of the rows in its file that a run was tested on."""
    return run.predictions()["row_id"].to_numpy()


def cross_fitted(
    config: ExperimentConfig,
    path: Path | str,
    log: Log,
    target: Target,
    runs: Path | str,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> RewardModel:
    """Train `config` without each fold in turn and predict that fold (cross-fitting: Chernozhukov et al. 2018, section 3).

    Rows of a user share a fold. `data.split` of the configuration cuts the other folds into training, validation and
    test as it does in `recsys train`; `tuning` is not used. What is finished is kept below
    `runs`/reward-<name>-<digest>, so that the same call again goes on where it was; delete that folder to be rid of it.

    Args:
        config: The experiment of the model.
        path: The file that `log` was read from.
        log: The log.
        target: The policy to be judged.
        runs: Folder of what is finished.
        folds: How many folds there are.
        seed: Seed of the folds.
        progress: Progress of the trainings.

    Raises:
        ValueError: Rewards are other than 0 and 1.
        ConfigError: The configuration has another label than the reward, or as of `read_contexts`.
    """
    path, runs = Path(path), Path(runs)
    _check_rewards(config, log)
    contexts = read_contexts(config, path, log)
    fold = folds_of(log, folds, seed)
    folder = runs / f"reward-{config.name}-{_digest(config, path, contexts, fold)}"
    predictions = np.empty((log.rows, len(log.action_names)))
    count = int(fold.max()) + 1
    for k in range(count):
        rows = np.flatnonzero(fold == k)
        show = prefixed(f"fold {k + 1} of {count}", progress)
        file = folder / f"fold-{k}" / "predictions.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent / ".lock"):
            if not is_sealed(file):
                run = _train_without(config, path, contexts, fold == k, file.parent, show)
                with new_path(file) as partial:
                    np.save(partial, predict_actions(run, contexts, rows, show))
                seal(file)
        predictions[rows] = np.load(file)
    description = f"{config.name} ({config.model.name}), {count}-fold out of fold"
    if contexts.attributes:
        description += f"; {', '.join(contexts.attributes)} changed with the action"
    return model_of(log, target, predictions, description)


def _train_without(
    config: ExperimentConfig,
    path: Path,
    contexts: Contexts,
    fold: np.ndarray,
    folder: Path,
    progress: Progress,
) -> Run:
    """Train a run on the rows outside of a fold, bool [n]."""
    file = folder / ("others.csv" if contexts.text else "others.parquet")
    for other in contexts.beside:
        if not (folder / other.name).exists():
            with new_path(folder / other.name) as partial:
                shutil.copy2(other, partial)
    if not file.exists():  # written once: its time is part of what a preparation depends on
        _save(read_table(path)[contexts.log.numbers[~fold]], file)
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": file})})
    prepared = prepare(config.data, config.features, folder / "prepared", progress)
    return train(config, prepared, folder / "runs", Watch(progress=progress))


def _save(frame: pl.DataFrame, file: Path) -> None:
    with new_path(file) as partial:
        if file.suffix == ".csv":
            frame.write_csv(partial)
        else:
            frame.write_parquet(partial)


def _check_rewards(config: ExperimentConfig, log: Log) -> None:
    """Refuse a configuration that predicts another label than the reward, and rewards other than 0 and 1."""
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
    """Return the digest of what the predictions depend on: settings, files, rows and their folds."""
    settings: Mapping[str, object] = config.model_dump(mode="json", exclude={"name", "evaluation", "tuning"})
    settings = {**settings, "data": config.data.model_dump(mode="json", exclude={"path"})}
    files = [file_digest(file) for file in (path, *contexts.beside)]
    rows = digest(contexts.log.numbers.tobytes() + fold.tobytes())
    return text_digest(json.dumps([settings, files, contexts.frame.columns, contexts.actions.columns, rows]))
