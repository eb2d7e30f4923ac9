"""The card of an exported folder says what it is and how it is opened, and shows names as text."""

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from recsys.serving.card import CARD, escaped, model_card, text
from recsys.serving.export import export
from recsys.serving.predictor import Predictor
from recsys.training.run import Run
from recsys_pipelines.request.readers import IdReader
from recsys_tables.serving import artefact

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("exported") / "served", "int8").folder


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    return (folder / CARD).read_text()


def block(card: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", card, flags=re.M | re.S)
    return str(found)


def test_it_has_the_bytes_of_the_network_beside_the_tables(run: Run, card: str) -> None:
    assert f"a network of {run.metrics['bytes']['network']:,} bytes" in card


def test_its_python_runs(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(block(card, "python"), names)
    assert names["request"].keys() == {"user_id", "item_id", "tags", "x"}
    assert names["probability"].shape == (1,)
    assert 0 < names["probability"][0] < 1
    assert block(card, "console") == "recsys predict . new.parquet --out scores.parquet\nrecsys serve .\n"


def test_what_it_says(card: str, run: Run, folder: Path) -> None:
    assert card.startswith("# `small`\n\nA model of click probabilities")
    assert "by the scheme `full`, stored in int8." in card
    auc = run.metrics["test"]["auc"]
    row = re.search(r"\| `auc` \| (\S+) \| (\S+) to (\S+) \|", card)
    assert row is not None
    value, low, high = map(float, row.groups())
    assert value == pytest.approx(auc, abs=1e-5)
    assert low < auc < high
    opened = artefact.open(folder)
    assert f"| serving | {opened.bytes.serving:,} |" in card
    assert CARD in opened.files
    assert run.prepared().digest in card
    assert re.search(r"\| train \| 4,[0-9]{3} \| [0-9,]+ \|", card)
    assert "| `tags` | list of ids, by a vocabulary | `tags` |" in card
    assert "| `x` | number | `x` |" in card
    assert "A missing list is empty, and its vector is zero." in card


def test_damage_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / CARD).write_text("# Better than it is")
    with pytest.raises(artefact.ArtefactError, match=r"README\.md: damaged"):
        Predictor.open(copy)


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "a|b",
        "``` \n# title",
        "[x](javascript:1)",
        "![x](y)",
        "_a_ **b**",
        "&lt;",
        "名 字",
    ],
)
def test_names_are_shown_as_text(name: str) -> None:
    cell = escaped(name)
    page = MarkdownIt("commonmark").enable("table").render(f"| a | b |\n| --- | --- |\n| {cell} | c |\n")
    (shown,) = re.findall(r"<td>(.*?)</td>\n<td>c</td>", page, flags=re.S)
    assert "<" not in shown
    assert html.unescape(shown) == name


def test_plain_names_are_code() -> None:
    assert text("user_id") == "`user_id`"
    assert text("a`b") == "a&#96;b"


def test_a_hostile_column_changes_no_line(run: Run, folder: Path) -> None:
    column = '"}\n```\n<img src=x>|'
    inputs = Predictor.open(folder).transform.inputs
    hostile = [
        one.model_copy(update={"name": column, "reader": IdReader(column=column, text=True)})
        for one in inputs
        if one.name == "user_id"
    ]
    opened = artefact.open(folder)
    card = model_card(run, hostile, opened.bytes, opened.about, servable=True)
    assert "<img" not in card.replace(block(card, "python"), "")
    names: dict[str, Any] = {}
    exec(
        block(card, "python").replace('Predictor.open(".")', "None").replace("predictor.predict", "dict"),
        names,
    )
    assert names["request"] == {column: "a"}


def test_without_a_network_it_says_so(run: Run, folder: Path) -> None:
    opened = artefact.open(folder)
    card = model_card(run, [], opened.bytes, opened.about, servable=False)
    assert "was exported without its network" in card
    assert "```" not in card


def test_data_that_are_gone_and_labels_of_one_class(
    configure: Any, run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(run, metrics=run.metrics | {"prepared": str(tmp_path / "gone<b>")})
    table = run.predictions()
    ones = table.set_column(table.column_names.index("label"), "label", [np.ones(len(table), np.int8)])
    monkeypatch.setattr(Run, "predictions", lambda run: ones)
    opened = artefact.open(folder)
    card = model_card(gone, [], opened.bytes, opened.about, servable=True)
    assert "(gone&#60;b&#62;) were not there any more when it was exported" in card
    assert re.search(r"\| `auc` \| 0\.\d+ \| – \|", card)
