"""How arms do on test rows with new, rare and frequent ids."""

from pathlib import Path
from typing import Any

import numpy as np
from judge import Predicted

from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows

RARE = 10  # impressions in training from which on an id is frequent
SLICES = {"a new id": (0, 1), "a rare id": (1, RARE), "frequent ids": (RARE, np.inf)}


def sliced(told: dict[str, Any], claim: str, others: list[str]) -> list[dict[str, Any]]:
    """Return, for each slice of test rows, the AUC of every arm and that of `claim` less it, with its standard error.

    A row is in the slice of the rarest id among its fields of one id. `told`: what the files of arms say, with `every-id`,
    whose vocabulary is counted.
    """
    fewest = [_fewest_impressions(Run.open(runs[0])) for runs in told["every-id"]["runs"]]
    arms = [claim, *(other for other in others if other in told)]
    files = {
        arm: [[Path(run) / "predictions.parquet" for run in runs] for runs in told[arm]["runs"]]
        for arm in arms
    }
    out = []
    for name, (low, high) in SLICES.items():
        rows = [row_id[(count >= low) & (count < high)] for row_id, count in fewest]
        if min(map(len, rows)) == 0:
            continue
        predicted = Predicted(files, only=rows)
        auc = {arm: float(predicted.auc(arm)[:, :, 0].mean()) for arm in arms}
        ahead = {arm: predicted.difference(claim, arm) for arm in arms[1:]}
        out.append(
            {
                "slice": name,
                "rows": sum(map(len, rows)),
                "auc": auc,
                "ahead": {arm: {"estimate": d.estimate, "error": d.error} for arm, d in ahead.items()},
            }
        )
    return out


def _fewest_impressions(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of a run's test rows, and how often training has the rarest of each row's ids."""
    train, test = (Rows.load(run.prepared_path, part) for part in ("train", "test"))
    fewest = np.full(len(test), np.iinfo(np.int64).max)
    for feature in test.features.categorical:
        codes = test.ids_of(feature.name)
        if len(codes) != len(test):
            continue  # bags
        counts = np.bincount(train.ids_of(feature.name), minlength=int(codes.max()) + 1)
        fewest = np.minimum(fewest, counts[codes])
    return test.row_id, fewest
