"""Every declaration of docs/features.md can be prepared, every kind has an example, and every source is in its table."""

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from recsys import cli
from recsys.config.yaml_text import parse_yaml
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.sources import SOURCES
from recsys_pipelines.sources.catalogue import CATALOGUE

TEXT = (Path(__file__).parents[1] / "docs" / "features.md").read_text(encoding="utf-8")
BLOCKS = [parse_yaml(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)]
CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
ROWS = 400


def log() -> pa.Table:
    random = np.random.default_rng(0)
    words = ["red shoes", "blue hat", "Green coat"]
    tags = [random.integers(0, 9, k).tolist() for k in random.integers(0, 4, ROWS)]
    seconds = 1_510_000_000 + 9_000 * np.arange(ROWS)
    moments = seconds.astype("datetime64[s]")
    return pa.table(
        {
            "label": random.integers(0, 2, ROWS),
            "rating": random.integers(1, 6, ROWS),
            "user_id": random.integers(0, 20, ROWS),
            "item_id": random.integers(0, 30, ROWS),
            "store": random.integers(0, 5, ROWS),
            "price": random.random(ROWS) * 200,
            "position": random.integers(0, 90, ROWS),
            "tags": tags,
            "tag_weights": [[0.5] * len(some) for some in tags],
            "country": random.choice(["ch", "de", "it"], ROWS),
            "genres": random.choice(["Drama|War", "Comedy"], ROWS),
            "hour": random.integers(0, 24, ROWS),
            "title": random.choice(words, ROWS),
            "zip_code": random.choice(["8001", "3012"], ROWS),
            "ts": seconds,
            "shown_at": [str(moment) for moment in moments],
            "ordered": [moment.item().strftime("%d/%m/%Y %H:%M") for moment in moments],
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doc")
    pq.write_table(log(), folder / "log.parquet")
    pa.csv.write_csv(log().drop_columns(["tags", "tag_weights"]), folder / "log.csv")
    (folder / "countries.txt").write_text("ch\nde\nit\n")
    return folder


@pytest.mark.parametrize("block", [block for block in BLOCKS if isinstance(block, list)], ids=str)
def test_every_list_of_features_can_be_prepared(block: list[dict[str, Any]], folder: Path) -> None:
    for feature in block:
        if "vocabulary" in feature:
            feature["vocabulary"] = str(folder / feature["vocabulary"])
    data = DataConfig.model_validate(
        {
            "source": "table",
            "path": folder / "log.parquet",
            "user": "user_id",
            "time": "ts",
            "split": {"by": "time"},
        }
    )
    prepared = prepare(data, CONFIGS.validate_python(block), folder / "prepared")
    assert prepared.manifest.rows_out == ROWS
    assert len(prepared.manifest.features) == len(block)


@pytest.mark.parametrize("block", [block for block in BLOCKS if isinstance(block, dict)], ids=str)
def test_every_data_section_can_be_prepared(block: dict[str, Any], folder: Path) -> None:
    data = DataConfig.model_validate({**block["data"], "path": folder / block["data"]["path"]})
    features = CONFIGS.validate_python([{"kind": "categorical", "names": ["item_id"]}])
    assert prepare(data, features, folder / "prepared").manifest.rows_out == ROWS


def test_every_kind_has_an_example() -> None:
    kinds = {
        get_args(member.model_fields["kind"].annotation)[0] for member in get_args(get_args(FeatureConfig)[0])
    }
    shown = {feature["kind"] for block in BLOCKS if isinstance(block, list) for feature in block}
    assert shown == kinds


def test_every_source_is_listed() -> None:
    assert CATALOGUE.keys() == {*SOURCES, "generated"}
    assert CATALOGUE.keys() == set(get_args(DataConfig.model_fields["source"].annotation))
    table = "".join(f"| `{n}` | {entry.data_set} | {entry.path} |\n" for n, entry in CATALOGUE.items())
    assert TEXT.endswith("|---|---|---|\n" + table)
    told = CliRunner().invoke(cli.app, ["sources"])
    assert told.exit_code == 0
    assert all(f" {name} " in told.output for name in CATALOGUE)
