"""What a wheel holds, and that installing it beside PyTables leaves PyTables as it was."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return next(out.glob("*.whl"))


def test_wheel_holds_kernels_sources_recipes_and_template(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("recsys_cython_ext/_hashing.") and name.endswith(".so") for name in names)
    for name in (
        "recsys_cython_ext/_hashing.pyx",
        "recsys_configs/generated/unified.yaml",
        "recsys_configs/frappe/full.yaml",
        "recsys/reports/templates/experiments.html.j2",
        "recsys/py.typed",
        "recsys_tables/schemes/unified.py",
        "recsys_pipelines/sources/criteo.py",
    ):
        assert name in names


def test_wheel_brings_only_its_own_top_level_packages(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    packages = {name for name in top if not name.endswith(".dist-info")}
    assert packages == {"recsys", "recsys_tables", "recsys_pipelines", "recsys_cython_ext", "recsys_configs"}


def test_wheel_beside_pytables_leaves_pytables_intact(wheel: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path),
        "tables",
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("PyTables cannot be installed here (no package registry)")
    before = {path: path.read_bytes() for path in (tmp_path / "tables").rglob("*") if path.is_file()}
    assert before
    with zipfile.ZipFile(wheel) as archive:  # a wheel of packages is installed by unpacking it
        archive.extractall(tmp_path)
    after = {path: path.read_bytes() for path in (tmp_path / "tables").rglob("*") if path.is_file()}
    assert after == before
