"""Drift against plain Python over the raw training rows, and by hand."""

import json
import math
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
from recsys_pipelines.inspection.drift import LabelDrift, compare_sets
from recsys_pipelines.inspection.psi import psi_terms, verdict
from recsys_pipelines.inspection.result import Rate
from recsys_pipelines.preparation.prepare import prepare

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...])
FEATURES = """
- {kind: categorical, names: [c], min_count: 3}
- {kind: categorical, names: [h], encoding: hash}
- {kind: categorical, names: [tags], multivalued: true}
- {kind: numeric, names: [x, z], transform: log}
- {kind: buckets, columns: [z], quantiles: 4}
- {kind: statistic, columns: [h]}
"""


@pytest.fixture
def ready(tmp_path):
    """Prepare a table under a name of its own."""

    def make(table, features, name="a"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        data = DataConfig.model_validate({"source": "table", "path": tmp_path / f"{name}.parquet"})
        return prepare(data, CONFIGS.validate_python(yaml.safe_load(features)), tmp_path / "out")

    return make


def log(seed, rows=500, shift=0.0):
    rng = np.random.default_rng(seed)
    c = rng.geometric(0.1, rows) + int(5 * shift)
    return pa.table(
        {
            "label": (rng.random(rows) < 0.2 + 0.1 * shift).astype(np.int64),
            "c": pa.array(c, mask=rng.random(rows) < 0.1),
            "h": rng.integers(0, 40 + int(20 * shift), rows),
            "tags": pa.array(
                [[*rng.integers(0, 9, n)] for n in rng.integers(0, 3, rows)], pa.list_(pa.int64())
            ),
            "x": pa.array(np.floor(rng.exponential(3, rows)) + shift, mask=rng.random(rows) < 0.2),
            "z": rng.normal(shift, 1 + shift, rows),
        }
    )


def training(table):
    return table.slice(0, table.num_rows * 8 // 10).to_pylist()


def psi(a, b):
    """Of two counters over the same buckets."""
    total_a, total_b = sum(a.values()), sum(b.values())
    shares = [(a[key] / total_a + 1e-6, b[key] / total_b + 1e-6) for key in {*a, *b}]
    return sum((q - p) * math.log(q / p) for p, q in shares)


def by_name(drift):
    return {feature.name: feature for feature in drift.features}


def test_a_set_does_not_drift_from_itself(ready):
    one = ready(log(0), FEATURES)
    drift = compare_sets(one, one)
    assert list(by_name(drift)) == ["c", "h", "tags", "x", "z", "z_bucket", "h:ctr", "h:count"]
    for feature in drift.features:
        assert feature.psi == 0
        assert feature.verdict == "stable"
        assert feature.largest == []
        assert (
            (feature.new_ids or 0)
            == (feature.new_impressions or 0)
            == (feature.vanished_impressions or 0)
            == 0
        )
    assert drift.label.difference == 0
    low, high = drift.label.interval
    assert low == -high


@pytest.mark.parametrize("name", ["c", "h", "tags"])
def test_ids_as_in_plain_python(ready, name):
    tables = log(0), log(1, shift=0.5)
    drift = compare_sets(ready(tables[0], FEATURES), ready(tables[1], FEATURES, "b"))
    values = [
        Counter(value for row in training(t) for value in (row[name] if name == "tags" else [row[name]]))
        for t in tables
    ]
    totals = [sum(one.values()) for one in values]
    ids = [set(one) - {None} for one in values]
    feature = by_name(drift)[name]
    # of 400 rows every id has 0.1 %, so each is a bucket of its own
    assert feature.psi == pytest.approx(psi(*values))
    assert feature.buckets == len({*values[0], *values[1]})
    assert feature.values == tuple(totals)
    assert feature.ids == tuple(map(len, ids))
    new, vanished = ids[1] - ids[0], ids[0] - ids[1]
    assert feature.new_ids == len(new) / len(ids[1])
    assert feature.new_impressions == sum(values[1][key] for key in new) / totals[1]
    assert feature.vanished_impressions == sum(values[0][key] for key in vanished) / totals[0]
    assert feature.missing == tuple(one[None] / total for one, total in zip(values, totals, strict=True))
    assert feature.by_chance == pytest.approx((feature.buckets - 1) * (1 / totals[0] + 1 / totals[1]))
    assert [moved.psi for moved in feature.largest] == sorted((m.psi for m in feature.largest), reverse=True)


def test_rare_ids_share_a_bucket(ready):
    def table(first):  # id 1 has half the rows, the others one each
        ids = [1 if k % 2 else first + k for k in range(4000)]
        return pa.table({"label": [0, 1] * 2000, "c": ids})

    features = "[{kind: categorical, names: [c]}]"
    drift = compare_sets(ready(table(10**6), features), ready(table(2 * 10**6), features, "b"))
    (c,) = drift.features
    assert (c.psi, c.buckets, c.verdict) == (0, 2, "stable")
    assert (c.new_ids, c.new_impressions, c.vanished_impressions) == (1600 / 1601, 0.5, 0.5)


def test_new_ids_by_hand(ready):
    features = "[{kind: categorical, names: [c], min_count: 2}]"
    a = pa.table({"label": [0] * 10, "c": [1, 1, 2, 3, None, 4, 4, 4, 9, 9]})  # eight rows train
    b = pa.table({"label": [0] * 10, "c": [1, 5, 5, 6, None, None, 4, 2, 9, 9]})
    (c,) = compare_sets(ready(a, features), ready(b, features, "b")).features
    assert c.ids == (4, 5)
    assert c.new_ids == 2 / 5  # 5 and 6
    assert c.new_impressions == 3 / 8
    assert c.vanished_impressions == 1 / 8  # 3
    assert c.missing == (1 / 8, 2 / 8)
    assert c.largest[0].bucket == "id 5"
    assert (c.largest[0].a, c.largest[0].b) == (0, 2 / 8)


def test_numbers_are_compared_in_the_units_of_the_data(ready):
    """B is standardised by moments of its own."""
    tables = log(0), log(1, shift=1.0)
    sets = ready(tables[0], FEATURES), ready(tables[1], FEATURES, "b")
    found = by_name(compare_sets(*sets))
    values = [[row["x"] for row in training(t)] for t in tables]
    present = sorted(value for value in values[0] if value is not None)
    deciles = {value: 10 * present.index(value) // len(present) for value in present}
    cuts = [min(value for value in deciles if deciles[value] == k) for k in set(deciles.values()) - {0}]

    def bucket(value):
        if value is None:
            return "missing"
        if not present[0] <= value <= present[-1]:
            return "below" if value < present[0] else "above"
        return sum(value >= cut for cut in cuts)

    counted = [Counter(map(bucket, one)) for one in values]
    assert found["x"].psi == pytest.approx(psi(*counted))
    assert found["x"].buckets == len({*counted[0], *counted[1]})
    assert found["x"].missing == tuple(sum(v is None for v in one) / 400 for one in values)
    assert found["z"].verdict == "drifted"
    assert found["x"].ids is found["x"].new_ids is None


def test_standardising_alone_is_no_drift(ready):
    """The same numbers beside rows that move the mean do not change buckets."""
    x = np.repeat([0.0, 1.0, 2.5, 7.0], 100)
    shuffled = np.random.default_rng(0).permutation(x)
    a = pa.table({"label": [0] * 500, "x": [*shuffled, *[0.0] * 100]})
    b = pa.table({"label": [0] * 500, "x": [*shuffled[:-80], *[1e4] * 80, *[0.0] * 100]})
    features = "[{kind: numeric, names: [x]}]"
    (feature,) = compare_sets(ready(a, features), ready(b, features, "b")).features
    counts = [Counter(values) for values in (shuffled.tolist(), [*shuffled[:-80].tolist(), *[1e4] * 80])]
    assert feature.psi == pytest.approx(psi(*counts))
    assert feature.largest[0].bucket == "above A's range"


def test_a_constant_that_moves_has_drifted(ready):
    features = "[{kind: numeric, names: [x]}]"
    sets = [
        ready(pa.table({"label": [0] * 20, "x": [value] * 20}), features, name)
        for name, value in (("a", 5.0), ("b", 7.0), ("c", 5.0))
    ]
    assert compare_sets(sets[0], sets[1]).features[0].verdict == "drifted"
    assert compare_sets(sets[0], sets[2]).features[0].psi == 0


@pytest.mark.parametrize("cut", ["quantiles: 4", "boundaries: [-1.0, 0.0, 0.5]"])
def test_buckets_are_those_of_a(ready, cut):
    features = f"[{{kind: buckets, columns: [z], {cut}}}]"
    tables = log(0), log(1, shift=0.3)
    sets = [ready(table, features, name) for table, name in zip(tables, "ab", strict=True)]
    boundaries = sets[0].features().categorical[0].boundaries
    counted = [
        Counter(int(np.searchsorted(boundaries, row["z"], side="right")) for row in training(table))
        for table in tables
    ]
    (feature,) = compare_sets(*sets).features
    assert feature.psi == pytest.approx(psi(*counted))
    assert feature.values == (400, 400)


def test_labels(ready):
    tables = log(0), log(1, shift=1.0)
    drift = compare_sets(ready(tables[0], FEATURES), ready(tables[1], FEATURES, "b"))
    positives = [sum(row["label"] for row in training(table)) for table in tables]
    assert drift.label.a == Rate.of(400, positives[0])
    assert drift.label.difference == pytest.approx((positives[1] - positives[0]) / 400)
    p, q = ((count + 1) / 402 for count in positives)
    half = 1.96 * math.sqrt(p * (1 - p) / 402 + q * (1 - q) / 402)
    assert drift.label.interval == pytest.approx((q - p - half, q - p + half), abs=1e-4)
    assert drift.splits["test"][1].rows == 50


def test_constant_labels_have_an_interval():
    drift = LabelDrift.of(Rate.of(50, 0), Rate.of(50, 0))
    assert drift.difference == 0
    assert drift.interval[0] < 0 < drift.interval[1]


def test_lists_that_are_all_empty(ready):
    features = "[{kind: categorical, names: [tags], multivalued: true}]"
    empty = pa.table({"label": [0] * 20, "tags": pa.array([[]] * 20, pa.list_(pa.int64()))})
    full = pa.table({"label": [0] * 20, "tags": [[1, 2]] * 20})
    sets = ready(empty, features), ready(full, features, "b")
    (same,) = compare_sets(sets[0], sets[0]).features
    assert (same.psi, same.by_chance, same.new_ids, same.missing) == (0, None, None, (None, None))
    (came,) = compare_sets(*sets).features
    assert (came.verdict, came.new_ids, came.new_impressions, came.vanished_impressions) == (
        "drifted",
        1,
        1,
        None,
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("[{kind: categorical, names: [h]}]", "feature 'c' is categorical .*, but not declared in"),
        ("[{kind: categorical, names: [h, c]}, {kind: numeric, names: [z]}]", "feature 'z' is not declared in .*, but num"),
        ("[{kind: categorical, names: [h]}, {kind: numeric, names: [c]}]", "feature 'c' is categorical .*, but numeric "),
        ("[{kind: categorical, names: [c]}, {kind: categorical, names: [h], buckets: squared_log}]", "feature 'h'"),
    ],
)  # fmt: skip
def test_other_features_are_refused(ready, other, message):
    one = ready(log(0), "[{kind: categorical, names: [c, h]}]")
    with pytest.raises(ValueError, match=message) as caught:
        compare_sets(one, ready(log(0), other, "b"))
    assert "prepare both with the same features" in str(caught.value)


def test_what_does_not_touch_the_ids_may_differ(ready):
    one = ready(log(0), "[{kind: categorical, names: [c, h]}, {kind: numeric, names: [x]}]")
    other = """
    - {kind: numeric, names: [x], standardise: false}
    - {kind: categorical, names: [h], encoding: hash}
    - {kind: categorical, names: [c], min_count: 5}
    """
    drift = compare_sets(one, ready(log(0), other, "b"))
    assert [feature.name for feature in drift.features] == ["c", "h", "x"]
    assert all(feature.psi == 0 for feature in drift.features)


def test_text_and_integers_are_no_same_ids(ready):
    text = log(0).set_column(2, "h", log(0)["h"].cast(pa.string()))
    features = "[{kind: categorical, names: [h]}]"
    with pytest.raises(ValueError, match="column 'h' holds text, but integers"):
        compare_sets(ready(log(0), features), ready(text, features, "b"))


NAMES = "[{kind: categorical, names: [c]}, {kind: categorical, names: [h], encoding: hash}]"


def test_unsigned_ids_are_named_as_the_log_has_them(ready):
    def table(*ids):
        column = pa.array(ids * 5, pa.uint64())
        return pa.table({"label": [0] * len(column), "c": column, "h": column})

    low, high = 7, 2**63 + 5
    came = compare_sets(ready(table(low, low), NAMES), ready(table(low, high), NAMES, "b"))
    for feature in came.features:
        assert {moved.bucket for moved in feature.largest} == {f"id {low}", f"id {high}"}
    signed = [pa.table({"label": [0] * 10, "c": ids * 5, "h": ids * 5}) for ids in ([7, 7], [7, -5])]
    came = compare_sets(*(ready(one, NAMES, f"s{n}") for n, one in enumerate(signed)))
    for feature in came.features:
        assert {moved.bucket for moved in feature.largest} == {"id 7", "id -5"}


def test_progress_and_json(ready):
    one, seen = ready(log(0), FEATURES), []
    drift = compare_sets(one, one, lambda stage, done, of: seen.append((done, of)))
    assert seen[-1] == (800, 800)  # training rows of both
    assert json.loads(json.dumps(drift.to_dict(), allow_nan=False))["features"][0]["name"] == "c"


counts = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=50)


@given(counts)
def test_psi(pairs):
    a, b = np.array(pairs).T
    terms, shares_a, shares_b = psi_terms(a, b)
    assert (terms >= 0).all()
    assert psi_terms(b, a)[0] == pytest.approx(terms), "the index is symmetric"
    if a.sum() and b.sum():
        assert shares_a.sum() == pytest.approx(1)
        assert shares_b.sum() == pytest.approx(1)
        assert terms.sum() == pytest.approx(psi(*(dict(enumerate(one.tolist())) for one in (a, b))))
    assert psi_terms(a, a * 3)[0].sum() == pytest.approx(0, abs=1e-12)


def test_verdicts():
    assert [verdict(psi) for psi in (0.0, 0.0999, 0.1, 0.25, 0.2501)] == [
        "stable",
        "stable",
        "shifted",
        "shifted",
        "drifted",
    ]


def test_two_samples_of_one_population_have_the_psi_of_chance():
    rng = np.random.default_rng(0)
    chances = np.full(20, 0.05)
    found = [
        psi_terms(rng.multinomial(5000, chances), rng.multinomial(3000, chances))[0].sum() for _ in range(400)
    ]
    assert np.mean(found) == pytest.approx(19 * (1 / 5000 + 1 / 3000), rel=0.1)
