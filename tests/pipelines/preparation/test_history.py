from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID
from recsys_pipelines.config import CategoricalConfig, DataConfig, SequenceConfig
from recsys_pipelines.preparation import history
from recsys_pipelines.preparation.history import histories, num_buckets, with_histories, write_bucket
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.preparation.split import SPLITS
from recsys_pipelines.shards import read_shard, write_shard

EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9) | st.just(MISSING_ID), st.booleans()),
    max_size=40,
)


def slow_histories(rows, length, only_positive):
    """Of each row, events of the same user at an earlier time: by time, then by place."""
    found = []
    for user, time, _, _ in rows:
        earlier = [
            (t, place, event)
            for place, (u, t, event, positive) in enumerate(rows)
            if u == user and t < time and event != MISSING_ID and (positive or not only_positive)
        ]
        found.append([event for _, _, event in sorted(earlier)][-length:])
    return found


@given(EVENTS, st.integers(1, 4), st.booleans())
def test_histories_equal_slow_ones(rows, length, only_positive):
    users, times, events, positive = (np.array([row[place] for row in rows], np.int64) for place in range(4))
    found = histories(users, times, events, length, positive > 0 if only_positive else None)
    assert found.to_pylist() == slow_histories(rows, length, only_positive)


@given(EVENTS, st.lists(st.integers(0, 40), max_size=3), st.integers(1, 3))
@settings(deadline=None)
def test_parts_and_buckets_leave_no_trace(tmp_path_factory, rows, cuts, buckets):
    folder = tmp_path_factory.mktemp("parts")
    table = pa.table(
        {
            "h": pa.array([row[2] for row in rows], pa.int64()),
            "row_id": pa.array(range(len(rows)), pa.int64()),
            "@user": pa.array([row[0] for row in rows], pa.int64()),
            "@time": pa.array([row[1] for row in rows], pa.int64()),
            "@label": pa.array([int(row[3]) for row in rows], pa.int8()),
        }
    )
    ends = sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})
    parts = []
    for number, (start, stop) in enumerate(pairwise(ends)):
        parts.append(folder / f"{number}.arrow")
        write_shard(table.slice(start, stop - start), parts[-1])
    if not parts:
        return
    sequence = SequenceConfig(kind="sequence", name="h", column="item", length=3, only_positive=True)
    for bucket in range(buckets):
        write_bucket(parts, [], [sequence], folder / "history", bucket, buckets)
    found = [
        with_histories(read_shard(part), start, [sequence], folder / "history", buckets)["h"].to_pylist()
        for part, start in zip(parts, ends, strict=False)
    ]
    assert [lists for part in found for lists in part] == slow_histories(rows, 3, True)


def test_buckets_bound_the_rows_that_are_sorted_at_once():
    sequences = [SequenceConfig(kind="sequence", name=name, column="c", length=50) for name in "ab"]
    most = history.BUCKET_EVENTS // 100
    assert [num_buckets(n, sequences) for n in (0, 1, most, most + 1)] == [1, 1, 1, 2]


def log(rows=60):
    n = np.arange(rows)
    return pa.table(
        {
            "label": pa.array((n % 3 == 0).astype(np.int64)),
            "user": pa.array([f"u{k % 4}" if k % 7 else None for k in n]),
            "item": pa.array([f"i{k % 5}" for k in n]),
            "t": pa.array((n * 7) % 50),
        }
    )


def declared(path, **options):
    options = {"user": "user", "time": "t", "split": {"by": "time"}} | options
    return DataConfig.model_validate({"source": "table", "path": path, **options})


FEATURES = [
    CategoricalConfig(kind="categorical", names=("item",), min_count=2),
    SequenceConfig(kind="sequence", name="history", column="item", length=4, like="item"),
    SequenceConfig(
        kind="sequence", name="clicked", column="item", length=2, only_positive=True, encoding="hash"
    ),
]


def test_a_sequence_sees_no_later_row_of_any_split(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "BUCKET_EVENTS", 100)
    rows = log().to_pylist()
    pa.parquet.write_table(log(), tmp_path / "log.parquet")
    prepared = prepare(declared(tmp_path / "log.parquet"), FEATURES, tmp_path / "out")
    seen = [
        row
        for split in SPLITS
        for path in sorted((prepared.path / split).glob("*.arrow"))
        for row in read_shard(path).to_pylist()
    ]
    code = {rows[row["row_id"]]["item"]: row["item"] for row in seen}
    users = {row["row_id"]: row["@user"] for row in seen}
    events = [(users[k], row["t"], row["item"], row["label"] == 1) for k, row in enumerate(rows)]
    expected = slow_histories(events, 4, False)
    assert len(seen) == 60
    for row in seen:
        assert row["history"] == [code[item] for item in expected[row["row_id"]]]
    assert any(row["history"] for row in seen)
    clicked = slow_histories(events, 2, True)
    hashed = prepared.features().features[2]
    assert hashed.num_codes is None
    assert [len(row["clicked"]) for row in seen] == [len(clicked[row["row_id"]]) for row in seen]
    assert not (prepared.path / "history").exists()
    # rows of nobody are not rows of one user
    assert all(row["history"] == [] for row in seen if rows[row["row_id"]]["user"] is None)


def test_the_days_before_are_seen_by_the_rows_of_an_appended_day(tmp_path):
    """Appended, the second half has the sequences it has in one piece."""
    whole, cut = log(), 35
    for name, table in (("log", whole), ("a", whole.slice(0, cut)), ("b", whole.slice(cut))):
        pa.parquet.write_table(table, tmp_path / f"{name}.parquet")
    one, first = (
        prepare(declared(tmp_path / f"{name}.parquet"), FEATURES[::2], tmp_path / "out")
        for name in ("log", "a")
    )
    both = prepare(declared(tmp_path / "b.parquet"), FEATURES[::2], tmp_path / "out", base=first)

    def lists(prepared):
        tables = [read_shard(path) for split in SPLITS for path in (prepared.path / split).glob("*.arrow")]
        return {row["row_id"]: row["clicked"] for table in tables for row in table.to_pylist()}

    expected, found = lists(one), lists(both)
    assert sorted(found) == sorted(expected) == list(range(60))
    # row numbers without a user are users of their own, and the rows are the same
    assert {row: found[row] for row in range(cut, 60)} == {row: expected[row] for row in range(cut, 60)}
    assert any(found[row] for row in range(cut, 60))


def test_a_sequence_needs_a_user_a_time_and_the_feature_it_is_like(tmp_path):
    pa.parquet.write_table(log(), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"'history' is a user's earlier events.*data.user and data.time"):
        prepare(declared(tmp_path / "log.parquet", user=None), FEATURES, tmp_path)
    for split in ({"by": "order"}, {"by": "random"}):
        with pytest.raises(ValueError, match=r"'history' is .*set split.by: time"):
            prepare(declared(tmp_path / "log.parquet", split=split), FEATURES, tmp_path)
    other = CategoricalConfig(kind="categorical", names=("user",))
    bucketed = CategoricalConfig(kind="categorical", names=("item",), buckets="squared_log")
    of_user = FEATURES[1].model_copy(update={"like": "user"})
    for features in (FEATURES[1:], [bucketed, FEATURES[1]], [other, of_user]):
        with pytest.raises(
            ValueError, match=r"'history': like: '\w+' is no categorical feature of the column 'item'"
        ):
            prepare(declared(tmp_path / "log.parquet"), features, tmp_path)
    with pytest.raises(ValueError, match="leave out encoding"):
        SequenceConfig(kind="sequence", name="h", column="item", like="item", min_count=2)
