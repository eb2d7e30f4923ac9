"""Imports run one way: floor 3 may use floors 2 and 1, floor 2 only floor 1, floor 1 nothing of ours."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "recsys_cython_ext": ROOT / "cython_ext" / "recsys_cython_ext",
    "recsys_tables": ROOT / "tables" / "recsys_tables",
    "recsys_pipelines": ROOT / "pipelines" / "recsys_pipelines",
    "recsys": ROOT / "recsys",
}
ALLOWED = {
    "recsys_cython_ext": {"recsys_cython_ext"},
    "recsys_tables": {"recsys_tables", "recsys_cython_ext"},
    "recsys_pipelines": {"recsys_pipelines", "recsys_cython_ext"},
    "recsys": set(FOLDERS),
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_run_one_way(package: str) -> None:
    files = sorted(FOLDERS[package].rglob("*.py"))
    assert len(files) > 1
    for path in files:
        ours = {name.split(".")[0] for name in imported(path)} & set(FOLDERS)
        assert ours <= ALLOWED[package], f"{path} imports {sorted(ours - ALLOWED[package])}"


def test_models_know_no_data_and_evaluation_no_models() -> None:
    for folder, forbidden in [
        ("models", ("recsys_pipelines", "recsys.training", "recsys.evaluation")),
        ("evaluation", ("torch", "recsys_tables", "recsys.models", "recsys.training")),
    ]:
        for path in (ROOT / "recsys" / folder).rglob("*.py"):
            bad = [
                n for n in imported(path) if n in forbidden or n.startswith(tuple(f"{x}." for x in forbidden))
            ]
            assert not bad, f"{path} imports {bad}"


def test_schemes_know_no_torchrec() -> None:
    """What touches TorchRec: the engine and its batches, how its tables lie on ranks, and how they are saved."""
    users = {
        path.name
        for path in FOLDERS["recsys_tables"].rglob("*.py")
        if any(name.split(".")[0] in ("torchrec", "fbgemm_gpu") for name in imported(path))
    }
    engine = {"engine.py", "bags.py", "batch_rows.py", "combiner.py", "embeddings.py", "deep_hash.py"}
    assert users <= engine | {"sharding.py", "checkpoint.py", "saving.py", "pieces.py"}
    assert "engine.py" in users


@pytest.mark.parametrize(
    "module",
    [
        "recsys.cli",
        "recsys.config.experiment",
        "recsys.doctor",
        "recsys_tables",
        "recsys_cython_ext",
        "recsys_pipelines.preparation.prepare",
    ],
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
