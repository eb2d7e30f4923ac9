"""Every rule of the guesses, and what cannot be used, on columns of a few rows."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.starting import names
from recsys.starting.guess import Flags, Guess, guess
from recsys.starting.label import Ambiguous
from recsys.starting.sources import reading_of
from recsys.starting.text import listed, one_line, scalar
from recsys.starting.uses import LEFT_OUT
from recsys_pipelines.sources.base import SourceError

N = 240
HALF = np.random.default_rng(1).integers(0, 2, N).tolist()  # a label
PERSON = [f"u{k % 40}" for k in range(N)]
MIXED = np.random.default_rng(2).integers(0, 2, N).tolist()  # tells nothing of it


def guessed(folder: Path, rows: dict[str, Any], **flags: Any) -> Guess:
    table = rows if isinstance(rows, pa.Table) else pl.DataFrame(rows).to_arrow()
    pq.write_table(table, folder / "log.parquet")
    return guess(str(folder / "log.parquet"), Flags(**flags))


def use_of(folder: Path, values: Any, name: str = "x") -> tuple[str, dict[str, Any], str]:
    use = guessed(folder, {"label": HALF, "person": PERSON, name: values}).uses[name]
    return use.kind, use.keys, use.reason


def test_words_of_names() -> None:
    assert names.words("userId_2Hash") == ["user", "id", "hash"]
    assert [names.user_rank(name) for name in ("user_id", "UID", "customerNo", "user_age", "users")] == [
        0,
        0,
        1,
        None,
        None,
    ]
    assert all(map(names.is_label, ("click", "is_clicked", "Label", "y", "has_converted")))
    assert not any(map(names.is_label, ("click_position", "labels_seen", "x", "2", "")))
    assert all(map(names.is_item, ("item_id", "movieId", "ad", "asin")))
    assert all(map(names.is_time, ("ts", "event_time", "timestamp", "created_at_time")))
    assert not any(map(names.is_time, ("signup_date", "lifetime", "")))
    assert all(map(names.is_row_number, ("row", "Unnamed: 0", "idx")))


@pytest.mark.parametrize(
    "text",
    [
        "user",
        "user id",
        "yes",
        "n",
        "null",
        "1",
        "a: b",
        '"',
        "#",
        "x\ny",
        "\u2028",
        "\x85",
        "-",
        "...",
        "~",
        "😀",
        "é",
    ],
)
def test_any_name_is_one_scalar_of_yaml(text: str) -> None:
    from recsys.config.yaml_text import parse_yaml

    for document, value in ((f"k: {scalar(text)}", text), (f"k: [{scalar(text)}, b]", [text, "b"])):
        assert "\n" not in document
        assert parse_yaml(document) == {"k": value}


def test_shown_values_stay_in_their_line() -> None:
    assert one_line("user_id") == "user_id"
    assert one_line("a\nname: evil") == "'a\\nname: evil'"
    assert len(one_line("x" * 1000)) < 70
    assert listed(["a", "b c", "d"]) == "a, 'b c' and d"
    assert listed(range(20)).endswith(" and 8 more")


@pytest.mark.parametrize(
    ("rows", "column", "threshold"),
    [
        ({"click": HALF, "is_new": MIXED}, "click", None),
        ({"clicked": [bool(k) for k in HALF]}, "clicked", None),
        ({"label": [None, *HALF[1:]]}, "label", None),
        ({"target": [2 * k - 1 for k in HALF]}, "target", 1),
        ({"label": HALF, "conversion": MIXED}, "label", None),
        ({"rating": [1, 2, 3, 4, 5, 5] * (N // 6)}, "rating", 4),
        ({"watch_ratio": [k / N for k in range(N)]}, "watch_ratio", 0.4994),
        ({"q": HALF}, "q", None),
    ],
)
def test_labels(folder: Path, rows: dict[str, Any], column: str, threshold: float | None) -> None:
    label = guessed(folder, {"person": PERSON, **rows}).label
    assert label.column == column
    assert label.threshold == (None if threshold is None else pytest.approx(threshold, abs=0.06))
    assert 0.3 < label.positive < 0.7


@pytest.mark.parametrize(
    ("rows", "flags", "parts"),
    [
        ({"click": HALF, "purchase": MIXED}, {}, ("click and purchase", "--label click")),
        ({"q": HALF, "z": MIXED}, {}, ("q and z hold 0 and 1", "--label q")),
        ({"is_new": HALF}, {}, ("is_new hold 0 and 1", "--label")),
        ({"rating": [1, 2, 3] * 80, "stars": [1, 2, 3] * 80}, {}, ("rating and stars", "--threshold")),
        ({"label": [0, 1, 2] * 80}, {}, ("3 values (0, 1, 2)", "--label label --threshold 1")),
        ({"z": [0, 1, 2] * 80}, {"label": "z"}, ("3 values", "--threshold 1")),
        ({"label": ["yes", "no"] * 120}, {}, ("texts no and yes", "write 1 and 0")),
        ({"label": [1] * N}, {}, ("is 1 in all 240 rows", "positives only")),
        ({"label": [0] * N}, {}, ("is 0 in all 240 rows", "every row is negative")),
        ({"label": [None] * N}, {}, ("has no values",)),
        (
            {"city": ["a", "b", "c"] * 80},
            {},
            ("no column can be the label", "--label COLUMN", "person and city"),
        ),
        (
            {"item": [1, 2, 3] * 80, "user": PERSON},
            {},
            ("positives only", "user and item", "label 0", "--threshold"),
        ),
        ({"click": HALF}, {"label": "clik"}, ("--label clik", "did you mean click?")),
        ({"click": HALF}, {"threshold": 3.0}, ("--threshold", "--label")),
        ({"stars": [1, 2, 3] * 80}, {"label": "stars", "threshold": 9.0}, ("every row is negative",)),
        ({"x": [[1]] * N}, {"label": "x"}, ("type is large_list", "a label is 0 or 1")),
        (
            {"click": HALF, "user_id": PERSON, "uid": PERSON},
            {},
            ("user_id and uid", "--user user_id", "--user none"),
        ),
        ({"click": HALF}, {"user": "nobody"}, ("--user nobody", "there is no such column")),
        ({"click": HALF, "x": [0.5, 1] * 120}, {"user": "x"}, ("--user x", "no ids")),
        ({"click": HALF}, {"time": "person"}, ("--time person", "no times", "--time none")),
        ({"click": HALF}, {"source": "excel"}, ("--source excel", "table")),
    ],
)
def test_what_is_ambiguous_is_asked_for(
    folder: Path, rows: dict[str, Any], flags: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(SourceError) as error:
        guessed(folder, {"person": PERSON, **rows}, **flags)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_users(folder: Path) -> None:
    rows = {"label": HALF, "user_id": PERSON, "customer_id": PERSON[::-1]}
    assert guessed(folder, rows).user == "user_id"
    assert guessed(folder, rows, user="customer_id").user == "customer_id"
    assert guessed(folder, rows, user="none").user is None
    assert guessed(folder, {"label": HALF, "visitor": PERSON}).user == "visitor"
    assert guessed(folder, {"label": HALF, "q": PERSON, "uid": range(N)}).user is None, "no user has two rows"


HOURS = [datetime(2024, 5, 1) + timedelta(hours=k) for k in range(N)]


@pytest.mark.parametrize(
    ("values", "form", "parts"),
    [
        (HOURS, None, ["hour", "weekday"]),
        ([hour.date() for hour in HOURS], None, ["weekday"]),
        ([str(hour) for hour in HOURS], "iso", ["hour", "weekday"]),
        ([int(hour.timestamp()) for hour in HOURS], "seconds", ["hour", "weekday"]),
        ([1000 * int(hour.timestamp()) for hour in HOURS], "milliseconds", ["hour", "weekday"]),
        ([hour.strftime("%Y%m%d%H") for hour in HOURS], "%Y%m%d%H", ["hour", "weekday"]),
        ([int(hour.strftime("%Y%m%d")) for hour in HOURS], "%Y%m%d", ["weekday"]),
        (
            [(hour + timedelta(days=20)).strftime("%d/%m/%Y %H:%M") for hour in HOURS],
            "%d/%m/%Y %H:%M",
            ["hour", "weekday"],
        ),
        ([datetime(2020 + k % 4, 1 + k % 12, 1) for k in range(N)], None, ["weekday"]),
        (list(range(N)), None, []),
    ],
)
def test_times(folder: Path, values: list[Any], form: str | None, parts: list[str]) -> None:
    result = guessed(folder, {"label": HALF, "person": PERSON, "ts": values})
    assert result.time is not None
    assert (result.time.column.name, result.time.format, result.time.parts) == ("ts", form, parts)
    assert result.split == "time"
    assert result.uses["ts"].kind == ("date" if parts else LEFT_OUT)
    assert guessed(folder, {"label": HALF, "person": PERSON, "ts": values}, time="none").split == "random"


def test_which_time_orders_rows(folder: Path) -> None:
    rows = {
        "label": HALF,
        "person": PERSON,
        "signup": HOURS[::-1],
        "date": [hour.date() for hour in HOURS],
        "ts": HOURS,
    }
    result = guessed(folder, rows)
    assert result.time is not None
    assert result.time.column.name == "ts", "called like a time, and finer than the date"
    assert result.uses["signup"].kind == "date"
    with pytest.raises(Ambiguous, match=r"ts and time are times .* --time ts"):
        guessed(folder, rows | {"time": HOURS[::-1]})
    assert guessed(folder, {**rows, "ts": [None, *HOURS[1:]], "date": MIXED}).time.column.name == "signup"  # type: ignore[union-attr]
    short = [hour.strftime("%d/%m/%Y") for hour in HOURS]
    result = guessed(folder, {"label": HALF, "person": PERSON, "day": short})
    assert result.time is None
    assert "days and months" in result.uses["day"].reason
    with pytest.raises(Ambiguous, match="days and months"):
        guessed(folder, {"label": HALF, "person": PERSON, "day": short}, time="day")


LONG = [
    " ".join(("red", "green", "blue", "old", "new")[(k + j * k) % 5] for j in range(4)) + f" {k}"
    for k in range(N)
]


@pytest.mark.parametrize(
    ("name", "values", "kind", "keys", "reason"),
    [
        ("x", [True, False, False] * 80, "categorical", {}, "true and false"),
        ("x", ["a", "b", "c"] * 80, "categorical", {}, "text"),
        ("x", ["New York", "Rome", "Los Angeles"] * 80, "categorical", {}, "text"),
        ("title", LONG, "tokens", {"max_tokens": 20}, "several words"),
        ("x", ["[1, 2]", "[]", "[3]"] * 80, "tokens", {"max_tokens": 20}, "brackets"),
        (
            "x",
            ["a|b", "b|c", "c", "a"] * 60,
            "categorical",
            {"multivalued": True, "separator": "|", "pooling": "mean"},
            "cut at",
        ),
        (
            "x",
            ["a,b", "b,c", "c,a,b", "a"] * 60,
            "categorical",
            {"multivalued": True, "separator": ",", "pooling": "mean"},
            "cut at",
        ),
        ("x", [[1, 2], [], [3]] * 80, "categorical", {"multivalued": True, "pooling": "mean"}, "lists"),
        ("x", [[0.5], [], [3.0]] * 80, LEFT_OUT, {}, "lists of fractions"),
        ("x", [0, 1, 2] * 80, "categorical", {}, "few whole numbers"),
        ("x", [float(k % 3) for k in range(N)], "categorical", {}, "few whole numbers"),
        ("x", [10**12 + 7 * (k % 50) for k in range(N)], "categorical", {}, "2^31"),
        ("x", [1000 + k % 60 for k in range(N)], "categorical", {}, "without gaps"),
        ("x", [k % 110 for k in range(N)], "categorical", {}, "without gaps"),
        ("x", [7 * (k % 70) for k in range(N)], "categorical", {}, "repeat"),
        ("x", [f"0{k % 90}" for k in range(N)], "categorical", {}, "begin with 0"),
        ("zip_code", [7 * (k % 200) for k in range(N)], "categorical", {}, "called like an id"),
        ("item_id", [f"i{k}" for k in range(N)], "categorical", {}, "called like an id"),
        ("age", [k % 70 for k in range(N)], "numeric", {}, "numbers"),
        ("x", [-(k % 70) for k in range(N)], "numeric", {}, "numbers"),
        ("x", [0.5 * (k % 70) for k in range(N)], "numeric", {}, "numbers"),
        ("x", [f"{0.5 * (k % 70)}" for k in range(N)], "numeric", {}, "numbers"),
        ("x", [None if k % 3 else float(k) * 1.5 for k in range(N)], "numeric", {}, "numbers"),
        (
            "x",
            [int(np.exp(k / 20)) % 160000 for k in range(N)],
            "numeric",
            {"transform": "log"},
            "far larger",
        ),
        (
            "x",
            [f"{1.5 * k}" if k % 40 else "NULL" for k in range(N)],
            "categorical",
            {},
            "numbers but for texts such as NULL",
        ),
        ("x", ["a"] * N, LEFT_OUT, {}, "same value"),
        ("x", [None] * N, LEFT_OUT, {}, "no values"),
        ("x", [float("nan")] * N, LEFT_OUT, {}, "no values"),
        ("x", list(range(5, N + 5)), LEFT_OUT, {}, "numbers the rows"),
        ("row", [k % 80 for k in range(N)], LEFT_OUT, {}, "numbers the rows"),
        ("x", [f"e{k}" for k in range(N)], LEFT_OUT, {}, "another value in each"),
        ("x", ["train", "test"] * 120, LEFT_OUT, {}, "parts of a split"),
        ("x", [1 - k for k in HALF], LEFT_OUT, {}, "tells the label"),
        ("x", [k + 0.001 * j for j, k in enumerate(HALF)], LEFT_OUT, {}, "tells the label"),
        ("conversion", MIXED, LEFT_OUT, {}, "another outcome"),
        ("propensity_score", [0.1 * (k % 7) for k in range(N)], LEFT_OUT, {}, "logging policy"),
        ("x", [b"\xff\xfe", b"a"] * 120, LEFT_OUT, {}, "not UTF-8"),
        ("x", [timedelta(seconds=k) for k in range(N)], LEFT_OUT, {}, "duration"),
    ],
)
def test_uses(
    folder: Path, name: str, values: list[Any], kind: str, keys: dict[str, Any], reason: str
) -> None:
    use = use_of(folder, values, name)
    assert use[:2] == (kind, keys), use
    assert reason in use[2]


def test_many_ids_of_which_some_are_seen_once_share_a_code(folder: Path) -> None:
    rows = {"label": [0, 1] * 1500, "person": [f"p{k % 1200}" for k in range(3000)]}
    assert guessed(folder, rows).uses["person"].keys == {"min_count": 2}


def test_types_that_no_feature_reads_are_left_out_and_named(folder: Path) -> None:
    nested = [{"a\nb: c": 1}] * N
    result = guessed(folder, {"label": HALF, "person": PERSON, "n": nested, "m": [[[1]]] * N})
    assert "struct<a\\nb: c: int64>" in result.uses["n"].reason
    assert result.uses["m"].kind == LEFT_OUT
    assert len([text for text in result.warnings if "write its fields as columns" in text]) == 2
    with pytest.raises(
        SourceError, match=r"no column can be read: n is struct.*write its fields as columns of their own"
    ):
        guessed(folder, {"n": nested})


def test_few_positives_and_missing_labels_are_warned_of(folder: Path) -> None:
    result = guessed(folder, {"label": [None] * 24 + [1] + [0] * (N - 25), "person": PERSON})
    assert "only 1 of the 216 rows" in result.warnings[0]
    assert "missing in 10.0%" in result.warnings[1]
    assert result.label_missing == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"no parquet", "not a complete Parquet file"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"a,label\n", "no rows"),
        ("a.xyz", b"hello\n", "the ending of a name tells the format"),
        ("a.jsonl", b'{"a": 1}\n', "convert the file to Parquet or CSV"),
        ("a.csv", b"x,click\n" + b"0.5,1\n0.7,0\n" * 40, "embedding tables need one"),
        ("b/a.inter", b"", "the file is empty"),
        ("a.csv", b"1,7,2.5\n3,8,2.0\n", "give the file a header"),
    ],
)
def test_unreadable_files(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        guess(str(folder / name))


def test_missing_files_and_too_many_columns(folder: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        guess(str(folder / "nothing.csv"))
    pl.DataFrame({f"c{k}": [0, 1] for k in range(5000)}).write_parquet("wide.parquet")
    with pytest.raises(SourceError, match=r"5,000 columns, and 1,000 are the most"):
        guess("wide.parquet")


CRITEO = "\t".join(["0", *map(str, range(13)), *["0a1b2c3d"] * 26])
REVIEW = '{"reviewerID": "a", "asin": "b", "overall": 5.0, "unixReviewTime": 1}'
MATRIX = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"


@pytest.mark.parametrize(
    ("file", "line", "source"),
    [
        ("train.txt", CRITEO, "criteo"),
        ("day_0", CRITEO, "criteo_1tb"),
        ("training.txt", "\t".join("1" * 12), "kdd12"),
        ("train.txt", "0 12 14 15", "ngcf"),
        ("reviews.json", REVIEW, "amazon"),
        ("UserBehavior.csv", "1,2,3,pv,1511544070", "taobao_behavior"),
        ("big_matrix.csv", MATRIX, "kuairec"),
        ("raw_sample.csv", "user,time_stamp,adgroup_id,pid,nonclk,clk", "taobao_ad"),
        ("all.csv", ",timestamp,item_id,position,click,propensity_score", "open_bandit"),
        (
            "train.csv",
            "Label," + ",".join([f"I{k}" for k in range(1, 14)] + [f"C{k}" for k in range(1, 27)]),
            "criteo_x4",
        ),
        (
            "train.csv",
            "label," + ",".join([f"I{k}" for k in range(1, 14)] + [f"C{k}" for k in range(1, 27)]),
            "criteo_x1",
        ),
        ("log.csv", "a,b", "table"),
    ],
)
def test_published_logs_are_known_by_their_lines(folder: Path, file: str, line: str, source: str) -> None:
    (folder / file).write_text(f"{line}\n{line}\n")
    assert reading_of(file).source == source


@pytest.mark.parametrize(
    ("files", "source"),
    [
        (("ratings.dat", "users.dat", "movies.dat"), "movielens_1m"),
        (("ratings.csv", "movies.csv"), "movielens_csv"),
        (("raw_sample.csv", "user_profile.csv", "ad_feature.csv"), "taobao_ad"),
        (("day_0", "day_1"), "criteo_1tb"),
        (("big_matrix.csv",), "kuairec"),
        (("a.inter", "a.item"), "recbole"),
        (("a.csv", "b.csv"), "table"),
    ],
)
def test_published_folders_are_known_by_their_files(
    folder: Path, files: tuple[str, ...], source: str
) -> None:
    for file in files:
        (folder / file).write_text("a,b\n1,2\n")
    assert reading_of(".").source == source


def test_atomic_files_are_read_by_their_folder(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.inter").write_text("user_id:token\n1\n")
    with pytest.raises(SourceError, match=r"a\.inter and b\.inter stands?: put this \.inter"):
        reading_of("a.inter")
    (folder / "b.inter").unlink()
    assert reading_of("a.inter")[:2] == ("recbole", Path("."))


def test_what_is_known_of_a_published_log(folder: Path) -> None:
    rows = "\n".join(f"{k % 9},{k % 20},7,{('pv', 'buy', 'cart')[k % 3]},{1511544070 + k}" for k in range(N))
    (folder / "UserBehavior.csv").write_text(rows + "\n")
    result = guess("UserBehavior.csv")
    assert (result.label.column, result.user, result.split) == ("buy", "user_id", "time")
    assert {name for name, use in result.uses.items() if use.kind == LEFT_OUT} >= {
        "behavior",
        "pv",
        "cart",
        "fav",
    }


def test_large_logs_are_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.starting import sample

    monkeypatch.setattr(sample, "MOST_ROWS", 1000)
    rows = pl.DataFrame(
        {"label": HALF * 50, "person": [f"p{k // 60}" for k in range(50 * N)], "k": range(50 * N)}
    )
    rows.write_parquet("large.parquet", row_group_size=100)
    result = guess("large.parquet")
    assert result.sample.rows == result.sample.rows_read == 800
    assert result.sample.rows_in_log == 50 * N
    assert "800 of 12,000 rows" in result.looked_at()
    assert result.sample.columns["k"].series.max() > 11_000
    rows.write_csv("large.csv")
    result = guess("large.csv")
    assert result.sample.rows_read == result.sample.rows_in_log == 50 * N
    assert result.sample.rows <= 1000
    assert not result.sample.is_all
