"""Experiment files are read as plain mappings, with `extends`, `set` and dotted keys, before anything is validated."""

from pathlib import Path
from typing import Any

from recsys.config.mistakes import ConfigError, near_file
from recsys.config.yaml_text import YamlError, parse_yaml

TEACHER = ("experiment", "predictions")  # files that a teacher may be


def read_yaml(path: str | Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read an experiment file and those it extends into one mapping, whose paths are absolute.

    `chain` holds the files that extend this one. Raises ConfigError.
    """
    path = Path(path)
    if path.resolve() in chain:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    if not path.is_file():
        named_by = f"{chain[-1]}: extends: " if chain else ""
        raise ConfigError(f"{named_by}{path}: no such file{near_file(path)}")
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not YAML: not UTF-8 text ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: holds {type(raw).__name__}, not keys such as data, features, tables, model"
        )
    settings = raw.pop("set", {})
    features = raw.get("features")
    declared = features if isinstance(features, list) else []
    training = raw.get("training")
    for section, key in (
        *((raw.get("data"), "path"), (training, "start"), (_mapping(training, "start"), "run")),
        *((settings, "data.path"), (settings, "training.start"), (settings, "features.keep")),
        *((settings, "training.start.run"), (_mapping(settings, "training.start"), "run")),
        *((raw.get("tables"), "codes"), (settings, "tables.codes")),
        *((_mapping(training, "teacher"), key) for key in TEACHER),
        *((settings, f"training.teacher.{key}") for key in TEACHER),
        *((_mapping(settings, "training.teacher"), key) for key in TEACHER),
        *((feature, key) for feature in declared for key in ("vocabulary", "keep")),
    ):
        if isinstance(section, dict) and isinstance(section.get(key), str) and "://" not in section[key]:
            section[key] = str(_absolute(section[key], path, key))
    if (parent := raw.pop("extends", None)) is not None:
        raw = _merge(read_yaml(path.parent / str(parent), (*chain, path.resolve())), raw)
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: set: must map dotted keys to values, such as `features.encoding: hash`")
    for key, value in settings.items():
        set_dotted(raw, str(key), value, str(path))
    return raw


def _absolute(name: str, file: Path, key: str) -> Path:
    """Return a path that an experiment file names, which is relative to the file's folder. Raises ConfigError."""
    try:
        return (file.parent / Path(name).expanduser()).resolve()
    except (
        RuntimeError,
        OSError,
        ValueError,
    ) as error:  # of ~nobody, of a circle of links, of a name with a NUL
        raise ConfigError(f"{file}: {key}: {name!r} cannot be a path ({error}): write another") from None


def _mapping(section: Any, key: str) -> Any:
    """Return what a section maps a key to, None where there is no such section or key."""
    return section.get(key) if isinstance(section, dict) else None


def set_dotted(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Set a dotted key of a mapping; `features.KEY` is set in every categorical feature. Raises ConfigError."""
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


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; anything else, a section of another kind and a search space are replaced."""
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
