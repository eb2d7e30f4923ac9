"""A run: one configuration, one seed, one folder.

<runs>/<name>-<digest>/seed-<k>/
    config.yaml                 the settings as they were used
    features/                   fitted features, so that the run scores new rows by itself
    checkpoint/                 the best evaluation
    predictions.parquet         test rows: row_id, label, prediction, user_id and truth where known
    metrics.json                written last: a folder without it is unfinished
    events.out.tfevents.*       TensorBoard
"""

import json
import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist
import yaml
from torch.utils.tensorboard import SummaryWriter

from recsys.config import ConfigError, ExperimentConfig, parse
from recsys.evaluation.diagnostics import effective_rank, information_abundance, rows_touched
from recsys.evaluation.metrics import best_possible, evaluate
from recsys.tables import observed_collisions, plan_of
from recsys.training.distributed import process_group, require_one_rank
from recsys.training.loop import Progress, Report, fit, predict
from recsys_cython_ext import count_ids
from recsys_pipelines.batches import Rows
from recsys_pipelines.prepare import Prepared
from recsys_pipelines.shards import locked, write_json
from recsys_tables import checkpoint
from recsys_tables.engine import EmbeddingEngine, engine_of
from recsys_tables.scheme import Scheme

DIAGNOSED_IDS = 10_000  # ids per field whose vectors the singular values are taken of, the most frequent
DIAGNOSES = (
    "effective_rank",
    "information_abundance",
    "rows_touched",
    "collisions_all_rows",
    "collisions_any_row",
)


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    path: Path
    config: ExperimentConfig
    metrics: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Read a run. Raises ConfigError when the folder is no finished run."""
        if not (path / "metrics.json").exists():
            raise ConfigError(f"{path}: not a finished run (no metrics.json); train it first")
        try:
            settings = yaml.safe_load((path / "config.yaml").read_text())
            metrics = json.loads((path / "metrics.json").read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            why = " ".join(str(error).split())
            raise ConfigError(f"{path}: damaged ({why}); delete the folder and train again") from None
        return cls(path, parse(settings, str(path / "config.yaml")), metrics)

    def predictions(self) -> pa.Table:
        """Test predictions: row_id, label, prediction, and user_id and truth where known."""
        return pq.read_table(self.path / "predictions.parquet")


def run_folder(config: ExperimentConfig, prepared: Prepared, runs: Path) -> Path:
    """Where the run of a configuration belongs; the seed is a subfolder of the rest."""
    seedless = config.replace({"training.seed": 0}).digest(prepared.path)
    return runs / f"{config.name}-{seedless}" / f"seed-{config.training.seed}"


def train(
    config: ExperimentConfig,
    prepared: Prepared,
    runs: Path,
    report: Report = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Run:
    """Train, evaluate on test and write the run's folder; a finished run is returned as it is."""
    if dist.is_initialized():  # before the lock, which other ranks would wait for
        require_one_rank()
    out = run_folder(config, prepared, runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent / f".{out.name}.lock"):
        if not (out / "metrics.json").exists():
            prepared.verify()
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            _train_into(out, config, prepared, report, progress)
    return Run.open(out)


def _train_into(
    out: Path, config: ExperimentConfig, prepared: Prepared, report: Report, progress: Progress
) -> None:
    (out / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    train_rows, validation, test = (
        Rows.load(prepared.path, split) for split in ("train", "validation", "test")
    )
    started = time.perf_counter()
    with process_group(), SummaryWriter(str(out)) as board:

        def log(entry: dict[str, Any]) -> None:
            for name, value in entry.items():
                if value is None:  # GAUC without users
                    continue
                board.add_scalar(name, value, entry["rows"])
            report(entry)

        fitted = fit(config, train_rows, validation, log, progress)
        seconds = time.perf_counter() - started
        predictions = predict(fitted.model, test, config)
        checkpoint.save(out / "checkpoint", fitted.model, {"config": config.digest(prepared.path)})
    train_rows.features.save(out / "features")
    _write_predictions(out, test, predictions)
    plan = plan_of(config, train_rows.features)
    tables = checkpoint.Checkpoint(out / "checkpoint").tables()
    engine = engine_of(fitted.model)
    metrics = {
        "bytes": plan.bytes.to_dict() | {"full_table": plan.full_bytes},
        "validation": fitted.best,
        "test": evaluate(test.label, predictions, groups=test.user),
        "best_possible": None
        if test.truth is None
        else best_possible(test.label, test.truth, groups=test.user),
        "fields": {scheme.feature: _diagnose(scheme, engine, tables, train_rows) for scheme in plan.schemes},
        "history": fitted.history,
        "prepared": str(prepared.path.resolve()),
        "training_seconds": seconds,
        "rows_per_second": fitted.rows_trained / seconds,
        "process_peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    write_json(metrics, out / "metrics.json")


def _write_predictions(out: Path, test: Rows, predictions: np.ndarray) -> None:
    columns = {"row_id": test.row_id, "label": test.label.astype(np.int8), "prediction": predictions}
    if test.user is not None:
        columns["user_id"] = test.user
    if test.truth is not None:
        columns["truth"] = test.truth
    pq.write_table(pa.table(columns), out / "predictions.parquet.tmp")
    (out / "predictions.parquet.tmp").replace(out / "predictions.parquet")


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
    return {
        "ids": len(ids),
        "effective_rank": effective_rank(vectors),
        "information_abundance": information_abundance(vectors),
        "rows_touched": float(np.mean(touched)),
        **{f"collisions_{name}": value for name, value in collisions._asdict().items()},
    }
