"""Names from data are text wherever they are shown: no markup of rich, no formula of matplotlib, no tag of HTML."""

from io import StringIO
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from recsys import console
from recsys.reports.page import png, write_page
from recsys.reports.sheet import Sheet, plain

NAMES = ["[/red]", "[bold]x", "$p_{$", "$x_1$ and $y$", "<b>&amp;", "back\\", "\x1b[31mred", "tab\there"]


@pytest.mark.parametrize("name", NAMES)
def test_a_sheet_shows_names_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(width=200, record=True, file=StringIO())
    monkeypatch.setattr(console, "out", shown)
    console.print_sheet(
        Sheet(f"title {name}", ("what", f"header {name}"), [(f"cell {name}", "1")], f"note {name}")
    )
    text = shown.export_text()
    expected = name.replace("\x1b", "\\x1b").replace("\t", "\\t")
    for place in ("title", "header", "cell", "note"):
        assert f"{place} {expected}" in text
    assert "\x1b" not in plain(name)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_and_pages_take_any_name(name: str, tmp_path: Path) -> None:
    figure = Figure()
    axes = figure.subplots()
    shown = name.replace("\x1b", "?").replace("\t", " ")  # of which fonts have none
    axes.bar([shown, "other"], [1, 2], label=shown)
    axes.set(title=shown, xlabel=shown)
    axes.set_yticks([0, 1], [shown, "one"])
    axes.annotate(shown, (0, 1))
    axes.legend()
    picture = (name, png(figure), name)
    write_page(tmp_path / "page.html", name, [name], [Sheet(name, (name,), [(name,)], name)], [picture])
    html = (tmp_path / "page.html").read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html or "<" not in name


@pytest.mark.parametrize("name", ["[/red]", "run[1]", "[bold]"])
def test_paths_and_warnings_are_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.out.file, console.err.file = None, None  # type: ignore[assignment]
    console.print_place("report", Path(name), " and more")
    console.warn(f"{name}: slow")
    console.print_metrics({name: {"auc": None, "rows": 3}})
    told = capsys.readouterr()
    assert f"report: {name} and more" in told.out
    assert f"{name}: slow" in told.err
    assert told.out.count(name) == 2
