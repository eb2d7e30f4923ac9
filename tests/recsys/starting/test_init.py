"""`recsys init`: what it writes trains as it is, and nothing is overwritten."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from recsys import cli
from recsys.config import load_experiment
from recsys_pipelines.preparation.prepare import prepare

SHARED = Path(os.environ.get("RECSYS_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_experiments_on_made_up_schemas_load_and_prepare(made_up: list[str], folder: Path) -> None:
    written = run("init", *made_up)
    for key in ("experiment", "rival"):
        experiment = load_experiment(written[key])
        manifest = prepare(experiment.data, experiment.features, folder / key).manifest
        assert (manifest.rows_out, manifest.quarantined) == (written["rows"]["in_log"], 0)
    assert experiment.tables.scheme == "unified"
    for line in Path(written["experiment"]).read_text().splitlines():
        assert len(line) <= 130


def test_experiments_train_without_editing(folder: Path) -> None:
    """The whole way, with names of columns that YAML and torch could trip over."""
    rows = 600
    odd = [
        "a\nname: evil",
        'b"#: {',
        "yes",
        "row_id",
        "@x",
        "a:b",
        "a.b",
        "ключ",
        "",
        "emoji 😀",
        "user_hour",
        "title_tokens",
    ]
    columns: dict[str, Any] = {
        name: [f"{place}{k % 3}" for k in range(rows)] for place, name in enumerate(odd)
    }
    columns |= {
        "user": [f"u{k % 30}" for k in range(rows)],
        "title": [f"a b{k % 31} c{k}" for k in range(rows)],
    }
    columns |= {
        "label": [int(k * 7919 % 13 < 5) for k in range(rows)],
        "user_time": range(1_600_000_000, 1_600_600_000, 1000),
    }
    pl.DataFrame(columns).write_parquet("odd log.parquet")
    written = run("init", "odd log.parquet", "--time", "user_time")
    assert (written["experiment"], written["rival"]) == ("odd_log.yaml", "odd_log_unified.yaml")
    trained = {key: run("train", written[key]) for key in ("experiment", "rival")}
    assert trained["rival"]["bytes"]["total"] < 0.2 * trained["experiment"]["bytes"]["total"]
    assert all(result["test"]["rows"] > 0 for result in trained.values())


def test_the_history_that_is_offered_can_be_taken(folder: Path) -> None:
    rows = {
        "label": [0, 1, 1] * 100,
        "user": [f"u{k % 20}" for k in range(300)],
        "item": [f"i{k % 17}" for k in range(300)],
    }
    pl.DataFrame({**rows, "ts": range(1_600_000_000, 1_600_300_000, 1000)}).write_parquet("log.parquet")
    path = Path(run("init", "log.parquet")["experiment"])
    text = path.read_text()
    assert "  # - {kind: sequence" in text
    path.write_text(text.replace("  # - {kind", "  - {kind"))
    assert load_experiment(path).features[-1].names == ("history",)


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    pl.DataFrame({"label": [0, 1, 1] * 10, "user": ["a", "b", "c"] * 10}).write_csv("log.csv")
    Path("log_unified.yaml").write_text("mine")
    for arguments in (["log.csv"], ["log.csv", "--out", "log.yml", "--force"], ["log.csv", "--out", "log"]):
        result = CliRunner().invoke(cli.app, ["init", *arguments])
        if arguments[-1] == "log":
            assert "ends with .yaml" in str(result.exception)
        elif "--force" not in arguments:
            assert "log_unified.yaml: exists already" in str(result.exception)
            assert "--force" in str(result.exception)
            assert not Path("log.yaml").exists()
    assert Path("log_unified.yaml").read_text() == "mine"
    run("init", "log.csv", "--force")
    assert Path("log_unified.yaml").read_text() != "mine"
    run("init", "log.csv", "--out", "below/other.yaml")
    assert load_experiment("below/other.yaml").data.path == Path("log.csv").resolve()


def test_what_a_user_reads(folder: Path) -> None:
    rows = {
        "click": [0, 1, 1] * 20,
        "user": ["a", "b", "[red]"] * 20,
        "city\n": ["x", "y"] * 30,
        "k": ["q"] * 60,
    }
    pl.DataFrame(rows).write_parquet("log.parquet")
    result = CliRunner().invoke(cli.app, ["init", "log.parquet"], catch_exceptions=False)
    for part in (
        "all 60 rows",
        "named: it is called like a label",
        "'city\\n'",
        "next: recsys compare",
    ):
        assert part in result.output
    text = Path("log.yaml").read_text()
    assert 'names: [city], columns: ["city\\n"]' in text
    assert "# Left out:\n#   k: has the same value in every row" in text


def test_rows_without_a_label_go_to_quarantine(folder: Path) -> None:
    rows = {"click": [None] * 30 + [0, 1, 1] * 90, "user": [f"u{k % 7}" for k in range(300)]}
    pl.DataFrame(rows).write_parquet("log.parquet")
    experiment = load_experiment(run("init", "log.parquet")["experiment"])
    assert experiment.data.quarantine_limit == pytest.approx(0.15)
    assert prepare(experiment.data, experiment.features, folder / "prepared").manifest.quarantined == 30


@pytest.mark.parametrize(
    ("name", "label", "user", "split"),
    [
        ("criteo80k.parquet", "label", None, "order"),
        ("frappe86k.parquet", "label", None, "random"),
        ("obd40k.parquet", "click", None, "time"),
        ("ml-100k/ml-100k.inter", "rating", "user_id", "time"),
    ],
)
def test_real_logs(folder: Path, name: str, label: str, user: str | None, split: str) -> None:
    """What is written loads; that it trains takes longer than a test may."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {path}: set RECSYS_SHARED_DATA")
    written = run("init", path)
    roles = written["roles"]
    assert (roles["label"]["column"], roles["user"]["column"], roles["split"]["by"]) == (label, user, split)
    for key in ("experiment", "rival"):
        load_experiment(written[key])
    ids = {column["name"] for column in written["columns"] if column["becomes"] == "categorical"}
    expected = {
        "criteo": {f"c{k}" for k in range(1, 27)},
        "frappe": {f"f{k}" for k in range(10)},
        "obd40k": {"item_id", "position", "policy", "campaign"} | {f"user_feature_{k}" for k in range(4)},
        "ml-100": {
            "user_id",
            "item_id",
            "gender",
            "occupation",
            "zip_code",
            "release_year",
            "movie_title",
            "class",
        },
    }[name[:6]]
    assert ids >= expected if name.startswith("obd") else ids == expected


def test_a_real_log_of_positives_only(folder: Path) -> None:
    path = SHARED / "gowalla.parquet"
    if not path.exists():
        pytest.skip(f"no {path}: set RECSYS_SHARED_DATA")
    result = CliRunner().invoke(cli.app, ["init", str(path)])
    assert result.exit_code != 0
    assert "looks like a log of positives only: it has user and item" in str(result.exception)
