"""The papers agree with each other: torch lines and their aliases, what is declared and what is imported, versions."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from recsys import __version__
from recsys.doctor import PAIRS
from recsys_cython_ext.extras import _EXTRAS

ROOT = Path(__file__).parents[1]
ALIASES = ROOT / "packaging" / "fbgemm-gpu-cpu-alias"
FOLDERS = ("recsys", "tables", "pipelines", "cython_ext")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = {"2.13": "", "2.14": "-2.14"}  # torch: ending of its extras
# distributions whose module has another name, and optional ones that a sentence asks for where they are configured
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn", "fbgemm-gpu": "fbgemm_gpu"}
UNDECLARED = {"mlflow", "triton"}  # triton comes with torch on a GPU


def names(requirements: list[str]) -> set[str]:
    """The modules of a list of requirements."""
    bare = {r.split("[")[0].split("=")[0].split("~")[0].split(">")[0].split("<")[0] for r in requirements}
    return {MODULES.get(name.lower(), name.lower().replace("-", "_")) for name in bare}


@pytest.mark.parametrize("torch", LINES)
def test_a_torch_line_is_one_matched_set(torch: str) -> None:
    alias = tomllib.loads((ALIASES / torch / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    fbgemm = PAIRS[torch]
    assert alias["version"] == f"{fbgemm}.0+cpu"
    assert alias["dependencies"] == [f"fbgemm-gpu-cpu~={fbgemm}.0", f"torch~={torch}.0"]
    both = {f"torch~={torch}.0", f"torchrec~={fbgemm}.0", "recsys-embedding-tables[training]"}
    extras = PROJECT["optional-dependencies"]
    own = {f"fbgemm-gpu-cpu~={fbgemm}.0", f"fbgemm-gpu=={alias['version']}"}
    assert set(extras[f"cpu{LINES[torch]}"]) == both | own
    assert set(extras[f"gpu{LINES[torch]}"]) == both | {f"fbgemm-gpu~={fbgemm}.0"}


def test_every_alias_is_a_line() -> None:
    assert {path.parent.name for path in ALIASES.glob("*/pyproject.toml")} == set(LINES)


def imported() -> set[str]:
    """The first names of all that our packages import."""
    found: set[str] = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    found.add(node.module.partition(".")[0])
    ours = {"recsys", "recsys_tables", "recsys_pipelines", "recsys_cython_ext", "recsys_configs"}
    return found - ours - set(sys.stdlib_module_names) - UNDECLARED


def test_what_is_imported_is_declared_and_what_an_extra_brings_is_named_where_it_is_missing() -> None:
    bare = names(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    brought = {
        module
        for extra in ("cpu", "gpu", "ray", "pictures", "training", "export", "serve")
        for module in names(extras[extra])
    }
    assert imported() <= bare | brought
    assert imported() - bare <= set(_EXTRAS)
    assert not bare & set(_EXTRAS)


def test_versions_agree() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"## {__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
