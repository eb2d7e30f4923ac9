"""The contexts of a log that a model reads, and its predictions of every action in them.

A row is written once for each action, with that action in place of the logged one, and scored as `recsys predict` scores a
file. Columns that go with the action (one value for each action in the whole log, such as a category) are replaced with it.

Cost, for n rows and A actions: n · A scorings, 8 · n · A bytes in memory a few times over, and a temporary file of n · A
rows.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from recsys.config import ConfigError, ExperimentConfig
from recsys.evaluation.off_policy.log import Log
from recsys.policies.log import is_text, read_table
from recsys.serving.scoring import score_file
from recsys.training.run import Run
from recsys_cython_ext.progress import Progress, no_progress
from recsys_pipelines.features import sequences_of
from recsys_pipelines.features.convert import columns_of
from recsys_pipelines.preparation.roles import column_specs
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import BESIDE


@dataclass(frozen=True)
class Contexts:
    """The columns of a log that a model reads, and what of them changes with the action.

    Attributes:
        frame: One line per row of the log.
        actions: One line per action, in the order of `Log.action_names`.
        log: The log.
        beside: Files that the model's source reads beside the log.
        text: Whether the log is a text file.
    """

    frame: pl.DataFrame
    actions: pl.DataFrame
    log: Log
    beside: tuple[Path, ...]
    text: bool

    @property
    def attributes(self) -> list[str]:
        """Return the columns that go with the action."""
        return self.actions.columns[1:]


def read_contexts(config: ExperimentConfig, path: Path | str, log: Log) -> Contexts:
    """Read what the features of `config` need from the file that `log` was read from.

    Raises:
        ConfigError: The model does not see the action, sees its propensity or its reward, or a user's history.
    """
    path = Path(path)
    if sequences_of(config.features):
        raise ConfigError(
            f"{config.name}: feature {sequences_of(config.features)[0].name!r} is a user's earlier events, which the rows "
            "of a log of actions do not bring: leave it out"
        )
    action = log.columns["action"]
    read = set(columns_of(column_specs(config.data, config.features, labelled=False)))
    if action not in read:
        raise ConfigError(
            f"{config.name}: no feature reads {action!r}, so every action would be predicted the same: add it to features"
        )
    for role, why in (("propensity", "of the logged action alone"), ("reward", "what is to be predicted")):
        if log.columns[role] in read - {action}:
            raise ConfigError(
                f"{config.name}: a feature reads {log.columns[role]!r}, the {role}, which is {why}: leave it out"
            )
    frame = read_table(path)[log.numbers]
    fixed = {action, log.columns["position"], log.columns["user"]}
    columns = [name for name in frame.columns if name in read | fixed]
    attributes = [name for name in columns if name not in fixed and _goes_with(frame, action, name)]
    first = np.unique(log.actions, return_index=True)[1]
    beside = tuple(path.parent / name for name in BESIDE.get(config.data.source, ()))
    return Contexts(
        frame.select(columns),
        frame[first].select(action, *attributes),
        log,
        tuple(file for file in beside if file.exists()),
        is_text(path),
    )


def predict_actions(
    run: Run, contexts: Contexts, rows: np.ndarray, progress: Progress = no_progress
) -> np.ndarray:
    """Predict the click probability of every action in the context of each of `rows`: float64 [len(rows), A].

    Raises:
        ValueError: The run cannot read a row, or finds text where training had integers, or the reverse.
    """
    total, finished = len(rows) * len(contexts.actions), 0
    out = np.full(total, np.nan)
    quarantine = Quarantine()
    with tempfile.TemporaryDirectory() as folder:
        file = _write_every_action(contexts, rows, Path(folder))
        for scored, predictions in score_file(run, file, labelled=False, quarantine=quarantine):
            out[scored.row_id] = predictions
            finished += len(scored)
            progress("score actions", finished, total)
    if quarantine.count:
        bad = quarantine.examples[0]
        place = contexts.log.place(int(rows[bad.row % len(rows)]))
        raise ValueError(f"{place}: {bad.field} is {bad.value}: {bad.reason}; {run.path} cannot score it")
    return out.reshape(len(contexts.actions), len(rows)).T


def _write_every_action(contexts: Contexts, rows: np.ndarray, folder: Path) -> Path:
    """Write the rows with the first action, then with the second, and so on; return the file."""
    for other in contexts.beside:
        shutil.copy2(other, folder / other.name)
    frame = contexts.frame[rows]
    parts = (
        frame.with_columns(contexts.actions[np.full(len(rows), number)].get_columns())
        for number in range(len(contexts.actions))
    )
    if contexts.text:
        file = folder / "actions.csv"
        with file.open("wb") as out:
            for number, part in enumerate(parts):
                part.write_csv(out, include_header=number == 0)
        return file
    file = folder / "actions.parquet"
    writer: pq.ParquetWriter | None = None
    for part in parts:
        table = part.to_arrow()
        writer = writer or pq.ParquetWriter(file, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return file


def _goes_with(frame: pl.DataFrame, action: str, name: str) -> bool:
    """Return whether a column has one value for each action, and not the same for all."""
    pairs = frame.select(action, name).unique()
    return len(pairs) == frame[action].n_unique() and frame[name].n_unique() > 1
