"""Rows of a file in the format of an experiment, and the file of their scores; no model, and no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import ExperimentConfig
from recsys_cython_ext.files import lock_of, locked, new_file
from recsys_pipelines.features import Features, sequences_of, serving_specs_of
from recsys_pipelines.features.convert import columns_of, text_ids, typed
from recsys_pipelines.preparation.roles import column_specs, with_lone_users
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import open_source
from recsys_pipelines.sources.location import Place, located

SCHEMA = pa.schema([("row_id", pa.int64()), ("prediction", pa.float64())])


@dataclass(frozen=True)
class Scores:
    """Click probabilities of some rows of a file, float64 [n], by the numbers of the rows, int64 [n].

    unknown: ids outside the vocabulary, by feature that has one.
    """

    row_id: np.ndarray
    prediction: np.ndarray
    unknown: Mapping[str, int]


def typed_rows(
    config: ExperimentConfig, features: Features, path: Place, *, labelled: bool, quarantine: Quarantine
) -> Iterator[pa.Table]:
    """Yield the typed columns of a file of the experiment's own source format, chunk by chunk, with their `row_id`.

    Unreadable rows go to `quarantine`. An experiment on a generated log reads Parquet or Arrow with the same columns.
    Raises SourceError for a file that cannot be used, ValueError when ids are text where training had integers, or the
    reverse.
    """
    data = config.data
    source = "table" if data.generator is not None else data.source
    needless = {"time": None} if labelled else {"time": None, "user": None}
    data = data.model_copy(update={"path": located(path), "source": source, "generator": None, **needless})
    reader = open_source(data, labelled=labelled)
    if data.truth not in reader.columns:
        data = data.model_copy(update={"truth": None})
    specs = column_specs(data, config.features, labelled=labelled)
    specs |= serving_specs_of(config.features)
    for sequence in sequences_of(config.features):
        if sequence.name not in reader.columns:
            raise ValueError(
                f"{path}: feature {sequence.name!r} is a user's earlier events, and rows to score bring them, oldest "
                "first, as a list in a column of that name"
            )
    for chunk in reader.chunks(columns_of(specs), quarantine):
        features.check_text(text_ids(chunk, specs), chunk.file)
        table = typed(chunk, specs, quarantine)
        if table.num_rows:
            yield with_lone_users(table)


def write_scores(parts: Iterable[Scores], quarantine: Quarantine, out: str | Path) -> dict[str, Any]:
    """Write (row_id, prediction) of all parts as Parquet; return the counts.

    Rows in = rows scored + rows quarantined; quarantined rows are listed beside `out`. Another process that writes the
    same file is waited for, so that the file and the counts are of one. Raises TooManyBadRows where the share of rows in
    quarantine is above its limit, and leaves no file of scores then.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock_of(out)):
        return _write(parts, quarantine, out)


def _write(parts: Iterable[Scores], quarantine: Quarantine, out: Path) -> dict[str, Any]:
    scored = 0
    unknown: Counter[str] = Counter()
    with new_file(out) as file:
        with pq.ParquetWriter(file, SCHEMA) as writer:
            for part in parts:
                columns = {"row_id": part.row_id, "prediction": part.prediction}
                writer.write_table(pa.table(columns, schema=SCHEMA))
                scored += len(part.row_id)
                unknown.update(part.unknown)
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
