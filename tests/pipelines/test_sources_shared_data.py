"""The readers on real files, where these are at hand: RECSYS_SHARED_DATA or ../shared/data."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys_pipelines.config import DataConfig
from recsys_pipelines.convert import ColumnSpec, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import open_source

DATA = Path(os.environ.get("RECSYS_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data")


def read(source, name, specs):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: set RECSYS_SHARED_DATA")
    bad = Quarantine(0)
    chunks = open_source(DataConfig(source=source, path=path)).chunks(
        sorted({s.column for s in specs.values()}), bad
    )
    table = pa.concat_tables(typed(chunk, specs, bad) for chunk in chunks)
    assert bad.count == 0
    assert np.array_equal(table["row_id"], np.arange(table.num_rows))
    return table


def test_criteo80k():
    specs = {"label": ColumnSpec("label", "label"), "c20": ColumnSpec("c20", "id")}
    table = read("criteo", "criteo80k.parquet", specs)
    assert table.num_rows == 80_000
    assert np.mean(table["label"]) == pytest.approx(0.0322, abs=5e-5)


def test_ml_100k():
    specs = {
        "user": ColumnSpec("user_id", "id"),
        "item": ColumnSpec("item_id", "id"),
        "label": ColumnSpec("rating", "label", threshold=4),
        "time": ColumnSpec("timestamp", "integer"),
        "age": ColumnSpec("age", "number"),
        "class": ColumnSpec("class", "ids"),
    }
    table = read("recbole", "ml-100k", specs)
    assert table.num_rows == 100_000
    assert len(np.unique(table["user"])) == 943
    assert len(np.unique(table["item"])) == 1682
    assert table["age"].null_count == 0
    assert table["class"].null_count == 0
