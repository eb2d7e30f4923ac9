"""Predictions of anybody's model from files, through the command: what is read, and how bad input is refused."""

import decimal
import json
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from scipy.stats import norm
from typer.testing import CliRunner

from recsys import cli
from recsys.comparison.judge import Options, _power, judge
from recsys.comparison.predictions import Columns, find_arms, named, read_predictions
from recsys.comparison.slicing import by_column
from recsys.evaluation.arms.compare import compare as compare_arms
from recsys.reports.comparison import sentence
from recsys.reports.pictures.comparison import COLORS, _slice_color, comparison_pictures

ROWS = 400


def scores(noise: float, seed: int = 0, rows: int = ROWS) -> pa.Table:
    """Rows of 40 users over 8 days, of two countries, with predictions that are the truth and noise."""
    fixed, own = np.random.default_rng(7), np.random.default_rng(seed)
    logit = fixed.normal(size=rows)
    label = fixed.random(rows) < 1 / (1 + np.exp(-logit))
    return pa.table(
        {
            "row_id": np.arange(rows),
            "user_id": fixed.integers(0, 40, rows),
            "label": label.astype(np.int8),
            "prediction": 1 / (1 + np.exp(-(logit + noise * own.normal(size=rows)))),
            "country": fixed.choice(["ch", "de"], rows),
            "price": fixed.random(rows),
            "day": pa.array(np.arange(rows) // 50 + 19_000, pa.int32()).cast(pa.date32()),
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.parquet, and b.parquet whose predictions are worse, in the working directory."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(scores(0.1), "a.parquet")
    pq.write_table(scores(2.0), "b.parquet")
    return tmp_path


def compare(*arguments: object) -> Any:
    command = ["compare", *map(str, arguments), "--replicates", "100", "--json"]
    result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def of(found: Any, metric: str = "auc") -> Any:
    return next(d for d in found["comparison"]["differences"] if d["metric"] == metric)


def test_files_of_other_formats_orders_and_names_say_the_same(folder: Path) -> None:
    plain = compare("a.parquet", "b.parquet", "--report", "plain.html")
    assert [arm["name"] for arm in plain["comparison"]["arms"]] == ["a", "b"]
    assert of(plain)["verdict"] == "worse"
    assert plain["comparison"]["clusters"] == 40
    assert plain["arms"] == {"a": ["a.parquet"], "b": ["b.parquet"]}

    shuffled = scores(2.0).take(np.random.default_rng(0).permutation(ROWS))
    others = {"row_id": "impression", "user_id": "who", "label": "clicked", "prediction": "p"}
    for name, table in (("a", scores(0.1)), ("b", shuffled)):
        renamed = table.rename_columns([others.get(column, column) for column in table.column_names])
        pacsv.write_csv(renamed, f"{name}.csv")
    names = ("--row-id", "impression", "--user", "who", "--label", "clicked", "--prediction", "p")
    again = compare("a.csv", "b.csv", *names)
    assert again["comparison"] == plain["comparison"]


def test_one_name_is_one_arm_of_several_seeds(folder: Path) -> None:
    for seed in (1, 2):
        pq.write_table(scores(2.0, seed), f"b{seed}.parquet")
    found = compare("new=b1.parquet", "old=a.parquet", "new=b2.parquet", "--baseline", "old")
    assert [(arm["name"], arm["seeds"]) for arm in found["comparison"]["arms"]] == [("new", 2), ("old", 1)]
    assert (of(found)["arm"], of(found)["baseline"]) == ("new", "old")
    assert len(found["seeds"]["auc"]["new"]) == 2


def test_a_path_may_hold_an_equals_sign(folder: Path) -> None:
    (folder / "a.parquet").rename("l=2.parquet")
    assert named("l=2.parquet") == (None, Path("l=2.parquet"))
    assert named("x=l=2.parquet") == ("x", Path("l=2.parquet"))
    assert list(find_arms(["l=2.parquet", "b.parquet"])) == ["l=2", "b"]


def test_the_same_file_twice_is_undecided(folder: Path) -> None:
    found = compare("a.parquet", "again=a.parquet", "--effect", 0.01, "--slice", "country")
    assert [d["estimate"] for d in found["comparison"]["differences"]] == pytest.approx([0.0] * 5, abs=1e-15)
    assert {d["verdict"] for d in found["comparison"]["differences"]} == {"undecided"}
    assert "equal" not in " ".join(found["verdict"]).replace("not equal", "")
    assert [e["shrunk"] for e in found["slices"]["effects"]] == pytest.approx([0.0] * 4, abs=1e-15)


def test_effect_gives_power_and_a_verdict_of_not_worse(folder: Path) -> None:
    worse = compare("a.parquet", "b.parquet", "--effect", 0.001)
    (power,) = worse["power"]
    assert (power["units"], power["not_worse"]) == (40, False)
    assert power["units_needed"] > 40
    assert (power["worse"], power["interval"]) == (True, pytest.approx(of(worse)["interval"]))
    assert "Against a it is worse than −0.001: the interval −0." in worse["verdict"][0].replace("-", "−")
    assert "Bonferroni" not in worse["verdict"][0]
    (auc,) = (d for d in worse["comparison"]["differences"] if d["metric"] == "auc")
    within = compare("a.parquet", "b.parquet", "--effect", round(-auc["estimate"], 4))
    assert "is undecided: the interval " in within["verdict"][0]
    assert (within["power"][0]["worse"], within["power"][0]["not_worse"]) == (False, False)
    better = compare("b.parquet", "a.parquet", "--effect", 0.001)
    assert better["power"][0]["not_worse"]
    assert not better["power"][0]["worse"]
    assert "Against b it is not worse than −0.001" in better["verdict"][0]


def five_arms(**changes: Any) -> tuple[Any, Any]:
    """Return a comparison of five arms with a baseline, and the first difference in AUC, changed."""
    table = scores(1.0)
    arms = {f"arm{i}": scores(1.0, i)["prediction"].to_numpy()[None] for i in range(6)}
    found = compare_arms(arms, table["label"].to_numpy(), metrics=("auc",), replicates=50)
    return found, replace(found.differences[0], **changes)


def test_the_margin_never_contradicts_the_verdict() -> None:
    """A loss of 2.5 standard errors: decided of one arm, but not of five."""
    found, d = five_arms(estimate=-0.020, standard_error=0.008, row_variance=0.008**2, row_df=1e6)
    power = _power(d, found, 0.001)
    half = norm.ppf(1 - 0.05 / 5 / 2) * 0.008
    assert power.interval == pytest.approx((-0.020 - half, -0.020 + half), abs=1e-6)
    assert (power.worse, power.not_worse) == (False, False)
    assert _power(d, found, 0.05).not_worse
    said = sentence(d, found, power=power)
    assert (
        "Whether it is worse than arm0 by more than 0.001 is undecided: the interval -0.0406 to +0.0006 "
        in said
    )
    assert "(Bonferroni over 5 arms) holds −0.001" in said
    assert "the first step of Holm's test over 5 arms finds" in said
    assert _power(d, found, None).worse is None


def test_where_nothing_varies_neither_is_said() -> None:
    found, d = five_arms(estimate=-0.020, standard_error=0.0, row_variance=0.0)
    for effect in (0.001, 0.05):
        power = _power(d, found, effect)
        assert (power.worse, power.not_worse) == (False, False)
        assert sentence(d, found, power=power).endswith("is undecided: nothing varies.")


def test_a_path_does_not_change_when_days_are_added(folder: Path) -> None:
    """Of 40 days, more than slices have, the first 20 are as they were."""
    for name, noise in (("a", 0.1), ("b", 2.0)):
        pq.write_table(scores(noise, rows=2000), f"{name}.parquet")
        pq.write_table(scores(noise, rows=2000).slice(0, 1000), f"{name}20.parquet")
    long, short = (
        compare(f"a{days}.parquet", f"b{days}.parquet", "--time", "day")["daily"][0] for days in ("", "20")
    )
    assert (len(long["days"]), len(short["days"])) == (40, 20)
    assert long["days"][-1] == "2022-02-16"
    assert long["days"][:20] == short["days"]
    for known in ("intervals", "p_values"):
        for now, then in zip(long["sequence"][known], short["sequence"][known], strict=False):
            assert now == (None if then is None else pytest.approx(then))
    assert short["sequence"]["intervals"][-1] is not None


def test_slices_are_told_the_differences_on_all_rows(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    told = []
    monkeypatch.setattr(
        "recsys.comparison.judge.compare_slices", lambda *_, **options: told.append(options["overall"])
    )
    judged = judge(find_arms(["a.parquet", "b.parquet"]), Options(replicates=50, slices=("country",)))
    assert told == [judged.comparison.differences]


def test_pictures_say_whom_they_judge(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    figures = []
    monkeypatch.setattr("recsys.reports.pictures.comparison.png", lambda figure: figures.append(figure) or "")
    options = Options(replicates=50, time="day", slices=("country",), level=0.5)
    judged = judge(find_arms(["a.parquet", "b.parquet"]), options)
    pictures = {name: note for name, _, note in comparison_pictures(judged)}
    assert figures[-1].axes[0].get_title() in ("b: worse, these models", "b: undecided, these models")
    assert (
        "It judges these trained models: the spread over training seeds is not in it."
        in pictures["Day by day"]
    )
    effects = [effect for effect in judged.sliced.effects if effect.metric == "auc"]
    raw = figures[1].axes[0].lines[0]
    assert raw.get_xdata() == pytest.approx(effects[0].interval)
    assert raw.get_color() == COLORS["worse"]
    unsure = replace(effects[0], adjusted_p_value=0.3)
    assert _slice_color(unsure, 0.5) == COLORS["worse"] != _slice_color(unsure, 0.95)


def test_slices_and_days_of_files(folder: Path) -> None:
    found = compare(
        *(
            "a.parquet",
            "b.parquet",
            "--time",
            "day",
            "--slice",
            "country",
            "--slice",
            "price",
            "--slice",
            "time",
        )
    )
    sizes = found["slices"]["sizes"]
    assert list(sizes) == ["country", "price", "time"]
    assert {sum(counts.values()) for counts in sizes.values()} == {ROWS}
    assert set(sizes["country"]) == {"ch", "de"}
    assert set(sizes["price"].values()) == {40}
    assert next(iter(sizes["time"].items())) == ("2022-01-08", 50)
    reasons = {skip["slice"]: skip["reason"] for skip in found["slices"]["skipped"]}
    assert reasons["2022-01-08"] == "too few rows: 50, at least 100 are needed"
    judged = {(effect["slice"], effect["metric"]) for effect in found["slices"]["effects"]}
    assert judged == {(country, metric) for country in ("ch", "de") for metric in ("auc", "logloss")}
    (path,) = found["daily"]
    assert path["days"][0] == "2022-01-08"
    assert path["sequence"]["estimates"][-1] == pytest.approx(of(found, "logloss")["estimate"])


def test_without_json_power_comes_before_the_verdict(folder: Path) -> None:
    command = [
        "compare",
        "a.parquet",
        "b.parquet",
        "--replicates",
        "100",
        "--slice",
        "country",
        "--time",
        "day",
    ]
    short = CliRunner().invoke(cli.app, command, catch_exceptions=False).output
    assert short.count("┏") == 1
    assert "With --details: Metrics of the arms; Differences from a;" in " ".join(short.split())
    assert "would be found" not in short
    said = CliRunner().invoke(cli.app, [*command, "--details"], catch_exceptions=False).output
    places = [
        said.index(text)
        for text in ("would be found four times in", "Slices by country", "b is worse than a in AUC by")
    ]
    assert places == sorted(places)
    assert max(map(len, said.splitlines())) <= 100
    html = (folder / "report.html").read_text()
    assert (
        html.index("b is worse than a in AUC by") < html.index("data:image/png") < html.index("<h2>Details")
    )
    assert html.index("<h2>Details") < html.index("What this much data can find")
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html


def with_column(name: str, values: Any, rows: int = ROWS) -> pa.Table:
    table = scores(2.0, rows=rows)
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def changed(name: str, row: int, value: Any) -> pa.Table:
    values = scores(2.0)[name].to_pylist()
    values[row] = value
    return with_column(name, values)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            scores(2.0).slice(0, ROWS - 2),
            "b.parquet: lacks row ids 398, 399 of a.parquet: score the same rows",
        ),
        (scores(2.0, rows=ROWS + 1), "a.parquet: lacks row ids 400 of b.parquet"),
        (changed("row_id", 3, 4), "b.parquet: duplicate row ids 4: each row must be scored once"),
        (
            changed("prediction", 3, float("nan")),
            "b.parquet: prediction is nan at row ids 3: must be within [0, 1]",
        ),
        (changed("prediction", 5, 1.5), "b.parquet: prediction is 1.5 at row ids 5: must be within [0, 1]"),
        (changed("prediction", 5, None), "b.parquet: prediction is missing at row 5"),
        (changed("label", 6, 2), "b.parquet: label is 2 at row ids 6: labels must be 0 or 1"),
        (changed("label", 0, 1), "b.parquet: label of row id 0 is 1, but 0 in a.parquet (1 rows differ)"),
        (changed("user_id", 7, 99), "b.parquet: user_id of row id 7 is 99, but"),
        (
            with_column("row_id", [f"{i:02}" for i in range(ROWS)]),
            "b.parquet: lacks row ids 0, 1, 2, 3, 4, … (10 in all) of a.parquet: score the same rows, as the texts of "
            "integers: 1, not 01",
        ),
        (with_column("row_id", [True, False] * (ROWS // 2)), "row_id is bool: ids are integers or text"),
        (with_column("row_id", np.arange(ROWS) + 0.5), "row_id is no 64-bit integer in some row"),
        (with_column("prediction", ["high"] * ROWS), "prediction is large_string, not numbers"),
        (
            scores(2.0).drop_columns("prediction"),
            "b.parquet: has no column 'prediction', but row_id, user_id",
        ),
        (scores(2.0).slice(0, 0), "b.parquet: has no rows"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(
    folder: Path, table: pa.Table, said: str, refused: Any
) -> None:
    pq.write_table(table, "b.parquet")
    assert said in refused("compare", "a.parquet", "b.parquet")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the one line that a command ends with."""

    def run(*arguments: str) -> str:
        monkeypatch.delenv("RECSYS_TRACEBACK", raising=False)
        monkeypatch.setattr(sys, "argv", ["recsys", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert line.startswith("error: ")
        return line

    return run


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (
            "label",
            1,
            "a.parquet: every label (row ids 0, 1, 2, 3, 4, … (400 in all)) is 1: a comparison needs both",
        ),
        ("user_id", 5, "a.parquet: all rows (0, 1, 2, 3, 4, … (400 in all)) belong to user 5"),
    ],
)
def test_one_class_or_one_user_is_refused(
    folder: Path, refused: Any, column: str, value: int, said: str
) -> None:
    for name in ("a", "b"):
        pq.write_table(with_column(column, [value] * ROWS), f"{name}.parquet")
    assert said in refused("compare", "a.parquet", "b.parquet")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.csv", "", "c.csv: the file is empty"),
        ("c.csv", "row_id,label,prediction\n", "c.csv: has no rows"),
        (
            "c.csv",
            "row_id,label,prediction\n0,1,0.5\n1,0\n",
            "c.csv: row 1 (line 3): 2 columns instead of 3: correct '1,0', for no row may be left out",
        ),
        (
            "c.csv",
            "row_id,label,prediction\n0,1,0.5\n1,0,x\n",
            "c.csv: row 1 (line 3): prediction is 'x', not a number: write a probability such as 0.25",
        ),
        ("c.csv", "row_id,label,label,prediction\n0,1,1,0.5\n", "c.csv: has more than one column 'label'"),
        (
            "c.csv",
            "row_id,clicked,p\n0,1,0.5\n",
            "has no column 'label', but row_id, clicked, p; name the column of the label",
        ),
        ("c.csv", "row_id,label,prediction\n0,yes,0.5\n1,no,0.1\n", "row 0 (line 2): label is 'yes', not a"),
        ("c.parquet", "not Parquet", "c.parquet: this is not a complete Parquet file"),
        ("c.parquet", "", "c.parquet: the file is empty"),
        ("c.json", "{}", "c.json: neither a run folder nor a file .parquet"),
    ],
)
def test_files_that_cannot_be_read_are_refused(
    folder: Path, refused: Any, name: str, content: str, said: str
) -> None:
    (folder / name).write_text(content)
    assert said in refused("compare", name, "b.parquet")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.parquet"], "all arguments are seeds of one arm, a: a comparison needs two"),
        (["a.parquet", "a.parquet"], "all arguments are seeds of one arm, a"),
        (["a.parquet", "none.parquet"], "none.parquet: no such file or folder"),
        (["a.parquet", "=b.parquet"], "=b.parquet: write NAME=PATH"),
        (["a.parquet", "x.yaml"], "x.yaml is a configuration, a.parquet is not"),
        (
            ["a.parquet", "b.parquet", "--baseline", "c"],
            "baseline 'c' is not among the arms: choose one of a, b",
        ),
        (
            ["a.parquet", "b.parquet", "--seeds", "2"],
            "--seeds: of experiments only, and these are finished runs and files",
        ),
        (
            ["x.yaml", "y.yaml", "--label", "z"],
            "--label: of files of predictions only, and these are experiments",
        ),
        (
            ["a.parquet", "b.parquet", "--slice", "city"],
            "a.parquet: has no column 'city', and no other arm has it",
        ),
        (["a.parquet", "b.parquet", "--slice", "time"], "name the column of the time with --time"),
        (["a.parquet", "b.parquet", "--time", "country"], "country is 'de', neither a date with the year"),
        (["a.parquet", "b.parquet", "--slice", "day", "--slice", "day"], "slices by day are asked for twice"),
        (["a.parquet", "b.parquet", "--effect", "-1"], "effect is -1.0: give the smallest difference in AUC"),
        (["a.parquet", "b.parquet", "--level", "1.5"], "level 1.5: need"),
        ([".", "b.parquet"], ".: not a finished run (no metrics.json); train it first"),
        (["a.parquet", "a.parquet", "b.parquet"], "a: the same predictions stand twice: give each seed once"),
        (
            ["x=a.parquet", "x=../{folder}/a.parquet", "b.parquet"],
            "x: the same predictions stand twice: give each seed once",
        ),
        (
            ["a.parquet", "other/a.parquet", "b.parquet"],
            "two files are called a: name them apart with NAME=PATH, or give both one NAME as seeds",
        ),
        (["a=b.parquet", "a.parquet", "c=other/a.parquet"], "two files are called a: name them apart"),
        *(
            (
                ["a.parquet", "b.parquet", "--slice", name],
                f"--slice {name}: rows are paired by it; slice by another column",
            )
            for name in ("row_id", "label", "prediction", "user_id")
        ),
        (
            ["a.parquet", "b.parquet", "--user", "country", "--slice", "country"],
            "--slice country: rows are paired by it",
        ),
        (
            ["a.parquet", "b.parquet", "--time", "row_id"],
            "--time row_id: rows are paired by it; time by another",
        ),
        (
            ["one.parquet", "two=one.parquet", "--time", "day"],
            "--time day: its days are 1, from 2022-01-08 on",
        ),
    ],
)
def test_arguments_that_make_no_comparison_are_refused(
    folder: Path, refused: Any, arguments: list[str], said: str
) -> None:
    (folder / "other").mkdir()
    pq.write_table(scores(1.0), "other/a.parquet")
    day = pa.array([19_000] * ROWS, pa.int32()).cast(pa.date32())
    pq.write_table(scores(1.0).set_column(6, "day", day), "one.parquet")
    assert said in refused("compare", *(text.format(folder=folder.name) for text in arguments))


@pytest.mark.parametrize("copy", ["bytes", "format", "order", "columns"])
def test_a_copy_is_no_second_seed(folder: Path, refused: Any, copy: str) -> None:
    """Contents are compared, not names: the same bytes, another format, another order of rows, fewer columns."""
    table = scores(0.1)
    if copy == "format":
        pacsv.write_csv(table, "copy.csv")
    else:
        table = {"bytes": table, "order": table[::-1], "columns": table.drop_columns(["price"])}[copy]
        pq.write_table(table, "copy.parquet")
    name = "copy.csv" if copy == "format" else "copy.parquet"
    said = f"x: {name} holds the same predictions as a.parquet: give each seed once"
    assert said in refused("compare", "x=a.parquet", f"x={name}", "b.parquet")
    assert compare("a.parquet", f"twin={name}")["comparison"]["arms"][1]["seeds"] == 1


def test_what_is_said_without_a_verdict_is_one_voice(folder: Path) -> None:
    """Of one positive: no interval, probability, detectable effect or margin in sentences, tables and JSON."""
    table = scores(0.1)
    one = pa.array((np.arange(ROWS) == 5).astype(np.int8))
    for name, noise in (("c", 0.1), ("d", 3.0)):
        pq.write_table(
            scores(noise).set_column(table.column_names.index("label"), "label", one), f"{name}.parquet"
        )
    found = compare("c.parquet", "d.parquet", "--effect", 0.002)
    assert found["comparison"]["best"] == {"auc": {}, "logloss": {}, "ne": {}, "calibration": {}, "gauc": {}}
    (sentence_,) = found["verdict"]
    assert "(one seed: intervals cover rows only; too few users to judge: 1 holds a positive" in sentence_
    assert sentence_.endswith("Whether it is worse than c by more than 0.002 is undecided, too.")
    assert "%" not in found["summary"]
    assert "1 of them for want of data" in found["summary"]
    assert {d["interval"] for d in found["comparison"]["differences"]} == {None}
    assert found["power"][0]["minimum_detectable_effect"] is None
    html = Path("report.html").read_text()
    assert "luck of choosing settings on validation" in html
    assert html.count("no verdict") >= 5
    assert 'class="better"' not in html
    assert 'class="worse"' not in html


def test_runs_of_one_name_are_seeds_of_one_configuration(folder: Path, configure: Any) -> None:
    def finished(place: str, **settings: Any) -> str:
        config = configure({key.replace("_", ".", 1): value for key, value in settings.items()})
        (folder / place).mkdir(parents=True)
        (folder / place / "metrics.json").write_text(json.dumps({"prepared": "prepared/x"}))
        raw = config.model_dump(mode="json", exclude_unset=True)
        (folder / place / "config.yaml").write_text(json.dumps(raw))
        return place

    first, second = (finished(f"one/seed-{seed}", training_seed=seed) for seed in (0, 1))
    other = finished("two/seed-2", training_seed=2, tables_embedding_dim=4)
    again = finished("three/seed-0", training_seed=0)
    assert len(find_arms([first, second, "a.parquet"])["small"]) == 2
    assert len(find_arms(["one", "a.parquet"])["small"]) == 2
    assert len(find_arms([first, f"other={other}"])) == 2
    for arguments in ([first, other], [first, again], ["one", other], [f"x={first}", f"x={other}"]):
        with pytest.raises(
            ValueError, match="these runs differ in more than their seed, or share one: name them"
        ):
            find_arms([*arguments, "a.parquet"])
    with pytest.raises(ValueError, match="small: the same predictions stand twice"):
        find_arms([first, "one", "a.parquet"])


def test_only_the_columns_that_are_wanted_are_read(folder: Path) -> None:
    assert read_predictions(Path("a.parquet"), Columns()).column_names == [
        "row_id",
        "label",
        "prediction",
        "user_id",
    ]
    table = read_predictions(Path("a.parquet"), Columns(user="country"), ["price", "absent"])
    assert table.column_names == ["row_id", "label", "prediction", "user_id", "price"]
    assert table["user_id"].to_pylist()[0] in ("ch", "de")


def write_text(path: str, table: pa.Table, **columns: list[str]) -> None:
    """Write a CSV file of a table whose columns are replaced by texts, just as they are given."""
    texts = {
        name: columns.get(name) or list(map(str, table[name].to_pylist())) for name in table.column_names
    }
    texts |= columns
    rows = [",".join(texts), *(",".join(row) for row in zip(*texts.values(), strict=True))]
    Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")


def plain_scores(noise: float) -> pa.Table:
    return scores(noise).select(["row_id", "user_id", "label", "prediction"])


@pytest.mark.parametrize(
    "ids",
    [
        [("0" * (i % 2)) + str(i // 2) for i in range(ROWS)],
        [str(2**63 + i) for i in range(ROWS)],
        [f"2024-01-{i % 28 + 1:02}" + "T" * (i // 28) for i in range(ROWS)],
        [f"{i}e{j}" for i in range(20) for j in range(20)],
    ],
    ids=["leading zeros", "beyond int64", "dates", "exponents"],
)
def test_ids_of_a_text_file_are_text(folder: Path, ids: list[str]) -> None:
    for name, noise in (("a", 0.1), ("b", 2.0)):
        write_text(f"{name}.csv", plain_scores(noise), row_id=ids)
        write_text(f"{name}u.csv", plain_scores(noise), user_id=ids)
    assert compare("a.csv", "b.csv")["comparison"]["rows"] == ROWS
    assert compare("au.csv", "bu.csv")["comparison"]["clusters"] == ROWS


def test_text_and_columns_are_paired(folder: Path) -> None:
    """A CSV file beside a Parquet one: 1 is 1, dates are days, and slices agree."""
    pacsv.write_csv(scores(2.0), "b.csv")
    options = ("--time", "day", "--slice", "country", "--slice", "price", "--slice", "time")
    plain = compare("a.parquet", "b.parquet", *options)
    for arms in (("a.parquet", "b.csv"), ("a.parquet", "b.parquet")):
        found = compare(*arms, *options)
        for part in ("comparison", "slices", "daily"):
            assert found[part] == plain[part]
    write_text("b.csv", plain_scores(2.0), row_id=[f"{i:03}" for i in range(ROWS)])
    with pytest.raises(
        ValueError, match=r"b.csv: lacks row ids 0, 1, 2, 3, 4, … \(100 in all\) of a.parquet"
    ):
        judge(find_arms(["a.parquet", "b.csv"]), Options(replicates=50))


def test_only_an_empty_cell_is_missing(folder: Path) -> None:
    countries = [["NA", "null", "", "00"][i % 4] for i in range(ROWS)]
    for name, noise in (("a", 0.1), ("b", 2.0)):
        write_text(f"{name}.csv", plain_scores(noise), country=countries)
    sizes = compare("a.csv", "b.csv", "--slice", "country")["slices"]["sizes"]["country"]
    assert sizes == {"NA": 100, "null": 100, "00": 100, "(missing)": 100}


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (
            [f"0{1 + i % 3}/08/2024" for i in range(ROWS)],
            "a.csv: row 0: when is '01/08/2024', neither a date",
        ),
        ([f"2024-W{10 + i % 3}" for i in range(ROWS)], "a.csv: row 0: when is '2024-W10', neither a date"),
    ],
)
def test_times_that_are_not_year_first_are_refused(
    folder: Path, refused: Any, times: list[str], said: str
) -> None:
    for name in ("a", "b"):
        write_text(f"{name}.csv", plain_scores(1.0), when=times)
    assert said in refused("compare", "a.csv", "b.csv", "--time", "when")


def test_times_with_a_zone_follow_their_own_days(folder: Path) -> None:
    times = [f"2024-01-{1 + i % 4:02}T23:30:00-05:00" for i in range(ROWS)]
    for name, noise in (("a", 0.1), ("b", 2.0)):
        write_text(f"{name}.csv", plain_scores(noise), when=times)
    found = compare("a.csv", "b.csv", "--time", "when", "--slice", "time")
    assert found["daily"][0]["days"] == [f"2024-01-0{day}" for day in (1, 2, 3, 4)]
    assert set(found["slices"]["sizes"]["time"].values()) == {100}


@pytest.mark.parametrize("ending", [".csv.gz", ".csv.bz2", ".CSV", ".tsv", ".feather"])
def test_arms_are_called_by_their_files_without_the_endings(folder: Path, ending: str) -> None:
    (folder / f"new.v2{ending}").write_text("x")
    assert list(find_arms(["a.parquet", f"new.v2{ending}"])) == ["a", "new.v2"]


def test_columns_are_called_as_in_the_file(folder: Path) -> None:
    for name, noise in (("a", 0.1), ("b", 2.0)):
        pq.write_table(
            scores(noise).rename_columns({"country": "geo.country", "user_id": "who.id"}), f"{name}.parquet"
        )
    found = compare("a.parquet", "b.parquet", "--user", "who.id", "--slice", "geo.country")
    assert list(found["slices"]["sizes"]) == ["geo.country"]


def test_text_is_sliced_by_value_unless_it_has_fractions() -> None:
    codes = pa.array([f"{i % 30:02}" for i in range(300)], pa.large_string())
    assert by_column("zip", codes).names[-1] == "(others)"
    whole = pa.array([str(i % 30) for i in range(300)], pa.large_string())
    assert by_column("item", whole).names[-1] == "(others)"
    prices = pa.array([f"{i / 4}" if i else None for i in range(100)], pa.large_string())
    found = by_column("price", prices)
    assert (len(found.names), found.names[-1]) == (11, "(missing)")
    assert (
        by_column("price", pa.array([*prices.to_pylist(), "NA"], pa.large_string())).names[-1] == "(missing)"
    )


def test_uuids_and_decimals_are_paired_with_their_text(folder: Path) -> None:
    ids = [uuid.UUID(int=2**100 + i) for i in range(ROWS)]
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([i.bytes for i in ids], pa.binary(16)))
    decimals = pa.array([decimal.Decimal(i + 5) for i in range(ROWS)], pa.decimal128(38, 0))
    for column, texts in ((uuids, list(map(str, ids))), (decimals, [str(i + 5) for i in range(ROWS)])):
        table = plain_scores(0.1)
        for place, name in enumerate(("row_id", "user_id")):
            table = table.set_column(place, name, column)
        pq.write_table(table, "a.parquet")
        write_text("b.csv", plain_scores(2.0), row_id=texts, user_id=texts)
        judged = judge(find_arms(["a.parquet", "b.csv"]), Options(replicates=50))
        assert (judged.comparison.rows, judged.comparison.clusters) == (ROWS, ROWS)
