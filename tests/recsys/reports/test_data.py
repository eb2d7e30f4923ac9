"""`recsys inspect` and `recsys drift`: JSON, tables, one HTML file that needs nothing beside it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from pydantic import TypeAdapter
from typer.testing import CliRunner

from recsys import cli
from recsys.reports import data as data_report
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.inspection.drift import compare_sets
from recsys_pipelines.inspection.inspect import inspect
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
IDS = (
    "[{kind: categorical, names: [user_id, item_id]}, {kind: categorical, names: [tags], multivalued: true}]"
)
NUMBERS = "[{kind: numeric, names: [x]}]"
MADE = "{kind: buckets, columns: [x], quantiles: 4}, {kind: statistic, columns: [user_id]}"
ALL = f"{IDS[:-1]}, {NUMBERS[1:-1]}, {MADE}]"


def prepared(source: Path, folder: Path, features: str, **options: Any) -> Prepared:
    data = DataConfig.model_validate({"source": "table", "path": source, **options})
    return prepare(data, CONFIGS.validate_python(yaml.safe_load(features)), folder)


@pytest.fixture(scope="module")
def sets(log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Prepared]:
    """The first and the second half of `log`."""
    folder, table = tmp_path_factory.mktemp("halves"), pq.read_table(log)
    for name, start in (("first", 0), ("second", 3000)):
        pq.write_table(table.slice(start, 3000), folder / f"{name}.parquet")
    options = {"user": "user_id", "time": "time"}
    first, second = (prepared(folder / f"{n}.parquet", folder, ALL, **options) for n in ("first", "second"))
    return first, second


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)


class Tags(HTMLParser):
    """Titles, and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "img":
            self.pictures.append(str(found["alt"]))
        self.outside += [
            str(url) for key, url in attributes if key in ("src", "href") and not str(url).startswith("data:")
        ]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(path: Path) -> tuple[str, list[str]]:
    """The text of a report, and the names of its pictures."""
    text = path.read_text(encoding="utf-8")
    tags = Tags(text)
    assert tags.open == tags.outside == []
    assert not re.search(r"\bnan\b|None|Undefined", text)
    return text, tags.pictures


def test_inspect(sets: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    short = run("inspect", sets[0].path, "--report", path).stdout
    assert "user_id" in short
    assert "With --details: Categorical features: skew and labels; Numeric columns; Splits." in short
    shown = run("inspect", sets[0].path, "--report", path, "--details")
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 100
    for word in (
        "train",
        "2,400",
        "user_id",
        "tags",
        "x_bucket",
        "user_id:ctr",
        "3,000 rows in = 3,000 out",
        "report.html",
    ):
        assert word in shown.stdout
    text, pictures = page(path)
    assert pictures == ["Counts of ids by rank", "Missing values, by split", "Label rate by decile"]
    assert "user_id:ctr" in text
    plain = json.loads(run("inspect", sets[0].path, "--report", path, "--json").stdout)
    assert plain == json.loads(json.dumps(inspect(sets[0]).to_dict())) | {"report": str(path)}


def test_drift(sets: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    first, second = sets
    shown = run("drift", first.path, second.path, "--report", path)
    assert shown.exit_code == 0
    assert "1 of 7 features drifted (user_id:ctr), 1 shifted, 5 are stable. Label rate" in " ".join(
        shown.stdout.split()
    )
    _, pictures = page(path)
    assert pictures == ["Population stability index", "Label rates"]  # the same sixty users, and no id is new
    plain = json.loads(run("drift", first.path, second.path, "--report", path, "--json").stdout)
    expected = json.loads(json.dumps(compare_sets(first, second).to_dict()))
    assert {key: plain[key] for key in expected} == expected
    assert plain["report"] == str(path)


def test_the_table_is_sorted_by_psi(sets: tuple[Prepared, Prepared]) -> None:
    sheet = data_report.drift_sheets(compare_sets(*sets))[0]
    values = [float(row[2]) for row in sheet.rows]
    assert values == sorted(values, reverse=True)
    assert len(values) == 7


def test_mistakes_are_one_line(sets: tuple[Prepared, Prepared], log: Path, tmp_path: Path) -> None:
    other = prepared(log, tmp_path, IDS)
    with pytest.raises(ValueError, match="feature 'x' is numeric"):
        run("drift", sets[0].path, other.path)
    for command in (["inspect", tmp_path], ["drift", tmp_path, other.path]):
        with pytest.raises(ValueError, match="not a finished prepared folder"):
            run(*command)
    shard = next(other.path.glob("train/*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{shard}: missing or damaged"):
        run("inspect", other.path)


@pytest.mark.parametrize("features", [IDS, NUMBERS])
def test_sets_of_one_kind(log: Path, tmp_path: Path, features: str) -> None:
    ready = prepared(log, tmp_path, features)
    found = inspect(ready)
    data_report.write_inspection(found, tmp_path / "inspect.html")
    data_report.write_drift(compare_sets(ready, ready), tmp_path / "drift.html")
    for name in ("inspect", "drift"):
        page(tmp_path / f"{name}.html")
    assert len(data_report.inspection_sheets(found)) == (3 if features is IDS else 2)


def test_a_set_of_nothing_but_missing_values(tmp_path: Path) -> None:
    rows = 20
    table = pa.table(
        {
            "label": [0] * rows,
            "user_id": pa.array([None] * rows, pa.string()),
            "item_id": pa.array([None] * rows, pa.int64()),
            "tags": pa.array([[]] * rows, pa.list_(pa.int64())),
            "x": pa.array([None] * rows, pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "empty.parquet")
    ready = prepared(tmp_path / "empty.parquet", tmp_path, ALL)
    data_report.write_inspection(inspect(ready), tmp_path / "inspect.html")
    data_report.write_drift(compare_sets(ready, ready), tmp_path / "drift.html")
    for name in ("inspect", "drift"):
        page(tmp_path / f"{name}.html")
    for sheet in data_report.inspection_sheets(inspect(ready)):
        assert all(len(row) == len(sheet.headers) for row in sheet.rows)


def test_names_are_escaped(tmp_path: Path) -> None:
    table = pa.table({"label": [0, 1] * 10, "<b>": list(range(20))})
    pq.write_table(table, tmp_path / "a.parquet")
    ready = prepared(tmp_path / "a.parquet", tmp_path, "[{kind: categorical, names: ['<b>']}]")
    data_report.write_inspection(inspect(ready), tmp_path / "inspect.html")
    text, _ = page(tmp_path / "inspect.html")
    assert "<td>&lt;b&gt;</td>" in text
