"""Codes against a dictionary of the rows that ids were given, and what becomes of codes that are damaged."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext.manifest import DamagedFile, OtherVersion
from recsys_tables import ArtefactError, Coded, FeatureSize, Field, artefact, plan_tables, resident_bytes
from recsys_tables.codes import Codes
from recsys_tables.lookup import lookup
from recsys_tables.schemes.coded import CodedTables
from recsys_tables.serving.stacked import StackedVectors
from recsys_tables.serving.write import write

ANY_ID = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**53 + 1, -1, 0, 1])


def codes(rows: int = 7, num_chunks: int = 2) -> Codes:
    random = np.random.default_rng(0)
    ids = {"user": np.arange(40) * 2**53, "item": np.arange(-20, 5)}
    return Codes.build(ids, {n: random.integers(0, rows, (len(v), num_chunks)) for n, v in ids.items()}, rows)


@settings(max_examples=40)
@given(
    ids=st.dictionaries(st.sampled_from("abc"), st.lists(ANY_ID, unique=True, max_size=30), min_size=1),
    num_embeddings=st.integers(1, 1000),
    num_chunks=st.integers(1, 3),
    outside=ANY_ID,
    seed=st.integers(0, 9),
)
def test_every_id_reads_the_rows_it_was_given(
    ids: dict[str, list[int]], num_embeddings: int, num_chunks: int, outside: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    by_feature = {name: np.array(values, np.int64) for name, values in ids.items()}
    rows = {n: random.integers(0, num_embeddings, (len(v), num_chunks)) for n, v in by_feature.items()}
    if not any(ids.values()):
        with pytest.raises(ValueError, match="no id is given a code: take a lower minimum count"):
            Codes.build(by_feature, rows, num_embeddings)
        return
    built = Codes.build(by_feature, rows, num_embeddings)
    for name, values in by_feature.items():
        assert np.array_equal(np.stack(built.rows(values, name), axis=1), rows[name])
        twice = built.rows(np.array([outside, outside], np.int64), name)
        assert all(0 <= row[0] == row[1] < built.num_rows for row in twice)
    assert built.features == {name: len(values) for name, values in ids.items()}


@pytest.mark.parametrize(("rows", "num_chunks"), [(7, 1), (7, 2), (256, 1), (257, 1), (1, 1)])
def test_most_ids_without_codes_read_the_row_that_is_for_them(rows: int, num_chunks: int) -> None:
    made = codes(rows, num_chunks)
    strange = np.arange(10**6, 10**6 + 20_000)
    chunks = made.rows(strange, "user")
    others = chunks[0] < rows
    assert all(np.array_equal(others, chunk < rows) for chunk in chunks)
    assert all(np.array_equal(chunk[~others], np.full((~others).sum(), rows)) for chunk in chunks)
    assert 1 / 8 - 0.02 < others.mean() < 1 / 4 + 0.02


def test_codes_of_another_row_or_of_too_many_are_refused() -> None:
    ids = {"user": np.arange(3)}
    with pytest.raises(ValueError, match=r"feature 'user': a row is outside 0\.\.6"):
        Codes.build(ids, {"user": np.array([[0], [7], [1]])}, 7)
    with pytest.raises(ValueError, match=r"4 chunks of 4096 rows are more than 2\^30 codes"):
        Codes.build(ids, {"user": np.zeros((3, 4), np.int64)}, 4096)
    with pytest.raises(ValueError, match=r"has the values \d+ at position 0 and \d+ at position 1"):
        Codes.build({"user": np.array([5, 5])}, {"user": np.array([[1], [2]])}, 7)


def test_saved_and_opened_they_are_the_same(tmp_path: Path) -> None:
    made = codes()
    made.save(tmp_path / "codes")
    opened = Codes.open(tmp_path / "codes")
    assert opened == made == pickle.loads(pickle.dumps(opened))
    assert hash(opened) == hash(made)
    assert opened != codes(rows=8)
    assert str(opened) == f"65 ids on 2 × 7 rows, {made.digest}"
    assert opened.nbytes == made.nbytes


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


def set_key(file: Path, key: str, value: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: flip(f / "function" / "slots.bin", 3), r"slots\.bin: damaged: its checksum is wrong"),
        (lambda f: set_key(f / "codes.json", "num_chunks", 1), r"codes\.json: damaged: its checksum"),
        (lambda f: (f / "codes.json").unlink(), r"codes\.json: missing, so .* holds no codes"),
        (lambda f: (f / "function" / "manifest.json").unlink(), r"manifest\.json: missing"),
        (lambda f: (f / "function" / "slots.bin").unlink(), r"slots\.bin: missing"),
    ],
)
def test_damaged_codes_are_refused(damage: Any, message: str, tmp_path: Path) -> None:
    codes().save(tmp_path / "codes")
    damage(tmp_path / "codes")
    with pytest.raises(DamagedFile, match=f"{message}.*again"):
        Codes.open(tmp_path / "codes")


def test_codes_of_another_hash_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_cython_ext.static_function.HASH_VERSION", 99)
    codes().save(tmp_path / "codes")
    monkeypatch.undo()
    with pytest.raises(
        OtherVersion, match=r"hash_version 99, but this program reads \d; update this program"
    ):
        Codes.open(tmp_path / "codes")


def sizes(*names: str) -> list[FeatureSize]:
    return [FeatureSize(name, None, 42, 0, 560) for name in names]


def test_declared_tables_count_their_codes_once(tmp_path: Path) -> None:
    made = codes()
    made.save(tmp_path / "codes")
    declared = CodedTables(scheme="coded", codes=tmp_path / "codes", embedding_dim=16)
    plan = plan_tables(declared, sizes("user", "item"))
    assert plan.schemes == tuple(Coded(name, made, 16) for name in ("user", "item"))
    assert (plan.bytes.codes, plan.bytes.remaps) == (made.nbytes, 0)
    assert plan.bytes.total == made.nbytes + 2 * 8 * (4 * 8 + 4)
    assert resident_bytes(plan.schemes[:1], 0) == plan.bytes, "tables and codes are shared"
    assert declared.digest_of_files() == made.digest


def test_a_feature_that_has_no_codes_is_named(tmp_path: Path) -> None:
    codes().save(tmp_path / "codes")
    declared = CodedTables(scheme="coded", codes=tmp_path / "codes", embedding_dim=16)
    with pytest.raises(ValueError, match=r"feature 'shop': the codes are of user, item: make them again"):
        plan_tables(declared, sizes("user", "shop"))
    with pytest.raises(
        ValueError, match="embedding_dim 15 is not a whole number of vectors for the 2 chunks"
    ):
        Coded("user", codes(), 15)


def test_ids_on_an_accelerator_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="its ids are on meta, but codes are looked up on a CPU"):
        Coded("user", codes(), 16).rows(torch.zeros(3, dtype=torch.int64, device="meta"))


def test_an_artefact_holds_shared_codes_once_and_refuses_damaged_ones(tmp_path: Path) -> None:
    schemes = [Coded("user", codes(), 16), Coded("item", codes(), 16)]
    tables = {
        t.name: np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32) for t in schemes[0].tables()
    }
    made = write(tmp_path / "served", [Field(scheme) for scheme in schemes], tables.__getitem__, "fp32")
    assert made.bytes.codes == codes().nbytes
    ids = np.array([0, 2**53, -20, 4, 77, -(2**63)])
    for scheme in schemes:
        assert np.array_equal(made.vectors(scheme.feature, ids), lookup(scheme, tables, ids))
    both = np.empty((len(ids), 2, 16), np.float32)
    StackedVectors(made, ["item", "user"], [1, 0], 32).into(np.stack([ids, ids]), both.reshape(len(ids), 32))
    for place, feature in enumerate(("user", "item")):
        assert np.array_equal(both[:, place], made.vectors(feature, ids))
    assert [path.name for path in (tmp_path / "served" / "codes").iterdir()] == ["0"]
    flip(tmp_path / "served" / "codes" / "0" / "function" / "slots.bin", 5)
    with pytest.raises(ArtefactError, match=r"codes/0/function/slots\.bin: damaged"):
        artefact.open(tmp_path / "served")
    with pytest.raises(ArtefactError, match="its checksum is wrong"):
        artefact.open(tmp_path / "served", verify=False)
