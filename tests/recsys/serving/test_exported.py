"""An exported folder scores a file as its run does, where there is no torch, and counts and puts aside the same rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recsys import cli
from recsys.serving import scoring
from recsys.serving.export import export
from recsys.serving.exported import is_exported, predict_file
from recsys.serving.predictor import Predictor
from recsys.training.run import Run
from recsys_pipelines.quarantine import TooManyBadRows

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

# No finder finds them, as where they are not installed.
WITHOUT_TORCH = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchrec", "fbgemm_gpu", "tensordict", "safetensors", "ray"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Without())
from recsys.cli import main
main()
"""


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("exported") / "served", "fp32").folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor.open(folder)


@pytest.fixture(scope="module")
def file(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows to score: some ids that training had not, values that are missing, and one that is no number."""
    table = pq.read_table(log).slice(0, 500).drop_columns(["label", "time"])
    items = pa.array([10**9 if k % 50 == 0 else k % 40 for k in range(500)])
    table = table.set_column(table.column_names.index("item_id"), "item_id", items)
    numbers = pa.array(["1.5" if k % 7 else None for k in range(499)] + ["much"])
    table = table.set_column(table.column_names.index("x"), "x", numbers)
    file = tmp_path_factory.mktemp("rows") / "new.parquet"
    pq.write_table(table, file)
    return file


def test_a_file_is_scored_as_by_the_run(run: Run, predictor: Predictor, file: Path, tmp_path: Path) -> None:
    by_run = scoring.predict_file(run, file, tmp_path / "run.parquet")
    by_export = predict_file(predictor, file, tmp_path / "export.parquet")
    assert by_export == by_run
    assert by_run["rows_in"] == 500 == by_run["rows_scored"] + 1
    assert by_run["unknown_ids"]["item_id"] == 10
    expected, found = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("run", "export"))
    assert found["row_id"].equals(expected["row_id"])
    np.testing.assert_allclose(found["prediction"].to_numpy(), expected["prediction"].to_numpy(), atol=2e-6)
    bad = [
        (tmp_path / f"{name}-quarantine" / "quarantine.csv").read_text().splitlines()
        for name in ("run", "export")
    ]
    assert bad[0] == bad[1]
    assert ",x,much,not a number" in bad[0][1]


def test_too_many_bad_rows_leave_no_scores(
    run: Run, predictor: Predictor, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = run.config.replace({"data.quarantine_limit": 0.001})
    monkeypatch.setattr("recsys.serving.exported.settings_of", lambda artefact: strict)
    with pytest.raises(TooManyBadRows, match=r"1 of 500 rows .* x: not a number"):
        predict_file(predictor, file, tmp_path / "scores.parquet")
    assert not (tmp_path / "scores.parquet").exists()


def test_the_command_needs_no_torch(run: Run, folder: Path, log: Path, tmp_path: Path) -> None:
    assert is_exported(folder)
    assert not is_exported(run.path)
    line = ["predict", str(folder), str(log), "--out", str(tmp_path / "scores.parquet"), "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_TORCH, *line], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["rows_in"] == counts["rows_scored"] == 6000
    assert counts["quarantined"] == 0
    table, known = pq.read_table(tmp_path / "scores.parquet"), run.predictions()
    predictions = table["prediction"].take(known["row_id"])  # a row's number is its place
    np.testing.assert_allclose(predictions, known["prediction"], atol=2e-6)
    plain = CliRunner().invoke(cli.app, line[:-1], catch_exceptions=False)
    assert "6,000 rows in = 6,000 scored + 0 quarantined; 0 ids outside a vocabulary" in " ".join(
        plain.output.split()
    )


@pytest.mark.parametrize("name", ["config.yaml", "features/features.json"])
def test_damage_is_named(folder: Path, log: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_text("a: [1")
    line: list[Any] = ["predict", str(copy), str(log), "--out", str(tmp_path / "scores.parquet")]
    result = CliRunner().invoke(cli.app, line)
    assert f"{name}: damaged" in str(result.exception)
    assert not (tmp_path / "scores.parquet").exists()
