"""Mistakes in experiment files are explained, each in a line."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

RENAMED = {"search": "tuning", "shrink": "compression"}  # sections since 0.2


class ConfigError(ValueError):
    """A configuration file that cannot be used; the message names file, key, value and remedy."""


def near_file(path: Path) -> str:
    """Hint at the file of the same folder whose name is nearest, if one is near."""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], 1, 0.5)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def explain(root: type[BaseModel], where: str, error: Any) -> str:
    """Tell one mistake that pydantic found under `root` in a line: file, key's path, value, the nearest valid name."""
    keys, models = _walk(root, error["loc"])
    path = ".".join(keys)
    if error["type"] == "extra_forbidden" and len(keys) == 1 and keys[0] in RENAMED:
        return f"{where}: {path}: is called {RENAMED[path]!r} now: rename it, or run `recsys migrate {where}`"
    if error["type"] == "extra_forbidden":
        names = sorted({name for model in _walk(root, error["loc"][:-1])[1] for name in model.model_fields})
        near = difflib.get_close_matches(keys[-1], names, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"valid here: {', '.join(names)}"
        return f"{where}: {path}: unknown key (value {error['input']!r}); {hint}"
    if error["type"] == "missing":
        return f"{where}: {path}: required, but not given"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        valid = [str(_tag_of(model)) for model in models]
        key, tag = error["ctx"]["discriminator"].strip("'"), error["ctx"].get("tag")
        fault = "required, but not given" if tag is None else f"{tag!r} is not known"
        near = [] if tag is None else difflib.get_close_matches(str(tag), valid, 1, 0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{where}: {path}.{key}: {fault}; {hint}valid: {', '.join(valid)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        valid = [part.strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(error["input"]), valid, 1, 0.4)
        message += f"; did you mean {near[0]!r}?" if near else ""
    value = repr(error["input"])
    return f"{where}: {path or 'the file'}: {message} (value {value if len(value) <= 80 else value[:77] + '...'})"


def _walk(root: type[BaseModel], location: Sequence[Any]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the file's keys along a place that pydantic names, and the models that may stand at its end.

    Pydantic also puts the chosen sibling ("full", "categorical") into a place; the file has no such key.
    """
    keys: list[str] = []
    models: list[type[BaseModel]] = [root]
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
    """Return every pydantic model inside an annotation such as tuple[A | B, ...] or Optional[A]."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [member for argument in get_args(annotation) for member in _members(argument)]


def _tag_of(model: type[BaseModel]) -> str | None:
    """Return the value of the key that chooses `model` among its siblings."""
    for key in ("kind", "scheme", "name"):
        if key in model.model_fields and get_origin(model.model_fields[key].annotation) is Literal:
            return str(get_args(model.model_fields[key].annotation)[0])
    return None
