"""What the README says works as it stands there."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys.cli import app
from recsys.comparison.experiments import run_comparison
from recsys.config import load_experiment

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_example_learns() -> None:
    code = blocks("python")[-1]
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    logit, label = names["logit"], names["label"]
    assert isinstance(logit, torch.Tensor)
    assert isinstance(label, torch.Tensor)
    assert ((logit > 0).float() == label).float().mean() > 0.9


def test_your_own_data_in_ten_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, unified = blocks("yaml")
    assert full.count("\n") <= 10
    rng = np.random.default_rng(0)
    n = 3000
    table = {
        "clicked": rng.integers(0, 2, n),
        "ts": np.arange(n),
        "price": rng.random(n),
        "user_id": rng.integers(0, 50, n),
        "item_id": rng.integers(0, 90, n),
        "country": rng.choice(["ch", "de", "it"], n),
        "tags": [rng.choice(["a", "b", "c"], k).tolist() for k in rng.integers(0, 4, n)],
    }
    pq.write_table(pa.table(table), tmp_path / "clicks.parquet")
    (tmp_path / "full.yaml").write_text(full)
    (tmp_path / "unified.yaml").write_text(unified)
    arms = [load_experiment(tmp_path / "full.yaml"), load_experiment(tmp_path / "unified.yaml")]
    result = run_comparison(arms, 1, tmp_path / "runs", tmp_path / "prepared", jobs=1)
    assert [arm.name for arm in result.arms] == ["full", "unified"]
    assert result.arms[1].bytes["total"] <= 0.1 * result.arms[0].bytes["full_table"]

    serving, batches, _ = blocks("python")
    (run,) = (tmp_path / "runs").glob("full-*/seed-0")
    frame = pl.DataFrame(pa.table(table))
    names: dict[str, object] = {"run": run, "frame": frame}
    exec(serving, names)
    one, many = names["one"], names["many"]
    assert isinstance(one, pa.Table)
    assert isinstance(many, pl.DataFrame)
    assert (one.num_rows, many.height) == (1, n)
    prepared = next((tmp_path / "prepared").glob("clicks-*/manifest.json"))
    exec(batches, {"prepared": prepared.parent})
    assert "torch.Size([128, " in capsys.readouterr().out


def test_commands_exist() -> None:
    named = set(re.findall(r"^recsys (\w+)", README, flags=re.M))
    assert named >= {
        "compare",
        "prepare",
        "train",
        "evaluate",
        "predict",
        "inspect",
        "drift",
        "ope",
        "abtest",
    }
    assert named <= {command.callback.__name__ for command in app.registered_commands if command.callback}
