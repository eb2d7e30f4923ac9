"""A run is trained from prepared rows to a finished folder, on every rank of a process group, or alone."""

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist
import yaml

from recsys.config import ExperimentConfig
from recsys.training.distributed import (
    gathered,
    kept_by_rank_0,
    lost_ranks_named,
    on_rank_0,
    peak_memory,
    process_group,
)
from recsys.training.loop import Watch, fit
from recsys.training.monitoring import profiled, recorded
from recsys.training.prediction import predict
from recsys.training.records import RunRecord
from recsys.training.results import measure, write_predictions
from recsys.training.run import (
    CHECKED,
    CHECKPOINT,
    CHECKPOINTS,
    CODES,
    FEATURES,
    METRICS,
    PREDICTIONS,
    SETTINGS,
    Run,
    is_finished,
    run_folder,
)
from recsys.training.start import trained_by
from recsys.training.store import Store, discard
from recsys.training.teacher import TrainRun, one_by_one, taught
from recsys_cython_ext.files import file_digest, write_json, write_text
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.preparation.split import SPLITS
from recsys_tables.codes import Codes
from recsys_tables.distributed.device import default_device
from recsys_tables.distributed.saving import save as save_checkpoint
from recsys_tables.distributed.sharding import placements

TRACE = "trace.json.gz"
LOCK_SECONDS = 120.0  # waited for another job on the same run; that of a job that was killed is free at once


def train(
    config: ExperimentConfig,
    prepared: Prepared,
    runs: str | Path,
    watch: Watch | None = None,
    profile: bool = False,
) -> Run:
    """Train, evaluate on test and write the run's folder; a finished run is returned as it is.

    On every rank of a process group, or alone. A run that was interrupted goes on from its newest checkpoint, and ends as
    one that was not, to the bit where as many ranks hold the same parts of tables. The plan of `auto` depends on the
    memory that it finds: name other ways in `job.sharding`, or its `memory_per_rank`, to hold it on other machines.
    The runs of a teacher are trained first, where `training.teacher` has such and they are not there.

    Args:
        config: The experiment, whose seed is `training.seed`.
        prepared: Rows that were prepared for it.
        runs: The folder that the run's folder belongs in.
        watch: Is told how training goes.
        profile: Whether a trace of a few steps is written, for chrome://tracing or Perfetto, as `trace.json.gz`.

    Raises:
        ConnectionError: Another rank has ended.
        ValueError: Another job is at work on the run, and as `with_teacher`, `fit` and `Store` do.
    """
    watch = watch or Watch()
    config = with_teacher(config, prepared, runs, watch)
    out = run_folder(config, prepared, runs)
    busy = f"{out}: another job is at work on this run; wait for it, or stop it"
    alone = not dist.is_initialized()
    kept = kept_by_rank_0(out, LOCK_SECONDS, busy)
    with process_group(), lost_ranks_named(), _stops_explained(out, watch), kept:
        if on_rank_0(lambda: is_finished(out)):
            if profile and dist.get_rank() == 0 and not (out / TRACE).exists():
                watch.warn(
                    f"{out}: no trace, for this run is finished and trains no more; delete its folder, or give "
                    "another --seed or --runs, to trace one that trains"
                )
        else:
            on_rank_0(lambda: _begin(out, config, prepared))
            _train_into(out, config, prepared, watch, profile)
        on_rank_0(lambda: discard(out / CHECKPOINTS, config.job.checkpoint))
        if alone:  # what a driver that was lost has left; one that trains here has its own folder in use
            shutil.rmtree(ray_folder(out), ignore_errors=True)
    return Run.open(out)


def with_teacher(
    config: ExperimentConfig,
    prepared: Prepared,
    runs: str | Path,
    watch: Watch | None = None,
    base: ExperimentConfig | None = None,
) -> ExperimentConfig:
    """Return the experiment with its teachers' predictions in the place of their experiment, as `teacher.taught` does.

    What is missing is trained here; an experiment without a teacher, or with predictions, is returned as it is.
    """
    return taught(config, prepared, runs, one_by_one(_trains_below(runs)), watch or Watch(), base)


def _trains_below(runs: str | Path) -> TrainRun:
    def train_run(experiment: ExperimentConfig, prepared: Prepared, watch: Watch) -> Run:
        return train(experiment, prepared, runs, watch)

    return train_run


def ray_folder(run: Path) -> Path:
    """Return where Ray keeps what it needs while it trains a run (`ray_job`)."""
    return run.parent / f".{run.name}.ray"


@contextmanager
def _stops_explained(out: Path, watch: Watch) -> Iterator[None]:
    """Say what becomes of a run that a full disk or its user stops."""
    try:
        yield
    except KeyboardInterrupt:
        watch.warn(f"{out}: interrupted; the same command goes on from its newest checkpoint")
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(out.parent).free
        raise OSError(
            f"{out}: cannot be written where {free:,} bytes are free ({error}); make room, and the same command goes on"
        ) from error


def _begin(out: Path, config: ExperimentConfig, prepared: Prepared) -> None:
    """Clear what does not belong to checkpoints that training can go on from, and say what is trained."""
    prepared.verify()
    out.mkdir(exist_ok=True)
    goes_on = (out / CHECKPOINTS).exists()
    for path in out.iterdir():
        if path.name == CHECKPOINTS or (goes_on and path.name.startswith("events.")):  # curves so far
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if config.tables.scheme == "coded":
        Codes.open(config.tables.codes).save(out / CODES)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text(text, out / SETTINGS)


def _train_into(out: Path, config: ExperimentConfig, prepared: Prepared, watch: Watch, profile: bool) -> None:
    """Train, and write everything that a finished run has but what `_begin` has written; `metrics.json` comes last."""
    # `_begin` has verified them, once for all ranks
    train_rows, validation, test = (Rows.load(prepared, split, verify=False) for split in SPLITS)
    about = {"config": config.digest(prepared.path), "prepared": prepared.digest}
    started = time.perf_counter()
    first = dist.get_rank() == 0
    with ExitStack() as stack:
        if first:
            watch = stack.enter_context(recorded(out, config, watch))
        if first and profile:
            watch = stack.enter_context(profiled(out / TRACE, watch))
        store = stack.enter_context(Store(out / CHECKPOINTS, config.job.checkpoint, about, watch.warn))
        fitted = fit(config, train_rows, validation, store, watch)
        seconds = time.perf_counter() - started
        predictions = predict(fitted.model, test, config)
        save_checkpoint(
            out / CHECKPOINT,
            fitted.model,
            {"config": about["config"], "state": fitted.state.at_best(), "trained_by": trained_by(config)},
            extra=fitted.optimizer.state(),
        )
        memory = gathered(peak_memory(default_device()))
        if first:
            prepared.features().save(out / FEATURES)
            write_predictions(out / PREDICTIONS, test, predictions)
            write_json([asdict(p) for p in placements(fitted.model.plan)], out / "sharding.json")
            metrics = measure(out / CHECKPOINT, config, fitted, train_rows, test, predictions) | {
                "prepared": str(prepared.path.resolve()),
                "training_seconds": seconds,
                "rows_per_second": fitted.rows / seconds,
                "ranks": dist.get_world_size(),
                "process_peak_memory_bytes": max(memory),
                "memory_by_rank": memory,
            }
            files = {name: file_digest(out / name) for name in CHECKED}
            write_manifest(RunRecord(**metrics, files=files), out / METRICS)
