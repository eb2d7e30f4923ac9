"""Slices: every row in one, judged as all rows are, corrected for their number, shrunk; and the path over days."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from recsys.comparison.predictions import Predictions
from recsys.comparison.slicing import (
    by_column,
    by_day,
    by_decile,
    by_novelty,
    by_time,
    by_training_count,
    by_value,
    time_numbers,
)
from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.daily import daily_loss_difference
from recsys.evaluation.arms.pairing import Paired
from recsys.evaluation.arms.slices import Slicing, compare_slices, shrink
from recsys.evaluation.online.sequential import daily_difference
from recsys.training.run import Run
from recsys_cython_ext import string_ids

ROWS = 1200


def paired(users: int | None = 100, seed: int = 0) -> Paired:
    random = np.random.default_rng(seed)
    logit = random.normal(size=ROWS)
    labels = random.random(ROWS) < 1 / (1 + np.exp(-logit))
    arms = {
        name: 1 / (1 + np.exp(-(logit + noise * random.normal(size=(2, ROWS)))))
        for name, noise in (("base", 0.1), ("near", 0.3), ("far", 2.0))
    }
    clusters = None if users is None else random.integers(0, users, ROWS)
    return Paired(arms, labels, clusters, pa.array(np.arange(ROWS)))


def thirds() -> Slicing:
    return Slicing("third", ("one", "two", "three"), np.arange(ROWS) % 3)


def test_a_slice_is_judged_as_its_rows_alone_would_be() -> None:
    data = paired()
    sliced = compare_slices(data, [thirds()], "base", replicates=50)
    assert data.clusters is not None
    rows = np.arange(ROWS) % 3 == 1
    alone = compare(
        {name: values[:, rows] for name, values in data.arms.items()},
        data.labels[rows],
        data.clusters[rows],
        replicates=50,
        metrics=("auc", "logloss"),
    )
    found = {(e.arm, e.metric): e for e in sliced.effects if e.slice == "two"}
    assert len(found) == len(alone.differences) == 4
    for d in alone.differences:
        effect = found[d.arm, d.metric]
        assert (effect.estimate, effect.interval, effect.p_value) == (d.estimate, d.interval, d.p_value)
        assert (effect.rows, effect.positives) == (rows.sum(), data.labels[rows].sum())


def test_p_values_are_adjusted_over_slices_of_all_dimensions_and_arms() -> None:
    halves = Slicing("half", ("first", "second"), np.arange(ROWS) // (ROWS // 2))
    sliced = compare_slices(paired(), [thirds(), halves], "base", replicates=50)
    for metric in ("auc", "logloss"):
        effects = [e for e in sliced.effects if e.metric == metric]
        p = np.array([e.p_value for e in effects])
        assert p.size == 10
        order = np.argsort(p)
        holm, largest = np.empty(10), 0.0
        for rank, i in enumerate(order):
            holm[i] = largest = max(largest, min(1.0, (10 - rank) * p[i]))
        hochberg, smallest = np.empty(10), 1.0
        for rank, i in reversed(list(enumerate(order, 1))):
            hochberg[i] = smallest = min(smallest, p[i] * 10 / rank)
        np.testing.assert_allclose([e.adjusted_p_value for e in effects], holm)
        np.testing.assert_allclose([e.false_discovery_p_value for e in effects], hochberg)


def test_slices_that_cannot_be_judged_are_skipped_with_the_reason() -> None:
    data = paired()
    assert data.clusters is not None
    codes = np.full(ROWS, 5)
    codes[np.flatnonzero(data.labels)[:150]] = 0
    codes[np.flatnonzero(~data.labels)[:40]] = 1
    codes[np.flatnonzero(data.labels)[150:155]] = 1
    codes[np.flatnonzero(codes == 5)[-120:]] = 2
    data.clusters[codes == 2] = 7
    codes[np.flatnonzero(codes == 5)[-120:]] = 3
    data.clusters[codes == 3] %= 3
    codes[
        np.r_[
            np.flatnonzero((codes == 5) & data.labels)[:5], np.flatnonzero((codes == 5) & ~data.labels)[:100]
        ]
    ] = 6
    names = ("clicks", "few", "one user", "three users", "none", "rest", "rare")
    sliced = compare_slices(data, [Slicing("odd", names, codes)], "base", replicates=20)
    assert {skip.slice: skip.reason for skip in sliced.skipped} == {
        "clicks": "one class: every label is 1",
        "few": "too few rows: 45, at least 100 are needed",
        "one user": "one user: there is nothing to resample",
        "three users": "too few users: 3, at least 10 are needed",
        "none": "no rows",
        "rare": "too few positive rows: 5, at least 10 are needed",
    }
    assert {effect.slice for effect in sliced.effects} == {"rest"}
    assert sum(sliced.sizes["odd"].values()) == ROWS
    assert {spread.deviation for spread in sliced.spreads} == {None}


def test_a_row_without_a_slice_and_a_dimension_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="not every row has one"):
        compare_slices(paired(), [Slicing("x", ("a",), np.arange(ROWS) % 2)], "base", replicates=10)
    with pytest.raises(ValueError, match="third are asked for twice"):
        compare_slices(paired(), [thirds(), thirds()], "base", replicates=10)
    with pytest.raises(ValueError, match="slices by x: two of them are called 'a': rename"):
        compare_slices(paired(), [Slicing("x", ("a", "b", "a"), np.arange(ROWS) % 3)], "base", replicates=10)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 1)), min_size=4, max_size=12),
    st.sampled_from([1e-5, 1e-2, 1.0]),
)
def test_shrinking_solves_paule_and_mandels_equation(pairs: list[tuple[float, float]], scale: float) -> None:
    y, s = np.array(pairs).T * scale

    def excess(tau2: float) -> float:
        w = 1 / (s**2 + tau2)
        return float(w @ (y - w @ y / w.sum()) ** 2 - (y.size - 1))

    tau2 = 0.0 if excess(0) <= 0 else float(brentq(excess, 0, 100 * scale**2, xtol=1e-14 * scale**2))
    w = 1 / (s**2 + tau2)
    mean = w @ y / w.sum()
    toward = (y.size - 3) / (y.size - 1) * s**2 * w
    shrunk, _, found_mean, tau = shrink(y, s)
    np.testing.assert_allclose(tau**2, tau2, atol=1e-3 * scale**2)
    np.testing.assert_allclose(found_mean, mean, atol=1e-3 * scale)
    np.testing.assert_allclose(shrunk, (1 - toward) * y + toward * mean, atol=2e-3 * scale)
    assert shrunk.min() >= y.min() - 1e-9
    assert shrunk.max() <= y.max() + 1e-9


@pytest.mark.parametrize("slices", [5, 20])
@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5])
def test_shrinking_brings_estimates_nearer_to_the_truth_and_its_intervals_cover(
    slices: int, tau: float
) -> None:
    random = np.random.default_rng(1)
    inside, raw, better = 0, 0.0, 0.0
    for _ in range(4000 // slices):
        truth = random.normal(0.3, tau, slices)
        s = random.uniform(0.05, 0.4, slices)
        y = random.normal(truth, s)
        shrunk, errors, _, _ = shrink(y, s)
        inside += int((np.abs(shrunk - truth) < 1.96 * errors).sum())
        raw += float(((y - truth) ** 2).sum())
        better += float(((shrunk - truth) ** 2).sum())
    assert better < 0.98 * raw
    assert inside / 4000 > 0.92  # wide, not wrong, where nothing varies


@pytest.mark.parametrize("slices", [5, 20])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("luck", [0.7, 1.5])
def test_shrunk_intervals_cover_where_slices_share_their_luck(slices: int, tau: float, luck: float) -> None:
    """As they share that of an arm's seeds: own errors are about 0.5, and the truth is around 0."""
    random = np.random.default_rng(2)
    inside, without = [], []
    for _ in range(300):
        truth = random.normal(0, tau, slices)
        own = random.uniform(0.3, 0.7, slices)
        y = random.normal(truth, own) + random.normal(0, luck)
        s = np.sqrt(own**2 + luck**2)
        for found, overall in ((inside, np.sqrt(luck**2 + 1 / (1 / own**2).sum())), (without, 0.0)):
            shrunk, errors, _, _ = shrink(y, s, float(overall))
            found.append(np.mean(np.abs(shrunk - truth) < 1.96 * errors))
    assert np.mean(inside) > 0.92
    if slices == 20:
        assert np.mean(without) < 0.85


def test_luck_that_slices_share_is_read_off_all_rows() -> None:
    """The difference on all rows is known no better than that of a slice: shrinking gains nothing."""
    five = Slicing("five", tuple("abcde"), np.arange(ROWS) % 5)
    data = paired()
    whole = compare(data.arms, data.labels, data.clusters, metrics=("auc", "logloss"), replicates=20)
    alone = compare_slices(data, [five], "base", replicates=20)
    widest = max(e.interval[1] - e.interval[0] for e in alone.effects)
    vague = [replace(d, interval=(-widest, widest)) for d in whole.differences]
    known, unknown = (
        compare_slices(data, [five], "base", replicates=20, overall=overall)
        for overall in (whole.differences, vague)
    )
    independent, shared, same = (
        np.mean([np.ptp(e.shrunk_interval) for e in found.effects if e.metric == "auc"])
        for found in (alone, known, unknown)
    )
    assert shared == pytest.approx(independent, rel=0.02)
    assert same > 1.04 * independent
    assert [e.interval for e in known.effects] == [e.interval for e in alone.effects]


def test_fewer_than_four_slices_are_not_shrunk() -> None:
    sliced = compare_slices(paired(), [thirds()], "base", replicates=20)
    assert all(effect.shrunk == effect.estimate for effect in sliced.effects)
    assert {spread.deviation for spread in sliced.spreads} == {None}
    five = Slicing("five", tuple("abcde"), np.arange(ROWS) % 5)
    sliced = compare_slices(paired(), [five], "base", replicates=20)
    raw, shrunk = np.array(
        [(e.estimate, e.shrunk) for e in sliced.effects if (e.arm, e.metric) == ("far", "auc")]
    ).T
    assert np.ptp(shrunk) < np.ptp(raw)


values = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-50, 50)), min_size=1, max_size=200),
    st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=200),
    st.lists(st.one_of(st.none(), st.text(max_size=1)), min_size=1, max_size=200),
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_every_row_of_a_column_is_in_the_slice_that_its_name_says(column: list[Any]) -> None:
    kind = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    present = [value for value in column if value is not None]
    found = by_column("x", pa.array(column, kind[type(present[0])] if present else pa.int64()))
    assert len(found.codes) == len(column)
    assert len(set(found.names)) == len(found.names)
    for value, code in zip(column, found.codes.tolist(), strict=True):
        name = found.names[code]
        if value is None:
            assert name == "(missing)"
        elif name.split(":")[0].isdigit() and " to " in name:
            low, high = (float(end) for end in name.partition(": ")[2].split(" to "))
            assert low - 1e-2 <= value <= high + 1e-2
        else:
            assert name in (str(value), "(others)")


def test_frequent_values_have_a_slice_each_and_others_one() -> None:
    text = pa.array([f"v{i}" for i in range(30) for _ in range(30 - i)])
    found = by_value("x", text)
    assert found.names == (*(f"v{i}" for i in range(10)), "(others)")
    assert np.bincount(found.codes).tolist() == [*range(30, 20, -1), sum(range(1, 21))]
    assert len(by_value("x", pa.array([str(i) for i in range(20)])).names) == 20
    assert by_value("x", pa.array(["(others)", None])).names == ("(others)", "(missing)")


def test_lists_are_no_slices() -> None:
    with pytest.raises(ValueError, match="x: its values are list"):
        by_column("x", pa.array([[1], [2]]))
    assert by_column("x", pa.array([True, False, None])).names == ("True", "False", "(missing)")


def test_deciles_keep_ties_together() -> None:
    found = by_decile("x", np.r_[np.zeros(500), np.arange(1, 501), np.nan])
    assert found.names[0] == "1: 0 to 0"
    assert np.bincount(found.codes).tolist() == [500, 100, 100, 100, 100, 100, 1]


@pytest.mark.parametrize(
    ("unit", "scale"),
    [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)],
)
def test_times_are_parted_by_day_whatever_their_unit(unit: str, scale: int) -> None:
    start = 1_700_006_400  # a midnight
    times = (start + np.arange(72) * 3600) * scale
    found = by_time("time", times)
    assert found.names == ("2023-11-15", "2023-11-16", "2023-11-17")
    assert found.codes.tolist() == [hour // 24 for hour in range(72)]
    assert unit in found.note
    years = by_time("time", (start + np.arange(100) * 86400 * 30) * scale)
    assert len(years.names) == 10
    assert np.bincount(years.codes).tolist() == [10] * 10


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.date32()]
)
def test_times_with_a_unit_are_not_guessed(kind: pa.DataType) -> None:
    """Of January 1970, where numbers are too small to tell; with nanoseconds that microseconds cannot say."""
    days = pa.array([0, 1, 1, 5], pa.int32()).cast(pa.date32())
    times = days.cast(pa.timestamp("ns")).cast(kind)
    if kind == pa.timestamp("ns"):
        times = pa.array(times.cast(pa.int64()).to_numpy() + 123, kind)
    found = by_column("x", times)
    assert found.names == ("1970-01-01", "1970-01-02", "1970-01-06")
    assert found.codes.tolist() == [0, 1, 1, 2]
    assert found.note == ""
    assert by_time("x", *time_numbers("x", times)).names == found.names


def test_days_to_follow_are_days_whatever_their_number() -> None:
    times = 1_700_006_400 + np.arange(100) * 86_400
    found = by_day("time", times)
    assert (len(found.names), found.names[0], found.codes.tolist()) == (100, "2023-11-15", [*range(100)])
    assert len(by_time("time", times).names) == 10


def test_times_that_are_just_numbers() -> None:
    assert by_time("t", np.array([3, 1, 2, 2])).codes.tolist() == [2, 0, 1, 1]
    assert np.bincount(by_time("t", np.arange(1000)).codes).tolist() == [100] * 10
    with pytest.raises(ValueError, match="all rows have one time, 4"):
        by_time("t", np.array([4, 4]))


def test_bands_of_counts() -> None:
    counts = np.array([0, 1, 9, 10, 99, 100, 999, 1000, 10**9])
    found = by_training_count("frequency:x", counts, exact=True)
    assert found.codes.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert by_novelty("new:x", counts, exact=False).codes.tolist() == [0, *[1] * 8]
    assert "too rare" in by_novelty("new:x", counts, exact=False).names[0]


# Days


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_the_daily_difference_is_that_of_sequential_for_pairs(users: int, days: int, seed: int) -> None:
    """The oracle lays all out: a ratio of totals of one group of users, the other group being far away and constant."""
    random = np.random.default_rng(seed)
    n = 200
    d, day, user = random.normal(size=n), random.integers(0, days, n), random.integers(0, users, n)
    user = np.unique(user, return_inverse=True)[1]
    found = daily_loss_difference(d, day, days, user)
    top, bottom = np.zeros((user.max() + 1, days)), np.zeros((user.max() + 1, days))
    np.add.at(top, (user, day), d)
    np.add.at(bottom, (user, day), 1)
    first = np.argmax(bottom > 0, axis=1)
    # two constant users, of ratio 0 from the first day on, have no variance
    calm = np.zeros((2, days))
    other = np.ones((2, days))
    oracle = daily_difference(
        np.vstack([top, calm]),
        np.vstack([bottom, other]),
        None,
        np.r_[first, 0, 0],
        np.r_[np.ones(len(top), bool), False, False],
    )
    np.testing.assert_allclose(found.estimates, oracle.estimates, atol=1e-12)
    np.testing.assert_allclose(found.covariance, oracle.covariance, atol=1e-12)
    np.testing.assert_array_equal(found.informative, oracle.informative)


def test_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    d, day, user = random.normal(size=500), random.integers(0, 4, 500), random.integers(0, 90, 500)
    whole = daily_loss_difference(d, day, 4, user)
    monkeypatch.setattr("recsys.evaluation.arms.daily.ENTRIES_AT_ONCE", 28)
    parts = daily_loss_difference(d, day, 4, user)
    np.testing.assert_allclose(parts.covariance, whole.covariance)
    np.testing.assert_array_equal(parts.informative, whole.informative)


# Runs


def test_buckets_whose_ends_look_the_same_have_names_of_their_own() -> None:
    from recsys.comparison.slices_of_runs import _texts
    from recsys_pipelines.features import Buckets

    buckets = Buckets("x_bucket", np.array([1.00001, 1.00002, 1.00003]))
    names, _ = _texts(None, buckets, [3, 0, 2, 4])  # type: ignore[arg-type]
    assert names == ["2: 1 to 1", "(missing)", "1: -inf to 1", "3: 1 to 1"]


@pytest.fixture
def row_ids(run: Run) -> pa.Array:
    return run.predictions()["row_id"].combine_chunks()


def test_slices_of_a_run_name_the_values_of_the_log(run: Run, row_ids: pa.Array, log: Path) -> None:
    """The oracle counts the log itself."""
    import pyarrow.parquet as pq

    from recsys.comparison.slices_of_runs import run_slicings

    shuffled = row_ids.take(pa.array(np.random.default_rng(0).permutation(len(row_ids))))
    users, items, new, frequent, x = run_slicings(
        [run], ["user_id", "item_id", "new:user_id", "frequency:item_id", "x"], shuffled
    )
    whole = pq.read_table(log)
    here = whole.take(shuffled)
    for found, column in ((users, "user_id"), (items, "item_id")):
        for code, value in zip(found.codes.tolist(), here[column].to_pylist(), strict=True):
            assert found.names[code] in (str(value), "(others)")
    assert set(new.names[code] for code in new.codes) == {"known"}
    # 0.8 of 6,000 rows over 40 items, 120 each
    assert set(frequent.names[code] for code in frequent.codes) <= {"10 to 99", "100 to 999"}
    train = np.bincount(whole["item_id"].to_numpy()[training_rows(run)], minlength=40)
    of = train[here["item_id"].to_numpy()]
    assert [frequent.names[code] == "100 to 999" for code in frequent.codes] == (of >= 100).tolist()
    assert len(x.names) == 10


def training_rows(run: Run) -> np.ndarray:
    from recsys_pipelines.batches.loader import Rows

    return Rows.load(Path(run.metrics["prepared"]), "train").row_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("time", "keep no time, because data.time is not set"),
        ("city", "no arm has a feature 'city' of one value a row; small has user_id, item_id, x"),
        ("tags", "no arm has a feature 'tags' of one value"),
        ("new:x", "x is a number, and only ids are new or frequent"),
        ("old:user_id", "write FEATURE, new:FEATURE, frequency:FEATURE or time"),
    ],
)
def test_slices_that_a_run_cannot_give_are_refused(
    run: Run, row_ids: pa.Array, name: str, message: str
) -> None:
    from recsys.comparison.slices_of_runs import run_slicings

    with pytest.raises(ValueError, match=message):
        run_slicings([run], [name], row_ids)


def test_a_run_without_its_prepared_set_has_no_slices_and_no_days(run: Run, row_ids: pa.Array) -> None:
    from recsys.comparison.slices_of_runs import run_slicings, run_times

    config = run.config.replace({"data.time": "time"})
    moved = replace(run, config=config, metrics={**run.metrics, "prepared": "nowhere"})
    assert run_times(moved, row_ids) is None
    with pytest.raises(ValueError, match=r"nowhere: no manifest.json"):
        run_slicings([moved], ["user_id"], row_ids)


def test_rows_of_another_set_are_refused(run: Run) -> None:
    from recsys.comparison.slices_of_runs import run_slicings

    with pytest.raises(ValueError, match="does not hold the test rows of"):
        run_slicings([run], ["user_id"], pa.array([10**6, 10**6 + 1]))


def test_unseen_and_rare_ids_are_told_apart_where_an_arm_can(
    configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    from recsys.comparison.slices_of_runs import run_slicings
    from recsys.training.train import train
    from recsys_pipelines.preparation.prepare import prepare

    n = 2000
    words = [f"w{i % 5}" if i % 10 else f"rare{i}" for i in range(n)]
    words[1900:1950] = [words[0]] * 50  # seen once in training
    table = pa.table({"label": np.arange(n) % 2, "word": words, "time": np.arange(n) * 3600 + 1_700_006_400})
    pq.write_table(table, tmp_path / "words.parquet")
    data = {
        "source": "table",
        "path": str(tmp_path / "words.parquet"),
        "time": "time",
        "split": {"by": "order"},
    }
    runs = []
    for name, encoding in (("rare", {"min_count": 5}), ("hash", {"encoding": "hash"})):
        config = configure(
            name=name,
            data=data,
            features=[{"kind": "categorical", "names": ["word"], **encoding}],
            tables={"scheme": "full" if name == "rare" else "hash", "embedding_dim": 4}
            | ({} if name == "rare" else {"budget": "400B"}),
            model={"name": "fm"},
            training={"batch_size": 256, "epochs": 1},
        )
        prepared = prepare(config.data, config.features, tmp_path / "prepared")
        runs.append(train(config, prepared, tmp_path / "runs"))
    row_ids = runs[0].predictions()["row_id"].combine_chunks()
    here = [words[i] for i in row_ids.to_pylist()]
    seen = {words[i] for i in training_rows(runs[0])}
    (alone,) = run_slicings(runs[:1], ["new:word"], row_ids)
    assert alone.names[0] == "unseen, or too rare for the vocabulary"
    assert [alone.codes[i] == 1 for i in range(len(here))] == [
        word in {f"w{k}" for k in range(5)} for word in here
    ]
    (both,) = run_slicings(runs, ["new:word"], row_ids)
    assert both.names[0] == "unseen in training"
    assert [both.codes[i] == 1 for i in range(len(here))] == [word in seen for word in here]
    hashed, time = run_slicings(runs[1:], ["word", "time"], row_ids)
    named = [hashed.names[code] for code in hashed.codes]
    assert all(name in (word, "(others)") for name, word in zip(named, here, strict=True))
    assert time.names[0].startswith("2023-") or time.names[0].startswith("2024-")
    (tmp_path / "words.parquet").unlink()
    (gone,) = run_slicings(runs[1:], ["word"], row_ids)
    assert gone.names[0] == f"id {string_ids(pa.array([hashed.names[0]]))[0]}"
    assert "64-bit id" in gone.note
    assert Predictions.of(runs[0]).source == str(runs[0].path)
