"""The public face: what each package exports, frozen, and what importing it costs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from make_public_api import PACKAGES, face

GOLDEN = Path(__file__).parent / "public_api.json"


def test_signatures_are_those_of_the_golden_file() -> None:
    assert face() == json.loads(GOLDEN.read_text()), (
        "the public face changed: say so in CHANGELOG.md, and run "
        "`python tests/make_public_api.py > tests/public_api.json`"
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
