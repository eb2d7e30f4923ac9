"""A run and its artefact give the same predictions; what cannot be exported is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys import cli
from recsys.config import ExperimentConfig, parse_experiment
from recsys.serving.export import ArtefactScorer, check, export, file_bytes
from recsys.training.run import Run
from recsys.training.train import train
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables import Compact, resident_bytes
from recsys_tables.distributed.manifest import CheckpointError
from recsys_tables.planning.plan import TablePlan, plan_tables
from recsys_tables.remap import Remap
from recsys_tables.serving.artefact import ArtefactError


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("exported") / "fp32", "fp32").folder


def predictions(run: Run) -> np.ndarray:
    return run.predictions()["prediction"].to_numpy()


def scored(run: Run, folder: Path) -> np.ndarray:
    return ArtefactScorer(folder).score(Rows.load(Path(run.metrics["prepared"]), "test"))


def test_an_artefact_scores_like_its_run(run: Run, exported: Path) -> None:
    np.testing.assert_allclose(scored(run, exported), predictions(run), atol=1e-6)
    found = check(run, exported)
    assert found == pytest.approx(run.metrics["test"], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "tables"),
    [
        ({"training.precision": "bf16", "training.negative_rate": 0.5}, {"scheme": "full"}),
        ({"model": {"name": "fm"}}, {"scheme": "unified", "chunk_dim": 4, "budget": "60%"}),
        ({}, {"scheme": "quotient_remainder", "budget": "60%"}),
    ],
    ids=["bf16_negatives", "unified", "quotient_remainder"],
)
def test_other_runs_too(
    configure: Any, prepared: Prepared, tmp_path: Path, settings: dict[str, Any], tables: dict[str, Any]
) -> None:
    own = configure(settings | {"training.epochs": 1}, tables={"embedding_dim": 8} | tables)
    run = train(own, prepared, tmp_path / "runs")
    export(run, tmp_path / "out", "fp32")
    np.testing.assert_allclose(scored(run, tmp_path / "out"), predictions(run), atol=1e-5)


def test_histories_read_their_targets_table(log: Path, tmp_path: Path) -> None:
    raw = {
        "name": "din",
        "data": {
            "source": "table",
            "path": str(log),
            "user": "user_id",
            "time": "time",
            "split": {"by": "time", "train": 0.7, "validation": 0.1, "test": 0.2},
        },
        "features": [
            {"kind": "categorical", "names": ["item_id"]},
            {"kind": "sequence", "name": "seen", "column": "item_id", "length": 5, "like": "item_id"},
        ],
        "tables": {"scheme": "full", "embedding_dim": 8},
        "model": {"name": "din", "hidden": [16], "interests": [{"target": "item_id", "history": "seen"}]},
        "training": {"batch_size": 256, "epochs": 1},
    }
    config: ExperimentConfig = parse_experiment(raw, "x")
    run = train(config, prepare(config.data, config.features, tmp_path / "prepared"), tmp_path / "runs")
    made = export(run, tmp_path / "out", "fp32")
    assert list(made.tables) == ["item_id/full"]
    np.testing.assert_allclose(scored(run, tmp_path / "out"), predictions(run), atol=1e-6)


def test_compact_tables_train_like_others_and_are_exported(
    configure: Any, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the one training loop, whatever made the masks: here every other code of every feature is kept."""

    def compacted(*arguments: Any) -> TablePlan:
        plan = plan_tables(*arguments)
        schemes = tuple(
            Compact(scheme.feature, Remap.of(np.arange(scheme.num_ids) % 2 == 0), 4, 8)  # type: ignore[arg-type]
            for scheme in plan.schemes
        )
        return TablePlan(schemes, resident_bytes(schemes, plan.bytes.vocabulary), plan.full_bytes)

    monkeypatch.setattr("recsys.planning.plan_tables", compacted)
    run = train(configure(), prepared, tmp_path / "runs")
    made = export(run, tmp_path / "out", "fp32")
    assert made.bytes.remaps == run.metrics["bytes"]["remaps"] > 0
    assert made.bytes.serving == run.metrics["bytes"]["serving"]
    assert not made.vectors("item_id", np.array([1, 3])).any()
    assert made.vectors("item_id", np.array([2, 4]))[:, :4].all()
    np.testing.assert_allclose(scored(run, tmp_path / "out"), predictions(run), atol=1e-6)
    assert run.metrics["test"]["auc"] > 0.6


def test_fewer_bits_change_little_and_are_counted(run: Run, exported: Path, tmp_path: Path) -> None:
    for dtype, ratio in (("fp16", 2), ("fp8", 32 / 12), ("int8", 32 / 12), ("int4", 4)):
        made = export(run, tmp_path / dtype, dtype)  # type: ignore[arg-type]
        assert run.metrics["bytes"]["parameters"] / made.bytes.parameters == pytest.approx(ratio)
        assert made.bytes.vocabulary == run.metrics["bytes"]["vocabulary"] > 0
        assert check(run, made.folder)["auc"] == pytest.approx(run.metrics["test"]["auc"], abs=0.002)
        assert file_bytes(made.folder) < file_bytes(exported)
    narrow = export(run, tmp_path / "narrow", "fp32", 4)
    assert narrow.bytes.parameters == run.metrics["bytes"]["parameters"] / 2
    assert narrow.bytes.dense == 3 * 4 * 4 * 8


def test_the_same_export_is_done_once_and_another_is_refused(run: Run, exported: Path) -> None:
    before = (exported / "manifest.json").stat().st_mtime_ns
    assert export(run, exported, "fp32").folder == exported
    assert (exported / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(
        ArtefactError, match="exists already and is another export: its dtype is 'fp32', and 'int8' was"
    ):
        export(run, exported, "int8")
    with pytest.raises(ArtefactError, match="its pca_width is None, and 4 was asked for"):
        export(run, exported, "fp32", 4)
    with pytest.raises(ArtefactError, match=r"no artefact \(no manifest\.json\)"):
        export(run, run.path, "fp32")


def test_damage_is_named(run: Run, exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / "network.safetensors").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"network\.safetensors: damaged"):
        ArtefactScorer(copy)
    (copy / "features" / "arrays.npz").unlink()
    with pytest.raises(ArtefactError, match=r"features/arrays\.npz: missing"):
        ArtefactScorer(copy)
    other = Run(run.path, run.config.replace({"training.epochs": 7}), run.metrics)
    with pytest.raises(CheckpointError, match=r"belongs to another configuration than config\.yaml"):
        export(other, tmp_path / "other", "fp32")


def test_learners_are_refused(configure: Any, prepared: Prepared, tmp_path: Path) -> None:
    tables = {"scheme": "opt_embed", "embedding_dim": 8}
    run = train(configure({"training.epochs": 1}, tables=tables), prepared, tmp_path / "runs")
    with pytest.raises(ArtefactError, match="its OptEmbed scheme is not served: score with the run itself"):
        export(run, tmp_path / "out", "fp32")
    assert not (tmp_path / "out").exists()


def test_the_command(run: Run, tmp_path: Path) -> None:
    arguments = ["export", str(run.path), "--out", str(tmp_path / "out"), "--dtype", "int8"]
    plain = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert "times smaller" in plain.output
    assert "auc" not in plain.output
    result = CliRunner().invoke(cli.app, [*arguments, "--check", "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["bytes"]["serving"] < found["run_bytes"]["serving"]
    assert found["test"]["run"] == run.metrics["test"]
    assert found["test"]["artefact"]["auc"] == pytest.approx(run.metrics["test"]["auc"], abs=0.002)
    assert "artefact" in CliRunner().invoke(cli.app, [*arguments, "--check"], catch_exceptions=False).output
