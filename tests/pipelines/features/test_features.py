import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recsys_cython_ext import HASH_VERSION, MISSING_ID, string_ids
from recsys_cython_ext.manifest import read_manifest, write_manifest
from recsys_cython_ext.vocabulary import table_bytes
from recsys_pipelines.config import (
    CategoricalConfig,
    DataConfig,
    FeatureConfig,
    LabelConfig,
    NumericConfig,
    SplitConfig,
)
from recsys_pipelines.features import MISSING_CODE, UNKNOWN_CODE, FeatureFitter, Features
from recsys_pipelines.features.features import FORMAT_VERSION, SavedFeatures
from recsys_pipelines.features.statistics import fold_of
from recsys_pipelines.shards import write_arrays
from recsys_pipelines.sources import SourceError

IDS = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.just(MISSING_ID))
LISTS = pa.list_(pa.int64())


def categorical(*names, **options):
    return CategoricalConfig(kind="categorical", names=names or ("c",), **options)


def numeric(*names, **options):
    return NumericConfig(kind="numeric", names=names or ("x",), **options)


def fit(configs, *parts):
    """Features fitted on `parts`, each a dict of typed columns."""
    fitter = FeatureFitter(configs)
    for part in parts:
        fitter.add(pa.table(part))
    return fitter.fit()


def ids(values):
    return pa.array(values, pa.int64())


def numbers(values):
    return pa.array(values, pa.float64())


# Configuration


def parse(text):
    return TypeAdapter(list[FeatureConfig]).validate_python(yaml.safe_load(text))


def test_features_from_yaml():
    first, second = parse("""
        - {kind: categorical, names: [i1, i2], buckets: squared_log, min_count: 2}
        - {kind: numeric, names: [n], transform: log}
    """)
    assert first == categorical("i1", "i2", buckets="squared_log", min_count=2)
    assert second == numeric("n", transform="log")


@pytest.mark.parametrize("name", ["row_id", "@label", "a.b", "", "a:missing", "a:ctr"])
@pytest.mark.parametrize("kind", ["categorical", "numeric"])
def test_names_that_cannot_be_used_are_refused(name, kind):
    with pytest.raises(ValidationError, match=f"'{name}'"):
        parse(yaml.safe_dump([{"kind": kind, "names": ["good", name]}]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: categorical(encoding="hash", min_count=2), "min_count"),
        (lambda: categorical(encoding="hash", unknown="hash"), "needs a vocabulary to be unknown to"),
        (lambda: categorical(separator="|"), "multivalued"),
        (lambda: categorical(separator="", multivalued=True), "separator"),
        (lambda: categorical(buckets="squared_log", multivalued=True), "single-valued"),
        (lambda: categorical(weights="w"), "belongs to one feature of lists"),
        (lambda: categorical("a", "b", multivalued=True, weights="w"), "give one name"),
        (lambda: categorical(vocabulary="v.txt", min_count=2), "fixed `vocabulary`"),
        (
            lambda: categorical(vocabulary="v.txt", keep="kept"),
            "`keep` chooses from the vocabulary that training",
        ),
        (
            lambda: categorical(encoding="hash", keep="kept"),
            "neither a fixed `vocabulary`, `encoding: hash` nor",
        ),
        (lambda: categorical(unknown="hash", keep="kept"), "and makes every other id unknown"),
        (lambda: CategoricalConfig(kind="categorical", names=()), "names"),
        (lambda: categorical(min_cuont=2), "min_cuont"),
        (lambda: SplitConfig(train=0.8, validation=0.1, test=0.2), "must be 1, not 1.1"),
        (lambda: SplitConfig(seed=2**63), "seed"),
        (lambda: LabelConfig(threshold=float("nan")), "threshold"),
        (lambda: DataConfig(source="table"), "path"),
        (lambda: DataConfig(source="table", path="x", split=SplitConfig(by="time")), "needs `time`"),
        (lambda: DataConfig(source="generated"), "generator"),
    ],
)
def test_contradictions_are_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


# Categorical


def slow_vocabulary(values, min_count):
    """Codes from 2 by falling count, ties by rising id."""
    known = [v for v in values if v != MISSING_ID]
    kept = sorted({v for v in known if known.count(v) >= min_count}, key=lambda v: (-known.count(v), v))
    return {v: code for code, v in enumerate(kept, 2)}


@given(st.lists(IDS, max_size=40), st.lists(IDS, max_size=20), st.integers(1, 3), st.data())
@settings(deadline=None)
def test_vocabulary_equals_a_slow_one_whatever_the_order_and_the_parts(train, other, min_count, data):
    shuffled = data.draw(st.permutations(train))
    cut = data.draw(st.integers(0, len(train)))
    features = fit([categorical(min_count=min_count)], {"c": ids(shuffled[:cut])}, {"c": ids(shuffled[cut:])})
    codes = slow_vocabulary(train, min_count)
    rows = train + other
    expected = [MISSING_CODE if v == MISSING_ID else codes.get(v, UNKNOWN_CODE) for v in rows]
    assert features.encode(pa.table({"c": ids(rows)}))["c"].to_pylist() == expected
    (feature,) = features.categorical
    assert feature.num_codes == 2 + len(codes)
    assert feature.full_codes == 2 + len(set(train) - {MISSING_ID})


@given(st.lists(IDS, max_size=40), st.lists(IDS, max_size=20), st.integers(1, 3))
def test_with_unknown_hash_an_id_outside_the_vocabulary_keeps_an_identity(train, other, min_count):
    """A 64-bit id below 0, the same for equal ids; codes, and the code of missing, are as ever."""
    open_, closed = (
        fit([categorical(min_count=min_count, unknown=unknown)], {"c": ids(train)})
        for unknown in ("hash", "code")
    )
    rows = train + other
    table = pa.table({"c": ids(rows)})
    found, codes = open_.encode(table)["c"].to_pylist(), closed.encode(table)["c"].to_pylist()
    outside = [code == UNKNOWN_CODE for code in codes]
    assert [code for code, out in zip(found, outside, strict=True) if not out] == [
        code for code, out in zip(codes, outside, strict=True) if not out
    ]
    by_id = {row: code for row, code, out in zip(rows, found, outside, strict=True) if out}
    assert all(code < 0 for code in by_id.values())
    assert len(set(by_id.values())) == len(by_id), "63 bits tell so few ids apart"
    assert [by_id[row] for row, out in zip(rows, outside, strict=True) if out] == [
        code for code, out in zip(found, outside, strict=True) if out
    ]
    (feature,) = open_.categorical
    assert feature.is_unknown(np.array(found, np.int64)).tolist() == outside
    assert feature.num_codes == closed.categorical[0].num_codes


def test_unknown_hash_in_lists_and_after_loading(tmp_path):
    config = categorical("tags", multivalued=True, min_count=2, unknown="hash")
    lists = pa.array([[5, 5, 7], [], [9, MISSING_ID]], LISTS)
    features = fit([config], {"tags": lists})
    features.save(tmp_path)
    table = pa.table({"tags": lists})
    found = features.encode(table)["tags"].to_pylist()
    assert Features.load(tmp_path).encode(table)["tags"].to_pylist() == found
    (first, empty, last) = found
    assert first[:2] == [2, 2]
    assert empty == []
    assert first[2] < 0
    assert last[0] < 0
    assert first[2] != last[0]
    assert last[1] == MISSING_CODE
    assert Features.load(tmp_path).categorical[0].unknown == "hash"


@given(st.lists(st.lists(IDS, max_size=5), max_size=20), st.integers(1, 2), st.booleans())
@settings(deadline=None)
def test_lists_equal_a_slow_vocabulary_and_may_be_empty(bags, min_count, hashed):
    options = {"encoding": "hash"} if hashed else {"min_count": min_count}
    table = pa.table({"c": pa.array(bags, LISTS)})
    features = fit([categorical(multivalued=True, **options)], table.to_pydict() | {"c": table["c"]})
    codes = slow_vocabulary([v for bag in bags for v in bag], min_count)
    coded = [[0 if v == MISSING_ID else codes.get(v, 1) for v in bag] for bag in bags]
    expected = bags if hashed else coded
    assert features.encode(table)["c"].to_pylist() == expected
    # A filtered or cut table shares buffers with the whole one.
    assert features.encode(table.slice(1))["c"].to_pylist() == expected[1:]


def test_hash_keeps_ids_and_needs_no_vocabulary():
    rows = [2**63 - 1, -(2**63) + 1, 0, -1, MISSING_ID]
    features = fit([categorical(encoding="hash")], {"c": ids([5, 5, 6])})
    assert features.encode(pa.table({"c": ids(rows)}))["c"].to_pylist() == rows
    (feature,) = features.categorical
    assert feature.num_codes is None
    assert feature.vocabulary_bytes == 0
    assert feature.full_codes == 4  # what a full table would need, for the report
    assert feature.full_vocabulary_bytes > 0


def test_minimum_count_saves_vocabulary_bytes_but_not_those_of_the_full_table():
    rows = ids([*range(100), 1, 2])
    plain, rare = (fit([categorical(min_count=n)], {"c": rows}).categorical[0] for n in (1, 2))
    assert (plain.num_codes, rare.num_codes) == (102, 4)
    assert plain.full_codes == rare.full_codes == 102
    assert rare.vocabulary_bytes < plain.vocabulary_bytes
    assert plain.vocabulary_bytes == plain.full_vocabulary_bytes == rare.full_vocabulary_bytes


# Numeric

PRESENT = st.floats(-1e6, 1e6, width=32)


@given(
    st.lists(PRESENT | st.none(), max_size=30),
    st.lists(PRESENT | st.none(), max_size=10),
    st.sampled_from(["none", "log"]),
    st.booleans(),
    st.data(),
)
@settings(deadline=None)
def test_numbers_equal_numpy_however_the_parts_are_cut(train, other, transform, standardise, data):
    cut = data.draw(st.integers(0, len(train)))
    config = numeric(transform=transform, standardise=standardise)
    features = fit([config], {"x": numbers(train[:cut])}, {"x": numbers(train[cut:])})

    def changed(values):
        x = np.array(values, float)
        return np.sign(x) * np.log1p(np.abs(x)) if transform == "log" else x

    x = changed(train)
    present = x[~np.isnan(x)]
    mean = present.mean() if len(present) else 0.0
    constant = len(present) == 0 or present.min() == present.max()
    deviation = 1.0 if constant else present.std()
    rows = np.where(np.isnan(changed(train + other)), mean, changed(train + other))
    largest = np.finfo(np.float32).max  # nothing infinite reaches a model
    expected = np.clip((rows - mean) / deviation if standardise else rows, -largest, largest)
    out = features.encode(pa.table({"x": numbers(train + other)}))
    # Of the size of the numbers: a near-constant column is nearly all rounding.
    scale = np.abs(rows).max(initial=1.0) / (deviation if standardise else 1.0)
    np.testing.assert_allclose(out["x"].to_numpy(), expected, rtol=1e-5, atol=1e-7 * max(scale, 1))
    assert out["x"].type == pa.float32()
    missing = len(present) < len(train)
    assert features.numeric_columns == (("x", "x:missing") if missing else ("x",))
    if missing:
        assert out["x:missing"].to_pylist() == [float(v is None) for v in train + other]


def test_a_small_spread_around_a_large_mean_is_standardised():
    seconds = 1.7e9 + np.arange(1000)  # a sum of squares would have no digit left
    features = fit([numeric()], {"x": numbers(seconds[:300])}, {"x": numbers(seconds[300:])})
    out = features.encode(pa.table({"x": numbers(seconds)}))["x"].to_numpy()
    assert out.mean() == pytest.approx(0, abs=1e-6)
    assert out.std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0.1, 0.0, 1e9 / 3])
def test_a_constant_is_not_divided_by_its_rounding(value):
    features = fit([numeric()], *[{"x": numbers([value] * n)} for n in (7, 11, 100)])
    out = features.encode(pa.table({"x": numbers([value, value + 1])}))["x"].to_numpy()
    assert out == pytest.approx([0, 1], abs=1e-6)


def test_a_number_that_is_always_missing():
    features = fit([numeric()], {"x": numbers([None, None])})
    out = features.encode(pa.table({"x": numbers([None, 3.0])}))
    assert out["x"].to_pylist() == [0.0, 3.0]
    assert out["x:missing"].to_pylist() == [1.0, 0.0]


def test_missing_becomes_the_mean_where_training_has_none_missing():
    features = fit([numeric(standardise=False)], {"x": numbers([1.0, 3.0])})
    out = features.encode(pa.table({"x": numbers([None])}))
    assert out.column_names == ["x"]
    assert out["x"].to_pylist() == [2.0]


# All of them


def mixed():
    table = pa.table(
        {
            "row_id": ids([7, 8, 9]),
            "v": ids([10, 10, MISSING_ID]),
            "x": numbers([1.0, None, 4.0]),
            "h": ids([-1, 2**62, MISSING_ID]),
            "l": pa.array([[], [3, MISSING_ID], [3, 4]], LISTS),
        }
    )
    configs = [
        categorical("v"),
        numeric("x", transform="log"),
        categorical("h", encoding="hash"),
        categorical("l", multivalued=True, min_count=2, pooling="mean"),
    ]
    return table, configs


def test_other_columns_pass_and_features_follow_in_the_order_of_declaration():
    table, configs = mixed()
    features = fit(configs, {name: table[name] for name in table.column_names})
    out = features.encode(table)
    assert out.column_names == ["row_id", "v", "x", "x:missing", "h", "l"]
    assert out["row_id"].to_pylist() == [7, 8, 9]
    assert {name: out[name].type for f in features.features for name in f.columns} == {
        name: kind for f in features.features for name, kind in f.columns.items()
    }
    assert out["l"].to_pylist() == [[], [2, 0], [2, 1]]


def test_save_and_load(tmp_path):
    table, configs = mixed()
    features = fit(configs, {name: table[name] for name in table.column_names})
    features.save(tmp_path / "features")
    again = Features.load(tmp_path / "features")
    assert [f.to_dict() for f in again.features] == [f.to_dict() for f in features.features]
    assert again.encode(table).equals(features.encode(table))
    assert [f.vocabulary_bytes for f in again.categorical] == [
        f.vocabulary_bytes for f in features.categorical
    ]
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == ["arrays.npz", "features.json"]


def test_another_hash_version_is_refused(tmp_path):
    fit([categorical()], {"c": ids([1])}).save(tmp_path)
    file = tmp_path / "features.json"
    file.write_text(json.dumps({"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION + 1}))
    text = rf"{tmp_path}.*hash_version {HASH_VERSION + 1}, but this program reads {HASH_VERSION}"
    with pytest.raises(ValueError, match=text):
        Features.load(tmp_path)


# Vocabularies that are given, or grow


def test_a_vocabulary_file_fixes_the_codes(tmp_path):
    (tmp_path / "v.txt").write_bytes("\ufeffb\r\na\r\nnever\u2028seen\r\n".encode())
    config = categorical(vocabulary=tmp_path / "v.txt")
    fitter = FeatureFitter([config], {"c": True})
    column = ids(string_ids(pa.array(["a", "b", "other"])))
    fitter.add(pa.table({"c": column}))
    features = fitter.fit()
    assert features.encode(pa.table({"c": column}))["c"].to_pylist() == [3, 2, 1]
    assert features.categorical[0].num_codes == features.categorical[0].full_codes == 5
    again = fitter.fit(base=features).encode(pa.table({"c": column}))["c"].to_pylist()
    assert again == [3, 2, 1], "a fixed vocabulary does not grow"


def test_a_vocabulary_file_of_integers(tmp_path):
    (tmp_path / "v.txt").write_text("-5\n9007199254740993\n")
    fitter = FeatureFitter([categorical(vocabulary=tmp_path / "v.txt")], {"c": False})
    table = pa.table({"c": ids([9007199254740993, 9007199254740992, -5])})
    assert fitter.fit().encode(table)["c"].to_pylist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("content", "text", "message"),
    [
        (b"a\nb\na\n", True, r"v.txt, line 3: 'a' stands there twice"),
        (b"1\nx\n", False, r"v.txt, line 2: 'x' is no 64-bit integer"),
        (b"99999999999999999999\n", False, r"line 1: '9+' is no 64-bit integer"),
        (b"1\n9223372036854775808\n", False, r"line 2: '9223372036854775808' is no 64-bit integer"),
        (b"-1\n18446744073709551615\n", False, r"line 2: '18446744073709551615' stands there twice"),
        (b"\xff\n", True, "not UTF-8 text"),
    ],
)
def test_vocabulary_files_that_cannot_be_used(tmp_path, content, text, message):
    (tmp_path / "v.txt").write_bytes(content)
    fitter = FeatureFitter([categorical(vocabulary=tmp_path / "v.txt")], {"c": text})
    with pytest.raises(ValueError, match=message):
        fitter.fit()


@given(
    st.lists(IDS, max_size=30),
    st.lists(IDS, max_size=30),
    st.integers(1, 3),
    st.sampled_from(["code", "hash"]),
)
def test_a_vocabulary_grows_without_renumbering(first, second, min_count, unknown):
    config = categorical(min_count=min_count, unknown=unknown)
    before = FeatureFitter([config])
    before.add(pa.table({"c": ids(first)}))
    old = before.fit()
    after = FeatureFitter([config])
    after.add(pa.table({"c": ids(second)}))
    after.merge(dict(before.arrays()))
    new = after.fit(base=old)
    kept, grown = old.categorical[0].ids.tolist(), new.categorical[0].ids.tolist()
    assert grown[: len(kept)] == kept
    both = [v for v in first + second if v != MISSING_ID]
    assert set(grown) == {v for v in both if both.count(v) >= min_count}
    assert new.categorical[0].full_codes == 2 + len(set(both))
    assert new.categorical[0].unknown == unknown


@given(st.lists(IDS, max_size=40), st.lists(IDS, max_size=20), st.integers(1, 3))
def test_a_vocabulary_of_ids_to_keep_is_the_whole_one_without_the_others(
    tmp_path_factory, train, keep, min_count
):
    folder = tmp_path_factory.mktemp("kept")
    np.save(folder / "c.npy", np.array(keep, np.int64))
    features, whole = (
        fit([categorical(min_count=min_count, keep=kept)], {"c": ids(train)}) for kept in (folder, None)
    )
    (feature,), (other,) = features.categorical, whole.categorical
    assert feature.ids.tolist() == [i for i in other.ids.tolist() if i in keep]
    codes = {i: code for code, i in enumerate(feature.ids.tolist(), 2)}
    rows = train + keep
    expected = [MISSING_CODE if v == MISSING_ID else codes.get(v, UNKNOWN_CODE) for v in rows]
    assert features.encode(pa.table({"c": ids(rows)}))["c"].to_pylist() == expected
    # what a share of the full table means stays; what is resident is that of the kept ids
    assert feature.full_codes == other.full_codes
    assert feature.full_vocabulary_bytes == other.full_vocabulary_bytes
    assert feature.vocabulary_bytes == table_bytes(len(codes))


def test_every_name_keeps_ids_of_its_own_and_a_sequence_those_of_its_target(tmp_path):
    np.save(tmp_path / "c.npy", np.array([5, 6]))
    np.save(tmp_path / "d.npy", np.array([7, 99]))
    configs = [
        categorical("c", "d", keep=tmp_path),
        *parse("[{kind: sequence, name: seen, column: d, length: 3, like: d}]"),
    ]
    rows = ids([5, 6, 7, 8])
    table = {"c": rows, "d": rows, "seen": pa.array([[7, 8]] * 4, LISTS)}
    features = fit(configs, table)
    encoded = features.encode(pa.table(table))
    assert encoded["c"].to_pylist() == [2, 3, 1, 1]
    assert encoded["d"].to_pylist() == [1, 1, 2, 1], "99 was not seen, and has no code"
    assert encoded["seen"].to_pylist() == [[2, 1]] * 4
    features.save(tmp_path / "features")
    for file in tmp_path.glob("*.npy"):
        file.unlink()
    again = Features.load(tmp_path / "features")
    assert again.encode(pa.table(table)).equals(encoded), "what was fitted needs no files"


def test_a_vocabulary_grows_by_ids_to_keep_only(tmp_path):
    np.save(tmp_path / "c.npy", np.array([3, 1]))
    config = categorical(keep=tmp_path)
    before = FeatureFitter([config])
    before.add(pa.table({"c": ids([1, 2])}))
    after = FeatureFitter([config])
    after.merge(dict(before.arrays()))
    after.add(pa.table({"c": ids([2, 3, 4])}))
    grown = after.fit(base=before.fit()).categorical[0]
    assert grown.ids.tolist() == [1, 3]
    assert grown.full_codes == 2 + 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file or directory\); `keep` of feature 'c' takes 64-bit ids"),
        (b"", "no file of a NumPy array"),
        (b"no array at all", "no file of a NumPy array"),
        (np.array([1.0]), r"holds float64 \[1\]; `keep` of feature 'c' takes 64-bit ids, int64 \[n\]"),
        (np.array([1], np.int32), r"holds int32 \[1\]"),
        (np.array([[1]]), r"holds int64 \[1, 1\]"),
        (np.array(1), r"holds int64 \[\]"),
        (np.array([{}], object), "no file of a NumPy array .*Object arrays cannot be loaded"),
    ],
)
def test_files_of_ids_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "c.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(SourceError, match=rf"c\.npy: {message}"):
        fit([categorical(keep=tmp_path)], {"c": ids([1])})


# Fits know no order


@given(st.lists(st.tuples(IDS, st.none() | st.floats(-1e9, 1e9), st.booleans()), max_size=30), st.data())
def test_parts_in_any_order_and_tree_give_the_same_bytes(tmp_path_factory, rows, data):
    configs = [
        categorical(),
        numeric(),
        *parse("""
            - {kind: buckets, columns: [x], quantiles: 3}
            - {kind: statistic, columns: [c], folds: 2}
        """),
    ]
    table = pa.table(
        {
            "c": ids([row[0] for row in rows]),
            "x": numbers([row[1] for row in rows]),
            "x_bucket": numbers([row[1] for row in rows]),
            "c:statistic": ids([row[0] for row in rows]),
            "@label": pa.array([int(row[2]) for row in rows], pa.int8()),
            "row_id": ids(range(len(rows))),
        }
    )
    whole = FeatureFitter(configs)
    whole.add(table)
    order = data.draw(st.permutations(range(len(rows))))
    cut = data.draw(st.integers(0, len(rows)))
    halves = []
    for part in (order[:cut], order[cut:]):
        halves.append(FeatureFitter(configs))
        halves[-1].add(table.take(pa.array(part, pa.int64())))
    merged = FeatureFitter(configs)
    for half in reversed(halves):
        merged.merge(dict(half.arrays()))
    folders = [tmp_path_factory.mktemp("fit") for _ in range(2)]
    for fitter, folder in zip((whole, merged), folders, strict=True):
        fitter.fit().save(folder)
    for name in ("features.json", "arrays.npz"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    for (name, one), (_, other) in zip(whole.arrays(), merged.arrays(), strict=True):
        if not name.endswith((".sum", ".squares")):  # one sum has several states
            np.testing.assert_array_equal(one, other)


# Buckets


def buckets(*values, **options):
    (config,) = parse(yaml.safe_dump([{"kind": "buckets", "columns": ["x"], **options}]))
    return fit([config], {"x_bucket": numbers(values)})


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.integers(2, 6))
def test_quantile_buckets_of_small_integers_are_exact(values, quantiles):
    """A boundary is the smallest value with at least that share of training below it."""
    features = buckets(*map(float, values), quantiles=quantiles)
    expected = set()
    for i in range(1, quantiles):
        reached = [v for v in set(values) if sum(w < v for w in values) * quantiles >= i * len(values)]
        expected |= {min(reached)} if reached else set()
    integers = np.arange(-25, 26)
    codes = features.encode(pa.table({"x_bucket": numbers(integers.astype(float))}))["x_bucket"].to_numpy()
    assert (codes == 2 + np.searchsorted(sorted(expected), integers, side="right")).all()


def test_quantiles_of_floats_are_near():
    x = np.random.default_rng(0).lognormal(size=20_000)
    (feature,) = buckets(*x, quantiles=10).categorical
    np.testing.assert_allclose(feature.boundaries, np.quantile(x, np.arange(1, 10) / 10), rtol=1e-3)
    codes = feature.encode(pa.table({"x_bucket": numbers(x)}))["x_bucket"].to_numpy()
    np.testing.assert_allclose(np.bincount(codes)[2:] / len(x), 0.1, atol=2e-3)


def test_given_boundaries():
    features = buckets(boundaries=[0.0, 1.5])
    (feature,) = features.categorical
    table = pa.table({"x_bucket": numbers([None, -1.0, -0.0, 0.0, 1.4, 1.5, 9.0])})
    assert features.encode(table)["x_bucket"].to_pylist() == [0, 2, 3, 3, 3, 4, 4]
    assert feature.num_codes == 5
    assert not feature.is_unknown(np.array([0, 2])).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `boundaries` or `quantiles`"),
        ({"boundaries": [1], "quantiles": 2}, "either `boundaries` or `quantiles`"),
        ({"boundaries": [2, 1]}, "must rise"),
        ({"boundaries": [float("nan")]}, "finite"),
        ({"quantiles": 1}, "greater than or equal to 2"),
    ],
)
def test_buckets_that_cannot_be(options, message):
    with pytest.raises(ValidationError, match=message):
        buckets(**options)


# Numbers: bounds and Criteo's transform


def test_clip_comes_before_the_transform():
    features = fit([numeric(clip=(0, 8), transform="log", standardise=False)], {"x": numbers([1.0])})
    out = features.encode(pa.table({"x": numbers([-5.0, 3.0, 1e9])}))["x"].to_pylist()
    assert out == pytest.approx([0, np.log1p(3), np.log1p(8)])
    with pytest.raises(ValidationError, match="low < high"):
        numeric(clip=(1, 1))


def test_squared_log_of_numbers():
    features = fit([numeric(transform="squared_log", standardise=False)], {"x": numbers([1.0])})
    values = [-3.7, 0.5, 2.0, 3.0, 1000.0]
    expected = [-3, 0, 2, 1, int(np.log(1000) ** 2)]
    assert features.encode(pa.table({"x": numbers(values)}))["x"].to_pylist() == expected


def test_huge_numbers_do_not_stop_a_fit():
    features = fit([numeric()], {"x": numbers([1e300, -1e300, 1e-300, 0.0])})
    out = features.encode(pa.table({"x": numbers([1e300])}))["x"].to_numpy()
    assert np.isfinite(out).all()


# Statistics


def out_of_fold(fitter):
    """As the rows that the fitter counted get them."""
    with TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.npz"
        write_arrays(fitter.arrays(), counts)
        return fitter.fit().out_of_fold(counts)


def slow_statistics(rows, folds, smoothing, k, training):
    fold = fold_of(np.arange(len(rows)), folds)
    id_, _ = rows[k]
    others = [row for f, row in zip(fold, rows, strict=True) if not training or f != fold[k]]
    same = [label for other, label in others if other == id_]
    prior = sum(label for _, label in others) / max(len(others), 1)
    scale = len(rows) / max(len(others), 1)
    return (sum(same) + smoothing * prior) / (len(same) + smoothing), np.log1p(len(same) * scale)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=25), st.integers(2, 4))
def test_statistics_leave_the_own_fold_out(rows, folds):
    (config,) = parse(f"[{{kind: statistic, columns: [c], folds: {folds}, smoothing: 2}}]")
    table = pa.table(
        {
            "c:statistic": ids([row[0] for row in rows]),
            "@label": pa.array([int(row[1]) for row in rows], pa.int8()),
            "row_id": ids(range(len(rows))),
        }
    )
    fitter = FeatureFitter([config])
    fitter.add(table)
    features = fitter.fit()
    assert features.numeric_columns == ("c:ctr", "c:count")
    for training in (True, False):
        out = (out_of_fold(fitter) if training else features).encode(table)
        for k in range(len(rows)):
            expected = slow_statistics(rows, folds, 2, k, training)
            found = out["c:ctr"][k].as_py(), out["c:count"][k].as_py()
            assert found == pytest.approx(expected, rel=1e-6)
    unseen = features.encode(pa.table({"c:statistic": ids([99])}))
    assert unseen["c:count"].to_pylist() == [0]
    assert unseen["c:ctr"].to_pylist() == pytest.approx([np.mean([row[1] for row in rows])])


def test_weights_are_counted_and_rows_of_one_line_share_a_fold():
    """A line of 99 showings and 1 click, as two rows: the rate is 0.01, and neither row knows the other."""
    lines = 400
    (config,) = parse("[{kind: statistic, columns: [c], smoothing: 1}]")
    table = pa.table(
        {
            "c:statistic": ids([7] * 2 * lines),
            "@label": pa.array([0, 1] * lines, pa.int8()),
            "@weight": numbers([99.0, 1.0] * lines),
            "row_id": ids(range(2 * lines)),
            "@line": ids(np.repeat(range(lines), 2)),
        }
    )
    fitter = FeatureFitter([config])
    fitter.add(table)
    for training in (True, False):
        out = (out_of_fold(fitter) if training else fitter.fit()).encode(table)
        assert out["c:ctr"].to_numpy() == pytest.approx(0.01)
        assert out["c:count"].to_numpy() == pytest.approx(np.log1p(100 * lines), rel=1e-6)
    values = out_of_fold(fitter).encode(table)["c:count"].to_numpy()
    assert (values[::2] == values[1::2]).all()


def test_no_row_sees_its_own_label():
    """Every id once: out of fold, the label of a training row says nothing about its statistic."""
    labels = np.random.default_rng(0).integers(0, 2, 4000)
    (config,) = parse("[{kind: statistic, columns: [c]}]")
    table = pa.table(
        {"c:statistic": ids(range(4000)), "@label": pa.array(labels, pa.int8()), "row_id": ids(range(4000))}
    )
    fitter = FeatureFitter([config])
    fitter.add(table)
    ctr = out_of_fold(fitter).encode(table)["c:ctr"].to_numpy()
    assert abs(np.corrcoef(ctr, labels)[0, 1]) < 0.06
    leaking = fitter.fit().encode(table)["c:ctr"].to_numpy()
    assert np.corrcoef(leaking, labels)[0, 1] > 0.99


def test_weights_stand_beside_their_lists():
    config = categorical("tags", multivalued=True, weights="w", encoding="hash")
    lists = pa.array([[5, 6], [], [7]], LISTS)
    weights = pa.array([[0.5, 2.0], [], [1.0]], pa.list_(pa.float32()))
    table = pa.table({"tags": lists, "tags:weights": weights})
    features = fit([config], {"tags": lists, "tags:weights": weights})
    for cut in (table, table.slice(1)):
        out = features.encode(cut)
        assert out["tags"].to_pylist() == cut["tags"].to_pylist()
        assert out["tags:weights"].to_pylist() == cut["tags:weights"].to_pylist()
    assert features.features[0].columns == {"tags": LISTS, "tags:weights": pa.list_(pa.float32())}


# What is held once, and no more than is needed


STATISTICS = [
    (2, [5, 5, 6], ["ctr", "count"]),
    (40, list(range(300)), ["ctr"]),
    (64, [1] * 50, ["count"]),
]


@pytest.mark.parametrize(("folds", "rows", "of"), STATISTICS)
def test_a_fitted_statistic_holds_totals_whatever_the_folds(tmp_path, folds, rows, of):
    (config,) = parse(f"[{{kind: statistic, columns: [c], folds: {folds}, of: [{', '.join(of)}]}}]")
    labels = [int(k % 3 == 0) for k in range(len(rows))]
    table = pa.table(
        {
            "c:statistic": ids(rows),
            "@label": pa.array(labels, pa.int8()),
            "row_id": ids(range(len(rows))),
        }
    )
    fitter = FeatureFitter([config])
    fitter.add(table)
    features = fitter.fit()
    (statistic,) = features.statistics
    known = len(set(rows))
    assert {name: len(array) for name, array in statistic.arrays().items()} == {
        "ids": known,
        "rows": known + 1,
        "clicks": known + 1,
    }
    assert all(array.ndim == 1 for array in statistic.arrays().values())
    assert statistic.nbytes == table_bytes(known) + 2 * 8 * (known + 1)
    features.save(tmp_path)
    again = Features.load(tmp_path)
    assert again.encode(table).equals(features.encode(table))
    counts = tmp_path / "counts.npz"
    write_arrays(fitter.arrays(), counts)
    assert again.out_of_fold(counts).encode(table).equals(out_of_fold(fitter).encode(table))


LIKE = [
    ["{kind: categorical, names: [d, e]}", "{kind: sequence, name: seen, column: d, length: 3, like: d}"],
    [
        "{kind: sequence, name: before, column: d, length: 3, like: d, pooling: sum}",
        "{kind: categorical, names: [d], min_count: 2}",
        "{kind: sequence, name: seen, column: d, length: 9, like: d}",
    ],
    [
        "{kind: sequence, name: seen, column: d, length: 2, like: d}",
        "{kind: categorical, names: [d], unknown: hash, min_count: 2}",
    ],
]


@pytest.mark.parametrize("declared", LIKE)
def test_a_sequence_like_a_feature_holds_no_vocabulary(tmp_path, declared):
    configs = parse(f"[{', '.join(declared)}]")
    values = ids([7, 7, 8, 9, 9, 9])
    lists = pa.array([[7], [], [8, 9], [9], [], [10]], LISTS)
    names = [name for config in configs for name in config.names]
    table = pa.table({name: lists if name in ("seen", "before") else values for name in names})
    fitter = FeatureFitter(configs)
    fitter.add(table)
    first = fitter.fit()
    first.save(tmp_path)
    for features in (first, Features.load(tmp_path), fitter.fit(base=first)):
        by_name = {feature.name: feature for feature in features.categorical}
        owner = by_name["d"]
        assert [feature.name for feature in features.features] == names
        for name in {"seen", "before"} & by_name.keys():
            twin = by_name[name]
            assert np.shares_memory(twin.ids, owner.ids)
            assert twin.vocabulary is owner.vocabulary
            assert (twin.vocabulary_bytes, twin.full_vocabulary_bytes, dict(twin.arrays())) == (0, 0, {})
            assert (twin.num_codes, twin.full_codes) == (owner.num_codes, owner.full_codes)
            assert (twin.multivalued, twin.pooling) == (True, "sum" if name == "before" else "mean")
            expected = owner.encode(pa.table({"d": lists.flatten()}))["d"].to_pylist()
            assert twin.encode(table)[name].flatten().to_pylist() == expected
        assert features.encode(table).equals(first.encode(table))
    with np.load(tmp_path / "arrays.npz") as stored:
        owned = [place for place, name in enumerate(names) if name not in ("seen", "before")]
        assert sorted(stored.files) == [f"{place}.ids" for place in owned]


def test_a_vocabulary_that_is_not_there_is_damage(tmp_path):
    configs = parse(f"[{', '.join(LIKE[0])}]")
    values, lists = ids([7, 8]), pa.array([[7], []], LISTS)
    fit(configs, {"d": values, "e": values, "seen": lists}).save(tmp_path)
    file = tmp_path / "features.json"
    for changed in ("nobody", "seen"):
        saved = read_manifest(file, SavedFeatures, {}, "")
        features = [*saved.features[:2], {**saved.features[2], "like": changed}]
        write_manifest(saved.model_copy(update={"features": features}), file)
        with pytest.raises(ValueError, match=f"{tmp_path}: the fitted features are missing or damaged"):
            Features.load(tmp_path)
