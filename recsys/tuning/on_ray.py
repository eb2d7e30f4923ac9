"""Ray Tune runs the trials of a `Study`, and ASHA stops those that fall behind.

Li et al. 2020, A system for massively parallel hyperparameter tuning (ASHA).
"""

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher
from typing_extensions import override

from recsys.config import parse_experiment
from recsys.tuning.study import Study
from recsys.tuning.trials import Trial, metrics_of, train_trial
from recsys_pipelines.preparation.session import ray_session

REDUCTION = 3  # ASHA lets one trial of so many go on at each rung
RUNGS_END = 3**8  # evaluations; trials end by themselves long before
LOST = 2  # workers that a trial may lose before it has failed
SILENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # prints to standard output whatever the verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # what trials report is kept by the study
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the end of a trial that diverged has no metric
    "TUNE_WARN_THRESHOLD_S": "600",  # preparing data between two trials may take a while
}


def run_trials(study: Study, workers: int, address: str | None, changed: Callable[[], None]) -> None:
    """Run what is left of a study, on this machine or a cluster, which must see the folders of prepared data.

    Trials that are done are reported to ASHA again, and not run.

    Args:
        study: The study.
        workers: Trials that run at once.
        address: Of the cluster; None starts Ray on this machine.
        changed: Is called after every evaluation and every end of a trial.

    Raises:
        KeyboardInterrupt: It was interrupted.
        ValueError: No node is left, and as `ray_session` does.
    """
    os.environ |= SILENT
    threads = study.config.training.num_threads
    # Ray prints the deaths of workers to standard output, which is the result's
    with redirect_stdout(sys.stderr), ray_session(workers * threads, address), _scratch(study) as storage:
        for name in ("ray.tune", "ray.train", "ray.air"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are reported by the study
        gpus = ray.cluster_resources().get("GPU", 0)
        resources = {"cpu": float(threads)} | ({"gpu": min(1.0, gpus / workers)} if gpus else {})
        scheduler = (
            AsyncHyperBandScheduler(
                metric="score", mode="max", max_t=RUNGS_END, grace_period=1, reduction_factor=REDUCTION
            )
            if study.asha
            else FIFOScheduler()
        )
        tune.Tuner(
            tune.with_resources(_trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=_StudySearcher(study, changed),
                scheduler=scheduler,
                num_samples=-1,  # until the study has no more
                max_concurrent_trials=workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=str(storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST),
                callbacks=[_SomeNode()],
            ),
        ).fit()
    if not study.has_ended:
        raise KeyboardInterrupt


@contextmanager
def _scratch(study: Study) -> Iterator[Path]:
    """Make a folder for what Tune writes and nobody reads; a killed search may have left one."""
    folder = study.folder.resolve() / "ray"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _SomeNode(tune.Callback):
    """A callback that ends a search whose last node is lost; Tune would wait for another one for ever."""

    @override
    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not any(node["Alive"] for node in ray.nodes()):
            raise ValueError(
                "Ray's last node has ended; what trials told is kept, and the same command goes on"
            )


class _StudySearcher(Searcher):
    """A searcher that puts Tune's questions about trials to the study."""

    def __init__(self, study: Study, changed: Callable[[], None]) -> None:
        super().__init__()
        self._study, self._changed = study, changed
        self._trials: dict[str, Trial] = {}  # by Tune's name

    @override
    def suggest(self, trial_id: str) -> Any:
        trial = self._study.next()
        if trial is None:
            return Searcher.FINISHED
        self._trials[trial_id] = trial
        candidate = self._study.candidates[trial.digest]
        return {
            "config": candidate.config.model_dump_json(exclude_unset=True),
            "prepared": str(candidate.prepared.resolve()),
            "known": json.dumps(trial.history if trial.is_done else []),
            "is_done": trial.is_done,
        }

    @override
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial, message = self._trials[trial_id], json.loads(result["message"])
        if "end" in message:
            self._study.close(trial, message["end"], message["why"])
        else:
            self._study.note(trial, message)
        self._changed()

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self._trials[trial_id]
        if error or result is None:
            why = f"its worker ended {LOST + 1} times before the trial did, perhaps for want of memory"
            self._study.close(trial, "failed", why)
        else:
            # the last word of a trial that was stopped comes here only
            self.on_trial_result(trial_id, result)
            self._study.close(trial, None)
        self._changed()

    @override
    def save(self, checkpoint_path: str) -> None:
        pass  # the study is on disk already

    @override
    def restore(self, checkpoint_path: str) -> None:
        pass  # the study is on disk already

    def __getstate__(self) -> dict[str, Any]:
        """Leave nothing for Tune to write into its own folder, which is thrown away."""
        return {}


def _trainable(suggestion: dict[str, Any]) -> None:
    """Train a suggested trial in a worker, or report again what is known of it."""
    config = parse_experiment(json.loads(suggestion["config"]), "trial")

    def report(evaluation: dict[str, Any]) -> None:
        score = config.training.score(metrics_of(evaluation))
        tune.report({"score": score, "message": json.dumps(evaluation)})

    for evaluation in json.loads(suggestion["known"]):
        report(evaluation)
    if suggestion["is_done"]:
        return
    try:
        end, why = train_trial(config, suggestion["prepared"], report)
        if end == "diverged":
            tune.report({"message": json.dumps({"end": end, "why": why})})
    except Exception as error:  # one trial's defect, whatever it is, does not end the others
        why = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        tune.report({"message": json.dumps({"end": "failed", "why": why})})
