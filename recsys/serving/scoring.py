"""A finished run scores the rows of a file by its own features and checkpoint, in bounded memory."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.training.distributed import process_group
from recsys.training.loop import restored
from recsys.training.prediction import predict
from recsys.training.run import Run
from recsys_cython_ext.files import lock_of, locked, new_file
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import sequences_of, serving_specs_of
from recsys_pipelines.features.convert import columns_of, text_ids, typed
from recsys_pipelines.preparation.roles import column_specs, with_lone_users
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import open_source
from recsys_pipelines.sources.location import Place, located


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

    A run on a generated log reads Parquet or Arrow with the same columns. Raises ValueError when ids are text
    where training had integers, or the reverse.
    """
    data = run.config.data
    source = "table" if data.generator is not None else data.source
    needless = {"time": None} if labelled else {"time": None, "user": None}
    data = data.model_copy(update={"path": located(path), "source": source, "generator": None, **needless})
    reader = open_source(data, labelled=labelled)
    if data.truth not in reader.columns:
        data = data.model_copy(update={"truth": None})
    specs = column_specs(data, run.config.features, labelled=labelled)
    specs |= serving_specs_of(run.config.features)
    for sequence in sequences_of(run.config.features):
        if sequence.name not in reader.columns:
            raise ValueError(
                f"{path}: feature {sequence.name!r} is a user's earlier events, and rows to score bring them, oldest "
                "first, as a list in a column of that name"
            )
    with process_group():
        scorer = Scorer(run)
        for chunk in reader.chunks(columns_of(specs), quarantine):
            scorer.features.check_text(text_ids(chunk, specs), chunk.file)
            table = typed(chunk, specs, quarantine)
            if table.num_rows:
                rows = Rows.from_table(scorer.features, scorer.features.encode(with_lone_users(table)))
                yield rows, scorer.score(rows)


def predict_file(run: Run, path: Place, out: str | Path) -> dict[str, Any]:
    """Write (row_id, prediction) for every readable row of an unlabelled file as Parquet; return the counts.

    Rows in = rows scored + rows quarantined; quarantined rows are listed beside `out`. Another process that writes the
    same file is waited for, so that the file and the counts are of one.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(out)):
        return _predict_into(run, path, out)


def _predict_into(run: Run, path: Place, out: Path) -> dict[str, Any]:
    quarantine = Quarantine(run.config.data.quarantine_limit)
    schema = pa.schema([("row_id", pa.int64()), ("prediction", pa.float64())])
    scored = 0
    unknown: Counter[str] = Counter()
    with new_file(out) as file:
        with pq.ParquetWriter(file, schema) as writer:
            for rows, predictions in score_file(run, path, labelled=False, quarantine=quarantine):
                columns = {"row_id": rows.row_id, "prediction": predictions}
                writer.write_table(pa.table(columns, schema=schema))
                scored += len(rows)
                unknown.update(unknown_ids(rows))
        beside = out.parent / f"{out.stem}-quarantine"
        if quarantine.count or beside.exists():  # an earlier file's bad rows are not this one's
            quarantine.write(beside)
        quarantine.check(scored + quarantine.count)
    return {
        "rows_in": scored + quarantine.count,
        "rows_scored": scored,
        "quarantined": quarantine.count,
        "unknown_ids": dict(unknown),
    }
