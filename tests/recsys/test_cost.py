"""Costs are told before anything is trained, or from the first seconds of a long training; a short one says nothing."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from recsys import cli, cost
from recsys.cost import Forecast, duration
from recsys_pipelines.preparation.prepared import Prepared

from .conftest import Configure


def forecast(configure: Configure, seconds_a_batch: float, epochs: int, batches: Any) -> list[str]:
    """Return what is said of a training of a hundred batches an epoch, from the batches that it makes."""
    said: list[str] = []
    now = itertools.count(0, seconds_a_batch)
    config = configure({"training.epochs": epochs})
    announced = Forecast(config, said.append, clock=lambda: float(next(now)))
    for epoch, batch in batches:
        announced.progress("teachers' logits", 1, 2)
        announced.progress(f"epoch {epoch}", batch, 100)
    return said


@pytest.mark.parametrize(
    ("seconds_a_batch", "epochs", "first", "expected"),
    [
        (0.1, 5, 1, []),  # fifty seconds
        (1.0, 5, 1, ["expect at most 8 min more"]),  # after six batches of five hundred
        (1.0, 5, 4, ["expect at most 3 min more"]),  # of a run that goes on with its fourth epoch
        (60.0, 5, 1, ["expect at most 8.3 h more"]),
    ],
)
def test_a_long_training_is_announced_once(
    configure: Configure, seconds_a_batch: float, epochs: int, first: int, expected: list[str]
) -> None:
    batches = itertools.product(range(first, epochs + 1), range(1, 101))
    assert forecast(configure, seconds_a_batch, epochs, batches) == expected


def test_an_announcement_names_memory_and_disk(configure: Configure, prepared: Prepared) -> None:
    said: list[str] = []
    now = itertools.count(0, 10)
    announced = Forecast(configure(), said.append, clock=lambda: float(next(now)))
    announced.prepared = prepared
    for batch in (1, 2):
        announced.progress("epoch 1", batch, 100)
    assert len(said) == 1
    assert said[0].startswith("expect at most 33 min more, ")
    assert "B of memory, " in said[0]
    assert said[0].endswith(" MB of disk")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def call(
    configure: Configure, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cost, "SECONDS", 0.1)
    for name, scheme in (("full", "full"), ("narrow", "full")):
        config = configure({"name": name, "tables.embedding_dim": 4 if name == "narrow" else 8})
        raw = config.model_dump(mode="json", exclude_unset=True)
        raw["tables"]["scheme"] = scheme
        Path(f"{name}.yaml").write_text(yaml.safe_dump(raw))

    def run(*arguments: object) -> str:
        folders = ["--runs", tmp_path / "runs", "--prepared", prepared.path.parent]
        command = [*map(str, (*arguments, *folders, "--dry-run"))]
        result = CliRunner().invoke(cli.app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_a_dry_run_trains_nothing(call: Callable[..., str], tmp_path: Path) -> None:
    one = call("train", "full.yaml")
    assert "   1 training runs" in one
    assert "at most" in one
    assert " MB of disk" in one
    both = call("compare", "full.yaml", "narrow.yaml", "--seeds", 3)
    assert "   6 training runs" in both
    assert list((tmp_path / "runs").iterdir()) == []
