"""The command line: JSON for programs, one clear line for mistakes, and no torch for --help."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from recsys import cli
from recsys.machine import Machine, Speed
from recsys.training.distributed import process_group
from recsys.training.run import Run


@pytest.fixture
def config(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an experiment on `log`, in a folder of its own that is also the working directory."""
    monkeypatch.chdir(tmp_path)
    raw = {
        "name": "cli",
        "data": {"source": "table", "path": str(log)},
        "features": [{"kind": "categorical", "names": ["user_id", "item_id"]}],
        "tables": {"scheme": "full", "embedding_dim": 4},
        "model": {"name": "fm"},
        "training": {"batch_size": 512, "epochs": 1},
    }
    path = tmp_path / "cli.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def as_json(*arguments: object) -> Any:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", [("train",), ("tables",), ("train", "--seed", "1")])
def test_a_prepared_set_needs_no_raw_file(
    config: Path, log: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    raw = yaml.safe_load(config.read_text())
    (tmp_path / "raw.parquet").write_bytes(log.read_bytes())
    config.write_text(yaml.safe_dump(raw | {"data": {"source": "table", "path": "raw.parquet"}}))
    prepared = as_json("prepare", config)["path"]
    (tmp_path / "raw.parquet").unlink()
    name, *options = command
    assert as_json(name, config, *options, "--on", prepared)
    refused = CliRunner().invoke(cli.app, [name, str(config), *options])
    assert "raw.parquet does not exist" in str(refused.exception)


def test_the_line_from_preparation_to_predictions(config: Path, log: Path, tmp_path: Path) -> None:
    prepared = as_json("prepare", config)
    assert prepared["rows_in"] == prepared["rows_out"] + prepared["quarantined"] == 6000
    assert sum(counts["rows"] for counts in prepared["splits"].values()) == 6000
    assert as_json("prepare", config) == prepared, "nothing changed, so nothing is done"

    trained = as_json("train", config, "--seed", 3)
    assert Path(trained["path"]).name == "seed-3"
    assert trained["test"]["auc"] > 0.6
    assert as_json("train", config, "--seed", 3) == trained

    measured = as_json("evaluate", trained["path"])
    assert {name: measured[name] for name in trained["test"]} == trained["test"]
    assert as_json("evaluate", trained["path"], "--data", log)["rows"] == 6000

    scored = as_json("predict", trained["path"], log, "--out", tmp_path / "scores.parquet")
    assert scored["rows_in"] == scored["rows_scored"] == 6000
    assert pq.read_table(tmp_path / "scores.parquet").num_rows == 6000


def test_finished_runs_are_compared_without_a_config(config: Path, log: Path) -> None:
    """As two arms: a folder of seeds, and another one's seeds by name, with slices of what the runs know."""
    config.with_name("wide.yaml").write_text("extends: cli.yaml\nname: wide\ntables: {embedding_dim: 8}\n")
    for name in ("cli", "wide"):
        for seed in (0, 1):
            as_json("train", f"{name}.yaml", "--seed", seed)
    (narrow,), (wide,) = ([*Path("runs").glob(f"{name}-*")] for name in ("cli", "wide"))
    slices = ("--slice", "user_id", "--slice", "new:item_id", "--slice", "frequency:item_id")
    options = ("--replicates", 100, "--effect", 0.2, *slices)
    found = as_json("compare", narrow, wide, *options)
    assert [(arm["name"], arm["seeds"]) for arm in found["comparison"]["arms"]] == [("cli", 2), ("wide", 2)]
    assert {sum(sizes.values()) for sizes in found["slices"]["sizes"].values()} == {600}
    assert [power["not_worse"] for power in found["power"]] == [True]
    assert set(found["slices"]["sizes"]["new:item_id"]) == {"unseen in training", "known"}
    again = as_json(
        "compare", f"x={wide / 'seed-0'}", narrow, f"x={wide / 'seed-1'}", *options, "--baseline", "cli"
    )
    assert [d["estimate"] for d in again["comparison"]["differences"]] == pytest.approx(
        [d["estimate"] for d in found["comparison"]["differences"]]
    )
    mixed = as_json("compare", narrow, f"file={wide / 'seed-0' / 'predictions.parquet'}", "--replicates", 100)
    assert mixed["comparison"]["rows"] == 600
    trained = as_json("compare", "cli.yaml", "wide.yaml", "--seeds", 2, "--baseline", "wide", *options)
    assert trained["comparison"]["baseline"] == "wide"
    assert trained["comparison"]["replicates"] == 100
    assert trained["comparison"]["best"] == {
        metric: pytest.approx(arms, abs=0.01) for metric, arms in found["comparison"]["best"].items()
    }


def test_a_new_day_is_appended(config: Path, log: Path, tmp_path: Path) -> None:
    first = as_json("prepare", config)
    table = pq.read_table(log)
    pq.write_table(table.slice(0, 1000), tmp_path / "day.parquet")
    both = as_json("prepare", config, "--data", tmp_path / "day.parquet", "--append", first["path"])
    assert both["rows_in"] == both["rows_out"] == 7000
    assert both["appended_to"] == Path(first["path"]).name
    trained = as_json("train", config, "--on", both["path"])
    assert trained["prepared"] == str(Path(both["path"]).resolve())
    assert as_json("tables", config, "--on", both["path"])["features"][0]["ids"] == 60
    changed = CliRunner().invoke(cli.app, ["train", str(config), "--on", str(tmp_path)])
    assert "not a finished prepared folder" in str(changed.exception)


@pytest.mark.slow  # tests/pipelines/preparation/test_on_ray.py has the quick ones
def test_preparing_on_ray_gives_the_same_shards(config: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    one = as_json("prepare", config)
    many = as_json("prepare", config, "--workers", 2, "--prepared", "elsewhere")
    assert many["shards"] == one["shards"]
    assert many["feature_files"] == one["feature_files"]


def test_without_json_there_are_tables(run: Run) -> None:
    result = CliRunner().invoke(cli.app, ["evaluate", str(run.path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "logloss" in result.output
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.stdout)


def test_tables_as_json(config: Path) -> None:
    found = as_json("tables", config, "--ranks", 2, "--sharding", "row_wise")
    kinds = ("parameters", "optimizer", "vocabulary", "remaps", "pointers", "dense", "statistics")
    assert sum(found["bytes"][kind] for kind in kinds) == found["bytes"]["total"] < found["full_bytes"]
    assert [entry["feature"] for entry in found["features"]] == ["user_id", "item_id"]
    assert [entry["ids"] for entry in found["features"]] == [60, 40]
    assert [len(rank["shards"]) for rank in found["ranks"]] == [2, 2]
    assert sum(rank["parameters"] for rank in found["ranks"]) == found["bytes"]["parameters"]
    assert found["network"]["optimizer"] == 2 * found["network"]["parameters"] > 0, "two moments of Adam"
    assert found["features"][0]["observed"] == {"all_rows": 0.0, "any_row": 0.0, "other_features": None}


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("tables: {budget: 9B}", [], "the smallest such tables need"),
        (
            "name: b",
            ["--sharding", "column_wise"],
            "column_wise sharding needs an elementwise table optimiser",
        ),
        (
            "set: {features.encoding: hash}",
            [],
            "'user_id' is hashed, but the scheme 'full' needs vocabulary codes",
        ),
    ],
)
def test_tables_that_cannot_be(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: Any,
    said: str,
) -> None:
    """Said after the progress of preparing."""
    config.with_name("wrong.yaml").write_text(f"extends: cli.yaml\n{text}\n")
    monkeypatch.delenv("RECSYS_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["recsys", "tables", "wrong.yaml", *options])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert f"error: {said}" in capsys.readouterr().err.replace("feature ", "")


def test_tables_of_a_generated_log_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parents[3] / "configs" / "generated" / "unified.yaml"
    text = f"extends: {recipe}\nset: {{data.generator.rows: 3000}}\ntables: {{scheme: unified, own_rows_up_to: 9}}\n"
    (tmp_path / "small.yaml").write_text(text)
    result = CliRunner().invoke(
        cli.app, ["tables", "small.yaml", "--ranks", "2", "--details"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    for said in (
        "unified/shared, of 11 features",
        "advertiser",
        "optimiser",
        "another",  # a row of another feature: the header is wrapped
        "row_wise",
        "statistics",
        "in no budget: a network of",
    ):
        assert said in result.stdout
    (total,) = [line for line in result.stdout.splitlines() if "of the full table's" in line]
    assert "bytes, 20.0% of" in total or "bytes, 19.9% of" in total
    assert (tmp_path / "prepared").is_dir()


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys import doctor

    sound = doctor.Diagnosis({"torch": "2.13.0"}, [])
    monkeypatch.setattr(doctor, "diagnose", lambda **_: sound)
    assert as_json("doctor") == sound.to_dict()
    measured = Machine((Speed(1, 100.0, 150.0, 1e8), Speed(2, 200.0, 400.0, 2e8)))
    monkeypatch.setattr(
        doctor, "diagnose", lambda *, measures: replace(sound, machine=measured if measures else None)
    )
    printed = CliRunner().invoke(cli.app, ["doctor"]).output
    assert "bf16 pays on this CPU" in printed
    assert "gathered rows/s" in printed
    unmeasured = CliRunner().invoke(cli.app, ["doctor", "--no-speed"]).output
    assert "bf16" not in unmeasured
    assert "belong together" in unmeasured.splitlines()[-1], "`make install` shows the last line"
    monkeypatch.setattr(
        doctor, "diagnose", lambda **_: doctor.Diagnosis({"torch": None}, ["torch is absent"])
    )
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "torch is absent" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "none.yaml"], "none.yaml: no such file"),
        (
            ["train", "wrong.yaml"],
            "wrong.yaml: training.epoch: unknown key (value 1); did you mean 'epochs'?",
        ),
        (["prepare", "cli.yaml", "--data", "none.parquet"], "none.parquet does not exist"),
        (["prepare", "cli.yaml", "--data", "cli.yaml"], "must be one of .parquet"),
        (["evaluate", "nowhere"], "nowhere: not a finished run (no metrics.json); train it first"),
        (["predict", "nowhere", "log.csv"], "nowhere: not a finished run"),
        (["compare", "cli.yaml", "cli.yaml"], "arms need different names, but cli stands twice"),
        (
            ["compare", "cli.yaml", "x=cli.yaml", "--baseline", "y"],
            "'y' is not among the arms: choose one of cli, x",
        ),
        (["compare", "cli.yaml", "runs/cli"], "cli.yaml is a configuration, runs/cli is not"),
        (["compare", "nowhere", "cli.csv"], "nowhere: no such file or folder"),
    ],
)
@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_a_mistake_is_one_line_and_status_2(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
    flag: list[str],
) -> None:
    config.with_name("wrong.yaml").write_text("extends: cli.yaml\ntraining: {epoch: 1}\n")
    monkeypatch.delenv("RECSYS_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["recsys", *arguments, *flag])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert said in line
    if flag:
        assert said in json.loads(out)["error"]
    else:
        assert out == ""


def test_a_mistake_ends_the_real_process_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", "from recsys.cli import main; main()", "train", "none.yaml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip() == "error: none.yaml: no such file"


def test_processes_of_a_launcher_are_refused_before_data_are_prepared(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of torchrun would each train the whole run."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(cli.app, ["train", str(config)])
    assert isinstance(result.exception, ValueError)
    assert "WORLD_SIZE is 2: torchrun" in str(result.exception)
    assert "recsys train --workers 2" in str(result.exception)
    assert list(config.parent.iterdir()) == [config]
    with pytest.raises(ValueError, match="init_process_group first"), process_group():
        pass


def test_help_imports_no_torch() -> None:
    code = """
import sys
from recsys.cli import main
for command in ([], ["train"], ["tables"], ["compress"], ["compare"]):
    sys.argv = ["recsys", *command, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
assert not {"torch", "torchrec", "scipy", "polars", "matplotlib"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    for command in (
        "prepare",
        "tables",
        "train",
        "evaluate",
        "predict",
        "compress",
        "compare",
        "demo",
        "doctor",
    ):
        assert command in result.stdout
