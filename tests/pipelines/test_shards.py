import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, lookup_salt
from recsys_pipelines.shards import read_shard, uniform, write_shard

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, min_size=1, max_size=20), st.integers(0, 2**63 - 1), st.data())
@settings(deadline=None)
def test_a_draw_depends_on_its_own_id_only(ids, seed, data):
    draws = uniform(np.array(ids), seed, "x")
    order = data.draw(st.permutations(range(len(ids))))
    assert np.array_equal(uniform(np.array(ids)[list(order)], seed, "x"), draws[list(order)])
    assert (draws >= 0).all()
    assert (draws < 1).all()


def test_draws_are_uniform_and_independent_of_seed_and_purpose():
    ids = np.arange(20_000)
    streams = [uniform(ids, seed, purpose) for seed in (0, 1) for purpose in ("split", "negatives")]
    for draws in streams:
        assert np.histogram(draws, 10, (0, 1))[0] == pytest.approx(np.full(10, 2000), abs=200)
    correlations = np.corrcoef(streams)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.03


@given(INT64, st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_draws_equal_splitmix64_in_plain_integers(number, seed):
    # A changed draw moves rows between training and test.
    key = slow_mix64((seed ^ lookup_salt("split", 0)) % 2**64)
    expected = (slow_mix64((number % 2**64) ^ key) >> 11) / 2**53
    assert uniform(np.array([number]), seed, "split").tolist() == [expected]


def slow_mix64(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_a_shard_comes_back(tmp_path):
    table = pa.table(
        {
            "a": pa.array([1, MISSING_ID, 3]),
            "b": pa.array([[], [1, 2], [MISSING_ID]], pa.list_(pa.int64())),
            "c": pa.array([0.5, None, 1.5]),
        }
    )
    write_shard(table, tmp_path / "s.arrow")
    assert read_shard(tmp_path / "s.arrow").equals(table)
    assert [p.name for p in tmp_path.iterdir()] == ["s.arrow"]


def test_a_shard_that_was_not_finished_does_not_exist(tmp_path, monkeypatch):
    class Dies:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write_batch(self, _):
            raise KeyboardInterrupt

    monkeypatch.setattr(pa.ipc, "new_file", Dies)
    with pytest.raises(KeyboardInterrupt):
        write_shard(pa.table({"a": [1]}), tmp_path / "s.arrow")
    assert not (tmp_path / "s.arrow").exists()
