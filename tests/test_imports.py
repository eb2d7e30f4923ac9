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


# a wing and what no file of it imports; a name stands for its submodules too
WINGS = {
    "recsys/config": ("torch", "recsys_pipelines.batches", "recsys.training", "recsys.models"),
    "recsys/models": ("recsys_pipelines", "recsys.training", "recsys.evaluation"),
    "recsys/evaluation": (
        *("torch", "recsys_tables", "recsys.models", "recsys.training", "recsys.reports"),
        *("recsys_pipelines.sources", "recsys.policies"),
    ),
    "recsys/starting": (
        *("torch", "recsys_tables", "recsys_pipelines.batches", "recsys_pipelines.preparation"),
        *("recsys.training", "recsys.models", "recsys.reports", "recsys.commands"),
    ),
    "recsys/compression": ("recsys.reports", "recsys.commands"),
    "recsys/serving/server": (
        "torch",
        "recsys.training",
        "recsys.models",
        "recsys.reports",
        "recsys.commands",
    ),
    "recsys/training": ("recsys.serving", "recsys.tuning", "recsys.comparison", "recsys.reports"),
    "recsys/tuning": ("recsys.comparison", "recsys.compression", "recsys.reports"),
    **{
        f"recsys/serving/{name}.py": ("torch", "recsys.training", "recsys.models", "recsys_pipelines.batches")
        for name in ("predictor", "exported", "files", "columns")
    },
    "recsys/planning.py": ("recsys.training", "recsys.models"),
    "tables/recsys_tables/schemes": (
        "recsys_tables.engine",
        "recsys_tables.distributed",
        "recsys_tables.planning",
        "recsys_tables.serving",
    ),
    "tables/recsys_tables/planning": (
        *("torch", "recsys_tables.engine", "recsys_tables.distributed", "recsys_tables.serving"),
        "recsys_tables.config",  # it plans any declaration
    ),
    "tables/recsys_tables/serving": ("torch", "recsys_tables.engine", "recsys_tables.distributed"),
    "pipelines/recsys_pipelines/sources": ("recsys_pipelines.features", "recsys_pipelines.preparation"),
    "pipelines/recsys_pipelines/features": ("recsys_pipelines.preparation", "recsys_pipelines.batches"),
    "pipelines/recsys_pipelines/preparation": ("torch", "recsys_pipelines.batches"),
    "pipelines/recsys_pipelines/inspection": ("torch", "recsys_pipelines.batches"),
}


def files_of(place: str) -> list[Path]:
    path = ROOT / place
    found = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
    assert found
    return found


def within(names: set[str], module: str) -> list[str]:
    return sorted(name for name in names if name == module or name.startswith(f"{module}."))


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_knows_nothing_of_those_above_it(wing: str) -> None:
    for path in files_of(wing):
        for forbidden in WINGS[wing]:
            bad = within(imported(path), forbidden)
            assert not bad, f"{path} imports {bad}"


def test_reports_are_imported_by_commands_only() -> None:
    for path in sorted((ROOT / "recsys").rglob("*.py")):
        if path.relative_to(ROOT / "recsys").parts[0] not in ("commands", "reports"):
            assert not within(imported(path), "recsys.reports"), path


ONE_FILE_A_THING = ("sources", "schemes")


@pytest.mark.parametrize("package", FOLDERS)
def test_no_folder_is_a_village_without_streets(package: str) -> None:
    for folder in [FOLDERS[package], *FOLDERS[package].rglob("*/")]:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 20 or folder.name in ONE_FILE_A_THING, folder
    assert len(list((ROOT / "recsys").glob("*.py"))) <= 8


def test_schemes_know_no_torchrec() -> None:
    """What touches TorchRec: the engine and its batches, how its tables lie on ranks, and how they are saved."""
    users = {
        path.name
        for path in FOLDERS["recsys_tables"].rglob("*.py")
        if any(name.split(".")[0] in ("torchrec", "fbgemm_gpu") for name in imported(path))
    }
    engine = {"engine.py", "bags.py", "batch_rows.py", "combiner.py", "embeddings.py", "deep_hash.py"}
    assert users <= engine | {"sharding.py", "kernel_tables.py", "checkpoint.py", "saving.py", "pieces.py"}
    assert "engine.py" in users


@pytest.mark.parametrize(
    "module",
    [
        "recsys.cli",
        "recsys.config.experiment",
        "recsys.doctor",
        "recsys.training.run",
        "recsys.serving.predictor",
        "recsys_tables",
        "recsys_tables.config",
        "recsys_cython_ext",
        "recsys_pipelines.preparation.prepare",
        "recsys_pipelines.batches.loader",
        "recsys.training.size",
        "recsys.planning",
    ],
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
