"""A comparison from end to end: prepare, try settings, train seeds, pair predictions, judge.

Everything finished is kept under `runs` by its digest, so an interrupted comparison goes on where it was.
"""

import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recsys.comparison.budgets import arm_name, baseline_of, baselines_by_budget
from recsys.comparison.judge import Judgement, Options, judge
from recsys.comparison.predictions import Predictions
from recsys.config import ConfigError, ExperimentConfig
from recsys.evaluation.arms.compare import Comparison
from recsys.training.labels import check_measured, check_training
from recsys.training.run import Run
from recsys.training.train import train
from recsys.tuning.trials import Candidate, NothingFits, Trial, best, candidates, run_trial
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared


@dataclass(frozen=True)
class Arm:
    """One arm: its chosen settings, how many were tried, and its finished runs, one a seed."""

    name: str
    budget: str | None
    config: ExperimentConfig
    settings: dict[str, Any]
    trials: list[dict[str, Any]]  # settings and validation metrics of each
    runs: list[Run]

    @property
    def bytes(self) -> dict[str, int]:
        """Resident bytes by kind; the same for every seed."""
        return self.runs[0].metrics["bytes"]


@dataclass(frozen=True)
class Result:
    """All arms, what is said of them against the baseline, and a comparison within each budget, whose baseline is the same
    arm at that budget, where it fits.
    """

    arms: list[Arm]
    judged: Judgement
    by_budget: dict[str, Comparison]
    left_out: dict[str, str]  # arms that do not fit their budget, and why
    baseline_arm: str  # that was asked for, whatever the budget; the first unless named

    @property
    def overall(self) -> Comparison:
        """The comparison of all arms."""
        return self.judged.comparison

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return {
            "arms": [
                {
                    "name": arm.name,
                    "budget": arm.budget,
                    "bytes": arm.bytes,
                    "settings": arm.settings,
                    "trials": arm.trials,
                    "runs": [str(run.path) for run in arm.runs],
                    "test": [run.metrics["test"] for run in arm.runs],
                    "best_possible": arm.runs[0].metrics["best_possible"],
                    "fields": arm.runs[0].metrics["fields"],
                }
                for arm in self.arms
            ],
            **self.judged.to_dict(),
            "baseline_arm": self.baseline_arm,
            "left_out": self.left_out,
            "by_budget": {budget: item.to_dict() for budget, item in self.by_budget.items()},
        }


def run_comparison(
    configs: Sequence[ExperimentConfig],
    seeds: int,
    runs: Path,
    prepared: Path,
    jobs: int | None = None,
    progress: Progress = no_progress,
    prepare_progress: Progress = no_progress,
    effect: float | None = None,
    slices: Sequence[str] = (),
    baseline: str | None = None,
) -> Result:
    """Train what is missing and compare all arms on the same test rows; `effect` and `slices` as in `judge.Options`.

    An arm none of whose settings fits its budget is left out and named in the result. `baseline` as in `baseline_of`.
    Raises ConfigError when arms share a name or differ in their data, when fewer than two are left, and as `baseline_of`.
    """
    if len(configs) < 2:
        raise ConfigError("a comparison needs at least two arms")
    _check_arms(configs)
    named = baseline_of(configs, baseline, {})
    (baseline_arm,) = (arm_name(c.name, c.tables.budget) for c in configs if c.name == named)

    def prepared_for(config: ExperimentConfig) -> Prepared:
        return prepare(config.data, config.features, prepared, prepare_progress)

    drawn: list[tuple[ExperimentConfig, list[Candidate]]] = []
    left_out: dict[str, str] = {}
    for number, config in enumerate(configs, start=1):
        try:
            drawn.append((config, candidates(config, prepared_for)))
        except NothingFits as error:
            left_out[config.name] = str(error)
        progress("draw settings", number, len(configs))
    _check_rows(drawn)
    _check_classes(drawn)
    if len(drawn) < 2:
        fit = "".join(f"only {config.name} fits its budget; " for config, _ in drawn)
        raise ConfigError(f"too few arms are left to compare: {fit}{'; '.join(left_out.values())}")
    overall = baseline_of(configs, baseline, left_out)
    threads = max(config.training.num_threads for config in configs)
    workers = jobs or max(1, (os.cpu_count() or 1) // threads)
    # spawned, not forked: a forked torch or Arrow thread pool can hang
    context = multiprocessing.get_context("spawn")
    _silence_tracker()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        arms = _train_arms(_choose(drawn, pool, runs, progress), seeds, pool, runs, progress)
    evaluation = configs[0].evaluation
    options = Options(
        baseline=overall,
        replicates=evaluation.replicates,
        level=evaluation.level,
        effect=effect,
        slices=tuple(slices),
    )
    judged, by_budget = _judged(arms, options, progress)
    return Result(arms, judged, by_budget, left_out, baseline_arm)


def _judged(
    arms: Sequence[Arm], options: Options, progress: Progress
) -> tuple[Judgement, dict[str, Comparison]]:
    """Judge all arms against the baseline, and those of each budget against its arm there."""
    assert options.baseline is not None
    baselines = baselines_by_budget({arm.name: arm.budget for arm in arms}, options.baseline)
    progress("bootstrap", 0, 1 + len(baselines))
    judged = judge(_predictions(arms), options)
    by_budget = {}
    for number, (budget, name) in enumerate(baselines.items(), start=1):
        progress("bootstrap", number, 1 + len(baselines))
        group = [arm for arm in arms if arm.budget == budget]
        within = replace(options, baseline=name, slices=())
        by_budget[budget] = judge(_predictions(group), within).comparison
    progress("bootstrap", 1 + len(baselines), 1 + len(baselines))
    return judged, by_budget


@dataclass(frozen=True)
class _Chosen:
    """An arm with its best candidate."""

    config: ExperimentConfig
    candidate: Candidate
    trials: list[dict[str, Any]]


def _choose(
    drawn: Sequence[tuple[ExperimentConfig, list[Candidate]]], pool: Executor, runs: Path, progress: Progress
) -> list[_Chosen]:
    """Run every arm's validation trials and take its best; an arm of one trial needs none."""
    tried = [(config, found if config.tuning.trials > 1 else []) for config, found in drawn]
    futures = [pool.submit(run_trial, c, runs) for _, found in tried for c in found]
    finished = iter(_collect("validation trials", futures, progress))
    chosen = []
    for (config, found), (_, options) in zip(tried, drawn, strict=True):
        trials = [next(finished) for _ in found]
        candidate = best(config, found, trials) if found else options[0]
        chosen.append(_Chosen(config, candidate, [_plain(trial, config) for trial in trials]))
    return chosen


def _plain(trial: Trial, config: ExperimentConfig) -> dict[str, Any]:
    """Settings and validation metrics of a trial, or why it diverged."""
    return {"settings": trial.settings, **(trial.best(config) or {"diverged": trial.why})}


def _train_arms(
    chosen: Sequence[_Chosen], seeds: int, pool: Executor, runs: Path, progress: Progress
) -> list[Arm]:
    futures = [
        pool.submit(
            train_in_worker,
            arm.candidate.config.replace({"training.seed": seed}),
            arm.candidate.prepared,
            runs,
        )
        for arm in chosen
        for seed in range(seeds)
    ]
    folders = iter(_collect("training runs", futures, progress))
    return [
        Arm(
            name=arm.config.name,
            budget=arm.config.tables.budget,
            config=arm.candidate.config,
            settings=arm.candidate.settings,
            trials=arm.trials,
            runs=[Run.open(next(folders)) for _ in range(seeds)],
        )
        for arm in chosen
    ]


def _predictions(arms: Sequence[Arm]) -> dict[str, list[Predictions]]:
    return {arm.name: [Predictions.of(run) for run in arm.runs] for arm in arms}


def train_in_worker(config: ExperimentConfig, prepared: Path, runs: Path) -> Path:
    """Train one run; the folder is all that goes back to the parent."""
    return train(config, Prepared.open(prepared), runs).path


def _silence_tracker() -> None:
    """Let the process that clears up after a killed pool do so without a warning; it has this process's options."""
    option = "ignore:resource_tracker:UserWarning"
    if option not in sys.warnoptions:
        sys.warnoptions.append(option)


def _end_with_parent() -> None:
    """In a worker: a parent that was killed cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check_arms(configs: Sequence[ExperimentConfig]) -> None:
    names = [config.name for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"arms need different names, but {', '.join(twice)} stands twice; change `name`")
    first = configs[0].data
    for config in configs[1:]:
        if config.data != first:
            keys = [
                key for key in type(first).model_fields if getattr(first, key) != getattr(config.data, key)
            ]
            raise ConfigError(
                f"{config.name}: its data differs from {configs[0].name}'s in {', '.join(keys)}; "
                "arms are compared on the same rows, so `data` must be the same"
            )
        for key, mine, others in [
            ("tuning.trials", config.tuning.trials, configs[0].tuning.trials),
            ("tuning.training_seed", config.tuning.training_seed, configs[0].tuning.training_seed),
            ("training.monitor", config.training.monitor, configs[0].training.monitor),
            ("evaluation", config.evaluation, configs[0].evaluation),
            (
                "tables.budget_embedding_dim",
                config.tables.budget_embedding_dim,
                configs[0].tables.budget_embedding_dim,
            ),
        ]:
            if mine != others:
                raise ConfigError(
                    f"{config.name}: {key} is {mine}, but {others} in {configs[0].name}; arms are treated alike, "
                    "so make it the same"
                )


def _check_rows(drawn: Sequence[tuple[ExperimentConfig, list[Candidate]]]) -> None:
    """Arms with other features may quarantine other rows; better said before training than after."""
    first: dict[str, Any] = {}
    for config, found in drawn:
        for prepared in {candidate.prepared for candidate in found}:
            splits = Prepared.open(prepared).manifest.row_counts_by_split
            first = first or splits
            if splits != first:
                raise ConfigError(
                    f"{config.name}: its features leave the rows {splits}, the first arm's {first}; rows that one "
                    "arm can read and another cannot make a comparison unfair, so mend or drop them first"
                )


def _check_classes(drawn: Sequence[tuple[ExperimentConfig, list[Candidate]]]) -> None:
    """Raise OneClass where test rows cannot be compared, or validation rows cannot choose, before anything is trained."""
    for config, found in drawn:
        splits = Prepared.open(found[0].prepared).manifest.splits
        check_training(splits["train"].rows, splits["train"].positives)
        check_measured("test", splits["test"].rows, splits["test"].positives, "a comparison")
        if config.training.monitor == "auc":
            rows, positives = splits["validation"].rows, splits["validation"].positives
            check_measured("validation", rows, positives, "training.monitor: auc")


def _collect(what: str, futures: Sequence[Any], progress: Progress) -> list[Any]:
    """Results in the order of submission; the first failure cancels what has not begun."""
    try:
        for finished, future in enumerate(as_completed(futures)):
            future.result()
            progress(what, finished + 1, len(futures))
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]
