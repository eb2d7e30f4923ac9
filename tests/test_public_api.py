"""The public face: what each package exports, frozen in `public_api.json`, and what importing it costs.

`python -P tests/test_public_api.py > tests/public_api.json` writes the file anew.
"""

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "public_api.json"
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


def test_signatures_are_those_of_the_golden_file() -> None:
    assert face() == json.loads(GOLDEN.read_text()), (
        "the public face changed: say so in CHANGELOG.md, and run "
        "`python -P tests/test_public_api.py > tests/public_api.json`"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_no_torch(package: str) -> None:
    code = f"import sys, {package}; print({package}.__version__, *({{'torch', 'ray', 'polars'}} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [importlib.import_module("recsys").__version__]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_their_names_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert (Path(module.__file__ or "").parent / "py.typed").exists()
    for name in set(module.__all__) - {"__version__"}:
        value = getattr(module, name)
        assert not callable(value) or (value.__doc__ or "").strip(), f"{package}.{name} has no docstring"
        assert name in dir(module)


if __name__ == "__main__":
    json.dump(face(), sys.stdout, indent=1, sort_keys=True)
    print()
