"""An experiment is one YAML file, read into strict models whose errors say where and what to write."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from recsys.config.compression import CompressionConfig
from recsys.config.mistakes import ConfigError, explain, near_file
from recsys.config.models import DINConfig, ModelConfig, targets_of
from recsys.config.reading import read_yaml, set_dotted
from recsys.config.teacher import TeacherConfig
from recsys.config.tuning import FIT, MIN_COUNT, Range, TuningConfig
from recsys_cython_ext.files import file_digest, text_digest
from recsys_pipelines.config import DataConfig, FeatureConfig, Seed, Strict
from recsys_pipelines.sources.location import Place, Url, located
from recsys_tables.bytes import OptimizerName
from recsys_tables.config import Sharding, TableKernelName, TablesConfig

# the least share by which a sweep may shrink rows in half the bytes, whose numbers are 2^-11 to 2^-10 of themselves
# apart in fp16, 2^-8 to 2^-7 in bf16
LEAST_SWEEP = {"fp32": 0.0, "fp16": 2**-8, "bf16": 2**-5}


class StartRun(Strict):
    """A finished run that training goes on from: its tables, its network and the states of their optimisers."""

    run: Path  # its folder


def _validated_start(value: Any) -> Any:
    if isinstance(value, StartRun):
        return value
    try:
        return StartRun.model_validate(value) if isinstance(value, dict) else Path(value)
    except (ValidationError, TypeError):
        raise ValueError("must be a file of weights, or {run: FOLDER} with the folder of a run") from None


Start = Annotated[Path | StartRun, BeforeValidator(_validated_start)]


class TrainingConfig(Strict):
    """The settings that the weights of a run depend on. Where and how it runs is `JobConfig`.

    Tables are trained by a fused optimiser in every backward pass, everything else by `dense_optimizer` after
    every `accumulate` batches.
    """

    batch_size: int = Field(1024, ge=64, le=2**24, multiple_of=64)  # rows of a batch, over all ranks
    epochs: int = Field(3, ge=1, le=10_000)  # at most; `patience` may end training before
    monitor: Literal["logloss", "auc"] = "logloss"  # on validation: stops training and chooses settings
    patience: int = Field(1, ge=1)  # evaluations without a better monitored metric before stopping
    evaluations_per_epoch: int = Field(2, ge=1, le=10_000)  # on validation, evenly spread
    table_optimizer: OptimizerName = "rowwise_adagrad"
    table_lr: float = Field(0.05, gt=0)  # learning rate of the tables
    table_decay: float = Field(0.0, ge=0)  # λ of λ/2 · mean over samples of Σ_f |e_f|², added to the loss
    table_weight_decay: float = Field(0.0, ge=0)  # λ: each batch multiplies all rows by 1 - table_lr · λ
    table_decay_every: int = Field(16, ge=1)  # batches whose table_weight_decay is one sweep over the rows
    dense_optimizer: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"  # of the network
    dense_lr: float = Field(0.001, gt=0)  # learning rate of the network
    dense_decay: float = Field(0.0, ge=0)  # weight decay of the network
    warmup_steps: int = Field(0, ge=0)  # batches over which both learning rates rise from 0, in a line
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of both learning rates after that
    final_lr: float = Field(0.0, ge=0, le=1)  # share of the learning rates that a schedule ends with
    clip_norm: float | None = Field(None, gt=0)  # of the gradient of everything but the tables
    accumulate: int = Field(1, ge=1)  # batches per step of the dense optimiser
    precision: Literal["fp32", "bf16"] = "fp32"  # of the network's products; its weights stay fp32
    on_nonfinite: Literal["stop", "skip"] = "stop"  # a batch whose loss is not a number
    negative_rate: float = Field(
        1.0, gt=0, le=1
    )  # share of negatives trained on; predictions are recalibrated
    start: Start | None = None  # inherited weights, or a run to go on from: see `recsys.training.start`
    teacher: TeacherConfig | None = None  # whose answers the loss sees beside labels, or instead of them
    seed: Seed = 0
    num_threads: int = Field(1, ge=1, le=1024)  # of torch, in each process

    @model_validator(mode="after")
    def _decays_less_than_all(self) -> "TrainingConfig":
        if self.table_lr * self.table_weight_decay >= 1:
            raise ValueError(
                f"table_lr {self.table_lr:g} times table_weight_decay {self.table_weight_decay:g} must be below 1, for "
                "every batch multiplies all rows by 1 - table_lr · table_weight_decay"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_absent_teacher(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dump: dict[str, Any] = handler(self)
        if dump.get("teacher", ...) is None:  # so that what has none is named as before there were any
            del dump["teacher"]
        return dump

    def score(self, metrics: Mapping[str, Any]) -> float:
        """Return the monitored metric, higher is better."""
        return metrics["auc"] if self.monitor == "auc" else -metrics["logloss"]


class CheckpointConfig(Strict):
    """When and where a run is saved while it trains, which it is after each evaluation and every `every_steps` batches."""

    every_steps: int | None = Field(None, ge=1)  # batches between two checkpoints
    keep: int = Field(2, ge=1)  # newest ones; the best evaluation's is kept besides
    incremental: bool = False  # only the rows that changed since the last full one, where that is smaller
    # of a folder that fsspec can write: copies of checkpoints, each run's in a folder of its own below it
    url: Annotated[str, AfterValidator(lambda url: str(Url(url)))] | None = None


class ShardingConfig(Strict):
    """How TorchRec places tables on ranks: one way for all, or by table."""

    default: Sharding = "auto"  # of all tables that `tables` does not name
    tables: dict[str, Sharding] = Field(
        default_factory=dict
    )  # physical tables by name, as `recsys tables` shows
    memory_per_rank: int | None = Field(None, ge=1)  # bytes; what the machine has, shared among its ranks


class JobConfig(Strict):
    """How a run is carried out. Its results do not depend on it, nor does the folder it is kept in."""

    checkpoint: CheckpointConfig = CheckpointConfig()  # when and where a run is saved
    sharding: ShardingConfig = ShardingConfig()  # where tables lie
    table_kernel: TableKernelName = "recsys"  # what reads and updates rows on a CPU; GPUs have FBGEMM's
    mlflow: str | None = None  # tracking URI; metrics go to TensorBoard in any case
    straggler_ratio: float = Field(1.5, gt=1)  # a rank this much slower than the median of all is named


class EvaluationConfig(Strict):
    """How runs are judged and compared."""

    replicates: int = Field(
        1000, ge=100, le=1_000_000
    )  # of the bootstrap over rows, or over users where `data.user` is set
    level: float = Field(0.95, gt=0.5, lt=1)  # of the intervals
    batch_size: int = Field(8192, ge=1, le=2**24)


class ExperimentConfig(Strict):
    """One arm of a comparison: data, features, tables, model, training, evaluation, tuning and compression."""

    name: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9._@%-]+$"
    )  # of the arm, in tables, reports and the folders of its runs
    data: DataConfig  # the rows and what they mean
    features: tuple[FeatureConfig, ...]  # what a model reads of a row
    tables: TablesConfig  # the scheme of all features, and its budget
    model: ModelConfig  # the network above the tables
    training: TrainingConfig = TrainingConfig()  # what the weights depend on
    job: JobConfig = JobConfig()  # how a run is carried out
    evaluation: EvaluationConfig = EvaluationConfig()  # how runs are judged
    tuning: TuningConfig = TuningConfig()  # settings that are tried on validation
    compression: CompressionConfig = CompressionConfig()  # of `recsys compress`

    @model_validator(mode="after")
    def _features_once(self) -> "ExperimentConfig":
        names = [name for feature in self.features for name in feature.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"features declared twice: {', '.join(twice)}")
        if not any(feature.categorical for feature in self.features):
            raise ValueError("an experiment needs at least one categorical feature")
        if isinstance(self.model, DINConfig):
            self.model.check(self.features)
        readers = targets_of(self.model)  # of other features' tables
        categorical = [feature for feature in self.features if feature.categorical]
        self.tables.check([n for feature in categorical for n in feature.names if n not in readers])
        return self

    @model_validator(mode="after")
    def _sweeps_that_rounding_leaves(self) -> "ExperimentConfig":
        training = self.training
        each = training.table_lr * training.table_weight_decay
        precision = self.tables.precision
        if 0 < each * training.table_decay_every < LEAST_SWEEP[precision]:
            raise ValueError(
                f"tables.precision {precision} would round away a sweep of training.table_weight_decay that shrinks rows "
                f"by {each * training.table_decay_every:.1g} of themselves: set training.table_decay_every to "
                f"{math.ceil(LEAST_SWEEP[precision] / each)} or more, so that fewer sweeps shrink them by more"
            )
        return self

    def digest(self, prepared: str | Path) -> str:
        """Return sixteen hexadecimal digits of all that a run on a prepared folder depends on.

        Of a file or a run to start from, of a teacher's predictions, of codes, and of ids to keep (by the folder's name),
        it is the content that counts. Raises ConfigError where `training.start` or `training.teacher` cannot be read,
        DamagedFile where `tables.codes` cannot.
        """
        settings = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(("name", "job", "evaluation", "tuning", "compression"), True),
                "training": {"start", "teacher"},
                "tables": {"codes"},
                "features": {"__all__": {"keep"}},
            },
        )
        dependencies: list[Any] = [settings, Path(prepared).name]
        if (codes := self.tables.digest_of_files()) is not None:
            dependencies.append(codes)
        if self.training.start is not None:
            dependencies.append(_digest_of_start(self.training.start))
        if (teacher := self.training.teacher) is not None:
            dependencies.append([teacher.weight, teacher.file_digest()])
        return text_digest(json.dumps(dependencies, sort_keys=True))

    def require_full_tables(self, where: str) -> None:
        """Raise ConfigError unless it is the minimum count that decides whether the tables fit a budget."""
        if self.tables.scheme != "full":
            raise ConfigError(
                f"{where}: {MIN_COUNT}: `{FIT}` is of tables of scheme full, which nothing else makes smaller, and these "
                f"are {self.tables.scheme}; list numbers"
            )

    def replace(self, settings: Mapping[str, Any], where: str = "settings") -> "ExperimentConfig":
        """Return a copy with dotted keys replaced, e.g. {"training.table_lr": 0.1}, validated anew.

        `features.min_count` and other keys of a feature apply to every categorical feature, and
        `features.vocabulary: {encoding: vocabulary, form: fingerprint, min_count: 2}` sets several of them at once.
        """
        raw = self.model_dump(mode="json", exclude_unset=True)
        for key, value in settings.items():
            set_dotted(raw, key, value, where)
        return parse_experiment(raw, where)


def load_experiment(
    path: str | Path, data: Place | str | None = None, on: str | Path | None = None
) -> ExperimentConfig:
    """Read one experiment.

    `extends: other.yaml` starts from another file, and keys here replace its keys; `set` then replaces dotted keys, as
    `ExperimentConfig.replace` does. A relative path (`data.path`, `tables.codes`, `training.start` or its `run`, a
    teacher's `experiment` or `predictions`, `vocabulary` and `keep` of a feature) is relative to the file that names it.

    Args:
        path: The YAML file.
        data: Replaces `data.path`, which must exist.
        on: A prepared set that the experiment is run on, for which `data.path` may be gone.

    Raises:
        ConfigError: A file, a key or a value is wrong; the message names each.
    """
    path = Path(path)
    raw = read_yaml(path)
    section = raw.get("data")
    if data is not None and isinstance(section, dict):
        section["path"] = str(located(data).resolve())
    config = parse_experiment(raw, str(path))
    log = config.data.path
    if on is None and isinstance(log, Path) and not log.exists():  # readers look for a URL
        raise ConfigError(
            f"{path}: data.path: {log} does not exist{near_file(log)}; "
            "correct it, or name the file with --data"
        )
    if config.training.start is not None:
        _check_start(path, config.training.start)
    if config.tables.scheme == "coded" and not config.tables.codes.is_dir():
        raise ConfigError(
            f"{path}: tables.codes: {config.tables.codes} is no folder{near_file(config.tables.codes)}; `recsys compress` "
            "makes codes"
        )
    if config.training.teacher is not None:
        config.training.teacher.check(str(path))
    for key, choices in config.tuning.space.items():
        for value in choices.examples if isinstance(choices, Range) else choices:
            if (key, value) == (MIN_COUNT, FIT):
                config.require_full_tables(f"{path}: tuning.space")
                continue
            config.replace({key: value}, where=f"{path}: tuning.space.{key}")
    return config


def parse_experiment(raw: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Validate a mapping. Raises ConfigError listing every mistake, with `where` as the file."""
    try:
        return ExperimentConfig.model_validate(raw)
    except ValidationError as error:
        lines = [explain(ExperimentConfig, where, item) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _check_start(path: Path, start: Path | StartRun) -> None:
    """Raise ConfigError unless there is what training starts from."""
    if isinstance(start, StartRun):
        if not (start.run / "metrics.json").is_file():
            raise ConfigError(
                f"{path}: training.start.run: {start.run} is not the folder of a finished run (no metrics.json)"
                f"{'' if start.run.exists() else near_file(start.run)}"
            )
    elif start.is_dir():
        raise ConfigError(
            f"{path}: training.start: {start} is a folder: to go on from a run, write `start: {{run: {start}}}`"
        )
    elif not start.is_file():
        raise ConfigError(f"{path}: training.start: {start} is no file{near_file(start)}")


def _digest_of_start(start: Path | StartRun) -> str:
    """Return a digest of what training starts from: of a run, its checkpoint's manifest has all checksums."""
    file = start.run / "checkpoint" / "manifest.json" if isinstance(start, StartRun) else start
    try:
        return file_digest(file)
    except OSError as error:
        raise ConfigError(f"training.start: {file}: cannot be read ({error.strerror})") from None
