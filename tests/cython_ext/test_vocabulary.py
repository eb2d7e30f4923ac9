import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, IdCounter, IdTable, count_ids, mix64
from recsys_cython_ext import threads as kernel_threads
from recsys_cython_ext.vocabulary import IdTables

EXTREMES = [0, 1, -1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, MISSING_ID, MISSING_ID + 1]
INT64 = st.one_of(st.sampled_from(EXTREMES), st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1))


def int64(values):
    return np.array(values, np.int64)


def unmix64(word):
    """Inverse of mix64, to build keys that collide."""
    mask = 2**64 - 1
    z = word ^ (word >> 31) ^ (word >> 62)
    z = (z * pow(0x94D049BB133111EB, -1, 2**64)) & mask
    z = z ^ (z >> 27) ^ (z >> 54)
    z = (z * pow(0xBF58476D1CE4E5B9, -1, 2**64)) & mask
    z = z ^ (z >> 30) ^ (z >> 60)
    return (z ^ 2**63) - 2**63


@given(st.lists(INT64, unique=True), st.lists(INT64), st.sampled_from([-1, 0, 7, 2**31 - 1, -(2**31)]))
def test_codes_agree_with_a_dict(keys, others, default):
    oracle = {key: code for code, key in enumerate(keys)}
    wanted = others + keys + others
    codes = IdTable(int64(keys)).codes(int64(wanted), default)
    assert codes.tolist() == [oracle.get(id_, default) for id_ in wanted]
    assert codes.dtype == np.int32


@given(st.lists(st.lists(INT64, unique=True), max_size=4), st.lists(INT64, max_size=300))
def test_several_tables_at_once_are_each_its_own(keys, wanted):
    tables = [IdTable(int64(of_table)) for of_table in keys]
    ids = np.tile(int64(wanted), (len(tables), 1))
    for row, of_table in enumerate(keys):
        ids[row, : len(of_table)] = of_table[: ids.shape[1]]
    codes = IdTables(tables).codes(ids, -1)
    assert (codes.dtype, codes.shape) == (np.int32, ids.shape)
    for table, of_table, got in zip(tables, ids, codes, strict=True):
        assert got.tolist() == table.codes(of_table, -1).tolist()


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (np.zeros((2, 1), np.int32), TypeError),
        (np.zeros(2, np.int64), TypeError),
        (np.zeros((2, 4), np.int64)[:, ::2], TypeError),
        (np.zeros((1, 1), np.int64), ValueError),
    ],
)
def test_several_tables_refuse_other_ids(ids, error):
    with pytest.raises(error):
        IdTables([IdTable(int64([1])), IdTable(int64([2]))]).codes(ids, -1)


def test_a_large_table():
    rng = np.random.default_rng(0)
    pool = np.unique(rng.integers(-(2**63), 2**63, 60_000))
    rng.shuffle(pool)
    table = IdTable(pool[:50_000])
    np.testing.assert_array_equal(table.codes(pool[:50_000], -1), np.arange(50_000))
    assert (table.codes(pool[50_000:], -1) == -1).all()
    assert len(table) == 50_000


@pytest.mark.parametrize("high", [0, 2**32 - 1])
def test_keys_that_share_half_a_hash(high):
    # All share a bucket of the table, and a home slot of the counter: the first or the last.
    words = [(high << 32) | low for low in (0, 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32 - 2)]
    keys = int64([unmix64(word) for word in words])
    assert mix64(keys).view(np.uint64).tolist() == words
    table = IdTable(keys[:5])
    assert table.codes(keys, -1).tolist() == [0, 1, 2, 3, 4, -1]
    assert table.codes(int64([unmix64((2**31 << 32) | 5)]), -1).tolist() == [-1]
    unique, counts = count_ids(np.tile(keys, 3))
    assert unique.tolist() == sorted(keys.tolist())
    assert counts.tolist() == [3] * 6


@pytest.mark.parametrize("n", [33, 200])
def test_a_bucket_too_large_takes_another_seed(n):
    keys = int64([unmix64(low) for low in range(n)])  # under the first seed all share bucket 0
    table = IdTable(keys)
    assert table.codes(keys, -1).tolist() == list(range(n))
    with pytest.raises(ValueError, match=f"duplicate key {keys[3]} at position {n}"):
        IdTable(np.append(keys, keys[3]))


def test_the_first_of_many_duplicates_is_named():
    keys = np.concatenate([np.arange(1000), np.arange(1000)[::-1]])
    with pytest.raises(ValueError, match="duplicate key 999 at position 1000"):
        IdTable(keys)
    with pytest.raises(ValueError, match="duplicate key 4 at position 1"):
        IdTable(np.full(10_000, 4))


@pytest.mark.parametrize("n", [*range(20), 1000, 184_000, 700_000])
def test_bytes_and_codes_of_every_size(n):
    keys = np.arange(n) * 3 - 7
    table = IdTable(keys)
    assert table.nbytes == 8 * n + 4 * (n * 10 // 7 + 1)  # published byte budgets rest on it
    np.testing.assert_array_equal(table.codes(keys, -1), np.arange(n))
    assert (table.codes(keys + 1, -1) == -1).all()


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 300])
def test_blocks_of_lookups(length):
    keys = np.random.default_rng(0).permutation(1000)
    ids = np.random.default_rng(1).integers(-500, 1500, length)
    oracle = {key: code for code, key in enumerate(keys.tolist())}
    expected = [oracle.get(id_, 7) for id_ in ids.tolist()]
    assert IdTable(keys).codes(ids, 7).tolist() == expected


@pytest.mark.parametrize("threads", [None, 1, 2, 100])
def test_out_and_threads(threads, monkeypatch):
    monkeypatch.setattr(kernel_threads, "VALUES_PER_THREAD", 100)
    table, ids, out = IdTable(np.arange(0, 2000, 2)), np.arange(1001), np.empty(1001, np.int32)
    assert table.codes(ids, -1, out, threads=threads) is out
    assert out.tolist() == [-1 if id_ % 2 else id_ // 2 for id_ in range(1001)]
    with pytest.raises(TypeError, match="int64"):
        table.codes(ids, -1, np.empty(1001, np.int64))
    with pytest.raises(ValueError, match="shape"):
        table.codes(ids, -1, out[1:])
    with pytest.raises(ValueError, match="share memory"):
        table.codes(ids, -1, ids.view(np.int32)[:1001])


def test_strides_and_empty_ids():
    keys = np.arange(20, dtype=np.int64)
    table = IdTable(keys[::-2])
    assert table.codes(keys[::5], -1).tolist() == [-1, 7, -1, 2]
    assert table.codes(keys[:0], -1).shape == (0,)


def test_the_table_owns_its_keys():
    keys = int64([3, 1, 2])
    table = IdTable(keys)
    keys[:] = 0
    assert table.codes(int64([3, 1, 2]), -1).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="read-only"):
        table.keys[0] = 5


def test_pickle_rebuilds_from_the_keys():
    keys = np.arange(1000, dtype=np.int64) ** 3
    data = pickle.dumps(IdTable(keys))
    assert len(data) < keys.nbytes + 500
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.codes(keys, -1), np.arange(1000))
    assert copy.nbytes == IdTable(keys).nbytes


def test_errors():
    with pytest.raises(ValueError, match="duplicate key 5 at position 2"):
        IdTable(int64([5, 6, 5]))
    with pytest.raises(TypeError, match="int32"):
        IdTable(np.zeros(1, np.int32))
    with pytest.raises(ValueError, match="shape"):
        IdTable(np.zeros((2, 1), np.int64))
    table = IdTable(int64([1]))
    with pytest.raises(TypeError, match="float64"):
        table.codes(np.zeros(1), -1)
    with pytest.raises(ValueError, match="default"):
        table.codes(int64([1]), 2**31)
    with pytest.raises(TypeError, match="uint64"):
        count_ids(np.zeros(1, np.uint64))


# Counts


@given(st.lists(INT64))
def test_counts_agree_with_a_counter(values):
    unique, counts = count_ids(int64(values))
    oracle = sorted(Counter(values).items())
    assert list(zip(unique.tolist(), counts.tolist(), strict=True)) == oracle
    assert unique.dtype == counts.dtype == np.int64


def test_counting_does_not_depend_on_chunks():
    rng = np.random.default_rng(0)
    ids = mix64(rng.zipf(1.1, 60_000) % 20_000)  # far more ids than the first table holds
    expected = np.unique(ids, return_counts=True)
    counter = IdCounter()
    for chunk in np.array_split(rng.permutation(ids), 7):
        counter.add(chunk)
    assert len(counter) == len(expected[0])
    for result in (count_ids(ids), counter.result()):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("n", [715, 716, 717, 718, 2000])
def test_counting_at_the_edge_of_growth(n):
    ids = np.concatenate([np.arange(n), np.arange(n)])
    unique, counts = count_ids(ids)
    assert unique.tolist() == list(range(n))
    assert counts.tolist() == [2] * n


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 255, 256, 257, 385])
@pytest.mark.parametrize("limit_at", [0, 716, 10_000])
def test_blocks_of_counts(n, limit_at):
    counter = IdCounter()
    counter.add(np.arange(limit_at))  # the next new id lets the table grow, or not
    ids = np.concatenate([np.arange(n) + limit_at - n // 2, np.arange(n) % 3])
    counter.add(ids)
    oracle = sorted(Counter([*range(limit_at), *ids.tolist()]).items())
    assert list(zip(*map(np.ndarray.tolist, counter.result()), strict=True)) == oracle


@given(st.lists(st.tuples(INT64, st.integers(1, 2**40))), st.lists(INT64))
def test_added_counts_agree_with_a_counter(pairs, values):
    counter, oracle = IdCounter(), Counter(values)
    for id_, count in pairs:
        oracle[id_] += count
    counter.add(int64(values))
    counter.add_counts(int64([id_ for id_, _ in pairs]), int64([count for _, count in pairs]))
    unique, counts = counter.result()
    assert list(zip(unique.tolist(), counts.tolist(), strict=True)) == sorted(oracle.items())
    assert len(counter) == len(oracle)


def test_counters_merge():
    rng = np.random.default_rng(0)
    ids = mix64(rng.zipf(1.1, 60_000) % 20_000)
    merged = IdCounter()
    for part in np.array_split(ids, 3):
        merged.add_counts(*count_ids(part))
    for got, expected in zip(merged.result(), count_ids(ids), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_counts_that_are_refused():
    counter = IdCounter()
    counter.add(int64([5]))
    for ids, counts, error, message in [
        (int64([1, 2]), int64([1, 0]), ValueError, "count 0 at position 1"),
        (int64([1, 2]), int64([-3, 1]), ValueError, "count -3 at position 0"),
        (int64([1, 2]), int64([1]), ValueError, "one length, got 2 and 1"),
        (int64([1, 2]), int64([2**61, 2**61]), ValueError, "less than 2\\^62"),
        (int64([1, 2]), int64([2**63 - 1, 2**63 - 1]), ValueError, "less than 2\\^62"),
        (int64([1]), np.ones(1), TypeError, "int64"),
        (np.ones(1), int64([1]), TypeError, "int64"),
    ]:
        with pytest.raises(error, match=message):
            counter.add_counts(ids, counts)
    assert [array.tolist() for array in counter.result()] == [[5], [1]]
