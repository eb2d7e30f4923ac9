"""The page of the server, from a log to an answer over HTTP that equals the run's own prediction."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.training.run import Run

PAGE = (Path(__file__).parents[4] / "docs/server.md").read_text(encoding="utf-8")
ROWS = 1500


def commands() -> list[list[str]]:
    """The commands of the page up to the request, as a shell takes them apart."""
    first, second = re.findall(r"^```console\n(.*?)^```$", PAGE, flags=re.M | re.S)[:2]
    return [shlex.split(line, comments=True) for line in (first + second).splitlines()]


def write_log(file: Path) -> pl.DataFrame:
    random = np.random.default_rng(0)
    item = random.integers(0, 30, ROWS)
    log = pl.DataFrame(
        {
            "clicked": (random.random(ROWS) < np.where(item % 2, 0.6, 0.2)).astype(int),
            "ts": np.arange(ROWS),
            "price": random.random(ROWS),
            "user_id": random.integers(0, 50, ROWS),
            "item_id": item,
            "tags": [random.choice(["a", "b", "c"], k).tolist() for k in random.integers(0, 4, ROWS)],
        }
    )
    log.write_parquet(file)
    return log


@pytest.mark.timeout(600)
def test_from_a_log_to_an_answer(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = write_log(tmp_path / "clicks.parquet")
    *steps, serve, curl = commands()
    assert [step[1] for step in steps] == ["init", "train", "export"]
    for step in steps:
        arguments = [str(next(tmp_path.glob(a.replace("…", "*")))) if "…" in a else a for a in step[1:]]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    run = Run.open(next(tmp_path.glob("runs/full-*/seed-0")))
    expected = run.predictions()
    scores = tmp_path / "scores.parquet"
    arguments = ["predict", str(run.path), "clicks.parquet", "--out", str(scores)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    by_file = pl.read_parquet(scores).sort("row_id")["prediction"].to_numpy()
    with start(*serve[2:]) as server:
        columns = [column["name"] for column in json.loads(server.ask("/metadata")[2])["columns"]]
        rows = log.select(columns)[expected["row_id"].to_pylist()].to_dicts()
        status, _, body = server.ask("/predict", {"rows": rows})
        assert status == 200
        answered = json.loads(body)["predictions"]
        np.testing.assert_allclose(answered, expected["prediction"].to_numpy(), atol=2e-6)
        np.testing.assert_allclose(answered, by_file[expected["row_id"].to_numpy()], atol=2e-6)
        status, _, body = server.ask("/predict", json.loads(curl[curl.index("-d") + 1]))
        assert (status, len(json.loads(body)["predictions"])) == (200, 1)
