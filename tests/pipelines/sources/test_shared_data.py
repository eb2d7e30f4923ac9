"""The readers on real files, where these are at hand: RECSYS_SHARED_DATA or ../shared/data."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from recsys_pipelines.config import DataConfig
from recsys_pipelines.features.convert import ColumnSpec, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import open_source

DATA = Path(os.environ.get("RECSYS_SHARED_DATA") or Path(__file__).parents[4] / "shared" / "data")


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


def test_frappe():
    specs = {"label": ColumnSpec("label", "label"), **{f"f{k}": ColumnSpec(f"f{k}", "id") for k in range(10)}}
    table = read("table", "frappe86k.parquet", specs)
    assert table.num_rows == 86_582
    assert np.mean(table["label"]) == pytest.approx(0.33, abs=0.005)


def test_gowalla():
    specs = {"user": ColumnSpec("user", "id"), "item": ColumnSpec("item", "id")}
    table = read("table", "gowalla.parquet", specs)
    assert table.num_rows == 1_027_370
    assert len(np.unique(table["user"])) == 29_858
    assert len(np.unique(table["item"])) == 40_981


def test_gowalla_as_published(tmp_path):
    """The interactions of the Parquet file, written as NGCF does."""
    path = DATA / "gowalla.parquet"
    if not path.exists():
        pytest.skip(f"no {path}: set RECSYS_SHARED_DATA")
    log = pl.read_parquet(path).sort("split", "user", "item")
    for (part,), rows in log.group_by("split"):
        users = rows.group_by("user", maintain_order=True).agg("item")
        lines = (" ".join(map(str, [user, *items])) for user, items in users.iter_rows())
        (tmp_path / f"{part}.txt").write_text("\n".join(lines) + "\n")
    bad = Quarantine(0)
    chunks = list(
        open_source(DataConfig(source="ngcf", path=tmp_path)).chunks(["user_id", "item_id", "split"], bad)
    )
    read_back = pl.from_arrow(pa.concat_tables(chunk.table for chunk in chunks))
    assert np.array_equal(np.concatenate([chunk.rows for chunk in chunks]), np.arange(len(log)))
    assert bad.count == 0
    columns = [pl.col(f"{name}_id").cast(pl.Int32).alias(name) for name in ("user", "item")]
    assert read_back.select(*columns, "split").sort("split", "user", "item").equals(log)


def test_open_bandit():
    specs = {
        "click": ColumnSpec("click", "label"),
        "time": ColumnSpec("timestamp", "integer"),
        "propensity": ColumnSpec("propensity_score", "number"),
        "affinity": ColumnSpec("user-item_affinity_45", "number"),
    }
    table = read("open_bandit", "obd40k.parquet", specs)
    assert table.num_rows == 40_000
    assert np.sum(table["click"]) == 207
    assert np.min(table["propensity"]) == pytest.approx(1e-6)
    assert 1574553600 <= np.min(table["time"]) / 1e6 <= np.max(table["time"]) / 1e6 < 1575158400


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
