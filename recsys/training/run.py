"""A run: one configuration, one seed, one folder.

<runs>/<name>-<digest>/seed-<k>/
    config.yaml                 the settings as they were used
    features/                   fitted features, so that the run scores new rows by itself
    checkpoint/                 the best evaluation
    checkpoints/                while it trains (`recsys.training.store`)
    sharding.json               which rank held which part of which table
    predictions.parquet         test rows: row_id, label, prediction, user_id and truth where known
    metrics.json                written last, with checksums: a folder without it is unfinished
    events.out.tfevents.*       TensorBoard
"""

import errno
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
import yaml

from recsys.config import ConfigError, ExperimentConfig, parse
from recsys.config.migration import renamed
from recsys.config.yaml_text import parse_yaml
from recsys.evaluation.diagnostics import effective_rank, information_abundance
from recsys.evaluation.metrics import best_possible, evaluate
from recsys.planning import plan_of
from recsys.training.distributed import (
    default_device,
    gathered,
    losses_told,
    on_rank_0,
    peak_memory,
    process_group,
)
from recsys.training.loop import Fitted, Watch, fit
from recsys.training.prediction import predict
from recsys.training.records import RunMetrics, RunRecord, profiled, read_record, recorded
from recsys.training.size import bytes_of
from recsys.training.start import trained_by
from recsys.training.store import Store, discard
from recsys_cython_ext import count_ids
from recsys_cython_ext.files import file_digest, lock_of, locked, new_path, write_json, write_text
from recsys_cython_ext.manifest import DamagedFile, write_manifest
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.saving import save as save_checkpoint
from recsys_tables.distributed.sharding import placements
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.planning.collisions import observed_collisions, rows_touched
from recsys_tables.scheme import Scheme

CHECKPOINTS, TRACE = "checkpoints", "trace.json.gz"
METRICS, SETTINGS, PREDICTIONS = "metrics.json", "config.yaml", "predictions.parquet"
CHECKED = (SETTINGS, PREDICTIONS)  # features/ and checkpoint/ have checksums of their own
LOCK_SECONDS = 120.0  # waited for another job on the same run; that of a job that was killed is free at once
DIAGNOSED_IDS = 10_000  # ids per field whose vectors the singular values are taken of, the most frequent
DIAGNOSES = (
    "effective_rank",
    "information_abundance",
    "rows_touched",
    "collisions_all_rows",
    "collisions_any_row",
)


def _on_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@dataclass(frozen=True)
class Run:
    """A finished run folder. `files` are checksums of what lies in it; a run of an earlier version has none."""

    path: Path
    config: ExperimentConfig
    metrics: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path, warn: Callable[[str], None] = _on_stderr) -> "Run":
        """Read a run; `warn` is told of files that have no checksum to be verified by.

        Raises ConfigError when the folder is no finished run, or one of its files is damaged.
        """
        path = Path(path)
        if not (path / METRICS).exists():
            raise ConfigError(f"{path}: not a finished run (no metrics.json); train it first")
        try:
            record = read_record(path / METRICS, "delete the folder and train again")
            files = record.files or {}
            settings = parse_yaml(_verified(path / SETTINGS, files).read_text(encoding="utf-8"))
        except DamagedFile as error:
            raise ConfigError(str(error)) from None
        except (OSError, ValueError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise ConfigError(f"{path}: damaged ({why}); delete the folder and train again") from None
        if record.files is None:
            names = ", ".join(str(path / name) for name in (METRICS, *CHECKED))
            warn(f"not verified: {names} (an earlier version wrote them without checksums)")
        metrics = RunMetrics(record.plain(), source=path / METRICS)
        return cls(path, parse(renamed(settings), str(path / SETTINGS)), metrics, files)

    def verified(self, name: str) -> Path:
        """Return the path of a file, once it agrees with its checksum where it has one. Raises ConfigError."""
        try:
            return _verified(self.path / name, self.files)
        except DamagedFile as error:
            raise ConfigError(str(error)) from None

    def predictions(self) -> pa.Table:
        """Test predictions: row_id, label, prediction, and user_id and truth where known. Raises as `verified`."""
        return pq.read_table(self.verified(PREDICTIONS))


def _verified(file: Path, files: Mapping[str, str]) -> Path:
    wanted = files.get(file.name)
    if wanted is not None and not (file.is_file() and file_digest(file) == wanted):
        raise DamagedFile(
            f"{file}: missing, damaged or changed since the run was finished (its checksum is wrong); "
            "delete the folder and train again"
        )
    return file


def run_folder(config: ExperimentConfig, prepared: Prepared, runs: Path) -> Path:
    """Where the run of a configuration belongs; the seed is a subfolder of the rest."""
    seedless = config.replace({"training.seed": 0}).digest(prepared.path)
    return runs / f"{config.name}-{seedless}" / f"seed-{config.training.seed}"


def ray_folder(run: Path) -> Path:
    """Where Ray keeps what it needs while it trains a run (`ray_job`)."""
    return run.parent / f".{run.name}.ray"


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

    Raises ConnectionError when another rank has ended, ValueError when another job is at work on the run, and otherwise as
    `fit` and `Store` do.

    `profile`: write a trace of a few steps, for chrome://tracing or Perfetto, as `trace.json.gz`.
    """
    out, watch = run_folder(config, prepared, Path(runs)), watch or Watch()
    alone = not dist.is_initialized()
    with process_group(), losses_told(), _told(out, watch), _only_job(out):
        if on_rank_0(lambda: _finished(out)):
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


@contextmanager
def _only_job(out: Path) -> Iterator[None]:
    """While the block runs no other job works on the run; rank 0 sees to it. Raises ValueError where one does."""
    with ExitStack() as stack:

        def lock() -> None:
            out.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(lock_of(out), LOCK_SECONDS))
            except TimeoutError:
                raise ValueError(
                    f"{out}: another job is at work on this run; wait for it, or stop it"
                ) from None

        on_rank_0(lock)
        yield
        dist.barrier()


@contextmanager
def _told(out: Path, watch: Watch) -> Iterator[None]:
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


def _finished(out: Path) -> bool:
    return (out / METRICS).exists()


def _begin(out: Path, config: ExperimentConfig, prepared: Prepared) -> None:
    """Clear what does not belong to checkpoints that training can go on from, and say what is trained."""
    prepared.verify()
    out.mkdir(exist_ok=True)
    goes_on = (out / CHECKPOINTS).exists()
    for path in out.iterdir():
        if path.name == CHECKPOINTS or (goes_on and path.name.startswith("events.")):  # curves so far
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text(text, out / SETTINGS)


def _train_into(out: Path, config: ExperimentConfig, prepared: Prepared, watch: Watch, profile: bool) -> None:
    parts = ("train", "validation", "test")
    # `_begin` has verified them, once for all ranks
    train_rows, validation, test = (Rows.load(prepared.path, part, verify=False) for part in parts)
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
            out / "checkpoint",
            fitted.model,
            {"config": about["config"], "state": fitted.state.at_best(), "trained_by": trained_by(config)},
            extra=fitted.optimizer.state(),
        )
        memory = gathered(peak_memory(default_device()))
        if first:
            train_rows.features.save(out / "features")
            _write_predictions(out, test, predictions)
            write_json([asdict(p) for p in placements(fitted.model.plan)], out / "sharding.json")
            metrics = _metrics(out, config, fitted, train_rows, test, predictions)
            metrics |= {
                "prepared": str(prepared.path.resolve()),
                "training_seconds": seconds,
                "rows_per_second": fitted.rows / seconds,
                "ranks": dist.get_world_size(),
                "process_peak_memory_bytes": max(memory),
                "memory_by_rank": memory,
            }
            files = {name: file_digest(out / name) for name in CHECKED}
            write_manifest(RunRecord(**metrics, files=files), out / METRICS)


def _metrics(
    out: Path, config: ExperimentConfig, fitted: Fitted, train: Rows, test: Rows, predictions: np.ndarray
) -> dict[str, Any]:
    plan = plan_of(config, train.features)
    tables = Checkpoint(out / "checkpoint").tables()
    engine = engine_of(fitted.model)
    return {
        "bytes": bytes_of(config, train.features),
        "validation": fitted.best,
        "test": evaluate(test.label, predictions, groups=test.user),
        "best_possible": None
        if test.truth is None
        else best_possible(test.label, test.truth, groups=test.user),
        "fields": {scheme.feature: _diagnose(scheme, engine, tables, train) for scheme in plan.schemes},
        "history": fitted.state.history,
        "skipped_batches": fitted.state.skipped,
    }


def _write_predictions(out: Path, test: Rows, predictions: np.ndarray) -> None:
    columns = {"row_id": test.row_id, "label": test.label.astype(np.int8), "prediction": predictions}
    if test.published_user is not None:
        columns["user_id"] = test.published_user
    if test.truth is not None:
        columns["truth"] = test.truth
    with new_path(out / PREDICTIONS) as partial:
        pq.write_table(pa.table(columns), partial)


def _diagnose(
    scheme: Scheme, engine: EmbeddingEngine, tables: dict[str, np.ndarray], train: Rows
) -> dict[str, float]:
    """Rank and collisions of one field over the ids of training, collisions weighted by impressions."""
    ids, impressions = count_ids(train.ids_of(scheme.feature))
    if len(ids) == 0:  # lists that are all empty in training
        return {"ids": 0, **dict.fromkeys(DIAGNOSES, 0.0)}
    most = np.argsort(-impressions, kind="stable")[:DIAGNOSED_IDS]
    vectors = engine.vectors_of(scheme.feature, ids[most], tables)
    touched = [rows_touched(item.rows, len(tables[item.table])) for item in scheme.rows(ids)]
    collisions = observed_collisions(scheme, ids, impressions)
    has_table = vectors.any()  # a compact field of width 0 has none, and only zeros
    return {
        "ids": len(ids),
        "effective_rank": effective_rank(vectors) if has_table else 0.0,
        "information_abundance": information_abundance(vectors) if has_table else 0.0,
        "rows_touched": float(np.mean(touched)),
        **{f"collisions_{name}": value for name, value in collisions._asdict().items()},
    }
