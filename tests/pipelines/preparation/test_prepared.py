"""Prepared sets that are damaged, crafted, or named by text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ConfigDict, TypeAdapter

from recsys_cython_ext.manifest import Manifest, write_manifest
from recsys_pipelines.batches.loader import Rows
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features import Features
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import ManifestError, Prepared

FEATURES = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
    [
        {"kind": "categorical", "names": ["item"]},
        {"kind": "numeric", "names": ["x"]},
        {"kind": "cross", "name": "both", "columns": ["item", "user"]},
    ]
)


class Anything(Manifest):
    """What a forger seals."""

    model_config = ConfigDict(extra="allow")


SPLITS = ("train", "validation", "test")


def write_log(path: Path, users: pa.Array, rows: int = 300, seed: int = 0) -> DataConfig:
    random = np.random.default_rng(seed)
    columns = {
        "label": random.integers(0, 2, rows).astype(np.int8),
        "item": random.integers(0, 9, rows),
        "x": random.normal(size=rows),
        "user": users,
    }
    pq.write_table(pa.table(columns), path)
    return DataConfig.model_validate({"source": "table", "path": str(path), "user": "user"})


def texts(rows: int = 300, missing: bool = True) -> pa.Array:
    return pa.array([None if missing and i % 50 == 0 else f"user {i % 20}" for i in range(rows)])


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    return write_log(tmp_path / "log.parquet", texts())


@pytest.fixture
def ready(data: DataConfig, tmp_path: Path) -> Prepared:
    return prepare(data, FEATURES, str(tmp_path / "prepared"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_rows_are_not_read_from_a_damaged_shard(ready: Prepared, split: str, place: float) -> None:
    (file,) = (ready.path / split).glob("*.arrow")
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 16
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=rf"{file}: missing or damaged; delete {ready.path}"):
        Rows.load(ready.path, split)
    file.unlink()
    with pytest.raises(ManifestError, match=rf"{file}: missing or damaged"):
        Rows.load(ready.path, split)
    for other in {*SPLITS} - {split}:
        Rows.load(ready.path, other)


def test_counts_and_features_are_verified(ready: Prepared) -> None:
    for name, read in (("counts.npz", ready.counts), ("arrays.npz", ready.features)):
        file = ready.path / "features" / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file}: .*damaged"):
            read()
        with pytest.raises(ManifestError, match=rf"{file}: missing or damaged"):
            Rows.load(ready.path, "train")
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["../../outside.arrow", "/etc/passwd", "train/../../../x.arrow", "test//x.arrow", "train\\x"]
)
@pytest.mark.parametrize("key", ["shards", "feature_files"])
def test_a_crafted_set_cannot_be_appended_to(
    ready: Prepared, tmp_path: Path, data: DataConfig, name: str, key: str
) -> None:
    """Its shards would be linked to where their names say."""
    manifest = json.loads((ready.path / "manifest.json").read_text())
    before = {file for file in tmp_path.rglob("*") if file.is_file()}
    entries: dict[str, Any] = manifest[key]
    entries[name] = next(iter(entries.values()))
    manifest.pop("manifest_xxh64")
    write_manifest(Anything(**manifest), ready.path / "manifest.json")
    with pytest.raises(ManifestError, match=r"manifest\.json: damaged, or not written by this program"):
        prepare(data, FEATURES, tmp_path / "prepared", base=Prepared.open(ready.path))
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == before


def test_folders_are_named_by_text_too(ready: Prepared, tmp_path: Path) -> None:
    assert Prepared.open(str(ready.path)).manifest == ready.manifest
    assert len(Rows.load(str(ready.path), "test")) == 30
    Features.load(str(ready.path / "features")).save(str(tmp_path / "copy"))
    assert len(Features.load(str(tmp_path / "copy")).features) == 3


@pytest.mark.parametrize(
    ("users", "kind"),
    [
        (texts(), pa.string()),
        (texts(missing=False).dictionary_encode(), pa.string()),
        (pa.array(np.arange(300) % 7 - 3), pa.int64()),
        (pa.array([f"{i % 9:03d}" for i in range(300)]).cast(pa.binary()), pa.string()),
    ],
)
def test_users_of_test_rows_are_published_as_they_stand(
    tmp_path: Path, users: pa.Array, kind: pa.DataType
) -> None:
    data = write_log(tmp_path / "log.parquet", users)
    ready = prepare(data, FEATURES, tmp_path / "prepared")
    rows = Rows.load(ready.path, "test")
    published = rows.published_user
    assert published is not None
    assert published.type == kind
    given = [v.decode() if isinstance(v, bytes) else v for v in users.to_pylist()]
    hashed, shown = rows.user, published.to_pylist()
    assert hashed is not None
    for row, user, number in zip(rows.row_id.tolist(), shown, hashed.tolist(), strict=True):
        assert user == (given[row] if given[row] is not None else str(number))
    assert len({*zip(shown, hashed.tolist(), strict=True)}) == len({*shown}) == len({*hashed.tolist()})
    for split in ("train", "validation"):
        assert "@published_user" not in Rows.load(ready.path, split).table.column_names


def test_users_of_rows_that_are_appended_are_their_own(ready: Prepared, tmp_path: Path) -> None:
    more = write_log(tmp_path / "more.parquet", texts(120), 120, seed=1)
    both = prepare(more, FEATURES, tmp_path / "prepared", base=ready)
    rows = Rows.load(both.path, "test")
    published = dict(zip(rows.row_id.tolist(), rows.published_user.to_pylist(), strict=True))  # type: ignore[union-attr]
    assert {row for row in published if row >= 300}
    for row, user in published.items():
        place = row - 300 * (row >= 300)
        assert user == f"user {place % 20}" or place % 50 == 0
    assert len({user for row, user in published.items() if row % 300 % 50 == 0}) == sum(
        row % 300 % 50 == 0 for row in published
    )


def test_a_set_declared_before_a_key_was_known_is_the_same(ready: Prepared, data: DataConfig) -> None:
    manifest = json.loads((ready.path / "manifest.json").read_text())
    del manifest["features"][2]["keep"], manifest["manifest_xxh64"]
    write_manifest(Anything(**manifest), ready.path / "manifest.json")
    Prepared.open(ready.path).require_same(data, FEATURES)
