"""Slices by the value of a feature are called as the log calls the value."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.comparison.slices_of_runs import TestRows, _texts
from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.features import FIRST_CODE, Categorical
from recsys_pipelines.preparation.prepare import prepare


def test_unsigned_ids_are_called_as_they_are_written(tmp_path: Path) -> None:
    large = 2**63 + 5
    table = pa.table({"label": [0, 1] * 10, "c": pa.array([large, 7] * 10, pa.uint64()), "s": [-5, 7] * 10})
    pq.write_table(table, tmp_path / "log.parquet")
    configs: list[Any] = [
        CategoricalConfig(kind="categorical", names=("c", "s")),
        CategoricalConfig(kind="categorical", names=("h",), columns=("c",), encoding="hash"),
    ]
    data = DataConfig(source="table", path=tmp_path / "log.parquet")
    features = prepare(data, configs, tmp_path / "sets").features()
    rows = cast(TestRows, SimpleNamespace(rows=SimpleNamespace(features=features), run=None))
    names: dict[str, list[str]] = {}
    for feature in features.categorical:
        assert isinstance(feature, Categorical)
        codes = [large - 2**64, 7] if feature.encoding == "hash" else [FIRST_CODE, FIRST_CODE + 1]
        names[feature.name] = sorted(_texts(rows, feature, codes)[0])
    assert names == {"c": ["7", str(large)], "s": ["-5", "7"], "h": ["7", str(large)]}
