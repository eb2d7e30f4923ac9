"""What a command needs of prepared data and of a run is opened once, whoever asks for it."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli import app
from recsys.compression.evaluations import EvaluationLog
from recsys.compression.space import Genome
from recsys.config import load_experiment
from recsys.serving.export import check, export
from recsys.training.run import Run, is_finished, run_folder
from recsys.training.store import listed
from recsys.training.train import train
from recsys.tuning.min_count import smallest_min_count
from recsys.tuning.trials import Candidate, TrialStore, run_trial
from recsys_pipelines.features import features as features_module
from recsys_pipelines.preparation import prepared as prepared_module
from recsys_pipelines.preparation.prepared import Prepared
from recsys_tables.distributed.manifest import CheckpointError

from ..conftest import Configure

ONCE = {"manifest.json": 1, "features.json": 1}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a prepared manifest, and fitted features, were read from disk."""
    counts: Counter[str] = Counter()
    for module in (prepared_module, features_module):
        read = module.read_manifest

        def count(path: Path, *arguments: Any, read: Any = read) -> Any:
            counts[path.name] += 1
            return read(path, *arguments)

        monkeypatch.setattr(module, "read_manifest", count)
    return counts


@pytest.mark.parametrize("on", [False, True])
def test_a_training_opens_prepared_data_once(
    configure: Configure, prepared: Prepared, tmp_path: Path, opened: Counter[str], on: bool
) -> None:
    config = configure({"training.epochs": 1})
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    where = ["--on", str(prepared.path)] if on else ["--prepared", str(prepared.path.parent)]
    command = ["train", str(file), *where, "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert is_finished(run_folder(config, prepared, tmp_path / "runs"))
    assert opened == ONCE


def test_data_that_are_prepared_first_are_opened_once_too(
    configure: Configure, tmp_path: Path, opened: Counter[str]
) -> None:
    config = configure({"training.epochs": 1})
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    folders = ["--prepared", str(tmp_path / "prepared"), "--runs", str(tmp_path / "runs")]
    CliRunner().invoke(app, ["train", str(file), *folders], catch_exceptions=False)
    assert opened == ONCE


def test_a_trial_opens_prepared_data_once(
    configure: Configure, prepared: Prepared, tmp_path: Path, opened: Counter[str]
) -> None:
    config = configure({"training.epochs": 1})
    candidate = Candidate(config, {}, prepared.path, config.digest(prepared.path))
    assert run_trial(candidate, str(tmp_path)).end == "finished"
    assert opened == ONCE


def test_evaluating_opens_a_run_once(run: Run, opened: Counter[str]) -> None:
    CliRunner().invoke(app, ["evaluate", str(run.path)], catch_exceptions=False)
    assert opened == ONCE


def test_predicting_loads_features_once(run: Run, log: Path, tmp_path: Path, opened: Counter[str]) -> None:
    command = ["predict", str(run.path), str(log), "--out", str(tmp_path / "scores.parquet")]
    CliRunner().invoke(app, command, catch_exceptions=False)
    assert opened == {"features.json": 1}


def test_exporting_loads_features_once(run: Run, tmp_path: Path, opened: Counter[str]) -> None:
    again = Run.open(run.path)
    export(again, tmp_path / "served", "fp32")
    assert opened == ONCE, "the card names the digest of the data"
    check(again, tmp_path / "served")
    assert opened == {"features.json": 2, "manifest.json": 1}, "the artefact's own features besides"


def test_paths_are_named_by_text_too(
    configure: Configure, prepared: Prepared, run: Run, tmp_path: Path
) -> None:
    again, config = Run.open(str(run.path)), configure()
    assert run_folder(config, prepared, str(tmp_path)) == run_folder(config, prepared, tmp_path)
    assert is_finished(str(run.path))
    assert config.digest(str(prepared.path)) == config.digest(prepared.path)
    assert Prepared.open(str(prepared.path)) == prepared == again.prepared()
    assert again.rows("test").table.equals(prepared.table("test"))
    assert again.checkpoint().names == run.checkpoint().names
    assert listed(str(run.path)) == listed(run.path)
    assert smallest_min_count(config, str(prepared.path)) == 1
    assert TrialStore(str(tmp_path)).folder == tmp_path / "trials"
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    assert load_experiment(str(file), on=str(prepared.path)) == load_experiment(file)
    EvaluationLog(str(tmp_path / "log.jsonl"))[Genome((4,), (1,))] = 0.5
    assert EvaluationLog(tmp_path / "log.jsonl") == {Genome((4,), (1,)): 0.5}


def test_a_run_is_read_when_what_it_started_from_is_gone(
    configure: Configure, prepared: Prepared, run: Run, tmp_path: Path
) -> None:
    """Of daily trainings the earlier ones are deleted, and the last one still serves and is gone on from."""
    yesterday = Path(shutil.copytree(run.path, tmp_path / "yesterday"))
    start = {"training.epochs": 1, "training.start": {"run": str(yesterday)}}
    today = train(configure(start), prepared, tmp_path / "runs")
    other = Run(today.path, today.config.replace({"training.epochs": 7}), today.metrics)
    with pytest.raises(CheckpointError, match=r"belongs to another configuration than config\.yaml"):
        other.checkpoint()
    shutil.rmtree(yesterday)
    assert Run.open(today.path).checkpoint().names == run.checkpoint().names
    tomorrow = train(configure(start | {"training.start.run": str(today.path)}), prepared, tmp_path / "runs")
    assert tomorrow.path != today.path
