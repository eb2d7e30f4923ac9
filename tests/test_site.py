"""The documentation builds as a site without a warning, fetches nothing from elsewhere, and its reference is complete."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

import recsys
import recsys_cython_ext
import recsys_pipelines
import recsys_tables
from recsys import cli
from recsys.cli import app
from recsys.config import ExperimentConfig
from recsys_tables.config import DECLARATIONS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return folder


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the module that writes the page of the schemes."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    from reference import schemes

    return schemes


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    fetched = re.compile(
        r'(?:<(?:script|img|link|iframe)[^>]*(?:src|href)|@import|url\()["\'=( ]*(?:https?:)?//[^>]*', re.I
    )
    for page in pages:
        assert fetched.findall(page.read_text(encoding="utf-8")) == [], page.name
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?https?:", styles) == []


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference/commands.html")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        section = text.split(f"recsys {name}¶")[1]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert all(option in section for option in parameter.opts), (name, parameter.name)


def models(annotation: Any) -> list[type[BaseModel]]:
    """Return every model in an annotation, and those below its keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        below = [model for field in annotation.model_fields.values() for model in models(field.annotation)]
        return [annotation, *below]
    return [model for part in get_args(annotation) for model in models(part)]


def test_every_key_of_an_experiment_is_in_the_reference(site: Path) -> None:
    rows = set(re.findall(r"<td><code>(\w+)</code></td>", (site / "reference/experiment.html").read_text()))
    rows |= set(re.findall(r"<td><code>(\w+)</code></td>", (site / "reference/schemes.html").read_text()))
    keys = {key for model in models(ExperimentConfig) for key in model.model_fields}
    assert len(keys) > 150
    assert keys - rows == {"kind", "scheme"}, "which are the titles of sections"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    for package in (recsys, recsys_tables, recsys_pipelines, recsys_cython_ext):
        text = (site / f"reference/{package.__name__}.html").read_text(encoding="utf-8")
        functions = {name for name in package.__all__ if hasattr(getattr(package, name), "__qualname__")}
        missing = {name for name in functions if f'.{name}" class="doc doc-heading"' not in text}
        assert missing == set()


def test_every_scheme_is_in_the_guide_and_in_the_matrix(site: Path) -> None:
    names = {declaration.scheme_name() for declaration in DECLARATIONS}
    guide = (ROOT / "docs/schemes.md").read_text(encoding="utf-8").split("## Which for my data")[0]
    assert names <= set(re.findall(r"`(\w+)`", guide))
    page = (site / "reference/schemes.html").read_text(encoding="utf-8")
    assert names == set(re.findall(r'<td><a href="#(\w+)">', page))


def test_the_matrix_says_what_schemes_can_do(reference: Any) -> None:
    can = {declaration.scheme_name(): declaration for declaration in DECLARATIONS}
    full, unified, split, mixed, pep = (
        reference.properties_of(can[name])
        for name in ("full", "unified", "frequency_split", "mixed_dimension", "pep")
    )
    assert (full.takes, full.budget, full.shared, full.export) == (("codes",), "checked", False, True)
    assert (unified.takes, unified.budget, unified.shared) == (("codes", "any id", "both"), "rows", True)
    assert split.takes == ("both",)
    assert (mixed.export, mixed.network > 0, mixed.bags) == (True, True, "in the lookup")
    assert (pep.learner, pep.export, pep.bags) == (True, False, "one by one")
    assert all(one.sharding == ("table", "row", "column") for one in (full, unified, split, mixed, pep))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["sources"], 0), (["nothing"], 2), (["train", "--nothing"], 2), (["train", "none.yaml"], 2)],
)
def test_exit_codes_are_those_of_the_page(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recsys", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code or 0) == status
    assert f"| {status} |" in (ROOT / "docs/exit_codes.md").read_text(encoding="utf-8")


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("recsys.commands.data.print_json", interrupt)
    monkeypatch.setattr(sys, "argv", ["recsys", "sources", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
