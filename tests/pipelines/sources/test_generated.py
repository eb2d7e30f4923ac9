import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import rankdata

from recsys_pipelines.sources.generated import (
    BLOCK,
    FieldConfig,
    GeneratorConfig,
    generate,
    raw_ids,
    schema,
    truth,
)

FIELDS = (
    FieldConfig(name="user_id", num_ids=800, zipf=0.5),
    FieldConfig(name="item_id", num_ids=3000, rank=8, drift=0.6, new_ids=0.3),
    FieldConfig(name="site", num_ids=200, zipf=1.2, useless_share=0.4, rank=2),
    FieldConfig(name="tags", num_ids=300, multivalued=2.5, new_ids=0.2),
    FieldConfig(name="trace", num_ids=500, signal=0.0),
    FieldConfig(name="position", num_ids=10, rank=1),
)
CONFIG = GeneratorConfig(rows=5 * BLOCK + 777, fields=FIELDS, history=5, seed=3)


def table(config, tmp_path, name="log.parquet"):
    generate(config, tmp_path / name)
    return pq.read_table(tmp_path / name)


def auc(score, label):
    positives = int(label.sum())
    ranks = rankdata(score)[label == 1].sum() - positives * (positives + 1) / 2
    return ranks / (positives * (label.size - positives))


def with_field(config, **changes):
    """The same log with other settings of its items."""
    fields = [f.model_copy(update=changes) if f.name == "item_id" else f for f in config.fields]
    return config.model_copy(update={"fields": tuple(fields)})


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return table(CONFIG, tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def default_log(tmp_path_factory):
    return table(GeneratorConfig(rows=100_000), tmp_path_factory.mktemp("generated"))


def slow_logits(log, config):
    """The logit by the formula of the module, row by row, without its two constants."""
    known = truth(config)
    place = {name: {int(raw): i for i, raw in enumerate(of.raw_id)} for name, of in known.items()}
    logits = []
    for row in log.to_pylist():
        logit, sides = 0.0, np.zeros((2, 8))
        for j, field in enumerate(config.fields):
            ids = row[field.name] if field.multivalued > 1 else [row[field.name]]
            index = [place[field.name][raw] for raw in ids]
            if index:
                logit += known[field.name].main[index].mean()
                sides[j % 2] += known[field.name].vector[index].mean(axis=0)
        logit += np.sqrt(8) * config.interaction * sides[0] @ sides[1]
        if row["history"]:
            vectors = known["item_id"].vector[[place["item_id"][raw] for raw in row["history"]]]
            item = known["item_id"].vector[place["item_id"][row["item_id"]]]
            logit += np.sqrt(8) * config.history_effect * vectors.mean(axis=0) @ item
        for j in range(config.numeric):
            if (value := row[f"numeric_{j}"]) is not None:
                logit += config.numeric_effect * (-1) ** j * np.log(value)
        logits.append(logit)
    return np.array(logits)


def test_content_is_a_function_of_the_config(log, tmp_path):
    again = table(CONFIG, tmp_path)
    assert again.equals(log, check_metadata=True)
    assert not table(CONFIG.model_copy(update={"seed": 4}), tmp_path).equals(log)
    assert [p.name for p in tmp_path.iterdir()] == ["log.parquet"]  # no partial file stays


def test_a_failure_leaves_the_old_file(tmp_path):
    def stop(stage, rows, of):
        raise RuntimeError(f"stopped after {rows}")

    path = tmp_path / "log.parquet"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stopped after 100"):
        generate(CONFIG.model_copy(update={"rows": 100}), path, stop)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_progress_counts_rows(tmp_path):
    seen = []
    generate(
        CONFIG.model_copy(update={"rows": 33 * BLOCK, "history": 0, "numeric": 0}),
        tmp_path / "log.parquet",
        lambda *told: seen.append(told),
    )
    assert seen == [("generate", done * BLOCK, 33 * BLOCK) for done in (32, 33)]


def test_without_drift_and_arrivals_a_short_log_is_the_beginning_of_a_longer_one(tmp_path):
    fields = tuple(f.model_copy(update={"drift": 0.0, "new_ids": 0.0}) for f in FIELDS)
    long = GeneratorConfig(rows=3 * BLOCK, fields=fields)
    short = long.model_copy(update={"rows": BLOCK + 100})
    whole, part = (table(c, tmp_path).drop_columns("time") for c in (long, short))
    assert part.equals(whole.slice(0, short.rows))


def test_probability_follows_the_formula(log):
    log = log.take(np.arange(0, log.num_rows, 11))
    probability = log["true_probability"].to_numpy()
    constants = np.log(probability / (1 - probability)) - slow_logits(log, CONFIG)
    has_history = pl.from_arrow(log["history"]).list.len().to_numpy() > 0
    assert 0.2 < has_history.mean() < 0.95
    for group in (has_history, ~has_history):  # the bias, with and without the mean affinity
        assert np.ptp(constants[group]) < 1e-4


def test_history_is_what_the_user_clicked_in_earlier_blocks(log):
    columns = ("user_id", "item_id", "label", "history")
    users, items, labels, histories = (log[name].to_pylist() for name in columns)
    clicked, pending = {}, []
    for row, history in enumerate(histories):
        if row % BLOCK == 0:
            for user, item in pending:
                clicked.setdefault(user, []).append(item)
            pending = []
        assert history == clicked.get(users[row], [])[-CONFIG.history :]
        if labels[row]:
            pending.append((users[row], items[row]))


def test_labels_are_calibrated(default_log):
    probability = default_log["true_probability"].to_numpy()
    label = default_log["label"].to_numpy()
    order = np.argsort(probability)
    for part in [order, *np.array_split(order, 10)]:
        p = probability[part]
        assert abs(label[part].mean() - p.mean()) < 4 * np.sqrt((p * (1 - p)).sum()) / part.size


def test_default_log_has_the_promised_difficulty(default_log):
    probability = default_log["true_probability"].to_numpy()
    label = default_log["label"].to_numpy()
    assert 0.78 < auc(probability, label) < 0.87
    rng = np.random.default_rng(0)
    assert all(abs(auc(rng.permutation(probability), label) - 0.5) < 0.02 for _ in range(5))
    noise = np.log(probability / (1 - probability)) + rng.normal(0, 1, probability.size)
    assert auc(noise, label) < auc(probability, label) - 0.01


def test_default_log_is_typical(default_log):
    counts = pl.from_arrow(default_log["item_id"]).value_counts()["count"]
    assert (counts == 1).sum() > 10_000  # a long tail
    assert default_log["numeric_0"].null_count == pytest.approx(0.05 * default_log.num_rows, rel=0.1)
    assert pl.from_arrow(default_log["tags"]).list.len().mean() == pytest.approx(4, abs=0.05)
    assert default_log["position"].combine_chunks().unique().to_numpy().size == 10


@pytest.mark.parametrize("click_rate", [0.02, 0.2, 0.6])
def test_click_rate_is_reached(click_rate, tmp_path):
    config = CONFIG.model_copy(update={"click_rate": click_rate})
    assert table(config, tmp_path)["true_probability"].to_numpy().mean() == pytest.approx(click_rate, rel=0.1)


@pytest.mark.parametrize("zipf", [0.0, 0.8, 1.2])
def test_popularity_follows_zipf(zipf, tmp_path):
    config = with_field(CONFIG, zipf=zipf, drift=0.0, new_ids=0.0)
    ids = table(config, tmp_path)["item_id"].to_numpy()
    order = {raw: i for i, raw in enumerate(raw_ids("item_id", np.arange(3000)).tolist())}
    counts = np.bincount([order[raw] for raw in ids.tolist()], minlength=3000)
    edges = np.array([0, 3, 10, 30, 100, 300, 1000, 3000])
    share = np.add.reduceat(counts, edges[:-1]) / ids.size
    weight = np.arange(1, 3001) ** -zipf
    expected = np.add.reduceat(weight, edges[:-1]) / weight.sum()
    assert np.all(abs(share - expected) < 4 * np.sqrt(expected / ids.size))


def test_new_ids_arrive_during_the_log(log):
    known = truth(CONFIG)["item_id"]
    arrival = dict(zip(known.raw_id.tolist(), known.arrival.tolist(), strict=True))
    assert np.mean(known.arrival > 0) == pytest.approx(0.3, abs=0.03)
    first = np.array([arrival[raw] for raw in log["item_id"].to_pylist()])
    passed = np.arange(log.num_rows) / log.num_rows
    assert np.all(first <= passed)
    late = np.array([np.mean(part > 0) for part in np.array_split(first, 10)])
    assert late[0] < 0.05 < 0.1 < late[-1]


def test_drift_changes_the_top_ids(tmp_path):
    def overlap(drift):
        ids = table(with_field(CONFIG, drift=drift, new_ids=0.0), tmp_path)["item_id"].to_numpy()
        tops = []
        for part in (ids[:5000], ids[-5000:]):
            values, counts = np.unique(part, return_counts=True)
            tops.append(set(values[np.argsort(-counts)[:30]].tolist()))
        return len(tops[0] & tops[1])

    assert overlap(0.0) > 20 > 10 > overlap(1.0)


def test_truth_knows_what_is_useless():
    known = truth(CONFIG)
    assert not known["trace"].useful.any()
    assert not known["trace"].main.any()
    assert not known["trace"].vector.any()
    site = known["site"]
    assert 0.25 < np.mean(~site.useful) < 0.55
    np.testing.assert_array_equal(site.useful, site.main != 0)
    np.testing.assert_array_equal(site.useful, site.vector.any(axis=1))
    assert {f.name: np.linalg.matrix_rank(known[f.name].vector) for f in FIELDS} == {
        f.name: f.rank if f.signal else 0 for f in FIELDS
    }


def test_other_ids_of_a_useless_field_leave_the_probability_alone(log):
    part = log.slice(2 * BLOCK, 500)
    other = part.set_column(
        part.column_names.index("trace"), "trace", pa.array(part["trace"].to_numpy()[::-1].copy())
    )
    np.testing.assert_array_equal(slow_logits(other, CONFIG), slow_logits(part, CONFIG))


def test_truth_depends_on_seed_and_field_alone():
    known = truth(CONFIG)["site"]
    other = truth(GeneratorConfig(rows=1, seed=3, fields=(FIELDS[0], FIELDS[2]), history=0))["site"]
    fewer = truth(
        GeneratorConfig(rows=1, seed=3, fields=(*FIELDS[:2], FIELDS[2].model_copy(update={"num_ids": 50})))
    )
    for name in ("raw_id", "main", "vector", "useful", "arrival"):
        np.testing.assert_array_equal(getattr(other, name), getattr(known, name))
        np.testing.assert_allclose(getattr(fewer["site"], name), getattr(known, name)[:50], rtol=1e-5)


def test_raw_ids_are_fixed_and_distinct():
    ids = raw_ids("item_id", np.arange(300_000))
    assert np.unique(ids).size == ids.size
    assert ids.min() >= 0
    assert raw_ids("site", np.arange(3)).tolist() != ids[:3].tolist()
    assert ids[:2].tolist() == [1772504569136468764, 2361203440210532726]


def test_file_tells_its_config(log):
    assert GeneratorConfig(**json.loads(log.schema.metadata[b"generator"])) == CONFIG


@pytest.mark.parametrize(
    "change",
    [
        {"fields": FIELDS[1:]},
        {"fields": FIELDS[:1]},
        {"fields": FIELDS + FIELDS[:1]},
        {"fields": (*FIELDS, FieldConfig(name="label", num_ids=2))},
        {"fields": (*FIELDS, FieldConfig(name="numeric_0", num_ids=2))},
        {"days": float("inf")},
        {"rows": 0},
        {"typo": 1},
    ],
)
def test_wrong_configs_are_refused(change):
    with pytest.raises(ValidationError):
        GeneratorConfig(**{"rows": 10, "fields": FIELDS, **change})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 2 * BLOCK),
    num_ids=st.integers(1, 50),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    rank=st.integers(0, 8),
    multivalued=st.sampled_from([1.0, 1.01, 3.0]),
    history=st.integers(0, 3),
    numeric=st.integers(0, 2),
)
def test_any_small_config(rows, num_ids, share, rank, multivalued, history, numeric, tmp_path: Path):
    same = {"num_ids": num_ids, "rank": rank, "useless_share": share, "drift": share, "new_ids": share}
    fields = [FieldConfig(name=name, **same) for name in ("user_id", "item_id")]
    fields.append(FieldConfig(name="f", multivalued=multivalued, **same))
    config = GeneratorConfig(
        rows=rows, fields=tuple(fields), history=history, numeric=numeric, missing_share=share
    )
    log = table(config, tmp_path)
    assert log.schema.equals(schema(config))
    assert log.num_rows == rows
    assert set(log["label"].unique().to_pylist()) <= {0, 1}
    assert np.all(np.diff(log["time"].to_numpy()) >= 0)
    probability = log["true_probability"].to_numpy()
    assert np.all((probability > 0) & (probability < 1))
    known = set(raw_ids("f", np.arange(num_ids)).tolist())
    values = log["f"].combine_chunks()
    assert set((values if multivalued == 1 else values.flatten()).to_pylist()) <= known
    if history:
        assert pl.from_arrow(log["history"]).list.len().max() <= history
