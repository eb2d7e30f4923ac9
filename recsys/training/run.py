"""A run is one configuration, one seed and one folder, and answers for what lies in it.

<runs>/<name>-<digest>/seed-<k>/
    config.yaml                 the settings as they were used
    codes/                      the codes of tables that are coded
    features/                   fitted features, so that the run scores new rows by itself
    checkpoint/                 the best evaluation
    checkpoints/                while it trains (`recsys.training.store`)
    sharding.json               which rank held which part of which table
    predictions.parquet         test rows: row_id, label, prediction, user_id and truth where known
    metrics.json                written last, with checksums: a folder without it is unfinished
    events.out.tfevents.*       TensorBoard
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import ConfigError, ExperimentConfig, parse_experiment
from recsys.config.migration import renamed
from recsys.config.yaml_text import parse_yaml
from recsys.training.records import RunMetrics, read_record
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.manifest import DamagedFile
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.manifest import MANIFEST, CheckpointError

if TYPE_CHECKING:  # it imports torch, which what a run has measured needs none of
    from recsys_tables.distributed.checkpoint import Checkpoint

METRICS, SETTINGS, PREDICTIONS = "metrics.json", "config.yaml", "predictions.parquet"
FEATURES, CODES, CHECKPOINT, CHECKPOINTS = "features", "codes", "checkpoint", "checkpoints"
NETWORK = "dense/network."  # what the names of a checkpoint's tensors of the network begin with
_COMBINE = "dense/engine.combiner.combines."  # and of what combines a field's vectors, by its number
CHECKED = (SETTINGS, PREDICTIONS)  # features/, codes/ and checkpoint/ have checksums of their own


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
        """Read the settings and metrics of a run.

        Args:
            path: The folder of the run.
            warn: Is told of files that have no checksum to be verified by.

        Raises:
            ConfigError: The folder is no finished run, or one of its files is damaged.
        """
        path = Path(path)
        if not is_finished(path):
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
        config = parse_experiment(renamed(settings), str(path / SETTINGS))
        if config.tables.scheme == "coded":
            config = config.replace({"tables.codes": str(path / CODES)})
        return cls(path, config, metrics, files)

    def verified(self, name: str) -> Path:
        """Return the path of a file, once it agrees with its checksum where it has one. Raises ConfigError."""
        try:
            return _verified(self.path / name, self.files)
        except DamagedFile as error:
            raise ConfigError(str(error)) from None

    def predictions(self) -> pa.Table:
        """Return the test predictions: row_id, label, prediction, and user_id and truth where known.

        Raises ConfigError as `verified` does.
        """
        return pq.read_table(self.verified(PREDICTIONS))

    @property
    def prepared_path(self) -> Path:
        """Return the folder of prepared data that the run was trained on; it may be gone."""
        return Path(self.metrics["prepared"])

    def prepared(self) -> Prepared:
        """Return the prepared data that the run was trained on, which are opened at the first call.

        Raises ManifestError where they are gone, damaged or of another version.
        """
        return self._prepared

    @cached_property
    def _prepared(self) -> Prepared:
        return Prepared.open(self.prepared_path)

    def features(self) -> Features:
        """Return the run's own copy of the fitted features, which is loaded at the first call.

        Raises ValueError where it is damaged or of another version.
        """
        return self._features

    @cached_property
    def _features(self) -> Features:
        return Features.load(self.path / FEATURES)

    def rows(self, split: str) -> Rows:
        """Return the rows of a split of the prepared data, whose checksums are compared at every call.

        Raises ManifestError as `prepared` does, and where a shard is damaged.
        """
        table = self.prepared().table(split)
        return Rows.from_table(self.features(), table)

    def checkpoint(self) -> "Checkpoint":
        """Return the tensors of the best evaluation, found whole, and of this configuration.

        Of a run whose `training.start` is gone by now the digest of the configuration is not known, and not compared.
        Raises CheckpointError where a file is damaged, or another configuration was trained.
        """
        from recsys_tables.distributed.checkpoint import Checkpoint

        saved = Checkpoint(self.path / CHECKPOINT)
        try:
            digest = self.config.digest(self.prepared_path)
        except ConfigError:
            return saved
        if saved.about["config"] != digest:
            raise CheckpointError(
                f"{saved.folder}: belongs to another configuration than {SETTINGS} beside it"
            )
        return saved

    @property
    def checkpoint_digest(self) -> str:
        """Return a digest of the checkpoint's manifest, which holds the checksums of all its tensors."""
        return file_digest(self.path / CHECKPOINT / MANIFEST)


def _verified(file: Path, files: Mapping[str, str]) -> Path:
    checksum = files.get(file.name)
    if checksum is not None and not (file.is_file() and file_digest(file) == checksum):
        raise DamagedFile(
            f"{file}: missing, damaged or changed since the run was finished (its checksum is wrong); "
            "delete the folder and train again"
        )
    return file


def run_folder(config: ExperimentConfig, prepared: Prepared, runs: str | Path) -> Path:
    """Return where the run of a configuration belongs; the seed is a subfolder of the rest."""
    seedless = config.replace({"training.seed": 0}).digest(prepared.path)
    return Path(runs) / f"{config.name}-{seedless}" / f"seed-{config.training.seed}"


def is_finished(folder: str | Path) -> bool:
    """Tell whether a folder is a finished run's."""
    return (Path(folder) / METRICS).exists()


def combine_parameters(saved: "Checkpoint", field: int) -> dict[str, np.ndarray]:
    """Read the parameters and buffers of the `combine` of the engine's n-th field, by their names there."""
    prefix = f"{_COMBINE}{field}."
    names = [name for name in saved.names if name.startswith(prefix)]
    return {name.removeprefix(prefix): saved.read(name).numpy() for name in names}
