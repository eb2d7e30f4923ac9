"""Arms at several budgets: names as they are printed, cells that do not fit, a judgement within each budget."""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli import app
from recsys.comparison.budgets import arm_name, baseline_of, baselines_by_budget, with_budgets
from recsys.config import ConfigError, ExperimentConfig, parse_experiment
from recsys.reports.bytes import bytes_sheets, network_sentence

GENERATOR = {
    "rows": 4000,
    "history": 0,
    "fields": [
        {"name": "user_id", "num_ids": 150, "zipf": 0.5},
        {"name": "item_id", "num_ids": 600, "zipf": 1.0},
    ],
}
FULL: dict[str, Any] = {
    "name": "full",
    "data": {"source": "generated", "generator": GENERATOR, "user": "user_id"},
    "features": [
        {"kind": "categorical", "names": ["user_id", "item_id"]},
        {"kind": "statistic", "columns": ["user_id"]},
    ],
    "tables": {"scheme": "full", "embedding_dim": 8, "budget_embedding_dim": 8},
    "model": {"name": "fnn", "hidden": [8]},
    "training": {"batch_size": 256, "epochs": 1},
    "evaluation": {"replicates": 100},
}
SIZE = {"embedding_dim": 8, "budget_embedding_dim": 8, "budget": "100%"}
HASHED = {"extends": "full.yaml", "set": {"features.encoding": "hash"}}
OTHERS: dict[str, dict[str, Any]] = {
    "hash": {**HASHED, "name": "hash", "tables": {"scheme": "hash", **SIZE}},
    "unified": {
        **HASHED,
        "name": "unified",
        "tables": {"scheme": "unified", "chunk_dim": 4, **SIZE},
        "model": {"hidden": [16]},
    },
}


def config(name: str, budget: str | None = None) -> ExperimentConfig:
    return parse_experiment({**FULL, "name": name, "tables": {**FULL["tables"], "budget": budget}}, "test")


@pytest.mark.parametrize(
    ("name", "budget", "arm"),
    [
        ("hash@10%", "10%", "hash"),
        ("hash@1.6MB", "1.6 MB", "hash"),
        ("hash", "10%", "hash"),
        ("hash@10%", None, "hash@10%"),
        ("hash@10%", "3%", "hash@10%"),
        ("a@b@3%", "3%", "a@b"),
    ],
)
def test_an_arm_is_called_without_its_budget(name: str, budget: str | None, arm: str) -> None:
    assert arm_name(name, budget) == arm


CELLS = with_budgets([config("full"), config("hash")], ["3%", "1.6 MB", "100%"])
FULL_LEFT_OUT = {name: f"{name}: no setting fits" for name in ("full@3%", "full@1.6MB")}


@pytest.mark.parametrize(
    ("baseline", "left_out", "found"),
    [
        (None, {}, "full@3%"),
        (None, FULL_LEFT_OUT, "full@100%"),
        (None, FULL_LEFT_OUT | {"full@100%": "full@100%: no setting fits"}, "hash@3%"),
        ("hash", {}, "hash@3%"),
        ("hash", {"hash@3%": "why"}, "hash@1.6MB"),
        ("hash@1.6MB", FULL_LEFT_OUT, "hash@1.6MB"),
        ("full@100%", FULL_LEFT_OUT, "full@100%"),
    ],
)
def test_the_baseline_is_a_printed_name_or_an_arm(
    baseline: str | None, left_out: Mapping[str, str], found: str
) -> None:
    assert baseline_of(CELLS, baseline, left_out) == found


@pytest.mark.parametrize(
    ("baseline", "left_out", "said"),
    [
        ("nobody", {}, "'nobody' is not among the arms: choose one of full@3%, hash@3%, .*, full, hash$"),
        ("hash@7%", {}, "'hash@7%' is not among the arms"),
        ("full@3%", FULL_LEFT_OUT, "does not fit: full@3%: no setting fits; .*: hash@3%, hash@1.6MB, .* fit"),
        ("hash", {f"hash@{b}": "hash: none" for b in ("3%", "1.6MB", "100%")}, "does not fit: hash: none"),
    ],
)
def test_a_baseline_that_cannot_be(baseline: str, left_out: Mapping[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        baseline_of(CELLS, baseline, left_out)


@pytest.mark.parametrize(
    ("arms", "baseline", "found"),
    [
        ({"a@3%": "3%", "b@3%": "3%", "a@9%": "9%", "b@9%": "9%"}, "a@9%", {"3%": "a@3%", "9%": "a@9%"}),
        ({"a@3%": "3%", "b@3%": "3%", "a@9%": "9%", "b@9%": "9%"}, "b@3%", {"3%": "b@3%", "9%": "b@9%"}),
        ({"b@3%": "3%", "c@3%": "3%", "a@9%": "9%", "b@9%": "9%"}, "a@9%", {"3%": "b@3%", "9%": "a@9%"}),
        ({"a": None, "b": "3%", "c": "3%"}, "a", {"3%": "b"}),
        ({"a@3%": "3%", "b@3%": "3%"}, "a@3%", {}),
        ({"a@3%": "3%", "b@9%": "9%"}, "a@3%", {}),
    ],
)
def test_every_budget_has_the_baselines_arm(
    arms: dict[str, str | None], baseline: str, found: dict[str, str]
) -> None:
    assert baselines_by_budget(arms, baseline) == found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experiments; what one command has trained the next reads."""
    folder = tmp_path_factory.mktemp("budgets")
    for name, content in [("full", FULL), *OTHERS.items()]:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


class InThisProcess(ThreadPoolExecutor):
    """Trains without starting processes, each of which would import torch; `test_experiments` has the real pool."""

    def __init__(self, workers: int, **of_processes: Any) -> None:
        super().__init__(1)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("recsys.comparison.pool.ProcessPoolExecutor", InThisProcess)
    monkeypatch.setenv("COLUMNS", "200")
    return folder


def run(*arguments: object) -> str:
    found = CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


ARMS = ("full.yaml", "hash.yaml", "unified.yaml", "--budgets", "12KB,100%", "--seeds", 1)


def test_cells_that_do_not_fit_are_named_and_the_rest_goes_on(here: Path) -> None:
    found = json.loads(run(*ARMS, "--json"))
    assert set(found["left_out"]) == {"full@12KB"}
    assert found["comparison"]["baseline"] == "full@100%"
    assert {name: item["baseline"] for name, item in found["by_budget"].items()} == {
        "12KB": "hash@12KB",
        "100%": "full@100%",
    }
    said = run(*ARMS)
    assert "left out: full@12KB: none of its settings fits the budget" in said
    assert "full does not fit 12KB: arms are compared with hash@12KB there." in said
    page = Path("report.html").read_text()
    assert "full does not fit 12KB: arms are compared with hash@12KB there." in page
    assert "verdict there" in page


@pytest.mark.parametrize(
    ("baseline", "overall"),
    [("hash@12KB", "hash@12KB"), ("hash", "hash@12KB"), ("unified@100%", "unified@100%")],
)
def test_a_printed_name_is_a_baseline_everywhere(here: Path, baseline: str, overall: str) -> None:
    found = json.loads(run(*ARMS, "--baseline", baseline, "--json"))
    assert found["comparison"]["baseline"] == overall
    arm = overall.partition("@")[0]
    for budget, item in found["by_budget"].items():
        assert item["baseline"] == f"{arm}@{budget}"
        others = {d["arm"] for d in item["differences"]}
        assert others == {a["name"] for a in found["arms"] if a["budget"] == budget} - {item["baseline"]}
    alone = json.loads(
        run("hash.yaml", "unified.yaml", "--budgets", "12KB", "--seeds", 1, "--baseline", arm, "--json")
    )
    within = {d["arm"]: d for d in found["by_budget"]["12KB"]["differences"] if d["metric"] == "auc"}
    (separate,) = (d for d in alone["comparison"]["differences"] if d["metric"] == "auc")
    assert within[separate["arm"]]["estimate"] == separate["estimate"], "no comparison of its own is needed"
    assert any(line.startswith("At 12KB: ") for line in found["verdict"])


def test_too_few_arms_says_which_fits(here: Path) -> None:
    arguments = ["compare", "full.yaml", "hash.yaml", "--budgets", "12KB"]
    with pytest.raises(
        ConfigError, match=r"too few arms .*: only hash@12KB fits its budget; full@12KB: none"
    ):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_finished_runs_show_their_bytes_and_networks(here: Path) -> None:
    run(*ARMS)
    folders = sorted(map(str, Path("runs").glob("*KB-*"))) + sorted(map(str, Path("runs").glob("full*")))
    found = json.loads(run(*folders, "--replicates", 100, "--json"))
    assert set(found["bytes"]) == {"hash@12KB", "unified@12KB", "full@100%"}
    for name, of in found["bytes"].items():
        (metrics,) = (
            json.loads(file.read_text()) for file in Path("runs").glob(f"{name}-*/seed-0/metrics.json")
        )
        assert of == metrics["bytes"]
        assert of["statistics"] > 0
        assert of["network"] > 0
    said = " ".join(run(*folders, "--replicates", 100, "--details").split())
    page = Path("report.html").read_text()
    for text in (said, page):
        assert "Resident bytes" in text
        assert f"{found['bytes']['hash@12KB']['total']:,}" in text
        assert f"{found['bytes']['hash@12KB']['network']:,}" in text
        assert "The networks above the tables differ, from" in re.sub(r"[│ ]+", " ", text)
    mixed = json.loads(
        run(folders[0], f"b={folders[1]}/seed-0/predictions.parquet", "--replicates", 100, "--json")
    )
    assert len(mixed["bytes"]) == 1


ONE = {"parameters": 10, "optimizer": 2, "vocabulary": 0, "total": 12, "serving": 10, "full_table": 100}


def test_bytes_of_runs_of_before_are_shown_as_far_as_they_are_known() -> None:
    (sheet,) = bytes_sheets({"old": ONE, "new": ONE | {"dense": 4, "network": 7, "network_optimizer": 14}})
    assert sheet.headers[:5] == ("arm", "weights", "optimiser", "scheme's networks", "bytes")
    assert sheet.rows[0] == ("old", "10", "2", "–", "12", "12.0%", "10", "–", "–")
    assert sheet.rows[1] == ("new", "10", "2", "4", "12", "12.0%", "10", "7", "14")
    assert bytes_sheets({}) == []


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([100, 105], ""),
        ([100, 106], "from 100 bytes of a0 to 106 of a1"),
        ([858_404, 214_000, 900_000], "from 214,000 bytes of a1 to 900,000 of a2"),
        ([0, 4], "from 0 bytes of a0 to 4 of a1"),
        ([0, 0], ""),
        ([7], ""),
    ],
)
def test_networks_that_differ_are_said_to(sizes: list[int], said: str) -> None:
    arms = {f"a{k}": ONE | {"network": size} for k, size in enumerate(sizes)}
    found = network_sentence(arms)
    assert said in found
    assert bool(found) is bool(said)
    (sheet,) = bytes_sheets(arms)
    assert found in sheet.note
