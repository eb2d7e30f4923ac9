"""Ids to keep: files are numbered, whatever the features are called, and nothing of a folder is trusted."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recsys_cython_ext import string_ids
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.config import FeatureConfig
from recsys_pipelines.features import FeatureFitter, kept_ids, write_kept_ids
from recsys_pipelines.features.convert import typed
from recsys_pipelines.features.declared import specs_of
from recsys_pipelines.features.kept import KeptFile, KeptIds
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError
from recsys_pipelines.sources.base import Chunk


def names_of(tmp_path: Path) -> list[str]:
    """What columns may be called."""
    return [
        str(tmp_path / "outside" / "x"),
        "../up",
        "a/b",
        "..",
        ".",
        "",
        "manifest",
        "0",
        "ein Ü\\",
        "a:b\n",
    ]


def test_names_are_no_paths(tmp_path: Path) -> None:
    names = names_of(tmp_path)
    ids = {name: np.array([7 * i, -i], np.int64) for i, name in enumerate(names)}
    (tmp_path / "folder").mkdir()
    write_kept_ids(ids, tmp_path / "folder" / "ids")
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {f"folder/ids/{i}.npy" for i in range(len(names))} | {"folder/ids/manifest.json"}
    for name in names:
        assert kept_ids(tmp_path / "folder" / "ids", name).tolist() == ids[name].tolist()


def test_a_folder_made_by_hand_is_read_by_names_that_are_no_paths(tmp_path: Path) -> None:
    np.save(tmp_path / "clicked item.npy", np.array([3]))
    assert kept_ids(tmp_path, "clicked item").tolist() == [3]
    (tmp_path / "ids").mkdir()
    for name in [*names_of(tmp_path)[:6], "../clicked item", str(tmp_path / "clicked item"), "x\0y"]:
        with pytest.raises(SourceError, match=r"has no manifest\.json, and .* is no name of a file"):
            kept_ids(tmp_path / "ids", name)


@pytest.mark.parametrize("file", ["../x.npy", "/etc/hostname", "a/../../x.npy", "", "a\\b"])
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path, file: str) -> None:
    write_kept_ids({"c": np.array([1])}, tmp_path / "ids")
    entry = KeptFile.model_construct(file=file, xxh64="0" * 16)
    write_manifest(
        KeptIds.model_construct(format_version=1, features={"c": entry}), tmp_path / "ids" / "manifest.json"
    )
    with pytest.raises(SourceError, match=r"manifest\.json: .*features\.c\.file"):
        kept_ids(tmp_path / "ids", "c")


def test_what_is_damaged_or_missing_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "ids"
    write_kept_ids({"c": np.arange(9), "d": np.arange(3)}, folder)
    with pytest.raises(
        SourceError, match=r"manifest\.json: names no ids of this feature; `keep` of feature 'e'"
    ):
        kept_ids(folder, "e")
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        for place in (0, len(content) // 2, len(content) - 2):
            file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with pytest.raises(SourceError, match=rf"{file}: .*(damaged|lacks)"):
                kept_ids(folder, "c" if file.name != "1.npy" else "d")
        file.write_bytes(content)
    (folder / "0.npy").unlink()
    with pytest.raises(SourceError, match=r"0\.npy: cannot be read \(No such file"):
        kept_ids(folder, "c")
    (folder / "manifest.json").write_text(json.dumps({"format_version": 1}) + "[" * 5000)
    with pytest.raises(SourceError, match=r"manifest\.json: damaged"):
        kept_ids(folder, "c")


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    for shape in ((10**15,), (10**30,), (2, 10**15)):
        with (tmp_path / "c.npy").open("wb") as file:
            header = {"descr": "<i8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        with pytest.raises(SourceError, match=r"c\.npy: no file of a NumPy array"):
            kept_ids(tmp_path, "c")


@given(st.binary(max_size=90))
def test_bytes_that_are_no_array_are_a_sentence(header: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        length = len(header).to_bytes(2, "little")
        (Path(folder) / "c.npy").write_bytes(b"\x93NUMPY\x01\x00" + length + header)
        with pytest.raises(SourceError, match=r"c\.npy: no file of a NumPy array"):
            kept_ids(folder, "c")


@pytest.mark.parametrize(
    ("declared", "name", "some"),
    [
        ({"kind": "tokens", "columns": ["text"]}, "text_tokens", string_ids(pa.array(["red", "never"]))),
        ({"kind": "prefixes", "columns": ["text"], "lengths": [1, 3]}, "text_prefixes", None),
        ({"kind": "cross", "name": "both", "columns": ["text", "item"]}, "both", None),
    ],
)
def test_tokens_prefixes_and_crosses_keep_ids_too(
    tmp_path: Path, declared: dict[str, Any], name: str, some: np.ndarray | None
) -> None:
    table = pa.table({"text": ["red shoe", "blue shoe", "red hat", "red hat"], "item": [1, 2, 3, 3]})

    def fitted(keep: str | None) -> np.ndarray:
        (config,) = TypeAdapter(tuple[FeatureConfig, ...]).validate_python([declared | {"keep": keep}])
        chunk = Chunk(table, np.arange(4), "log")
        fitter = FeatureFitter([config])
        fitter.add(typed(chunk, specs_of([config]), Quarantine()))
        return fitter.fit().categorical[0].ids  # type: ignore[union-attr]

    every = fitted(None)
    chosen = every[:2] if some is None else some
    write_kept_ids({name: chosen}, tmp_path / "ids")
    assert fitted(str(tmp_path / "ids")).tolist() == [i for i in every if i in chosen]
    assert 0 < len(fitted(str(tmp_path / "ids"))) < len(every)
    with pytest.raises(ValueError, match="`keep` chooses from the vocabulary that training gives"):
        TypeAdapter(FeatureConfig).validate_python(declared | {"keep": "ids", "encoding": "hash"})
