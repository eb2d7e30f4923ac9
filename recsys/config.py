"""One experiment as one YAML file: strict models, no torch, errors that say where and what to write."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from recsys.model_config import DINConfig, ModelConfig, targets_of
from recsys.search_config import Range, SearchConfig, ShrinkConfig
from recsys_pipelines.config import DataConfig, FeatureConfig, Strict
from recsys_pipelines.sources.location import Place, located
from recsys_tables.bytes import OptimizerName
from recsys_tables.config import CompactTables, Sharding, TablesConfig


class ConfigError(ValueError):
    """A configuration file that cannot be used; the message names file, key, value and remedy."""


class TrainingConfig(Strict):
    """One training run: what the weights depend on. Where and how it runs is `JobConfig`.

    Tables are trained by a fused optimiser in every backward pass, everything else by `dense_optimizer` after
    every `accumulate` batches.
    """

    batch_size: int = Field(1024, ge=64, multiple_of=64)
    epochs: int = Field(3, ge=1)
    monitor: Literal["logloss", "auc"] = "logloss"  # on validation: stops training and chooses settings
    patience: int = Field(1, ge=1)  # evaluations without a better monitored metric before stopping
    evaluations_per_epoch: int = Field(2, ge=1)
    table_optimizer: OptimizerName = "rowwise_adagrad"
    table_lr: float = Field(0.05, gt=0)
    table_decay: float = Field(0.0, ge=0)  # λ of λ/2 · mean over samples of Σ_f |e_f|², added to the loss
    table_weight_decay: float = Field(0.0, ge=0)  # λ: each batch multiplies all rows by 1 - table_lr · λ
    table_decay_every: int = Field(16, ge=1)  # batches whose table_weight_decay is one sweep over the rows
    dense_optimizer: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    dense_lr: float = Field(0.001, gt=0)
    dense_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)  # batches over which both learning rates rise from 0, in a line
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of both learning rates after that
    final_lr: float = Field(0.0, ge=0, le=1)  # share of the learning rates that a schedule ends with
    clip_norm: float | None = Field(None, gt=0)  # of the gradient of everything but the tables
    accumulate: int = Field(1, ge=1)  # batches per step of the dense optimiser
    precision: Literal["fp32", "bf16"] = "fp32"  # of the network's products; weights and tables stay fp32
    on_nonfinite: Literal["stop", "skip"] = "stop"  # a batch whose loss is not a number
    negative_rate: float = Field(
        1.0, gt=0, le=1
    )  # share of negatives trained on; predictions are recalibrated
    start: Path | None = None  # inherited weights, .safetensors: see `recsys_tables.pieces.load_start`
    seed: int = Field(0, ge=0)
    num_threads: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _decays_less_than_all(self) -> "TrainingConfig":
        if self.table_lr * self.table_weight_decay >= 1:
            raise ValueError(
                f"table_lr {self.table_lr:g} times table_weight_decay {self.table_weight_decay:g} must be below 1, for "
                "every batch multiplies all rows by 1 - table_lr · table_weight_decay"
            )
        return self

    def score(self, metrics: Mapping[str, Any]) -> float:
        """Return the monitored metric, higher is better."""
        return metrics["auc"] if self.monitor == "auc" else -metrics["logloss"]


class CheckpointConfig(Strict):
    """When a run is saved while it trains, and where: after each evaluation, and every `every_steps` batches."""

    every_steps: int | None = Field(None, ge=1)
    keep: int = Field(2, ge=1)  # newest ones; the best evaluation's is kept besides
    incremental: bool = False  # only the rows that changed since the last full one, where that is smaller
    # of a folder that fsspec can write: copies of checkpoints, each run's in a folder of its own below it
    url: str | None = Field(None, pattern="://")


class ShardingConfig(Strict):
    """How TorchRec places tables on ranks: one way for all, or by table."""

    default: Sharding = "auto"
    tables: dict[str, Sharding] = Field(
        default_factory=dict
    )  # physical tables by name, as `recsys tables` shows
    memory_per_rank: int | None = Field(None, ge=1)  # bytes; what the machine has, shared among its ranks


class JobConfig(Strict):
    """How a run is carried out. Its results do not depend on it, nor does the folder it is kept in."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    sharding: ShardingConfig = ShardingConfig()
    mlflow: str | None = None  # tracking URI; metrics go to TensorBoard in any case
    straggler_ratio: float = Field(1.5, gt=1)  # a rank this much slower than the median of all is named


class EvaluationConfig(Strict):
    """How runs are judged and compared."""

    replicates: int = Field(
        1000, ge=100
    )  # of the bootstrap over rows, or over users where `data.user` is set
    level: float = Field(0.95, gt=0.5, lt=1)
    batch_size: int = Field(8192, ge=1)


class ExperimentConfig(Strict):
    """One arm of a comparison: data, features, tables, model, training, evaluation, and its search."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._@%-]+$")
    data: DataConfig
    features: tuple[FeatureConfig, ...]
    tables: TablesConfig
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    job: JobConfig = JobConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig = SearchConfig()
    shrink: ShrinkConfig = ShrinkConfig()

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
        if isinstance(self.tables, CompactTables):
            readers = targets_of(self.model)  # of other features' tables
            categorical = [feature for feature in self.features if feature.categorical]
            self.tables.check([n for feature in categorical for n in feature.names if n not in readers])
        return self

    def digest(self, prepared: Path) -> str:
        """Twelve hexadecimal digits of all that a run on a prepared folder depends on.

        Of a file to start from, and of ids to keep (by the folder's name), it is the content that counts.
        Raises ConfigError where `training.start` cannot be read.
        """
        kept = self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(("name", "job", "evaluation", "search", "shrink"), True),
                "training": {"start"},
                "features": {"__all__": {"keep"}},
            },
        )
        told = [kept, prepared.name]
        if self.training.start is not None:
            told.append(_content(self.training.start))
        text = json.dumps(told, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def replace(self, settings: Mapping[str, Any], where: str = "settings") -> "ExperimentConfig":
        """Return a copy with dotted keys replaced, e.g. {"training.table_lr": 0.1}, validated anew.

        `features.min_count` and other keys of a feature apply to every categorical feature, and
        `features.vocabulary: {encoding: vocabulary, min_count: 2}` sets several of them at once.
        """
        raw = self.model_dump(mode="json", exclude_unset=True)
        for key, value in settings.items():
            _set(raw, key, value, where)
        return parse(raw, where)


def load(path: Path, data: Place | None = None) -> ExperimentConfig:
    """Read one experiment. `extends: other.yaml` starts from another file, and keys here replace its keys;
    `set` then replaces dotted keys, as `ExperimentConfig.replace` does.

    A relative path (`data.path`, `training.start`, `vocabulary` and `keep` of a feature) is relative to the file that
    names it; `data` replaces `data.path`. Raises ConfigError.
    """
    raw = _read(path, ())
    section = raw.get("data")
    if data is not None and isinstance(section, dict):
        section["path"] = str(located(data).resolve())
    config = parse(raw, str(path))
    if isinstance(config.data.path, Path) and not config.data.path.exists():  # readers look for a URL
        raise ConfigError(
            f"{path}: data.path: {config.data.path} does not exist{_near_file(config.data.path)}; "
            "correct it, or name the file with --data"
        )
    if (start := config.training.start) is not None and not start.is_file():
        raise ConfigError(f"{path}: training.start: {start} is no file{_near_file(start)}")
    for key, choices in config.search.space.items():
        for value in choices.examples if isinstance(choices, Range) else choices:
            config.replace({key: value}, where=f"{path}: search.space.{key}")
    return config


def parse(raw: Mapping[str, Any], where: str) -> ExperimentConfig:
    """Validate a mapping. Raises ConfigError listing every mistake, with `where` as the file."""
    try:
        return ExperimentConfig.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(where, item) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    path = Path(path)
    if path.resolve() in chain:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    if not path.is_file():
        named_by = f"{chain[-1]}: extends: " if chain else ""
        raise ConfigError(f"{named_by}{path}: no such file{_near_file(path)}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: holds {type(raw).__name__}, not keys such as data, features, tables, model"
        )
    settings = raw.pop("set", {})
    features = raw.get("features")
    declared = features if isinstance(features, list) else []
    for section, key in (
        *((raw.get("data"), "path"), (raw.get("training"), "start")),
        *((settings, "data.path"), (settings, "training.start"), (settings, "features.keep")),
        *((feature, key) for feature in declared for key in ("vocabulary", "keep")),
    ):
        if isinstance(section, dict) and isinstance(section.get(key), str) and "://" not in section[key]:
            section[key] = str((path.parent / Path(section[key]).expanduser()).resolve())
    if (parent := raw.pop("extends", None)) is not None:
        raw = _merge(_read(path.parent / str(parent), (*chain, path.resolve())), raw)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: set: must map dotted keys to values, such as `features.encoding: hash`")
    for key, value in settings.items():
        _set(raw, str(key), value, str(path))
    return raw


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else, a section of another kind and a search space are replaced."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        same_kind = (
            key != "space"
            and isinstance(old, dict)
            and isinstance(value, dict)
            and all(tag not in value or value[tag] == old.get(tag) for tag in ("scheme", "name", "source"))
        )
        out[key] = _merge(old, value) if same_kind else value  # type: ignore[arg-type]
    return out


def _content(file: Path) -> str:
    """BLAKE2b of a file that training starts from."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise ConfigError(f"training.start: {file}: cannot be read ({error.strerror})") from None


def _near_file(path: Path) -> str:
    """A hint at the file of the same folder whose name is nearest, if one is near."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], 1, 0.5)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _set(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    section, _, rest = key.partition(".")
    if section == "features" and rest:
        settings = value if rest == "vocabulary" else {rest: value}
        if not isinstance(settings, dict):
            raise ConfigError(f"{where}: {key}: must map keys of a feature to values (value {value!r})")
        features = raw.get("features")
        for feature in features if isinstance(features, list) else ():
            if isinstance(feature, dict) and feature.get("kind") == "categorical":
                feature.update(settings)
        return
    target: Any = raw
    *path, last = key.split(".")
    for step in path:
        target = target.setdefault(step, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict) or not last:
        raise ConfigError(f"{where}: {key}: not a key that can be set")
    target[last] = value


def _explain(where: str, error: Any) -> str:
    """One line per mistake: file, key's path, value, and the nearest valid name."""
    keys, models = _walk(error["loc"])
    path = ".".join(keys)
    if error["type"] == "extra_forbidden":
        names = sorted({name for model in _walk(error["loc"][:-1])[1] for name in model.model_fields})
        near = difflib.get_close_matches(keys[-1], names, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"valid here: {', '.join(names)}"
        return f"{where}: {path}: unknown key (value {error['input']!r}); {hint}"
    if error["type"] == "missing":
        return f"{where}: {path}: required, but not given"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        valid = [str(_tag_of(model)) for model in models]
        key, tag = error["ctx"]["discriminator"].strip("'"), error["ctx"].get("tag")
        found = "required, but not given" if tag is None else f"{tag!r} is not known"
        near = [] if tag is None else difflib.get_close_matches(str(tag), valid, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{where}: {path}.{key}: {found}; {hint}valid: {', '.join(valid)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        valid = [part.strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(error["input"]), valid, 1, 0.4)
        message += f"; did you mean {near[0]!r}?" if near else ""
    shown = repr(error["input"])
    return f"{where}: {path or 'the file'}: {message} (value {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _walk(location: Sequence[Any]) -> tuple[list[str], list[type[BaseModel]]]:
    """The file's keys along a place that pydantic names, and the models that may stand at its end.

    Pydantic also puts the chosen sibling ("full", "categorical") into a place; the file has no such key.
    """
    keys: list[str] = []
    models: list[type[BaseModel]] = [ExperimentConfig]
    for step in location:
        if len(models) > 1 and isinstance(step, str):
            models = [model for model in models if _tag_of(model) == step]
            continue
        keys.append(str(step))
        if isinstance(step, str):
            field = models[0].model_fields.get(step) if models else None
            models = [] if field is None else _members(field.annotation)
    return keys, models


def _members(annotation: Any) -> list[type[BaseModel]]:
    """Every pydantic model inside an annotation such as tuple[A | B, ...] or Optional[A]."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [member for argument in get_args(annotation) for member in _members(argument)]


def _tag_of(model: type[BaseModel]) -> str | None:
    """The value of the key that chooses `model` among its siblings."""
    for key in ("kind", "scheme", "name"):
        if key in model.model_fields and get_origin(model.model_fields[key].annotation) is Literal:
            return str(get_args(model.model_fields[key].annotation)[0])
    return None
