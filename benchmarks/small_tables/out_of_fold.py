"""Teachers out of fold: what a training row is told comes from runs that did not train on it."""

from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.comparison.pool import trained_in
from recsys.config import ConfigError, ExperimentConfig
from recsys.training.loop import Watch
from recsys_cython_ext.files import new_path
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared

FOLDS = 5


def write_out_of_fold(
    config: ExperimentConfig, prepared: Prepared, runs: int, pool: Executor, folder: Path, file: Path
) -> None:
    """Write `row_id` and `logit`: for each fold of the training rows, the mean of `runs` teachers that trained on the rest.

    config: of a teacher, on one Parquet file. Each fold is a log of its own, whose test part is the fold.
    """
    if config.data.source != "table" or config.data.path is None:
        raise ConfigError(f"{config.name}: teachers out of fold are made of logs that are one Parquet file")
    log = pq.read_table(config.data.path)
    train, validation = (np.sort(Rows.load(prepared, part).row_id) for part in ("train", "validation"))
    of_row = np.random.default_rng(config.data.split.seed).permutation(len(train)) % FOLDS
    ids, logits = [], []
    for fold in range(FOLDS):
        parts = train[of_row != fold], validation, train[of_row == fold]
        order = np.concatenate(parts)
        source = folder / "folds" / f"{config.data.split.seed}-{fold}.parquet"
        source.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            with new_path(source) as partial:
                pq.write_table(log.take(pa.array(order)), partial)
        shares = [len(part) / len(order) for part in parts]
        split = {
            "by": "order",
            "train": shares[0],
            "validation": shares[1],
            "test": 1 - shares[0] - shares[1],
        }
        one = config.replace({"data.path": str(source), "data.split": split, "name": f"fold-{fold}"})
        seeded = [one.replace({"training.seed": seed}) for seed in range(runs)]
        rows = prepare(one.data, one.features, folder / "prepared")
        trained = trained_in(pool, folder / "runs")(seeded, rows, Watch())
        predicted = [run.predictions() for run in trained]
        ids.append(order[predicted[0]["row_id"].to_numpy()])
        probabilities = np.array([table["prediction"].to_numpy() for table in predicted])
        logits.append(np.log(probabilities / (1 - probabilities)).mean(axis=0))
    told = pa.table({"row_id": np.concatenate(ids), "logit": np.concatenate(logits)})
    assert np.array_equal(np.sort(told["row_id"].to_numpy()), train)
    with new_path(file) as partial:
        pq.write_table(told, partial)
