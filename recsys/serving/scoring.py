"""A finished run scores the rows of a file by its own features and checkpoint, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recsys.serving.files import Scores, typed_rows, write_scores
from recsys.training.distributed import process_group
from recsys.training.loop import restored
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.location import Place


class Scorer:
    """A restored model and the features it was trained with. Raises CheckpointError as `Run.checkpoint` does."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.features = run.features()
        self._model = restored(run.config, self.features, run.checkpoint())

    def score(self, rows: Rows) -> np.ndarray:
        """Return click probabilities, float64 [n]."""
        return predict(self._model, rows, self.run.config)


def unknown_ids(rows: Rows) -> dict[str, int]:
    """Count the ids of each vocabulary feature that are outside its vocabulary."""
    return {
        feature.name: int(feature.is_unknown(rows.ids_of(feature.name)).sum())
        for feature in rows.features.categorical
        if feature.num_codes is not None
    }


def score_split(run: Run, split: str) -> tuple[Rows, np.ndarray]:
    """Score a split of the data that the run was trained on. Raises ManifestError where these are damaged."""
    rows = run.rows(split)
    with process_group():
        return rows, Scorer(run).score(rows)


def score_file(
    run: Run, path: Place, *, labelled: bool, quarantine: Quarantine
) -> Iterator[tuple[Rows, np.ndarray]]:
    """Score a file of the run's own source format, chunk by chunk; unreadable rows go to `quarantine`.

    Raises as `files.typed_rows` does.
    """
    with process_group():
        scorer = Scorer(run)
        features = scorer.features
        for table in typed_rows(run.config, features, path, labelled=labelled, quarantine=quarantine):
            rows = Rows.from_table(features, features.encode(table))
            yield rows, scorer.score(rows)


def predict_file(run: Run, path: Place, out: str | Path) -> dict[str, Any]:
    """Write (row_id, prediction) for every readable row of an unlabelled file as Parquet; return the counts.

    As `files.write_scores` says.
    """
    quarantine = Quarantine(run.config.data.quarantine_limit)
    scored = score_file(run, path, labelled=False, quarantine=quarantine)
    parts = (Scores(rows.row_id, predictions, unknown_ids(rows)) for rows, predictions in scored)
    return write_scores(parts, quarantine, out)
