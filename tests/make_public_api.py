"""The public names of the four packages and their signatures, as `public_api.json` holds them.

python tests/make_public_api.py > tests/public_api.json
"""

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

PACKAGES = ("recsys_cython_ext", "recsys_tables", "recsys_pipelines", "recsys")


def signature(value: Any) -> str:
    """The parameters with their kinds and plain defaults, without annotations, which Python versions print differently."""
    empty = inspect.Parameter.empty
    bare = [
        parameter.replace(annotation=empty, default=parameter.default if plain(parameter.default) else ...)
        for parameter in parameters(value).values()
    ]
    return str(inspect.Signature(bare)).replace("Ellipsis", "...")


def parameters(value: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters by name; none of what was written in C and tells nothing of them."""
    try:
        return inspect.signature(value).parameters
    except (TypeError, ValueError):
        return {}


def plain(value: Any) -> bool:
    """Whether the text of a default is the same in every process."""
    return value is inspect.Parameter.empty or isinstance(value, str | int | float | tuple | None)


def members(kind: type) -> dict[str, str]:
    """The constructor of a class under "", and the methods and properties that a user sees, base classes' of ours too."""
    ours = [base for base in kind.__mro__ if base.__module__.split(".")[0] in PACKAGES]
    names = {name for base in ours for name in vars(base) if not name.startswith("_")} - {"model_config"}
    described = {"": signature(kind)}
    for name in sorted(names - set(parameters(kind))):  # a field that is also a parameter is said once
        member = inspect.getattr_static(kind, name)
        if isinstance(member, staticmethod | classmethod) or inspect.isfunction(member):
            described[name] = signature(getattr(kind, name))
        else:
            described[name] = "property"
    return described


def face() -> dict[str, dict[str, Any]]:
    """{package: {name: signature, members of a class, or the type of a constant}}."""
    described: dict[str, dict[str, Any]] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        described[package] = {}
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if inspect.isclass(value):
                described[package][name] = members(value)
            else:
                described[package][name] = signature(value) if callable(value) else type(value).__name__
    return described


if __name__ == "__main__":
    json.dump(face(), sys.stdout, indent=1, sort_keys=True)
    print()
