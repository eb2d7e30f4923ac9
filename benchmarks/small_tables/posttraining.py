"""What full tables give without further training: clustered rows, read as they are (k-means, and PQ), and an ensemble."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from runs import Split
from scipy.special import expit, logit

from recsys.compression.codes import nearest_centroids
from recsys.compression.students import most_rows
from recsys.compression.supernet import full_model
from recsys.evaluation.metrics import auc
from recsys.planning import plan_of
from recsys.training.distributed import process_group
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys.training.teacher import METADATA, Predicted
from recsys_cython_ext.files import write_json
from recsys_cython_ext.static_function import static_function_bytes
from recsys_tables.bytes import row_bytes
from recsys_tables.schemes.declared import budget_bytes

KINDS = {"k-means": 1, "product_quantisation": 2}  # chunks
PRECISION = "fp16"


def cluster_trained(name: str, budget: str, splits: list[Split], students: int, file: Path) -> dict[str, Any]:
    """Cluster the tables of as many teachers as there are students of a split, predict its test rows, and write it."""
    paths, sizes, aucs = [], [], []
    for split in splits:
        runs, _ = split.teachers
        of_split = []
        for run in runs[:students]:
            out = (
                file.parents[1]
                / "post"
                / f"{name}@{budget}"
                / f"{split.base.data.split.seed}-{run.path.name}"
            )
            size, measured = _clustered(run, KINDS[name], budget, split, out)
            of_split.append(str(out))
            aucs.append(measured)
        paths.append(of_split)
        sizes.append(size)
    told = {
        "arm": f"{name}@{budget}",
        "budget": budget,
        "settings": {},
        "validation": None,
        "trials": 0,
        "bytes": sizes,
        "seconds": 0.0,
        "auc": aucs,
        "runs": paths,
    }
    write_json(told, file)
    return told


def ensemble_auc(taught: list[list[str]]) -> list[float]:
    """Return the AUC of the mean logit of each split's teachers on its test rows; `taught`: runs that learned from them."""
    found = []
    for students in taught:
        teacher = Run.open(students[0]).config.training.teacher
        assert teacher is not None
        assert teacher.predictions is not None
        about = Predicted.model_validate_json(pq.read_schema(teacher.predictions).metadata[METADATA])
        tables = [Run.open(run).predictions() for run in about.runs]
        logits = [logit(table["prediction"].to_numpy()) for table in tables]
        found.append(auc(tables[0]["label"].to_numpy(), expit(np.mean(logits, axis=0))))
    return found


def _clustered(run: Run, chunks: int, budget: str, split: Split, out: Path) -> tuple[dict[str, int], float]:
    """Write the predictions of a run whose tables were clustered; return bytes and AUC."""
    owners = {s.owner.feature: s.owner for s in plan_of(run.config, run.features()).schemes}
    saved = run.checkpoint()
    tables = {name: saved.read(f"table/{s.tables()[0].name}").numpy() for name, s in owners.items()}
    full = plan_of(split.base, split.prepared.features()).full_bytes
    config = split.base.replace({"compression.students.precision": PRECISION})
    impressions = np.concatenate(
        [np.bincount(split.ids(run, name), minlength=len(t)) for name, t in tables.items()]
    )
    rows = most_rows(config, budget_bytes(budget, full), int(np.count_nonzero(impressions)), chunks)
    vectors = np.concatenate(list(tables.values()))
    width = vectors.shape[1] // chunks
    for chunk in range(chunks):
        part = vectors[:, chunk * width : (chunk + 1) * width]
        part[:] = _centroids(part.copy(), impressions, rows)
    ends = np.cumsum([len(table) for table in tables.values()])[:-1]
    clustered = dict(zip(tables, np.split(vectors, ends), strict=True))
    test = run.rows("test")
    with process_group():
        prediction = predict(full_model(run, clustered), test, run.config)
    table = run.predictions().set_column(
        run.predictions().column_names.index("prediction"), "prediction", pa.array(prediction)
    )
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, out / "predictions.parquet")
    codes = static_function_bytes(int(np.count_nonzero(impressions)), rows**chunks)
    total = chunks * rows * row_bytes(width, "rowwise_adagrad", PRECISION) + codes
    size = {"total": total, "serving": total - 4 * chunks * rows, "full_table": full}
    return size, auc(table["label"].to_numpy(), prediction)


def _centroids(vectors: np.ndarray, weights: np.ndarray, clusters: int) -> np.ndarray:
    """Return the centroid, rounded to fp16, of each vector's cluster."""
    labels = nearest_centroids(vectors, weights.astype(float), clusters, seed=0)
    weights = np.maximum(weights, 1e-9)
    sums = np.zeros((labels.max() + 1, vectors.shape[1]))
    np.add.at(sums, labels, vectors * weights[:, None])
    means = sums / np.bincount(labels, weights)[:, None]
    return means.astype(np.float16).astype(np.float32)[labels]
