"""A served folder is replaced, damaged and rolled back, and an answer belongs to one version."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.serving.predictor import PROGRAM
from recsys.serving.server.versions import FolderOfVersions, OneFolder, Versions
from recsys_cython_ext.files import file_digest
from recsys_tables.serving.artefact import MANIFEST

from .conftest import replace, wait_for


def test_a_replaced_folder_is_taken(
    serve: Any, served: Path, exported: Any, predictors: Any, rows: Any
) -> None:
    body = {"content": json.dumps({"rows": rows}), "headers": {"content-type": "application/json"}}
    with serve(served, reload_seconds=0.05) as client:
        first = client.post("/predict", **body)
        replace(served, exported["int4"])
        version = file_digest(exported["int4"] / MANIFEST)
        wait_for(lambda: client.get("/readyz").headers["x-model-version"] == version)
        second = client.post("/predict", **body)
        about = client.get("/metadata").json()
    assert first.headers["x-model-version"] == file_digest(exported["fp32"] / MANIFEST)
    assert (about["version"], about["dtype"], about["refused"]) == (version, "int4", None)
    for answer, name in ((first, "fp32"), (second, "int4")):
        np.testing.assert_array_equal(answer.json()["predictions"], predictors[name].predict(rows))


def test_a_link_is_followed(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(exported["fp32"])
    versions = Versions(OneFolder(tmp_path / "link"))
    assert versions.refresh()
    assert not versions.refresh()
    (tmp_path / "other").symlink_to(exported["int4"])
    (tmp_path / "other").rename(tmp_path / "link")
    assert versions.refresh()
    assert versions.served is not None
    assert versions.served.predictor.artefact.dtype == "int4"


def test_what_is_refused_leaves_the_version_before(served: Path, exported: Any) -> None:
    versions = Versions(OneFolder(served))
    versions.refresh()
    before = versions.served
    replace(served, exported["int4"])
    (served / PROGRAM).write_bytes(b"no network")
    assert versions.refresh()
    assert versions.served is before
    assert versions.refused is not None
    assert versions.refused.error.startswith("served/network.onnx: damaged")
    assert not versions.refresh()  # it is not read again and again
    shutil.copyfile(exported["int4"] / PROGRAM, served / PROGRAM)
    assert versions.refresh()  # mended
    assert versions.refused is None
    assert versions.served is not None
    assert versions.served.predictor.artefact.dtype == "int4"
    shutil.rmtree(served)
    assert versions.refresh()
    assert not versions.refresh()
    assert versions.refused == versions.refused
    assert versions.refused.error == "served: cannot be opened (No such file or directory)"
    assert versions.served.predictor.predict({"item_id": 1}).shape == (1,)  # its files are mapped


def test_metadata_says_why_a_version_was_refused(serve: Any, served: Path) -> None:
    with serve(served, reload_seconds=0.05) as client:
        manifest = json.loads((served / MANIFEST).read_text())
        (served / "copy").write_text(json.dumps(manifest | {"format_version": 99}))
        (served / "copy").rename(served / MANIFEST)
        refused = wait_for(lambda: client.get("/metadata").json()["refused"])
        assert client.get("/readyz").status_code == 200
    assert refused["name"] == "served"
    assert refused["error"].startswith(f"served/{MANIFEST}: ")


def test_versions_are_chosen_by_date_and_by_name(exported: Any, tmp_path: Path) -> None:
    folder = FolderOfVersions(tmp_path)
    versions = Versions(folder)
    versions.refresh()
    assert versions.refused is not None
    assert versions.refused.error.endswith("holds no exported folder; export a run into it")
    for number, (name, dtype) in enumerate({"b": "fp32", "a": "int4", ".c.tmp": "int4"}.items()):
        shutil.copytree(exported[dtype], tmp_path / name)
        os.utime(tmp_path / name / MANIFEST, (number, number))

    def served() -> str:
        versions.refresh()
        assert versions.served is not None
        return versions.served.name

    assert folder.names() == ["a", "b"]
    assert served() == "a"  # written last
    (tmp_path / "current").write_text("b\n")
    assert served() == "b"
    assert versions.refused is None
    for name in ("../b", "", ".c.tmp"):
        (tmp_path / "current").write_text(name)
        assert served() == "b"
        assert versions.refused is not None
        assert versions.refused.error == f"current: names {name!r}, which is none of a, b"


@pytest.mark.parametrize("content", [b"\xff", None])
def test_current_must_be_a_text(exported: Any, tmp_path: Path, content: bytes | None) -> None:
    shutil.copytree(exported["int4"], tmp_path / "a")
    current = tmp_path / "current"
    current.mkdir() if content is None else current.write_bytes(content)
    versions = Versions(FolderOfVersions(tmp_path))
    versions.refresh()
    assert versions.refused is not None
    assert versions.refused.error == "current: is no file with the name of a version"


def test_an_opened_folder_is_not_mixed_with_its_successor(
    served: Path, exported: Any, predictors: Any, rows: Any, monkeypatch: Any
) -> None:
    """The folder is replaced when its tables have been opened, and its network has not."""
    from recsys.serving import predictor

    opened = predictor.artefact.open

    def open_and_replace(*arguments: Any) -> Any:
        tables = opened(*arguments)
        replace_once()
        return tables

    def replace_once() -> None:
        monkeypatch.setattr(predictor.artefact, "open", opened)
        served.rename(served.with_name("before"))
        shutil.copytree(exported["int4"], served)

    monkeypatch.setattr(predictor.artefact, "open", open_and_replace)
    versions = Versions(OneFolder(served))
    versions.refresh()
    assert versions.served is not None
    assert versions.served.version == file_digest(exported["fp32"] / MANIFEST)
    expected = predictors["fp32"].predict(rows)
    np.testing.assert_array_equal(versions.served.predictor.predict(rows), expected)
