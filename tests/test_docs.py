"""What README and docs say works as it stands there: a page's blocks are executed in their order, on a small log.

Blocks of Python are executed (those with a file's name by tests of their own), those of YAML are read as experiments or
as sections of one, and `recsys` commands are run where their files are there and they take a second or two; all others
are parsed, so that every option exists.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
from ast import literal_eval
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import typer
from pydantic import TypeAdapter
from typer.testing import CliRunner

from recsys import team_draft
from recsys.cli import app
from recsys.config import load_experiment
from recsys.config.yaml_text import parse_yaml
from recsys.serving import Predictor
from recsys_pipelines.config import FeatureConfig
from recsys_pipelines.request.transform import BadRequest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FEATURES = TypeAdapter(tuple[FeatureConfig, ...])
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', flags=re.M | re.S)
PARSED_ONLY = {
    "compress",
    "tune",
    "demo",
    "migrate",
    "serve",
}  # teachers, Ray, a minute, no file of 0.1, no end
PARSED_OPTIONS = {"--workers", "--address", "--budgets", "--reward-model"}  # Ray, and many trainings
ROWS = 1500
executed: dict[str, set[str]] = {}  # commands that were run, by page
# what they were run with: a command that stands on two pages is run once
finished: set[tuple[str, ...]] = set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder with the files that the pages name, which is the working directory."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    clicks = pl.DataFrame(
        {
            "clicked": rng.integers(0, 2, ROWS),
            "ts": np.arange(ROWS),
            "price": rng.random(ROWS),
            "user_id": rng.integers(0, 50, ROWS),
            "item_id": rng.integers(0, 90, ROWS),
            "country": rng.choice(["ch", "de", "it"], ROWS),
            "tags": [rng.choice(["a", "b", "c"], k).tolist() for k in rng.integers(0, 4, ROWS)],
        }
    )
    clicks.write_parquet(folder / "clicks.parquet")
    clicks.with_columns(pl.col("ts") + ROWS).write_parquet(folder / "monday.parquet")
    clicks.drop("clicked").write_parquet(folder / "new.parquet")
    for log in ("log.parquet", "log.csv"):  # are named by sections that are only read
        (folder / log).touch()
    write_predictions(folder, rng)
    write_policies(folder, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def write_predictions(folder: Path, rng: np.random.Generator) -> None:
    """Write the predictions of two models."""
    rows = pl.DataFrame(
        {
            "row_id": np.arange(ROWS),
            "user": rng.integers(0, 100, ROWS),
            "day": np.arange(ROWS) * 5 // ROWS,
            "label": rng.integers(0, 2, ROWS),
        }
    )
    for name in ("old.parquet", "new.csv"):
        file = rows.with_columns(prediction=pl.Series(rng.random(ROWS)))
        file.write_csv(folder / name) if name.endswith("csv") else file.write_parquet(folder / name)


def write_policies(folder: Path, rng: np.random.Generator) -> None:
    """Write logs of actions, a policy, drafted lists and assignments of an online test."""
    action = rng.choice(["a", "b"], ROWS)
    clicks = (rng.random(ROWS) < np.where(action == "a", 0.4, 0.2)).astype(int)
    actions = pl.DataFrame({"row_id": np.arange(ROWS), "action": action, "reward": clicks, "propensity": 0.5})
    actions.write_parquet(folder / "actions.parquet")
    actions.write_parquet(folder / "uniform.parquet")
    pl.DataFrame({"row_id": np.arange(ROWS), "a": 0.8, "b": 0.2}).write_csv(folder / "target.csv")
    drafts = [
        team_draft(rng.permutation(5).tolist(), rng.permutation(5).tolist(), 4, rng) for _ in range(200)
    ]
    lists = [
        {
            "impression": i,
            "user": i // 4,
            "position": p,
            "item": item,
            "team": "xy"[team],
            "click": int(rng.integers(0, 2)),
        }
        for i, (items, teams) in enumerate(drafts)
        for p, (item, team) in enumerate(zip(items, teams, strict=True))
    ]
    pl.DataFrame(lists).write_parquet(folder / "lists.parquet")
    users, days = 300, 3
    before = rng.poisson(5, users)
    pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), days),
            "variant": np.repeat(np.where(np.arange(users) % 2, "control", "treatment"), days),
            "day": np.tile(["2024-05-01", "2024-05-02", "2024-05-03"], users),
            "clicks": rng.poisson(2, users * days),
            "impressions": rng.poisson(20, users * days) + 1,
            "clicks_before": np.repeat(before, days),
        }
    ).write_csv(folder / "assignments.csv")


@pytest.fixture(scope="module")
def runs(folder: Path) -> None:
    """Train the two experiments of the README, a seed each."""
    for _, title, text in BLOCK.findall(PAGES[0].read_text(encoding="utf-8")):
        if title:
            (folder / title).write_text(text)
    run(["compare", "full.yaml", "unified.yaml", "--seeds", "1", "--jobs", "1"])


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    ran = executed.setdefault(str(page.relative_to(ROOT)), set())
    for language, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python" and title:
            compile(text, title, "exec")
        elif language == "python":
            exec(compile(text, f"{page.name}: {text.splitlines()[0]}", "exec"), names)
        elif language == "yaml":
            read_yaml_block(text, title)
        elif language == "console":
            ran.update(filter(None, map(run_or_parse, commands_of(text))))


def write_files_of(page: str) -> None:
    """Export a run as a page says, and write its blocks that have a file's name."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    run_or_parse(next(line for line in text.splitlines() if line.startswith("recsys export")))
    for _, title, block in BLOCK.findall(text):
        if title:
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(block)


class MlflowStandIn(SimpleNamespace):
    """As much of mlflow as its page uses: a model that was logged is loaded from its file and its artifacts."""

    def __init__(self) -> None:
        super().__init__(pyfunc=self, models=self, PythonModel=object, start_run=nullcontext)

    def set_model(self, model: Any) -> None:
        self.model = model

    def log_model(self, *, python_model: str, artifacts: dict[str, str], **_: Any) -> Any:
        self.artifacts = artifacts
        runpy.run_path(python_model)
        return SimpleNamespace(model_uri="models:/m-1")

    def load_model(self, _: str) -> Any:
        context = SimpleNamespace(artifacts=self.artifacts)
        self.model.load_context(context)
        return SimpleNamespace(predict=lambda rows: self.model.predict(context, rows))


@pytest.mark.usefixtures("runs")
def test_the_page_on_mlflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_files_of("mlflow.md")
    monkeypatch.setitem(sys.modules, "mlflow", MlflowStandIn())  # type: ignore[arg-type]
    capsys.readouterr()
    names = runpy.run_path("log_model.py")
    rows = [{"user_id": 7, "item_id": 12}, {"user_id": 8, "item_id": 9, "country": "de"}]
    assert literal_eval(capsys.readouterr().out) == Predictor.open("served").predict(rows).tolist()
    with pytest.raises(BadRequest, match="row 0, itme_id: no feature reads this column"):
        names["model"].predict([{"itme_id": 12}])


class TritonStandIn(SimpleNamespace):
    """As much of Triton's `triton_python_backend_utils` as its page uses; a request is its arrays by name."""

    def __init__(self) -> None:
        super().__init__(TritonError=str, InferenceResponse=self.response, Tensor=lambda *pair: pair)

    @staticmethod
    def get_input_tensor_by_name(request: dict[str, np.ndarray], name: str) -> Any:
        return SimpleNamespace(as_numpy=lambda: request[name])

    @staticmethod
    def response(output_tensors: list[tuple[str, np.ndarray]], error: str | None = None) -> Any:
        return SimpleNamespace(output=dict(output_tensors), error=error)


@pytest.mark.usefixtures("runs")
def test_the_page_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    write_files_of("triton.md")
    shutil.copytree("served", "models/clicks/1/served")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", TritonStandIn())  # type: ignore[arg-type]
    model = runpy.run_path("models/clicks/1/model.py")["TritonPythonModel"]()
    model.initialize({"model_repository": "models/clicks", "model_version": "1"})
    rows = [{"user_id": 7, "item_id": 12, "tags": ["a"]}, {"user_id": 8, "item_id": 9}]
    texts = [[json.dumps(row).encode() for row in rows], [b'{"itme_id": 12}'], [b"3"], [b"{"]]
    answered, *refused = model.execute([{"rows": np.array(text, dtype=object)} for text in texts])
    np.testing.assert_array_equal(answered.output["probability"], model.predictor.predict(rows))
    reasons = ("row 0, itme_id: no feature reads", "the text of a JSON object", "Expecting property")
    assert all(reason in response.error for reason, response in zip(reasons, refused, strict=True))
    model.finalize()
    declared = re.findall(r'name: "(\w+)", data_type: (\w+)', Path("models/clicks/config.pbtxt").read_text())
    assert declared == [("rows", "TYPE_STRING"), ("probability", "TYPE_FP64")]


def read_yaml_block(text: str, title: str) -> None:
    """Read a whole experiment that has a file's name, features, or sections of the README's experiment."""
    if title:
        assert Path(title).read_text() == text, f"{title} is not that of the README"
        load_experiment(title)
    elif isinstance(block := parse_yaml(text), list):
        FEATURES.validate_python(block)
    else:
        Path("section.yaml").write_text(f"extends: full.yaml\n{text}")
        load_experiment("section.yaml")


def commands_of(text: str) -> list[str]:
    """Return the command lines of a block; where some begin with `$`, what else there is was printed."""
    lines = text.splitlines()
    shown = [line[2:] for line in lines if line.startswith("$ ")]
    return shown or [line for line in lines if line.strip()]


def run_or_parse(line: str) -> str | None:
    """Run or parse a command line; return the name of a `recsys` command that was run."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), flags=re.M), line
    if program != "recsys":
        return None
    name, *arguments = [part for argument in arguments for part in expanded(argument)]
    COMMANDS[name].make_context(name, list(arguments))  # raises where an option does not exist
    files = [
        argument for argument in arguments if re.search(r"…|[/.]", argument) and not argument.startswith("-")
    ]
    if name in PARSED_ONLY or PARSED_OPTIONS & set(arguments) or not all(map(is_there, files)):
        return None
    if "--seeds" in arguments:
        arguments = [
            "1" if before == "--seeds" else one
            for before, one in zip(["", *arguments], arguments, strict=False)
        ]
    run([name, *arguments, *(["--jobs", "1"] if {"full.yaml", "compare"} <= {name, *arguments} else [])])
    return name


def expanded(argument: str) -> list[str]:
    """Return what a shell makes of braces, and a reader of `runs/full-…`: the first that was made."""
    if braces := re.fullmatch(r"(.*)\{(.+)\}(.*)", argument):
        return [f"{braces[1]}{middle}{braces[3]}" for middle in braces[2].split(",")]
    matches = list(Path().glob(argument.replace("…", "*"))) if "…" in argument else []
    return [str(min(matches, key=lambda path: path.stat().st_mtime))] if matches else [argument]


def is_there(argument: str) -> bool:
    """Tell whether a file that is named is there: perhaps after a name and `=`, or as a number or what is written."""
    path = argument.partition("=")[2] or argument
    return Path(path).exists() or re.fullmatch(r"[\d.]+|clicks/impressions|scores.parquet", path) is not None


def run(arguments: list[str]) -> None:
    """Run a command, unless it was. Raises what it raises; its exit status must be 0."""
    if tuple(arguments) not in finished:
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{arguments}: {result.output[-2000:]}"
        finished.add(tuple(arguments))


def test_most_commands_were_run() -> None:
    if len(executed) < len(PAGES):
        pytest.skip("not all pages were read")
    assert set().union(*executed.values()) >= {
        "abtest",
        "checkpoints",
        "compare",
        "evaluate",
        "export",
        "inspect",
        "interleave",
        "ope",
        "predict",
        "prepare",
        "replay",
        "tables",
        "train",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_benchmarks_that_are_named_exist_with_their_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"python benchmarks/([\w/.]+)([^\n`#]*)", text)
    if page.parent.name == "benchmarks":
        named += re.findall(r"^\| `([\w./]+)([^`]*)`", text, flags=re.M)[
            :-1
        ]  # the last row is `recsys compare`
    for script, options in named:
        place = ROOT / "benchmarks" / script
        assert place.exists(), script
        sources = place.glob("*.py") if place.is_dir() else place.parent.glob(f"{place.stem}*.py")
        source = "".join(file.read_text(encoding="utf-8") for file in sources)
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source, f"{script} has no {option}"


def test_the_readme_is_short() -> None:
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    full = next(text for _, title, text in BLOCK.findall("\n".join(lines)) if title == "full.yaml")
    assert full.count("\n") <= 10


def test_the_loop_of_your_own_learns() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    code = next(text for language, _, text in BLOCK.findall(text) if language == "python")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(code, names)
    assert ((names["logit"] > 0).float() == names["label"]).float().mean() > 0.9


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGES[0].read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
