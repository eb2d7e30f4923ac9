"""A small click log that can be learnt, prepared once, and one finished run on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import ExperimentConfig, parse_experiment
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import Prepared

Configure = Callable[..., ExperimentConfig]


def click_log(rows: int = 6000, seed: int = 0) -> pa.Table:
    """Main effects of users (text), items (integers) and tags (lists), a number with nulls, a click rate of 0.3."""
    random = np.random.default_rng(seed)
    user, item = random.integers(0, 60, rows), random.integers(0, 40, rows)
    tags = [list(random.choice(12, random.integers(0, 4), replace=False)) for _ in range(rows)]
    x = random.normal(size=rows)
    effects = [np.random.default_rng(9).normal(0, 1.2, n) for n in (60, 40, 12)]
    logit = effects[0][user] + effects[1][item] + 0.8 * x - 1.5
    logit += np.array([effects[2][bag].sum() for bag in tags])
    label = random.random(rows) < 1 / (1 + np.exp(-logit))
    return pa.table(
        {
            "label": label.astype(np.int8),
            "user_id": [f"u{i}" for i in user],
            "item_id": item,
            "tags": pa.array(tags, pa.list_(pa.int64())),
            "x": pa.array(x, mask=random.random(rows) < 0.05),
            "time": np.arange(rows) // 10,
        }
    )


def forget_checksums(run: Path) -> None:
    """Make metrics.json what version 0.1 wrote."""
    file = run / "metrics.json"
    found = json.loads(file.read_text())
    kept = {key: value for key, value in found.items() if key not in ("files", "manifest_xxh64")}
    file.write_text(json.dumps(kept))


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pq.write_table(click_log(), path)
    return path


@pytest.fixture(scope="session")
def configure(log: Path) -> Configure:
    """The configuration of a run on `log`, with dotted keys replaced."""
    raw: dict[str, Any] = {
        "name": "small",
        "data": {"source": "table", "path": str(log), "user": "user_id", "split": {"by": "random"}},
        "features": [
            {"kind": "numeric", "names": ["x"]},
            {"kind": "categorical", "names": ["user_id", "item_id"]},
            {"kind": "categorical", "names": ["tags"], "multivalued": True},
        ],
        "tables": {"scheme": "full", "embedding_dim": 8},
        "model": {"name": "deepfm", "hidden": [16]},
        "training": {"batch_size": 256, "epochs": 2},
    }

    def make(settings: dict[str, Any] | None = None, **sections: Any) -> ExperimentConfig:
        return parse_experiment(raw | sections, "small.yaml").replace(settings or {})

    return make


@pytest.fixture(scope="session")
def prepared(configure: Configure, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    config = configure()
    return prepare(config.data, config.features, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def run(configure: Configure, prepared: Prepared, runs: Path) -> Any:
    """A finished run, not to be written to."""
    pytest.importorskip("torch", reason="a run is trained, and torch is not installed")
    from recsys.training.train import train

    return train(configure(), prepared, runs)
