"""Parts with one class: measured without what they cannot tell, or refused before training with the part and the cure."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from recsys import cli
from recsys.training.labels import OneClass, check_measured, check_training

RAW: dict[str, Any] = {
    "name": "small",
    "data": {"source": "table", "label": {"column": "clicked"}, "user": "user"},
    "features": [{"kind": "categorical", "names": ["user", "item"]}],
    "tables": {"scheme": "full", "embedding_dim": 4},
    "model": {"name": "deepfm", "hidden": [4]},
    "training": {"batch_size": 64, "epochs": 1},
}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write an experiment on 1,000 rows, 800 of them of training, whose labels are `label` in the rows of a slice."""
    monkeypatch.chdir(tmp_path)

    def write(part: slice, label: int, name: str = "small", **settings: Any) -> Path:
        random = np.random.default_rng(0)
        labels = random.integers(0, 2, 1000)
        labels[part] = label
        columns = {
            "clicked": labels,
            "user": random.integers(0, 30, 1000),
            "item": random.integers(0, 20, 1000),
        }
        pq.write_table(pa.table(columns), tmp_path / "log.parquet")
        raw = RAW | {"name": name, "data": RAW["data"] | {"path": "log.parquet"}}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(raw | {"set": settings}))
        return file

    return write


TRAIN, VALIDATION, TEST = slice(0, 800), slice(800, 900), slice(900, 1000)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("part", "name"), [(VALIDATION, "validation"), (TEST, "test")])
def test_a_part_of_one_class_is_measured_without_auc(
    experiment: Any, part: slice, name: str, label: int
) -> None:
    told = run("train", experiment(part, label))
    assert told.exit_code == 0, told.output
    (metrics_file,) = Path("runs").glob("*/seed-0/metrics.json")
    metrics = yaml.safe_load(metrics_file.read_text())
    assert metrics[name]["auc"] is None
    assert metrics[name]["gauc"] is None
    assert metrics[name]["logloss"] > 0
    assert (metrics[name]["calibration"] is None) == (label == 0)
    other = "test" if name == "validation" else "validation"
    assert metrics[other]["auc"] is not None
    again = run("evaluate", metrics_file.parent)
    assert again.exit_code == 0, again.output
    text = CliRunner().invoke(cli.app, ["evaluate", str(metrics_file.parent)]).output
    assert ("–" in text.split("auc", 1)[1][:40]) == (name == "test")


@pytest.mark.parametrize("label", [0, 1])
def test_what_cannot_be_measured_is_refused_before_training(experiment: Any, label: int) -> None:
    told = run("train", experiment(VALIDATION, label, **{"training.monitor": "auc"}))
    assert isinstance(told.exception, OneClass)
    assert f"validation part has one class: all 100 labels are {label}, and training.monitor: auc" in str(
        told.exception
    )
    assert not list(Path("runs").glob("*/seed-0/metrics.json"))
    arms = experiment(TEST, label), experiment(TEST, label, "other", **{"tables.embedding_dim": 8})
    told = run("compare", *arms, "--jobs", "1")
    assert isinstance(told.exception, OneClass)
    assert "the test part has one class" in str(told.exception)
    told = run("compress", experiment(VALIDATION, label), "--into", "compact", "--budget", "50%")
    assert isinstance(told.exception, OneClass)
    assert not list(Path("runs").glob("*/seed-*/metrics.json"))


@pytest.mark.parametrize(("label", "cure"), [(1, "NegativeSampler"), (0, "data.label")])
def test_training_rows_of_one_class_say_what_is_needed(experiment: Any, label: int, cure: str) -> None:
    told = run("train", experiment(TRAIN, label))
    assert isinstance(told.exception, OneClass)
    message = str(told.exception)
    assert f"the training part has one class: all 800 labels are {label}" in message
    assert cure in message


def test_a_log_of_positives_only_says_that_negatives_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    users = [f"{user} " + " ".join(str((user * 7 + k) % 50) for k in range(10)) for user in range(60)]
    (tmp_path / "train.txt").write_text("\n".join(users[:50]) + "\n")
    (tmp_path / "test.txt").write_text("\n".join(users[50:]) + "\n")
    features = [{"kind": "categorical", "names": ["user_id", "item_id"]}]
    raw = RAW | {"data": {"source": "ngcf", "path": str(tmp_path)}, "features": features}
    (tmp_path / "ngcf.yaml").write_text(yaml.safe_dump(raw))
    told = run("train", "ngcf.yaml")
    assert isinstance(told.exception, OneClass)
    assert "all 480 labels are 1. A log of positives only needs negatives" in str(told.exception)


def test_both_classes_pass() -> None:
    check_training(2, 1)
    check_measured("test", 2, 1, "a comparison")
    with pytest.raises(OneClass, match="some are negative"):
        check_measured("test", 2, 2, "a comparison")
