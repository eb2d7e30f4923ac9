"""Manifests are read as they were written, and what is not ours is refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext.files import write_json
from recsys_cython_ext.manifest import (
    DamagedFile,
    FileName,
    Manifest,
    OtherVersion,
    read_json,
    read_manifest,
    write_manifest,
)


class Part(Manifest):
    name: str
    rows: int


class Example(Manifest):
    version: int
    shards: dict[str, Part]
    share: float = 1.0


GOOD: dict[str, Any] = {"version": 1, "shards": {"a": {"name": "x", "rows": 3}}, "share": 0.5}


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(GOOD, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json", Example) == Example(**GOOD)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json", Example)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("{", "damaged: EOF while parsing"),
        ("\xff\xfe", "damaged"),
        ("[1, 2]", "it holds"),
        ("null", "it holds None"),
        (json.dumps({"version": 1}), "lacks the key 'shards'"),
        (json.dumps({**GOOD, "version": "1"}), "key 'version' is '1': Input should be a valid integer"),
        (json.dumps({**GOOD, "version": True}), "key 'version' is True"),
        (json.dumps({**GOOD, "version": 1.5}), "key 'version' is 1.5"),
        (json.dumps({**GOOD, "shards": {"a": {"name": "x"}}}), r"lacks the key 'shards\.a\.rows'"),
        (json.dumps({**GOOD, "shards": [1] * 500}), r"key 'shards' is \[1, 1.*…"),
        (json.dumps({**GOOD, "other": 1}), "unknown key 'other'"),
        ("[" * 100_000, "damaged: recursion limit exceeded"),
        ('{"shards": ' + '{"a": ' * 5000 + "1" + "}" * 5001, "damaged"),
    ],
)
def test_json_that_is_not_ours_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedFile, match=message) as caught:
        read_json(file, Example)
    assert str(caught.value).startswith(f"{file}: damaged")
    assert "\n" not in str(caught.value)


VERSIONS, AGAIN = {"version": 1}, "write it again"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_manifest(Example(**GOOD), tmp_path / "manifest.json")
    return tmp_path / "manifest.json"


def test_a_manifest_is_read_as_it_was_written(manifest: Path) -> None:
    assert read_manifest(manifest, Example, VERSIONS, AGAIN) == Example(**GOOD)
    with pytest.raises(FileNotFoundError):
        read_manifest(manifest.with_name("other.json"), Example, VERSIONS, AGAIN)


def test_another_version_is_told_before_anything_else(manifest: Path) -> None:
    with pytest.raises(
        OtherVersion, match=r"manifest\.json: version 1, but this program reads 2; write it again"
    ):
        read_manifest(manifest, Example, {"version": 2}, AGAIN)
    write_json({"version": 7, "of": "another program"}, manifest)
    with pytest.raises(OtherVersion, match="version 7, but this program reads 1; update this program"):
        read_manifest(manifest, Example, VERSIONS, AGAIN)
    write_json({"version": "1"}, manifest)
    with pytest.raises(DamagedFile, match="lacks the key 'version'; write it again"):
        read_manifest(manifest, Example, VERSIONS, AGAIN)


@given(st.data())
def test_no_flipped_bit_goes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Or it changes nothing: white space, or the same character written otherwise."""
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    write_manifest(Example(**GOOD), path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found = read_manifest(path, Example, VERSIONS, AGAIN)
    except (DamagedFile, OtherVersion):
        return
    assert found == Example(**GOOD)


class Named(Manifest):
    file: FileName


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "../a", "a/../../b", "a//b", ".", "a/", "a\\b", "a\0b"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    write_json({"file": name}, tmp_path / "a.json")
    with pytest.raises(DamagedFile, match=r"key 'file' is .*a file of the folder"):
        read_json(tmp_path / "a.json", Named)


@pytest.mark.parametrize("name", ["a.arrow", "train/part-0.arrow", "..a", "a b/c"])
def test_a_name_of_the_folder_is_taken(tmp_path: Path, name: str) -> None:
    write_json({"file": name}, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json", Named).file == name
