"""A comparison from end to end: prepare, try settings, train seeds, pair predictions, judge.

Everything finished is kept under `runs` by its digest, so an interrupted comparison goes on where it was.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recsys.comparison.budgets import arm_name, baseline_of, baselines_by_budget
from recsys.comparison.candidates import ArmCandidates, candidates_of, check_alike, draw_candidates
from recsys.comparison.judge import Judgement, Options, judge
from recsys.comparison.pool import collect, train_in_worker, training_pool
from recsys.comparison.predictions import Predictions
from recsys.config import ConfigError, ExperimentConfig
from recsys.evaluation.arms.compare import Comparison
from recsys.training.run import Run
from recsys.tuning.trials import Candidate, Trial, best, run_trial
from recsys_cython_ext.progress import Progress, no_progress


@dataclass(frozen=True)
class Arm:
    """An arm with its chosen settings, the trials of others, and its finished runs, one a seed."""

    name: str
    budget: str | None
    config: ExperimentConfig
    settings: dict[str, Any]
    trials: list[dict[str, Any]]  # settings and validation metrics of each
    runs: list[Run]

    @property
    def bytes(self) -> dict[str, int]:
        """Return the resident bytes by kind; they are the same for every seed."""
        return self.runs[0].metrics["bytes"]


@dataclass(frozen=True)
class Result:
    """The comparison of all arms, and one within each budget, with the same arm as the baseline where it fits.

    Attributes:
        arms: The arms that fit their budget.
        judged: What is said of them against the baseline.
        by_budget: The comparison within each budget that several arms have.
        left_out: Arms that do not fit their budget, and why.
        baseline_arm: The arm that the user names, whatever the budget; the first unless named.
    """

    arms: list[Arm]
    judged: Judgement
    by_budget: dict[str, Comparison]
    left_out: dict[str, str]
    baseline_arm: str

    @property
    def overall(self) -> Comparison:
        """Return the comparison of all arms."""
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
    runs: Path | str,
    prepared: Path | str,
    jobs: int | None = None,
    progress: Progress = no_progress,
    prepare_progress: Progress = no_progress,
    effect: float | None = None,
    slices: Sequence[str] = (),
    baseline: str | None = None,
    pool: Executor | None = None,
    before: Callable[[Sequence[ArmCandidates]], None] = lambda _: None,
) -> Result:
    """Train what is missing and compare all arms on the same test rows.

    An arm none of whose settings fits its budget is left out and named in the result.

    Args:
        configs: The arms.
        seeds: Training seeds per arm.
        runs: Folder of runs, trials and what teachers predict.
        prepared: Folder of prepared data.
        jobs: Trainings at once; one per core unless given.
        progress: Progress of trials, runs and the bootstrap.
        prepare_progress: Progress of the preparation.
        effect: As in `judge.Options`.
        slices: As in `judge.Options`.
        baseline: As in `baseline_of`.
        pool: Trains the runs, whatever `jobs`; made for this comparison unless given.
        before: Is called before the first training with what may be trained.

    Raises:
        ConfigError: Arms share a name or differ in their data, fewer than two are left, or as of `baseline_of`.
    """
    if len(configs) < 2:
        raise ConfigError("a comparison needs at least two arms")
    check_alike(configs)
    runs, prepared = Path(runs), Path(prepared)
    named = baseline_of(configs, baseline, {})
    (baseline_arm,) = (arm_name(c.name, c.tables.budget) for c in configs if c.name == named)
    candidates, left_out = draw_candidates(configs, prepared, runs, progress, prepare_progress)
    overall = baseline_of(configs, baseline, left_out)
    before(candidates)
    with training_pool(configs, jobs) if pool is None else nullcontext(pool) as pool:
        arms = _train_arms(_choose(candidates, pool, runs, progress), seeds, pool, runs, progress)
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
class Chosen:
    """An arm with its best candidate, and its monitored metric on validation; an arm of one trial was not measured."""

    config: ExperimentConfig
    candidate: Candidate
    trials: list[dict[str, Any]]
    score: float = float("nan")


def choose(
    configs: Sequence[ExperimentConfig],
    runs: Path,
    prepared: Path,
    pool: Executor,
    progress: Progress = no_progress,
) -> list[Chosen]:
    """Run the validation trials of arms, also of a single one, and return the best candidate of each.

    Raises NothingFits where no setting of an arm fits its budget.
    """
    arms = [candidates_of(config, prepared, runs, progress) for config in configs]
    return _choose(arms, pool, runs, progress, least=1)


def _choose(
    arms: Sequence[ArmCandidates], pool: Executor, runs: Path, progress: Progress, least: int = 2
) -> list[Chosen]:
    """Run every arm's validation trials and take its best; an arm of fewer than `least` needs none."""
    tried = [arm.candidates if arm.config.tuning.trials >= least else [] for arm in arms]
    futures = [pool.submit(run_trial, candidate, runs) for options in tried for candidate in options]
    finished = iter(collect("validation trials", futures, progress))
    chosen = []
    for arm, options in zip(arms, tried, strict=True):
        trials = [next(finished) for _ in options]
        candidate = best(arm.config, options, trials) if options else arm.candidates[0]
        score = max((trial.score(arm.config) for trial in trials), default=float("nan"))
        chosen.append(Chosen(arm.config, candidate, [_plain(trial, arm.config) for trial in trials], score))
    return chosen


def _plain(trial: Trial, config: ExperimentConfig) -> dict[str, Any]:
    """Return settings and validation metrics of a trial, or why it diverged."""
    return {"settings": trial.settings, **(trial.best(config) or {"diverged": trial.why})}


def _train_arms(
    chosen: Sequence[Chosen], seeds: int, pool: Executor, runs: Path, progress: Progress
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
    folders = iter(collect("training runs", futures, progress))
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
