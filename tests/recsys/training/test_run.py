"""A finished run as a folder of files: opened by text, verified, refused in a sentence, readable by others."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ConfigDict
from typer.testing import CliRunner

from recsys.cli import app
from recsys.compression.learners import learned_of
from recsys.compression.supernet import full_model
from recsys.config import ConfigError
from recsys.serving.export import ArtefactScorer, export
from recsys.serving.scoring import Scorer, predict_file, score_split
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.manifest import Manifest, write_manifest
from recsys_pipelines.preparation.prepared import ManifestError, Prepared
from recsys_tables.distributed.checkpoint import Checkpoint
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.serving import artefact

from ..conftest import Configure, forget_checksums


class Anything(Manifest):
    """What a forger seals."""

    model_config = ConfigDict(extra="allow")


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.path, tmp_path / "copy"))


def flip(file: Path, place: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


def test_a_run_is_named_by_text_too(run: Run, tmp_path: Path, log: Path) -> None:
    again = Run.open(str(run.path))
    assert (again.path, again.config, again.metrics) == (run.path, run.config, run.metrics)
    Checkpoint(str(run.path / "checkpoint"))
    export(again, str(tmp_path / "served"), "fp32")
    artefact.open(str(tmp_path / "served"))
    ArtefactScorer(str(tmp_path / "served"))
    predict_file(again, log, str(tmp_path / "scores.parquet"))
    assert (
        train(run.config, Prepared.open(run.metrics["prepared"]), str(run.path.parents[1])).path == run.path
    )


@pytest.mark.parametrize("read", [Run.checkpoint, Scorer, learned_of, lambda run: full_model(run, {})])
def test_no_reader_takes_a_checkpoint_of_another_configuration(run: Run, read: Callable[[Run], Any]) -> None:
    other = Run(run.path, run.config.replace({"training.epochs": 7}), run.metrics)
    with pytest.raises(CheckpointError, match=r"belongs to another configuration than config\.yaml"):
        read(other)


@pytest.mark.parametrize("name", ["predictions.parquet", "config.yaml", "metrics.json"])
@pytest.mark.parametrize("place", [0.2, 0.7])
def test_a_damaged_file_is_named_and_not_read(copy: Path, name: str, place: float) -> None:
    flip(copy / name, place)
    with pytest.raises(ConfigError, match=rf"^{copy / name}: .*damaged.*train again$"):
        Run.open(copy).predictions()
    result = CliRunner().invoke(app, ["compare", f"a={copy}", f"b={copy}"])
    assert str(result.exception).startswith(f"{copy / name}: ") or "stand twice" in str(result.exception)


def test_compare_does_not_read_damaged_predictions(run: Run, copy: Path, tmp_path: Path) -> None:
    flip(copy / "predictions.parquet")
    result = CliRunner().invoke(
        app, ["compare", f"a={run.path}", f"b={copy}", "--report", str(tmp_path / "r.html")]
    )
    assert isinstance(result.exception, ConfigError)
    assert "predictions.parquet: missing, damaged or changed" in str(result.exception)


def test_evaluate_does_not_read_a_damaged_shard(configure: Configure, run: Run, tmp_path: Path) -> None:
    place = Path(shutil.copytree(run.metrics["prepared"], tmp_path / Path(run.metrics["prepared"]).name))
    mine = train(configure({"training.epochs": 1}), Prepared.open(place), tmp_path / "runs")
    score_split(mine, "test")
    (shard,) = (place / "test").glob("*.arrow")
    flip(shard)
    with pytest.raises(ManifestError, match=rf"{shard}: missing or damaged"):
        score_split(mine, "test")
    result = CliRunner().invoke(app, ["evaluate", str(mine.path)])
    assert isinstance(result.exception, ManifestError)


def test_a_run_without_checksums_is_read_and_said_to_be_unverified(copy: Path) -> None:
    whole = Run.open(copy)
    forget_checksums(copy)
    told: list[str] = []
    old = Run.open(copy, told.append)
    assert old.metrics == whole.metrics
    assert old.predictions().equals(whole.predictions())
    (sentence,) = told
    for name in ("metrics.json", "config.yaml", "predictions.parquet"):
        assert f"{copy / name}" in sentence
    assert sentence.startswith("not verified: ")


def reseal(copy: Path, **changes: Any) -> None:
    found = json.loads((copy / "metrics.json").read_text())
    found.pop("manifest_xxh64")
    found |= changes
    write_manifest(Anything(**{k: v for k, v in found.items() if v is not ...}), copy / "metrics.json")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prepared": ...}, "it lacks the key 'prepared'"),
        ({"prepared": 7}, r"its key 'prepared' is 7: .*string"),
        ({"bytes": {"total": "many"}}, r"its key 'bytes\.total' is 'many'"),
        ({"bytes": [1]}, r"its key 'bytes' is \[1\]"),
        ({"test": {"auc": "high"}}, r"its key 'test\.auc\.int' is 'high'"),
        ({"files": {"config.yaml": 1}}, r"its key 'files\.config\.yaml' is 1"),
        ({"history": {}}, r"its key 'history' is \{\}"),
    ],
)
def test_metrics_of_another_form_are_refused(copy: Path, changes: dict[str, Any], why: str) -> None:
    reseal(copy, **changes)
    for _ in range(2):  # without checksums too
        with pytest.raises(
            ConfigError,
            match=rf"^{copy}/metrics\.json: damaged, or not written by this program: {why}.*train again$",
        ):
            Run.open(copy)
        forget_checksums(copy) if "files" not in changes else None


def test_a_key_that_is_needed_and_missing_is_named(copy: Path) -> None:
    reseal(copy, test=...)
    run = Run.open(copy)
    with pytest.raises(ConfigError, match=rf"{copy}/metrics\.json: .* it lacks the key 'test'; train again"):
        run.metrics["test"]
    assert run.metrics.get("test") is None


@pytest.mark.parametrize("depth", [150, 400, 950, 1500, 100_000])
@pytest.mark.parametrize("ends", [True, False])
def test_deep_nesting_is_a_sentence(copy: Path, depth: int, ends: bool) -> None:
    inner = "[" * depth + "]" * (depth * ends)
    for text in (inner, f'{{"prepared": {inner}}}', f'{{"prepared": "x", "files": {{}}, "deep": {inner}}}'):
        (copy / "metrics.json").write_text(text)
        with pytest.raises(ConfigError, match=rf"^{copy}/metrics\.json: .*damaged[^\n]*$"):
            Run.open(copy)
    forget = '{"prepared": "x"}'
    (copy / "metrics.json").write_text(forget)
    (copy / "config.yaml").write_text("a: " + inner)
    with pytest.raises(ConfigError):
        Run.open(copy, lambda _: None)


def test_users_of_predictions_are_those_of_the_log(run: Run, log: Path) -> None:
    table, given = run.predictions(), pq.read_table(log)["user_id"].to_pylist()
    assert table["user_id"].to_pylist() == [given[row] for row in table["row_id"].to_pylist()]
    assert table["user_id"].to_pylist()[0].startswith("u")


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_files_have_the_permissions_of_the_umask(
    configure: Configure, prepared: Prepared, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        run = train(configure({"training.epochs": 1}), prepared, tmp_path / "runs")
        export(run, tmp_path / "served", "int8")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith("events.")]
    assert {"network.safetensors", "rank-0.safetensors", "metrics.json"} <= {path.name for path in files}
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert set(found.values()) == {0o666 & ~umask}, found
