"""Artefacts: what the engine computes, looked up from mapped files without torch; damage is refused by name."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchrec import KeyedJaggedTensor

from recsys_tables import (
    ChineseRemainder,
    Compact,
    DeepHash,
    FrequencySplit,
    Full,
    Hash,
    HashEmbedding,
    MEmCom,
    MixedDimension,
    MixedRadix,
    MultiHash,
    OptEmbed,
    PathBased,
    QuotientRemainder,
    Robe,
    Shared,
    TensorTrain,
    Unified,
)
from recsys_tables.bytes import ResidentBytes, resident_bytes
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.remap import Remap
from recsys_tables.scheme import unique_tables
from recsys_tables.serving import artefact
from recsys_tables.serving import write as artefact_write
from recsys_tables.serving.artefact import ArtefactError
from recsys_tables.serving.quantise import DTYPES, Dtype, compress
from recsys_tables.serving.stacked import StackedVectors

N = 60
KEEP = np.arange(N) % 3 == 0
FIELDS = (
    Field(Full("a", N, 16), out_of_range="oov", oov_id=1),
    Field(Compact("b", Remap.of(KEEP), 8, 16), multivalued=True),
    Field(Compact("c", Remap.of(KEEP), 16, 16, "default"), pooling="mean", multivalued=True),
    Field(Compact("d", Remap.of(KEEP), 0, 16)),
    Field(Hash("e", 7, 16)),
    Field(MultiHash("f", 7, 16, 3), pooling="mean", multivalued=True, weighted=True),
    Field(QuotientRemainder("g", N, 7, 16, "product"), multivalued=True, weighted=True),
    Field(MixedRadix("h", N, (4, 5), 16, "sum")),
    Field(ChineseRemainder("i", N, (8, 9), 16, "concat")),
    Field(Unified("j", 31, 16, 8)),
    Field(FrequencySplit("k", 9, 5, 16)),
    Field(HashEmbedding("l", 7, 11, 16)),
    Field(Robe("m", 21, 16, 32)),
    Field(TensorTrain("n", N, (4, 4), 16, 2)),
    Field(MEmCom("o", N, 7, 16)),
    Field(Shared("p", Full("a", N, 16)), pooling="none", multivalued=True),
    Field(Unified("q", 31, 16, 8)),
)


def weights(fields: Any = FIELDS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    tables = unique_tables([field.scheme for field in fields])
    return {
        t.name: random.normal(size=(t.num_embeddings, t.embedding_dim)).astype(np.float32) for t in tables
    }


def written(folder: Path, dtype: Dtype = "fp32", width: int | None = None, **more: Any) -> artefact.Artefact:
    return artefact_write.write(folder, FIELDS, weights().__getitem__, dtype, width, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def add(partial: Path, counted: ResidentBytes) -> None:
        (partial / "more.txt").write_text("of the caller")

    folder = tmp_path_factory.mktemp("artefacts") / "whole"
    written(folder, about={"run": "r"}, vocabulary_bytes=100, statistics_bytes=70, add=add)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def test_what_stands_beside_the_tables_is_counted(whole: Path, tmp_path: Path) -> None:
    opened, alone = artefact.open(whole).bytes, written(tmp_path / "alone").bytes
    assert (opened.vocabulary, opened.statistics) == (100, 70)
    assert (opened.serving - alone.serving, opened.total - alone.total) == (170, 170)
    assert written(tmp_path / "more", statistics_bytes=9).bytes.statistics == 9


def test_it_looks_up_what_the_engine_does(whole: Path) -> None:
    opened, tables, ids = artefact.open(whole), weights(), np.array([3, 0, 59, 4, 3])
    engine = EmbeddingEngine(FIELDS)
    assert opened.fields == FIELDS
    for field in FIELDS:
        vectors = opened.vectors(field.feature, ids)
        assert (vectors.dtype, vectors.shape) == (np.float32, (5, 16))
        np.testing.assert_allclose(vectors, engine.vectors_of(field.feature, ids, tables), atol=1e-6)
        assert opened.vectors(field.feature, ids[:0]).shape == (0, 16)
    assert isinstance(opened.tables["a/full"].data.base, np.memmap)


@pytest.mark.parametrize("narrow", [None, 8], ids=["whole", "pca"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_of_all_fields_at_once_are_those_of_each(
    tmp_path: Path, dtype: Dtype, narrow: int | None
) -> None:
    opened = written(tmp_path / "out", dtype, narrow)
    features = [field.feature for field in reversed(FIELDS)]
    stacked = StackedVectors(opened, features, range(1, len(features) + 1), (len(features) + 2) * 16)
    for ids in ([3, 0, 59, 4, 3], [7], []):
        of_all = np.tile(np.array(ids, np.int64), (len(features), 1))
        out = np.full((len(ids), len(features) + 2, 16), 7, np.float32)
        stacked.into(of_all, out.reshape(len(ids), (len(features) + 2) * 16))
        for place, feature in enumerate(features, 1):
            assert np.array_equal(out[:, place], opened.vectors(feature, of_all[0])), feature
        assert (out[:, [0, -1]] == 7).all()


def test_all_fields_at_once_treat_ids_outside_as_each_does(whole: Path) -> None:
    opened = artefact.open(whole)
    out = np.empty((2, 16), np.float32)
    StackedVectors(opened, ["a"], [0], 16).into(np.array([[N, -1]]), out)
    assert np.array_equal(out, opened.vectors("a", np.array([1, 1])))
    with pytest.raises(ValueError, match=r"feature 'g': id 60 at position 1 is outside 0\.\.59"):
        StackedVectors(opened, ["e", "g"], [0, 1], 32).into(
            np.array([[-5, 7], [0, N]]), np.empty((2, 32), np.float32)
        )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.lists(st.booleans(), min_size=1, max_size=20),
    width=st.sampled_from([0, 4, 12, 16]),
    pruned=st.sampled_from(["zero", "default"]),
    dtype=st.sampled_from(DTYPES),
    narrow=st.sampled_from([None, 4]),
    data=st.data(),
)
def test_compact_vectors_are_those_of_its_rows_and_combine(
    tmp_path: Path, keep: list[bool], width: int, pruned: Any, dtype: Dtype, narrow: int | None, data: Any
) -> None:
    compact = Compact("b", Remap.of(np.array(keep)), width, 16, pruned if width else "zero")
    fields = (Field(compact, out_of_range="oov", oov_id=0), Field(Shared("s", compact)))
    folder = tmp_path / "out"
    shutil.rmtree(folder, ignore_errors=True)
    opened = artefact_write.write(folder, fields, weights(fields).__getitem__, dtype, narrow)
    ids = np.array(data.draw(st.lists(st.integers(0, len(keep) - 1), max_size=30)), np.int64)
    (item,) = compact.rows(ids)
    expected = compact.combine_numpy([opened.tables[item.table].pooled(item.rows, item.weights)])
    for feature in ("b", "s"):
        np.testing.assert_allclose(opened.vectors(feature, ids), expected, rtol=0, atol=1e-6)
        if narrow is None:
            assert np.array_equal(opened.vectors(feature, ids), expected)
    beyond = np.array([len(keep), -1])
    assert np.array_equal(opened.vectors("b", beyond), opened.vectors("b", np.array([0, 0])))
    with pytest.raises(ValueError, match=rf"feature 's': id {len(keep)} at position 0 is outside 0\.\."):
        opened.vectors("s", beyond)


def test_bags_are_those_of_the_engine(whole: Path) -> None:
    fields = [field for field in FIELDS if field.multivalued and field.pooling != "none"]
    opened, engine = artefact.open(whole), EmbeddingEngine(fields)
    with torch.no_grad():
        for name, parameter in engine.named_parameters():
            table = name.split("embedding_bags.")[1].removesuffix(".weight")
            parameter.copy_(torch.from_numpy(weights()[table]))
    ids, lengths = np.array([3, 3, 7, 0, 12]), [2, 0, 2, 1]
    offsets = np.array([0, 2, 2, 4, 5])
    by_field = {
        field.feature: np.array([0.5, 2, 1.5, 0.25, 0], np.float32)
        if field.weighted
        else np.ones(5, np.float32)
        for field in fields
    }
    batch = KeyedJaggedTensor.from_lengths_sync(
        [field.feature for field in fields],
        torch.from_numpy(np.tile(ids, len(fields))),
        torch.tensor(lengths * len(fields), dtype=torch.int32),
        torch.from_numpy(np.concatenate(list(by_field.values()))),
    )
    expected = engine(batch)
    for field in fields:
        factors = by_field[field.feature] if field.weighted else None
        pooled = opened.pooled(field.feature, ids, offsets, factors)
        np.testing.assert_allclose(pooled, expected[field.feature].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_looked_up_as_it_was_stored(tmp_path: Path, dtype: Dtype) -> None:
    opened = written(tmp_path / "out", dtype, 8)
    ids = np.array([3, 0, 59])
    stored = {name: compress(table, dtype, 8) for name, table in weights().items()}
    np.testing.assert_allclose(opened.vectors("a", ids), stored["a/full"].dense()[ids], atol=1e-6)
    assert opened.bytes.parameters == sum(table.nbytes for table in stored.values())
    assert (
        opened.bytes.dense
        == sum(t.projection.nbytes for t in stored.values() if t.projection is not None)
        > 0
    )
    assert artefact.open(opened.folder).bytes == opened.bytes
    assert not list(tmp_path.glob("*.tmp"))


def test_bytes_by_kind_are_those_of_the_plan_and_of_the_files(whole: Path) -> None:
    opened = artefact.open(whole)
    plan = resident_bytes([field.scheme for field in FIELDS], 100, statistics_bytes=70)
    assert (opened.bytes.parameters, opened.bytes.remaps) == (plan.parameters, plan.remaps)
    assert opened.bytes.serving == plan.serving
    header = 128
    files = list((whole / "tables").iterdir())
    assert sum(file.stat().st_size for file in files) == opened.bytes.parameters + header * len(files)
    assert opened.about == {"run": "r"}


def test_ids_that_have_no_row(whole: Path) -> None:
    opened = artefact.open(whole)
    pruned = np.array([1, 2])
    assert not opened.vectors("b", pruned).any()
    assert not opened.vectors("d", np.array([0, 1])).any()
    default = weights()["c/compact"][-1]
    assert np.array_equal(opened.vectors("c", pruned), [default, default])
    assert np.array_equal(opened.vectors("a", np.array([N])), opened.vectors("a", np.array([1]))), (
        "the field's policy"
    )
    for feature in ("b", "h"):
        with pytest.raises(
            ValueError, match=rf"feature '{feature}': id {N} at position 1 is outside 0\.\.{N - 1}"
        ):
            opened.vectors(feature, np.array([0, N]))
    with pytest.raises(ArtefactError, match="has no feature 'z', only a, b, c"):
        opened.vectors("z", pruned)


def test_it_needs_no_torch(whole: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from recsys_tables.serving import artefact
opened = artefact.open(Path(sys.argv[1]))
for field in opened.fields:
    opened.vectors(field.feature, np.array([3, 0]))
    opened.pooled(field.feature, np.array([3, 0]), np.array([0, 2, 2]))
print(opened.vectors("a", np.array([3])).sum(), "torch" in sys.modules)
"""
    command = [sys.executable, "-P", "-c", code, str(whole)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert float(out[0]) == pytest.approx(float(weights()["a/full"][3].sum()), rel=1e-5)
    assert out[1] == "False"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def change_version(folder: Path, version: int) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format_version": version, "hash_version": 1}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: flip(f / "tables" / "3.npy"),
            r"tables/3\.npy: damaged \(its size or checksum is wrong\); export",
        ),
        (lambda f: flip(f / "remaps" / "1.npy"), r"remaps/1\.npy: damaged"),
        (lambda f: (f / "more.txt").write_text("of somebody"), r"more\.txt: damaged"),
        (lambda f: (f / "tables" / "0.npy").unlink(), r"tables/0\.npy: missing or unreadable \(No such file"),
        (lambda f: (f / "manifest.json").unlink(), r"copy: no artefact \(no manifest\.json\)"),
        (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json: damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json: damaged"),
        (
            lambda f: (f / "manifest.json").write_text(
                (f / "manifest.json").read_text().replace('"oov"', '"hash"')
            ),
            r"manifest\.json: damaged: its checksum is wrong; export again",
        ),
        (lambda f: change_version(f, 9), r"format_version 9, but this program reads 2; update this program"),
        (lambda f: change_version(f, 0), r"format_version 0, but this program reads 2; export again"),
    ],
)
def test_what_is_not_whole_is_refused(copy: Path, harm: Callable[[Path], Any], message: str) -> None:
    artefact.open(copy)
    harm(copy)
    with pytest.raises(ArtefactError, match=message):
        artefact.open(copy)


def test_sizes_are_checked_without_reading(copy: Path) -> None:
    flip(copy / "tables" / "0.npy")
    artefact.open(copy, verify=False)
    (copy / "tables" / "0.npy").write_bytes(b"short")
    with pytest.raises(ArtefactError, match=r"tables/0\.npy: damaged"):
        artefact.open(copy, verify=False)


def test_trained_parameters_lie_beside_the_tables(tmp_path: Path) -> None:
    narrow, paths = MixedDimension("narrow", N, 8, 16), PathBased("paths", N, 20, 16, 4)
    schemes = [narrow, paths, Shared("history", narrow), Full("a", N, 16)]
    engine = EmbeddingEngine([Field(scheme) for scheme in schemes])
    combines = [
        {name: value.detach().numpy() for name, value in combine.named_parameters()}
        for combine in engine.combiner.combines
    ]
    assert not np.array_equal(combines[0]["weight"], combines[2]["weight"])
    fields = [Field(scheme) for scheme in schemes]
    tables = weights(fields)
    made = artefact_write.write(
        tmp_path / "out", fields, tables.__getitem__, "fp32", parameters=combines.__getitem__
    )
    opened, ids = artefact.open(tmp_path / "out"), np.array([3, 0, 59, 4, 3])
    for field in fields:
        expected = engine.vectors_of(field.feature, ids, tables)
        np.testing.assert_allclose(opened.vectors(field.feature, ids), expected, atol=1e-6)
    assert made.bytes.dense == sum(file.stat().st_size for file in (tmp_path / "out/combine").iterdir()) > 0
    flip(tmp_path / "out/combine/1.hidden.npy")
    with pytest.raises(ArtefactError, match=r"combine/1\.hidden\.npy: damaged"):
        artefact.open(tmp_path / "out")


@pytest.mark.parametrize("scheme", [DeepHash("f", 16, 8, (12,)), OptEmbed("f", N, 16)])
def test_learners_are_refused(tmp_path: Path, scheme: Any) -> None:
    for fields in ([Field(scheme)], [Field(Shared("f", scheme))]):
        with pytest.raises(
            ArtefactError, match=rf"feature 'f': its {type(scheme).__name__} scheme is not served: score with"
        ):
            artefact_write.write(tmp_path / "out", fields, {}.__getitem__, "fp32")
    assert not list(tmp_path.iterdir())


def test_a_field_must_bring_the_field_it_reads(tmp_path: Path) -> None:
    with pytest.raises(
        ArtefactError, match="feature 'p': reads the tables of feature 'a', which must be a field too"
    ):
        artefact_write.write(tmp_path / "out", FIELDS[-2:], weights().__getitem__, "fp32")


def test_a_table_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def read(name: str) -> np.ndarray:
        table = weights()[name]
        if name == "e/hash":
            table[2, 1] = np.inf
        return table

    with pytest.raises(ArtefactError, match="table 'e/hash': row 2, column 1: inf is not finite"):
        artefact_write.write(tmp_path / "out", FIELDS, read, "int8")
    with pytest.raises(
        ArtefactError, match=r"table 'a/full': weights of shape \(3, 4\), where its scheme has \(60, 16\)"
    ):
        artefact_write.write(tmp_path / "out", FIELDS, lambda name: np.zeros((3, 4), np.float32), "int8")
    assert not list(tmp_path.iterdir())
    written(tmp_path / "out")
    with pytest.raises(ArtefactError, match="out: exists already; export under another name"):
        written(tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/out: cannot be written"):
        written(tmp_path / "file" / "out")
