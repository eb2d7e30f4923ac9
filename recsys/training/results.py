"""A finished training is measured on test, and by the rank, the rows and the collisions of every field's vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import ExperimentConfig
from recsys.evaluation.diagnostics import effective_rank, information_abundance
from recsys.evaluation.metrics import best_possible, evaluate
from recsys.planning import plan_of
from recsys.training.loop import Fitted
from recsys.training.size import bytes_of
from recsys_cython_ext import count_ids
from recsys_cython_ext.files import new_path
from recsys_pipelines.batches.loader import Rows
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.planning.collisions import observed_collisions, rows_touched
from recsys_tables.scheme import Scheme

DIAGNOSED_IDS = 10_000  # ids per field whose vectors the singular values are taken of, the most frequent
DIAGNOSES = (
    "effective_rank",
    "information_abundance",
    "rows_touched",
    "collisions_all_rows",
    "collisions_any_row",
)


def measure(
    checkpoint: Path,
    config: ExperimentConfig,
    fitted: Fitted,
    train: Rows,
    test: Rows,
    predictions: np.ndarray,
) -> dict[str, Any]:
    """Return the metrics of a training, by the keys of metrics.json.

    Args:
        checkpoint: The folder of the best evaluation's tensors.
        config: The experiment.
        fitted: Its trained model.
        train: The rows that it was trained on.
        test: The rows that it is judged on.
        predictions: Click probabilities of the test rows, float64 [n].
    """
    plan = plan_of(config, train.features)
    tables = Checkpoint(checkpoint).tables()
    engine = engine_of(fitted.model)
    bound = None if test.truth is None else best_possible(test.label, test.truth, groups=test.user)
    return {
        "bytes": bytes_of(config, train.features),
        "validation": fitted.best,
        "test": evaluate(test.label, predictions, groups=test.user),
        "best_possible": bound,
        "fields": {scheme.feature: _diagnose(scheme, engine, tables, train) for scheme in plan.schemes},
        "history": fitted.state.history,
        "skipped_batches": fitted.state.skipped,
    }


def write_predictions(file: Path, test: Rows, predictions: np.ndarray) -> None:
    """Write the predictions of the test rows, with their users and true probabilities where known."""
    columns = {"row_id": test.row_id, "label": test.label.astype(np.int8), "prediction": predictions}
    if test.published_user is not None:
        columns["user_id"] = test.published_user
    if test.truth is not None:
        columns["truth"] = test.truth
    with new_path(file) as partial:
        pq.write_table(pa.table(columns), partial)


def _diagnose(
    scheme: Scheme, engine: EmbeddingEngine, tables: dict[str, np.ndarray], train: Rows
) -> dict[str, float]:
    """Return rank and collisions of one field over the ids of training, collisions weighted by impressions."""
    ids, impressions = count_ids(train.ids_of(scheme.feature))
    if len(ids) == 0:  # lists that are all empty in training
        return {"ids": 0, **dict.fromkeys(DIAGNOSES, 0.0)}
    most_frequent = np.argsort(-impressions, kind="stable")[:DIAGNOSED_IDS]
    vectors = engine.vectors_of(scheme.feature, ids[most_frequent], tables)
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
