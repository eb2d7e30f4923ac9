"""Type annotations in words, of keys of an experiment and of options alike."""

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf

from reference.markdown import code

PLAIN = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "`true`, `false`",
    Path: "path",
    Any: "any value",
}
LIMITS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def values(annotation: Any) -> str:
    """Say what values an annotation allows."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(parts[0])
    if origin is Literal:
        return ", ".join(code(part) for part in parts)
    if origin in (Union, types.UnionType):
        kinds = dict.fromkeys(values(part) for part in parts if part is not type(None))
        return " or ".join(kinds)
    if origin in (tuple, list):
        is_list = origin is list or Ellipsis in parts
        return f"list: {values(parts[0])}" if is_list else "[" + ", ".join(map(values, parts)) + "]"
    if origin is dict:
        return f"mapping: {values(parts[0])} → {values(parts[1])}"
    return PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def constraints(annotation: Any) -> list[Any]:
    """Return the constraints in an annotation, also those on a part of an optional value or on a list's elements."""
    if get_origin(annotation) is Annotated:
        inner = get_args(annotation)[1:]
        return [part for item in inner for part in (item, *getattr(item, "metadata", ()))]
    return [item for part in get_args(annotation) for item in constraints(part)]


def limits(metadata: list[Any]) -> str:
    """Say what constraints allow."""
    words = []
    for item in metadata:
        if isinstance(item, MultipleOf):
            words.append(f"multiple of {item.multiple_of}")
        elif isinstance(item, MinLen):
            words.append("not empty" if item.min_length == 1 else f"at least {item.min_length}")
        elif isinstance(item, MaxLen):
            words.append(f"at most {item.max_length}")
        elif type(item) in LIMITS:
            name, sign = LIMITS[type(item)]
            words.append(f"{sign} {_number(getattr(item, name))}")
    return ", ".join(dict.fromkeys(words))


def _number(value: float) -> str:
    """Write a number; a power of two as one, where it is long."""
    whole = int(value)
    if whole >= 2**16 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return f"{whole:,}" if whole == value else f"{value:g}"
