import dataclasses
import os
import pickle
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext import HASH_VERSION, MISSING_ID
from recsys_cython_ext.files import file_digest
from recsys_cython_ext.manifest import write_manifest
from recsys_pipelines.batches.loader import Loader, Rows
from recsys_pipelines.batches.order import epoch_order
from recsys_pipelines.config import CategoricalConfig, DataConfig, NumericConfig
from recsys_pipelines.features import FeatureFitter, Features
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import FORMAT_VERSION, PreparedManifest, Shard
from recsys_pipelines.shards import write_shard

IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.just(MISSING_ID))
LISTS = pa.list_(pa.int64())
CONFIGS = [  # lists and single ids by turns, so that a mistake in the order of keys shows
    CategoricalConfig(kind="categorical", names=("l1",), encoding="hash", multivalued=True),
    CategoricalConfig(kind="categorical", names=("s1",), encoding="hash"),
    NumericConfig(kind="numeric", names=("x",), standardise=False),
    CategoricalConfig(kind="categorical", names=("l2",), encoding="hash", multivalued=True),
    CategoricalConfig(kind="categorical", names=("s2",), encoding="hash"),
]
KEYS = ["l1", "s1", "l2", "s2"]

ROW = st.fixed_dictionaries(
    {
        "l1": st.lists(IDS, max_size=4),
        "s1": IDS,
        "x": st.floats(-10, 10, width=32) | st.none(),
        "l2": st.lists(IDS, max_size=2),
        "s2": IDS,
        "@label": st.integers(0, 1),
        "@weight": st.floats(0, 2, width=16),
    }
)


def table_of(rows, first=0):
    """Typed columns of `rows`, whose numbers count from `first`."""
    types = {"l1": LISTS, "s1": pa.int64(), "x": pa.float64(), "l2": LISTS, "s2": pa.int64()}
    types |= {"@label": pa.int8(), "@weight": pa.float64()}
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in types.items()}
    return pa.table(columns | {"row_id": pa.array(np.arange(first, first + len(rows)))})


def load(folder, rows, parts=1):
    """`rows` as the training part of a prepared folder of `parts` shards."""
    table = table_of(rows)
    fitter = FeatureFitter(CONFIGS)
    fitter.add(table)
    features = fitter.fit()
    features.save(folder / "features")
    bounds = np.linspace(0, len(rows), parts + 1).astype(int)
    cuts = [table.slice(low, high - low) for low, high in pairwise(bounds.tolist())]
    write_set(folder, [features.encode(cut) for cut in cuts])
    return Rows.load(folder, "train")


def write_set(folder, shards):
    """Training shards under a manifest."""
    (folder / "train").mkdir(exist_ok=True)
    named = {f"train/part-{number:05d}.arrow": shard for number, shard in enumerate(shards)}
    for name, shard in named.items():
        write_shard(shard, folder / name)
    entries = {
        name: Shard(split="train", rows=shard.num_rows, positives=0, xxh64=file_digest(folder / name))
        for name, shard in named.items()
    }
    manifest = PreparedManifest(
        format_version=FORMAT_VERSION,
        hash_version=HASH_VERSION,
        features=[],
        appended_to=None,
        columns={},
        vocabularies={},
        rows_in=0,
        rows_added=0,
        rows_out=0,
        quarantined=0,
        next_row=0,
        splits={},
        shards=entries,
        feature_files={},
        data={},
        files=[],
    )
    write_manifest(manifest, folder / "manifest.json")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


# Content


@given(st.lists(ROW, min_size=1, max_size=12), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_a_batch_equals_its_rows(scratch, rows, parts, data):
    loaded = load(scratch, rows, min(parts, len(rows)))
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=15))
    batch = loaded.batch(np.array(index))
    chosen = [rows[i] for i in index]
    assert batch.ids.keys() == KEYS
    assert batch.ids.stride() == len(index)
    bags = [[row[key] if key[0] == "l" else [row[key]] for row in chosen] for key in KEYS]
    assert batch.ids.lengths().tolist() == [len(bag) for key in bags for bag in key]
    assert batch.ids.values().tolist() == [i for key in bags for bag in key for i in bag]
    assert (batch.ids.values().dtype, batch.ids.lengths().dtype) == (torch.int64, torch.int32)
    for key, expected in zip(KEYS, bags, strict=True):
        jagged = batch.ids[key]
        assert [bag.tolist() for bag in jagged.to_dense()] == expected
    present = [row["x"] for row in rows if row["x"] is not None]
    fill = np.float32(np.mean(present)) if present else 0.0
    x = [fill if row["x"] is None else row["x"] for row in chosen]
    dense = [x, [float(row["x"] is None) for row in chosen]][: 1 + (len(present) < len(rows))]
    assert batch.dense.dtype == torch.float32
    np.testing.assert_allclose(batch.dense.numpy(), np.transpose(dense), rtol=1e-6, atol=1e-6)
    assert batch.label.tolist() == [row["@label"] for row in chosen]
    assert batch.weight.tolist() == [row["@weight"] for row in chosen]
    for key in KEYS:
        flat = [i for row in rows for i in (row[key] if key[0] == "l" else [row[key]])]
        assert loaded.ids_of(key).tolist() == flat


def test_an_epoch_of_batches_holds_every_row_once(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"l1": [k] * (k % 3), "s1": k, "x": float(k), "l2": [], "s2": -k, "@label": k % 2, "@weight": 1.0}
        for k in rng.permutation(500).tolist()
    ]
    loaded = load(tmp_path, rows, parts=3)
    batches = [loaded.batch(index) for index in epoch_order(len(loaded), 64, 1, 0)]
    assert sorted(i for b in batches for i in b.ids["s1"].values().tolist()) == list(range(500))
    for batch in batches:
        s1 = batch.ids["s1"].values()
        assert torch.equal(batch.ids["s2"].values(), -s1)
        assert torch.equal(batch.ids["l1"].lengths(), (s1 % 3).int())
        assert torch.equal(batch.ids["l1"].values(), s1.repeat_interleave(s1 % 3))
        assert len(batch.ids["l2"].values()) == 0
        assert torch.equal(batch.label, (s1 % 2).float())


def test_a_batch_can_be_written_to_and_leaves_the_rows_alone(tmp_path):
    row = {"l1": [1, 2], "s1": 3, "x": 0.5, "l2": [], "s2": 4, "@label": 1, "@weight": 2.0}
    loaded = load(tmp_path, [row, row])
    before = loaded.batch(np.array([0]))
    for tensor in (before.dense, before.ids.values(), before.label, before.weight):
        tensor.zero_()
    assert loaded.batch(np.array([0])).ids.values().tolist() == [1, 2, 3, 4]
    assert loaded.batch(np.array([0])).weight.tolist() == [2.0]


def test_rows_without_label_weight_user_or_numbers():
    config = CategoricalConfig(kind="categorical", names=("c",), encoding="hash")
    fitter = FeatureFitter([config])
    table = pa.table({"c": [1, 2, 3], "row_id": [5, 6, 7]})
    fitter.add(table)
    features = fitter.fit()
    rows = Rows.from_table(features, features.encode(table))
    assert len(rows) == 3
    assert (rows.user, rows.truth) == (None, None)
    batch = rows.batch(np.array([2, 0]))
    assert batch.dense.shape == (2, 0)
    assert batch.ids.values().tolist() == [3, 1]
    assert batch.label.tolist() == [0, 0]
    assert batch.weight.tolist() == [1, 1]


# In place


class Ids(SimpleNamespace):
    """A categorical feature, as far as batches know it."""

    @property
    def columns(self):
        return {self.name: None}


def made_of(kinds, numbers=()):
    """Features of a name -> whether it is weighted, None for single values."""
    features = Features([])
    categorical = [Ids(name=n, multivalued=w is not None, weighted=bool(w)) for n, w in kinds.items()]
    numeric = [SimpleNamespace(name=name, columns={name: pa.float32()}) for name in numbers]
    return SimpleNamespace(
        features=[*categorical, *numeric, *features.features],
        categorical=tuple(categorical),
        numeric_columns=tuple(numbers),
    )


def with_weights():
    """Two features of which one is weighted, in two chunks."""
    table = pa.table(
        {
            "row_id": pa.array([0, 1, 2]),
            "l": pa.array([[1, 2], [], [3]], pa.list_(pa.int32())),
            "l:weights": pa.array([[0.5, 2.0], [], [4.0]], pa.list_(pa.float32())),
            "s": pa.array([7, 8, 2**40]),
            "x": pa.array([0.25, 0.5, 0.75], pa.float32()),
        }
    )
    return Rows.from_table(made_of({"l": True, "s": None}, ["x"]), pa.concat_tables([table[:1], table[1:]]))


def test_weights_of_bags():
    batch = with_weights().batch(np.array([2, 1, 0]))
    assert batch.ids.values().tolist() == [3, 1, 2, 2**40, 8, 7]
    assert batch.ids.weights().tolist() == [4, 0.5, 2, 1, 1, 1]
    assert batch.ids["l"].weights().tolist() == [4, 0.5, 2]
    assert batch.rows == 3


def test_padding_is_a_row_of_nothing():
    batch = with_weights().batch(np.array([-1, 2, -1, 0]))
    assert batch.rows == 2
    assert batch.ids.lengths().view(2, 4).tolist() == [[0, 1, 0, 2], [0, 1, 0, 1]]
    assert batch.ids.values().tolist() == [3, 1, 2, 2**40, 7]
    assert batch.ids.weights().tolist() == [4, 0.5, 2, 1, 1]
    assert batch.dense.tolist() == [[0], [0.75], [0], [0.25]]
    assert batch.label.tolist() == [0, 0, 0, 0]
    assert batch.weight.tolist() == [0, 1, 0, 1]
    nothing = with_weights().batch(np.array([-1, -1]))
    assert (nothing.rows, nothing.ids.lengths().tolist()) == (0, [0, 0, 0, 0])
    assert [jagged.lengths().tolist() for jagged in nothing.ids.to_dict().values()] == [[0, 0], [0, 0]]


def test_features_of_donors():
    rows = with_weights()
    batch = rows.batch(np.array([0, -1, 1]), donors=np.array([2, 0, 0]), donated=["l", "x"])
    assert batch.ids["l"].to_dense()[2].tolist() == [1, 2]
    assert batch.ids["l"].values().tolist() == [3, 1, 2]
    assert batch.ids["l"].weights().tolist() == [4, 0.5, 2]
    assert batch.ids["s"].values().tolist() == [7, 8]
    assert batch.dense.tolist() == [[0.75], [0], [0.25]]


@pytest.mark.parametrize("wrong", [3, -2, 2**40])
def test_positions_outside_are_refused(wrong):
    with pytest.raises(IndexError, match=rf"position {wrong} at 1 is outside the table's 3 rows"):
        with_weights().batch(np.array([0, wrong]))


def test_an_empty_batch():
    batch = with_weights().batch(np.array([], np.int64))
    assert (batch.rows, batch.ids.stride(), batch.dense.shape) == (0, 0, (0, 1))


def test_rows_survive_a_pickle_and_a_change_of_labels():
    rows = with_weights()
    rows.batch(np.array([0]))
    again = dataclasses.replace(pickle.loads(pickle.dumps(rows)), label=np.ones(3, np.float32))
    assert again.batch(np.array([2, 0])).ids.values().tolist() == [3, 1, 2, 2**40, 7]
    assert again.batch(np.array([2, 0])).label.tolist() == [1, 1]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_features_are_not_copied_into_memory(tmp_path):
    n, columns = 400_000, [f"s{i}" for i in range(20)]
    write_set(
        tmp_path,
        (
            pa.table({"row_id": np.arange(n) + part * n} | {c: np.arange(n) for c in columns})
            for part in (0, 1)
        ),
    )
    FeatureFitter([]).fit().save(tmp_path / "features")
    loaded = Rows.load(tmp_path, "train")
    rows = dataclasses.replace(loaded, features=made_of(dict.fromkeys(columns)))

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024

    before = anonymous()
    for index in epoch_order(len(rows), 4096, 0, 0):
        rows.batch(index)
    assert anonymous() - before < 40e6 < 2 * n * 20 * 8


# Loader


def equal(a, b):
    """Whether two batches are the same."""
    pairs = [(a.dense, b.dense), (a.label, b.label), (a.weight, b.weight)]
    pairs += [(a.ids.values(), b.ids.values()), (a.ids.lengths(), b.ids.lengths())]
    return a.rows == b.rows and all(torch.equal(x, y) for x, y in pairs)


def numbered(n):
    """n rows whose feature s is their position."""
    table = pa.table({"row_id": np.arange(n), "s": np.arange(n), "@label": np.arange(n) % 2})
    return Rows.from_table(made_of({"s": None}), table)


@pytest.mark.parametrize("window", [640, 2**20])
def test_batch_k_alone_is_batch_k_of_the_epoch(window):
    loader = Loader(numbered(5000), 128, 3, window=window)
    whole = list(loader.epoch(2))
    assert len(whole) == loader.num_batches == 40
    for k in (0, 1, 17, 39):
        alone = loader.epoch(2, start=k)
        assert equal(next(alone), whole[k])
        alone.close()
    assert list(loader.epoch(2, start=40)) == []


def test_ranks_load_each_row_once_in_batches_of_equal_length():
    rows, ranks = numbered(1000), 4
    parts = [list(Loader(rows, 256, 0, rank=rank, ranks=ranks).epoch(0)) for rank in range(ranks)]
    assert [len(part) for part in parts] == [4] * ranks
    assert {batch.ids.stride() for part in parts for batch in part} == {64}
    seen = [i for part in parts for batch in part for i in batch.ids.values().tolist()]
    assert sorted(seen) == list(range(1000))
    together = list(Loader(rows, 256, 0).epoch(0))
    for k, batch in enumerate(together):
        assert sum(part[k].rows for part in parts) == batch.rows
        assert {i for part in parts for i in part[k].ids.values().tolist()} == set(
            batch.ids.values().tolist()
        )


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_subset_of_rows(ranks):
    rows = numbered(1000)
    subset = np.flatnonzero(rows.label)
    loaders = [Loader(rows, 128, 0, subset=subset, rank=rank, ranks=ranks) for rank in range(ranks)]
    seen = [i for loader in loaders for batch in loader.epoch(1) for i in batch.ids.values().tolist()]
    assert sorted(seen) == subset.tolist()


def test_a_loader_refuses_what_its_order_refuses():
    with pytest.raises(ValueError, match="batch_size 100 is not a multiple of 64"):
        Loader(numbered(10), 100, 0)


# Negatives


def rows_of(label, row_id):
    features = FeatureFitter([]).fit()
    table = pa.table(
        {"@label": pa.array(np.asarray(label, np.int8)), "row_id": pa.array(np.asarray(row_id, np.int64))}
    )
    return Rows.from_table(features, table)


@given(
    st.lists(st.booleans(), max_size=50),
    st.sampled_from([0.0, 0.1, 0.5, 0.99]),
    st.integers(0, 2**40),
    st.data(),
)
@settings(deadline=None)
def test_kept_negatives_are_a_function_of_the_row(label, rate, seed, data):
    row_id = np.array(data.draw(st.permutations(range(len(label)))), np.int64)
    kept = rows_of(label, row_id).keep_negatives(rate, seed)
    assert set(np.flatnonzero(label)) <= set(kept)
    assert sorted(kept) == kept.tolist()
    back = np.argsort(row_id)
    again = rows_of(np.array(label, bool)[back], row_id[back]).keep_negatives(rate, seed)
    assert sorted(row_id[kept]) == again.tolist()


def test_the_share_of_kept_negatives():
    rows = rows_of(np.zeros(20_000), np.arange(20_000))
    assert len(rows.keep_negatives(0.25, 0)) == pytest.approx(5000, abs=250)
    assert len(rows.keep_negatives(1.0, 0)) == 20_000
    assert rows.keep_negatives(0.25, 0).tolist() != rows.keep_negatives(0.25, 1).tolist()


def test_negatives_are_drawn_independently_of_a_random_split_with_the_same_seed(tmp_path):
    # One draw for both would keep .25/.8 of the training part, and the recalibration would be wrong.
    table = pa.table({"label": np.arange(20_000) % 2, "c": np.zeros(20_000, np.int64)})
    pq.write_table(table, tmp_path / "a.parquet")
    data = DataConfig.model_validate(
        {"source": "table", "path": tmp_path / "a.parquet", "split": {"by": "random", "seed": 0}}
    )
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    rows = Rows.load(prepare(data, features, tmp_path).path, "train")
    negatives = np.sum(rows.label == 0)
    kept = len(rows.keep_negatives(0.25, 0)) - np.sum(rows.label == 1)
    assert kept / negatives == pytest.approx(0.25, abs=0.02)
