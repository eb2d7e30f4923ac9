"""The page of the experiment file: every key with its values, default, range and meaning, from the models that read it."""

import ast
import inspect
import io
import textwrap
import tokenize
import types
from collections.abc import Collection, Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from recsys.config import ExperimentConfig
from recsys_pipelines.declared_feature import EncodedFeature, KeptFeature
from recsys_tables.schemes.declared import Declaration
from reference.annotations import constraints, limits, values
from reference.markdown import code, sentence, table

HEAD = """# Experiment file

Every key of an experiment, as the models that read it declare them. `extends: other.yaml` starts from another file, whose
keys are replaced by those that stand beside it; `set:` then replaces dotted keys, such as `features.min_count: 1`, which is
of every categorical feature. An unknown key is refused with the nearest one that exists. A path is relative to the file
that names it.
"""

IMPLIED = {"names": "columns", "columns": "names"}  # of a feature: each follows from the other


def page() -> str:
    """Return the page."""
    scalars = [name for name, field in ExperimentConfig.model_fields.items() if not _models(field.annotation)]
    parts = [HEAD, keys(ExperimentConfig, ""), ""]
    for name, field in ExperimentConfig.model_fields.items():
        if name not in scalars:
            parts += [f"## {name}", ""]
            models = _models(field.annotation)
            if name == "features":
                parts += [f"{text_of(base)}\n" for base in (EncodedFeature, KeptFeature)]
            if name == "tables":
                models = [Declaration]
                parts.append("Each `scheme` has these keys, and perhaps [its own](schemes.md):\n")
            alone = len(models) == 1
            for model in models:
                parts += list(_section(model, name, "" if alone else _chooser(model), 3))
    return "\n".join(parts)


def _section(model: type[BaseModel], path: str, title: str, level: int) -> Iterator[str]:
    """Yield the lines on a model: what it is, its keys, and the models below it."""
    if title:
        yield f"{'#' * level} {title}\n"
    if model is not Declaration:
        yield text_of(model) + "\n"
    yield keys(model, path) + "\n"
    for name, field in model.model_fields.items():
        for below in _models(field.annotation):
            yield from _section(below, f"{path}.{name}", f"{path}.{name}", level + bool(title))


def _chooser(model: type[BaseModel]) -> str:
    """Return the key that chooses a member of a union, such as `scheme: full`."""
    for key in ("scheme", "kind", "name"):
        if key in model.model_fields and (values := get_args(model.model_fields[key].annotation)):
            return f"{key}: {values[0]}"
    raise TypeError(f"{model} has no key to be chosen by")


def text_of(model: type[BaseModel]) -> str:
    """Return a docstring of which the lines on how Python uses the class are left out."""
    text = inspect.cleandoc(model.__doc__ or "")
    return text.split("\n\nRaises:")[0]


def keys(model: type[BaseModel], path: str, leave_out: Collection[str] = ()) -> str:
    """Return the table of a model's keys, which stand under the dotted `path` of an experiment; "" where it has none."""
    rows = []
    for name, field in model.model_fields.items():
        if name not in leave_out and not (path and _is_chooser(model, name)):
            links = [
                f"[{'a list of these' if _is_list(part) else 'see below'}](#{_anchor(path, name)})"
                for part in _alternatives(field.annotation)
                if _models(part)
            ]
            plain = [values(part) for part in _alternatives(field.annotation) if not _models(part)]
            allowed = " or ".join(dict.fromkeys([*plain, *links]))
            limit = limits([*field.metadata, *constraints(field.annotation)])
            rows.append(
                [
                    code(name),
                    allowed + (f"; {limit}" if limit and plain else ""),
                    _default(name, field, not plain),
                    sentence(comments(model).get(name, "")),
                ]
            )
    return table(["key", "values", "default", "meaning"], rows) if rows else ""


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, without None; the annotation itself, where it is none."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for part in get_args(annotation) if part is not type(None) for one in _alternatives(part)]
    return [annotation]


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _is_chooser(model: type[BaseModel], name: str) -> bool:
    annotation = model.model_fields[name].annotation
    return (
        name in ("scheme", "kind", "name")
        and get_origin(annotation) is Literal
        and len(get_args(annotation)) == 1
    )


def _anchor(path: str, name: str) -> str:
    return f"{path}.{name}".replace(".", "") if path else name


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation: of a union, of a tuple's elements, or the one that it is."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return list(dict.fromkeys(model for part in get_args(annotation) for model in _models(part)))


def _default(name: str, field: Any, has_keys: bool) -> str:
    if field.is_required():
        return f"from `{IMPLIED[name]}`" if name in IMPLIED else "required"
    if has_keys and field.default is not None:
        return "its keys' defaults"
    value = field.default if field.default is not PydanticUndefined else field.default_factory()
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple):
        return code("[" + ", ".join(map(str, value)) + "]")
    return code(f"{value:_}" if isinstance(value, int) and value >= 10_000 else value)


@cache
def comments(model: type[BaseModel]) -> dict[str, str]:
    """Return what the source says beside, or in lines right above, each field of a model and its bases."""
    texts: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            texts |= _own_comments(cls)
    return texts


def _own_comments(cls: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    at = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    texts = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in at and lines[line - 1].lstrip().startswith("#"):
                above.insert(0, at[line])
                line -= 1
            beside = [at[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in at]
            if above or beside:
                texts[node.target.id] = " ".join([*above, *beside])
    return texts
