"""Reading bandit logs and policies, and `recsys ope`: messages name file, row, column and value."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from recsys import cli
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.target import frequencies
from recsys.policies.log import read_log, read_policy

DATA = Path(os.environ.get("RECSYS_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")
OBD = DATA / "obd40k.parquet"


def frame(rows: int = 600, seed: int = 0) -> pl.DataFrame:
    """Draw a log in Open Bandit's columns: uniform choices of four items at three positions; items 3 and 2 please most."""
    rng = np.random.default_rng(seed)
    item, position = rng.integers(0, 4, rows), rng.integers(1, 4, rows)
    return pl.DataFrame(
        {
            "row_id": np.arange(rows) + 1000,
            "item_id": item,
            "position": position,
            "click": (rng.random(rows) < 0.1 + 0.15 * item).astype(int),
            "propensity_score": np.full(rows, 0.25),
            "user_id": [f"u{i}" for i in rng.integers(0, 150, rows)],
        }
    )


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    frame().write_csv(path)
    return path


def save(data: pl.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        data.write_csv(path)
    else:
        data.write_parquet(path)
    return path


def ope(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, ["ope", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def ope_json(*arguments: object) -> Any:
    return json.loads(ope(*arguments, "--json"))


def test_csv_and_parquet_read_alike_and_columns_may_be_named(log_file: Path, tmp_path: Path) -> None:
    by_csv = read_log(log_file)
    renamed = frame().rename({"item_id": "shown", "propensity_score": "chance"})
    parquet = save(renamed, tmp_path / "log.parquet")
    by_parquet = read_log(parquet, {"action": "shown", "propensity": "chance"})
    for one, kind in ((by_csv, str), (by_parquet, int)):
        assert one.rows == 600
        assert one.position_names.tolist() == [*map(kind, [1, 2, 3])]
        assert one.clusters is not None
    np.testing.assert_array_equal(by_csv.actions, by_parquet.actions)
    np.testing.assert_array_equal(by_csv.clusters, by_parquet.clusters)


def test_filters_keep_row_numbers_of_the_file(tmp_path: Path) -> None:
    data = frame().drop("row_id").with_columns(day=pl.int_range(600) // 300)
    data[450, "propensity_score"] = 1.5
    path = save(data, tmp_path / "log.parquet")
    assert read_log(path, where=["day=0"]).rows == 300
    with pytest.raises(ValueError, match=r"log.parquet where day=1: row 450: propensity_score is 1.5"):
        read_log(path, where=["day=1"])
    with pytest.raises(ValueError, match="no row has day=7: day is 0, 1"):
        read_log(path, where=["day=7"])
    with pytest.raises(ValueError, match="cannot keep rows where 'day'"):
        read_log(path, where=["day"])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("column", "value", "place", "fault"),
    [
        ("propensity_score", 0.0, "row 7 (line 9, row id 1007)", "propensity_score is 0.0"),
        ("propensity_score", None, "row 7 (line 9)", "propensity_score is missing"),
        ("click", None, "row 7 (line 9)", "click is missing"),
        ("item_id", None, "row 7 (line 9)", "item_id is missing"),
        ("user_id", None, "row 7 (line 9)", "user_id is missing"),
        ("row_id", 1006, "row 6 (line 8, row id 1006)", "row_id 1006 occurs 2 times"),
    ],
)
def test_bad_values_are_named(
    tmp_path: Path, suffix: str, column: str, value: Any, place: str, fault: str
) -> None:
    data = frame()
    data[7, column] = value
    if suffix == "parquet":  # which has no lines
        place = re.sub(r" \(line \d+\)|line \d+, ", "", place)
    with pytest.raises(ValueError, match=re.escape(f"log.{suffix}: {place}: {fault}")):
        read_log(save(data, tmp_path / f"log.{suffix}"))


def test_bad_files_are_named(tmp_path: Path, log_file: Path) -> None:
    data = frame()
    text = data.with_columns(
        pl.when(pl.int_range(600) == 3).then(pl.lit("often")).otherwise("click").alias("click")
    )
    for bad, message in [
        (save(text, tmp_path / "text.csv"), "text.csv: row 3 (line 5): click is 'often', not a number"),
        (
            save(data.drop("propensity_score"), tmp_path / "a.csv"),
            "a.csv: has no column 'propensity': without",
        ),
        (
            save(data.drop("item_id"), tmp_path / "b.csv"),
            "b.csv: has no column action or item_id, but row_id",
        ),
        (save(data.head(0), tmp_path / "c.parquet"), "c.parquet: has no rows"),
        (tmp_path / "none.csv", "none.csv: no such file"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            read_log(bad)
    wrong = tmp_path / "wrong.parquet"
    wrong.write_text("not parquet")
    with pytest.raises(ValueError, match=r"wrong.parquet: this is not a complete Parquet file"):
        read_log(wrong)
    with pytest.raises(ValueError, match="has no column 'x'"):
        read_log(log_file, {"reward": "x"})


@pytest.fixture
def log(log_file: Path) -> Log:
    return read_log(log_file)


def policy(log: Log, table: list[float]) -> pl.DataFrame:
    """Return the same distribution in every row, in another order of rows and with rows of another log."""
    ids = pl.DataFrame({"row_id": [*map(int, log.row_ids[::-1]), 5, 6]})
    return ids.with_columns(pl.lit(p).alias(str(a)) for a, p in enumerate(table))


def test_policies_are_matched_by_row_id(log: Log, tmp_path: Path) -> None:
    full = policy(log, [0.1, 0.2, 0.3, 0.4])
    target = read_policy(save(full, tmp_path / "p.parquet"), log)
    np.testing.assert_array_equal(target.logged, np.array([0.1, 0.2, 0.3, 0.4])[log.actions])
    logged = pl.DataFrame({"row_id": log.row_ids.astype(int), "probability": target.logged}).sample(
        fraction=1, shuffle=True, seed=1
    )
    only = read_policy(save(logged, tmp_path / "q.csv"), log)
    assert only.table is None
    np.testing.assert_array_equal(only.logged, target.logged)
    both = read_policy(save(full.join(logged, on="row_id"), tmp_path / "both.csv"), log)
    np.testing.assert_array_equal(both.table, target.table)


def test_bad_policies_are_named(log: Log, tmp_path: Path) -> None:
    good = policy(log, [0.1, 0.2, 0.3, 0.4])
    missing, outside = good.clone(), good.clone()
    missing[5, "2"] = None
    outside[9, "2"] = 1.4
    foreign = good.with_columns(pl.lit(0.0).alias("7"))
    read_policy(save(foreign, tmp_path / "zero.csv"), log)
    foreign[4, "7"] = 0.1
    cases = {
        "lacks 2 row ids of log.csv, the first are 1598, 1599": good.filter(pl.col("row_id") < 1598),
        "row_id 1599 occurs more than once": pl.concat([good, good.head(1)]),
        "row 5 (line 7): 2 is missing": missing,
        "log.csv: row 590 (line 592, row id 1590): probability of 2 is 1.4": outside,
        "row 4 (line 6): 7 is 0.1, but log.csv has no action 7: no support": foreign,
        "log.csv: row 0 (line 2, row id 1000): probabilities of all actions sum to 1.2": policy(
            log, [0.3] * 4
        ),
        "needs row_id, and probability or actions": good.select("row_id"),
        "has no column 'row_id'": good.drop("row_id"),
    }
    for message, data in cases.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            read_policy(save(data, tmp_path / "bad.csv"), log)


def test_ids_of_a_text_file_are_text(tmp_path: Path) -> None:
    """01 and 1 are two actions, two users and two rows, and a policy of one is not that of the other."""
    data = frame(400).with_columns(
        row_id=pl.Series([("0" * (i % 2)) + str(i // 2) for i in range(400)]),
        item_id=pl.Series([("1", "01", "NA", "1e0")[i % 4] for i in range(400)]),
        user_id=pl.Series([("0" * (i % 3)) + str(i % 50) for i in range(400)]),
    )
    log = read_log(save(data, tmp_path / "log.csv"))
    assert log.action_names.tolist() == ["01", "1", "1e0", "NA"]
    assert log.clusters is not None
    assert log.clusters.max() + 1 == data["user_id"].n_unique() == 150
    same = pl.DataFrame({"row_id": data["row_id"], "01": 0.0, "1": 1.0})
    assert read_policy(save(same, tmp_path / "p.csv"), log).logged.tolist() == [1.0, 0.0, 0.0, 0.0] * 100
    other = same.with_columns(row_id=pl.col("row_id").cast(pl.Int64))
    for name, wrong in (("p.csv", other), ("p.parquet", same.head(1).with_columns(row_id=0))):
        with pytest.raises(ValueError, match=r"occurs more than once|lacks 399 row ids of log\.csv"):
            read_policy(save(wrong, tmp_path / name), log)


def test_where_compares_the_text_that_stands_there(tmp_path: Path) -> None:
    data = frame().with_columns(campaign=pl.Series([("007", "7", "NA")[i % 3] for i in range(600)]))
    path = save(data, tmp_path / "log.csv")
    for value in ("007", "7", "NA"):
        assert read_log(path, where=[f"campaign={value}"]).numbers[0] == ("007", "7", "NA").index(value)
    with pytest.raises(ValueError, match="no row has campaign=07: campaign is 007, 7, NA"):
        read_log(path, where=["campaign=07"])


def test_text_and_columns_are_the_same_log(tmp_path: Path) -> None:
    """Twelve items: text sorts 10 before 2, and codes must not."""
    rng = np.random.default_rng(1)
    data = frame().with_columns(item_id=pl.Series(rng.integers(0, 12, 600)))
    text, columns = (read_log(save(data, tmp_path / f"log.{kind}")) for kind in ("csv", "parquet"))
    assert text.action_names.tolist() == [str(item) for item in range(12)]
    np.testing.assert_array_equal(text.actions, columns.actions)
    for one, other in ((text, columns), (columns, text)):
        target = frequencies(one, other)
        np.testing.assert_array_equal(target.logged, frequencies(one, one).logged)


def test_numbers_of_a_log_are_numbers(tmp_path: Path) -> None:
    for column, value in (("click", "NA"), ("propensity_score", "0,25")):
        texts = ["0.25"] * 599 + [value] if column == "propensity_score" else ["0", "1"] * 299 + ["1", value]
        data = frame().with_columns(pl.Series(column, texts))
        with pytest.raises(
            ValueError, match=rf"log.csv: row 599 \(line 601\): {column} is '{value}', not a number"
        ):
            read_log(save(data, tmp_path / "log.csv"))
    dated = frame().with_columns(click=pl.date(2024, 1, 1))
    with pytest.raises(ValueError, match="click is Date, not a number"):
        read_log(save(dated, tmp_path / "log.parquet"))


def test_command_json_table_and_report(log_file: Path, tmp_path: Path) -> None:
    report = tmp_path / "sub" / "ope.html"
    other = save(frame(seed=1).filter(pl.col("item_id") > 1), tmp_path / "other.parquet")
    arguments = (log_file, "--policy-log", other, "--report", report)
    found = ope_json(*arguments)
    assert found["verdict"] == "better"
    assert [part["name"] for part in found["positions"]] == [f"position {i}" for i in (1, 2, 3)]
    assert found["overall"]["overlap"] == 1
    assert found["overall"]["clusters"] <= 150
    assert found["primary"] == "dr"
    estimates = {e["estimator"]: e for e in found["overall"]["estimates"]}
    low, high = estimates["dr"]["interval"]
    assert low < found["on_policy"]["overall"]["value"] < high
    text = report.read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert found["summary"] in text
    shown = " ".join(ope(*arguments).split())
    assert "better" in shown
    for name in estimates:
        assert f"│ {name} " in shown
    assert ope_json(*arguments) == found


def test_command_uniform_and_files_of_probabilities(log_file: Path, tmp_path: Path) -> None:
    report = ("--report", tmp_path / "r.html")
    found = ope_json(
        log_file, "--policy", "uniform", "--intervals", "bootstrap", "--estimator", "snips", *report
    )
    assert found["verdict"] == "undecided"
    assert found["method"] == "bootstrap"
    log = read_log(log_file)
    logged = save(
        pl.DataFrame({"row_id": log.row_ids, "probability": np.array([0.1, 0.2, 0.3, 0.4])[log.actions]}),
        tmp_path / "p.csv",
    )
    found = ope_json(log_file, "--policy", logged, *report)
    assert [e["estimator"] for e in found["overall"]["estimates"]] == ["ips", "snips", "clipped"]
    assert found["overall"]["overlap"] is None
    assert found["verdict"] == "better"
    full = save(policy(log, [0.1, 0.2, 0.3, 0.4]), tmp_path / "all.csv")
    assert ope_json(log_file, "--policy", full, "--estimator", "switch-dr", *report)["primary"] == "switch-dr"


def test_command_refuses_with_one_line(
    log_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = save(frame().filter((pl.col("item_id") < 3) | (pl.col("position") > 1)), tmp_path / "few.csv")
    for arguments, message in [
        ([log_file], "no policy to judge"),
        ([few, "--policy", "uniform"], "no support: item_id 3 was never logged at position 1"),
        ([log_file, "--policy", tmp_path / "no.csv"], "no such file"),
    ]:
        report = tmp_path / "none.html"
        monkeypatch.setattr("sys.argv", ["recsys", "ope", *map(str, arguments), "--report", str(report)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not report.exists()


@pytest.mark.skipif(not OBD.exists(), reason="the Open Bandit sample is not here")
@pytest.mark.parametrize("campaign", ["men", "women"])
@pytest.mark.parametrize(("logged", "target"), [("random", "bts"), ("bts", "random")])
def test_open_bandit_truth_lies_in_the_interval(
    campaign: str, logged: str, target: str, tmp_path: Path
) -> None:
    found = ope_json(
        *(OBD, "--where", f"policy={logged}", "--where", f"campaign={campaign}"),
        *(
            "--policy-log",
            OBD,
            "--policy-where",
            f"policy={target}",
            "--policy-where",
            f"campaign={campaign}",
        ),
        *("--report", tmp_path / "obd.html"),
    )
    estimates = {e["estimator"]: e for e in found["overall"]["estimates"]}
    for name in ("snips", "dr", "switch-dr"):
        low, high = estimates[name]["interval"]
        assert low <= found["on_policy"]["overall"]["value"] <= high
    assert estimates["dr"]["reliable"] == (found["verdict"] != "unreliable")
    assert (found["verdict"] == "unreliable") == (logged == "bts" and campaign == "women")
