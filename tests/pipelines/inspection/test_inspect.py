"""Inspection against plain Python over the raw rows."""

import dataclasses
import json
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features.numeric import lower_ends
from recsys_pipelines.inspection.columns import NumberColumn, value_counts
from recsys_pipelines.inspection.inspect import decile_of, inspect
from recsys_pipelines.inspection.result import Rate
from recsys_pipelines.inspection.skew import skew_of
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.prepared import ManifestError, Prepared
from recsys_pipelines.shards import read_shard

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
FILES, ROWS, TRAIN = 3, 80, 192  # of 240 rows, 80 % train and 10 % validate
PARTS = {"train": slice(0, 192), "validation": slice(192, 216), "test": slice(216, 240)}


def prepared(tmp_path, features, tables, **options):
    folder = tmp_path / "log"
    folder.mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    data = DataConfig.model_validate({"source": "table", "path": folder, **options})
    return prepare(data, CONFIGS.validate_python(yaml.safe_load(features)), tmp_path / "out")


def log(first):
    n = np.arange(first, first + ROWS)
    rng = np.random.default_rng(first)
    return pa.table(
        {
            "label": (rng.random(ROWS) < 0.3).astype(np.int64),
            "c": pa.array([int(k * k % 37 + k // 60) if k % 5 else None for k in n], pa.int64()),
            "h": pa.array([int(k // 7) if k % 4 else None for k in n], pa.int64()),
            "tags": pa.array([[1, 2, None, int(k)][: k % 5] for k in n], pa.list_(pa.int64())),
            "x": pa.array([float(k % 50) if k % 6 else None for k in n]),
            "z": rng.normal(size=ROWS),
            "u": n // 9,
            "t": 1000 - n,
        }
    )


FEATURES = """
- {kind: categorical, names: [c], min_count: 3}
- {kind: categorical, names: [h], encoding: hash}
- {kind: categorical, names: [tags], multivalued: true, min_count: 2, unknown: hash}
- {kind: numeric, names: [x, z]}
- {kind: buckets, columns: [z], quantiles: 5}
- {kind: statistic, columns: [c]}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    tables = [log(part * ROWS) for part in range(FILES)]
    ready = prepared(tmp_path_factory.mktemp("set"), FEATURES, tables, user="u", time="t")
    return inspect(ready), pa.concat_tables(tables).to_pylist(), ready


def rate_of(labels):
    labels = list(labels)
    return Rate.of(len(labels), sum(labels))


def test_splits(found):
    result, raw, _ = found
    for split, part in PARTS.items():
        rows, report = raw[part], result.splits[split]
        assert report.label == rate_of(row["label"] for row in rows)
        assert report.users == len({row["u"] for row in rows})
        assert report.times == (min(row["t"] for row in rows), max(row["t"] for row in rows))
    assert (result.rows_in, result.rows_out, result.quarantined) == (240, 240, 0)


@pytest.mark.parametrize(("name", "min_count"), [("c", 3), ("h", 1), ("tags", 2)])
def test_ids(found, name, min_count):
    result, raw, _ = found
    (feature,) = (f for f in result.categorical if f.name == name)

    def values(rows):
        lists = ((row[name] if name == "tags" else [row[name]], row["label"]) for row in rows)
        return [(value, label) for bag, label in lists for value in bag]

    train = values(raw[PARTS["train"]])
    counts = Counter(value for value, _ in train if value is not None)
    vocabulary = {value for value in counts if counts[value] >= min_count}
    assert feature.ids == len(counts)
    assert feature.singletons == sum(count == 1 for count in counts.values())
    assert feature.codes == (None if name == "h" else 2 + len(vocabulary))
    for split, part in PARTS.items():
        own, report = values(raw[part]), feature.splits[split]
        assert report.values == len(own)
        assert report.missing == sum(value is None for value, _ in own)
        unknown = [value for value, _ in own if value is not None and value not in vocabulary]
        assert report.unknown == len(unknown)
        assert report.unknown_share == len(unknown) / len(own)
        if name == "tags":
            lengths = [len(row["tags"]) for row in raw[part]]
            assert report.mean_length == pytest.approx(np.mean(lengths))
            assert report.max_length == max(lengths)
        else:
            assert report.mean_length is None
    assert feature.known == rate_of(label for value, label in train if value in vocabulary)
    assert feature.missing == rate_of(label for value, label in train if value is None)
    assert feature.unknown.rows + feature.known.rows + feature.missing.rows == len(train)
    falling = sorted((counts[value] for value in vocabulary), reverse=True)
    assert [top.label.rows for top in feature.top] == falling[:10]
    for top in feature.top:
        assert top.label == rate_of(label for value, label in train if value == top.id)


def test_buckets_are_their_codes(found):
    result, raw, ready = found
    (feature,) = (f for f in result.categorical if f.encoding == "buckets")
    codes = ready.features().categorical[3].encode(pa.table({"z_bucket": [r["z"] for r in raw[:TRAIN]]}))
    counts = Counter(codes["z_bucket"].to_pylist())
    assert feature.ids == len(counts) == 5
    assert {top.id: top.label.rows for top in feature.top} == counts
    assert sum(top.label.positives for top in feature.top) == result.splits["train"].label.positives
    assert feature.splits["test"].unknown_share == 0


def test_numbers(found):
    result, raw, ready = found
    columns = {column.name: column for column in result.numeric}
    assert list(columns) == ["x", "z", "c:ctr", "c:count"]
    encoded = {
        split: pa.concat_tables(
            read_shard(path) for path in sorted((ready.path / split).glob("*.arrow"))
        ).to_pydict()
        for split in PARTS
    }
    for name, column in columns.items():
        for split, part in PARTS.items():
            missing = sum(row["x"] is None for row in raw[part]) if name == "x" else 0
            if name == "z" and split != "train":
                assert column.missing_shares[split] is None, "without an indicator nobody can tell"
            else:
                assert column.missing_shares[split] == missing / len(raw[part])
        present = [name != "x" or row["x"] is not None for row in raw[:TRAIN]]
        values = np.array(encoded["train"][name], np.float64)[present]
        assert (column.minimum, column.maximum) == (values.min(), values.max())
        quartiles = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
        assert column.quartiles == pytest.approx(quartiles, rel=1 / 4000, abs=1e-12)
    x = columns["x"]
    known = [row["x"] for row in raw[:TRAIN] if row["x"] is not None]
    assert (x.mean, x.deviation) == pytest.approx((np.mean(known), np.std(known)))
    assert x.missing == rate_of(row["label"] for row in raw[:TRAIN] if row["x"] is None)
    assert sum(d.label.rows for d in x.deciles) == len(known)
    assert [d.number for d in x.deciles] == list(range(10))
    for decile in x.deciles:
        low, high = (round(end * x.deviation + x.mean, 1) for end in (decile.low, decile.high))
        assert decile.label == rate_of(
            row["label"] for row in raw[:TRAIN] if row["x"] is not None and low <= row["x"] <= high
        )


def test_the_result_is_json(found):
    plain = found[0].to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["categorical"][0]["name"] == "c"
    assert plain.keys() == {field.name for field in dataclasses.fields(found[0])}


def test_progress_and_parts_leave_no_trace(found, tmp_path):
    result, _, ready = found
    seen = []
    inspect(ready, lambda stage, done, of: seen.append((done, of)))
    assert seen[-1] == (240, 240)
    one = prepared(
        tmp_path, FEATURES, [pa.concat_tables(log(part * ROWS) for part in range(FILES))], user="u", time="t"
    )
    assert len(one.manifest.shards) < len(ready.manifest.shards)
    assert inspect(one).to_dict() | {"path": ""} == result.to_dict() | {"path": ""}


# The numbers themselves


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=300))
def test_skew(counts):
    skew, falling, total = skew_of(np.array(counts)), sorted(counts, reverse=True), sum(counts)
    assert skew.top_id == pytest.approx(falling[0] / total)
    assert skew.top_percent == pytest.approx(sum(falling[: math.ceil(len(counts) / 100)]) / total)
    pairs = sum(abs(a - b) for a in counts for b in counts)
    assert skew.gini == pytest.approx(pairs / (2 * len(counts) * total), abs=1e-12)
    assert skew.curve[0] == (1, falling[0])
    assert skew.curve[-1] == (len(counts), falling[-1])
    assert all(falling[rank - 1] == count for rank, count in skew.curve)
    often = sum(count >= 10 for count in counts)
    assert skew.zipf_ranks == (often if often >= 10 else 0)
    assert (skew.zipf is None) == (often < 10)


def test_zipf_finds_its_own_law():
    skew = skew_of(np.rint(1e6 / np.arange(1, 5001) ** 1.3).astype(np.int64))
    assert skew.zipf == pytest.approx(1.3, abs=0.01)
    assert skew_of(np.full(50, 20)).zipf == pytest.approx(0, abs=1e-12)


def test_no_ids_have_no_skew():
    assert skew_of(np.empty(0, np.int64)) == skew_of(np.array([], np.int64))
    assert skew_of(np.empty(0, np.int64)).gini is None


@given(st.integers(1, 10**7), st.floats(0, 1))
def test_wilson(rows, share):
    positives = round(rows * share)
    low, high = Rate.of(rows, positives).interval
    assert 0 <= low <= positives / rows + 1e-12
    assert positives / rows - 1e-12 <= high <= 1
    for end in (low, high):  # the ends are where the score test is exactly at its level
        score = (positives / rows - end) ** 2 - 1.959963984540054**2 * end * (1 - end) / rows
        assert score == pytest.approx(0, abs=1e-9)


def test_no_rows_have_no_rate():
    assert Rate.of(0, 0) == Rate(0, 0, None, None)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50))
def test_decile_of(counts):
    oracle, below = [], 0
    for count in counts:
        oracle.append(10 * below // sum(counts))
        below += count
    assert decile_of(np.array(counts)).tolist() == oracle


def test_numbers_are_counted_in_bins():
    rows = pa.table(
        {
            "x": pa.array([-2.0, 3.5, 0.0, -0.0, -2.0, 9.0], pa.float32()),
            "x:missing": pa.array([0, 0, 0, 0, 0, 1], pa.float32()),
            "@label": pa.array([1, 0, 1, 1, 0, 1], pa.int8()),
        }
    )
    rows = pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    bins = NumberColumn("x", "x:missing", 0.0, 1.0).bin_counts(rows)
    assert lower_ends(bins["value"].to_numpy()) == pytest.approx([-2.0, 0.0, 3.5], rel=1 / 4096)
    assert bins.drop("value").rows() == [(2, 1, -2.0, -2.0), (2, 2, 0.0, 0.0), (1, 0, 3.5, 3.5)]


@given(st.lists(st.lists(st.integers(-5, 5), max_size=4), min_size=1, max_size=30), st.integers(0, 30))
def test_value_counts_are_those_of_plain_python(lists, cut):
    labels = [place % 2 for place in range(len(lists))]
    rows = pa.table({"ids": pa.array(lists, pa.list_(pa.int64())), "@label": pa.array(labels, pa.int8())})
    counted = value_counts(pa.concat_tables([rows.slice(0, cut), rows.slice(cut)]), "ids")
    values = [(value, label) for bag, label in zip(lists, labels, strict=True) for value in bag]
    positives = Counter(value for value, label in values if label)
    expected = Counter(value for value, _ in values)
    assert counted.rows() == [(value, expected[value], positives[value]) for value in sorted(expected)]


# Sets of little


def small(**columns):
    rows = len(next(iter(columns.values())))
    return pa.table({"label": pa.array([k % 2 for k in range(rows)]), **columns})


def test_a_set_without_numbers(tmp_path):
    ready = prepared(tmp_path, "[{kind: categorical, names: [c]}]", [small(c=list(range(20)))])
    result = inspect(ready)
    assert result.numeric == []
    assert result.categorical[0].splits["test"].unknown_share == 1
    assert result.splits["train"].users is result.splits["train"].times is None


def test_a_set_without_ids(tmp_path):
    table = small(x=pa.array([None, *range(19)], pa.float64()))
    result = inspect(prepared(tmp_path, "[{kind: numeric, names: [x], standardise: false}]", [table]))
    assert result.categorical == []
    (x,) = result.numeric
    assert (x.mean, x.deviation, x.missing.rows) == (0, 1, 1)
    assert (x.minimum, x.maximum) == (0, 14)


def test_lists_that_are_all_empty(tmp_path):
    table = small(tags=pa.array([[]] * 20, pa.list_(pa.int64())))
    (tags,) = inspect(
        prepared(tmp_path, "[{kind: categorical, names: [tags], multivalued: true}]", [table])
    ).categorical
    train = tags.splits["train"]
    assert (train.values, train.missing_share, train.unknown_share) == (0, None, None)
    assert (train.mean_length, train.max_length) == (0, 0)
    assert (tags.ids, tags.singleton_share, tags.top, tags.top_rates) == (0, None, [], None)
    assert tags.known.rate is None


def test_constant_labels_and_values_that_are_all_missing(tmp_path):
    table = pa.table(
        {
            "label": [1] * 20,
            "c": pa.array([None] * 20, pa.string()),
            "x": pa.array([None] * 20, pa.float64()),
            "k": [7.0] * 20,
        }
    )
    features = "[{kind: categorical, names: [c]}, {kind: numeric, names: [x, k]}]"
    result = inspect(prepared(tmp_path, features, [table]))
    assert result.splits["test"].label.rate == 1
    assert result.splits["test"].label.interval == (pytest.approx(0.342, abs=1e-3), 1)
    (c,), (x, k) = result.categorical, result.numeric
    assert (c.missing.rate, c.ids, c.splits["train"].missing_share) == (1, 0, 1)
    assert (x.missing_shares["train"], x.minimum, x.quartiles, x.deciles) == (1, None, None, [])
    assert (k.minimum, k.maximum, len(k.deciles)) == (0, 0, 1)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_fixed_vocabulary_and_a_sequence_that_borrows_one(tmp_path):
    (tmp_path / "words.txt").write_text("a\nb\nnever\n")
    table = small(c=[*"aab" * 5, "c", "c", *"aba"], u=[0, 1] * 10, t=list(range(20)))
    features = f"""
    - {{kind: categorical, names: [c], vocabulary: {tmp_path / "words.txt"}}}
    - {{kind: sequence, name: before, column: c, length: 3, like: c}}
    """
    roles = {"user": "u", "time": "t", "split": {"by": "time"}}
    result = inspect(prepared(tmp_path, features, [table], **roles))
    c, before = result.categorical
    assert (c.codes, c.ids, c.splits["train"].unknown, len(c.top)) == (5, 3, 1, 2)
    assert before.splits["train"].max_length == 3
    assert before.splits["test"].unknown > 0


def test_an_appended_set_has_the_rows_of_both(tmp_path):
    first = prepared(tmp_path, "[{kind: categorical, names: [c]}]", [small(c=list(range(20)))])
    pq.write_table(small(c=list(range(10, 30))), tmp_path / "more.parquet")
    data = DataConfig.model_validate({"source": "table", "path": tmp_path / "more.parquet"})
    both = prepare(data, first.features().configs, tmp_path / "out", base=first)
    result = inspect(both)
    assert result.splits["train"].label.rows == 32
    (c,) = result.categorical
    assert c.splits["train"].values == 32
    assert c.singletons == 20  # 0 to 9 and 16 to 25, as 10 to 15 are in both
    assert c.ids == 26


def test_unsigned_ids_are_what_the_log_has(tmp_path):
    ids = [7, 2**63 + 5, 2**64 - 1, 2**63 + 5] * 5
    table = small(c=pa.array(ids, pa.uint64()), h=pa.array(ids, pa.uint64()), s=pa.array([-5, 3] * 10))
    features = """
    - {kind: categorical, names: [c, s]}
    - {kind: categorical, names: [h], encoding: hash}
    - {kind: cross, name: both, columns: [c, h]}
    """
    ready = prepared(tmp_path, features, [table])
    found = {feature.name: [top.id for top in feature.top] for feature in inspect(ready).categorical}
    assert set(found["c"]) == set(found["h"]) == set(ids)
    assert set(found["s"]) == {-5, 3}
    assert min(found["both"]) < 0, (
        "a hash of 64 bits is shown as an integer, in whatever column it is made of"
    )
    assert inspect(str(ready.path)) == inspect(ready)


def test_an_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="so this is not a finished prepared folder"):
        inspect(Prepared.open(tmp_path))


@pytest.mark.parametrize("module", ["inspection.inspect", "inspection.drift"])
def test_no_torch(module):
    code = f"import sys, recsys_pipelines.{module}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
