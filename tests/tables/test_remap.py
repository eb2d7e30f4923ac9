"""A bitmap with ranks gives every code what a dict gives it."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tables.remap import Remap, remap_bytes

SIZES = st.integers(0, 1200) | st.sampled_from([1, 63, 64, 65, 255, 256, 257, 511, 512, 513])


def by_dict(keep: np.ndarray, ids: np.ndarray) -> list[int]:
    rows = {code: row for row, code in enumerate(np.flatnonzero(keep).tolist())}
    return [rows.get(code, -1) for code in ids.tolist()]


@settings(max_examples=150)
@given(size=SIZES, share=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]), seed=st.integers(0, 99))
def test_rows_are_those_of_a_dict(size: int, share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    keep = random.random(size) < share
    remap = Remap.of(keep)
    every = np.arange(size)
    assert remap.rows(every).tolist() == by_dict(keep, every)
    assert remap.keep(every).tolist() == keep.tolist()
    assert (remap.num_ids, len(remap), remap.num_kept) == (size, size, int(keep.sum()))
    if size:
        some = random.integers(0, size, 2 * size)[::2]  # duplicates, and no contiguous memory
        assert remap.rows(some).tolist() == by_dict(keep, some)
    assert remap.rows(every[:0]).tolist() == []
    for wrong in (-1, size, 2**62, -(2**63)):
        with pytest.raises(
            ValueError, match=rf"feature 'f': id {wrong} at position {size} is outside the {size} codes"
        ):
            remap.rows(np.append(every, [wrong, wrong]), "feature 'f'")


def test_it_is_a_value() -> None:
    keep = np.arange(300) % 3 == 0
    remap, other = Remap.of(keep), Remap.of(~keep)
    again = pickle.loads(pickle.dumps(remap))
    assert again == remap == Remap(remap.words, 300)
    assert hash(again) == hash(remap)
    assert str(again) == str(remap) != str(other)
    assert str(remap).startswith("100 of 300 codes, ")
    assert remap != other
    assert remap != Remap.of(keep[:299])
    assert remap != 100
    assert again.rows(np.array([0, 1, 3])).tolist() == [0, -1, 1]
    with pytest.raises(ValueError, match="read-only"):
        remap.words[0] = 0


def test_it_takes_one_and_a_quarter_bits_a_code() -> None:
    assert Remap.of(np.ones(256 * 1000, np.bool_)).nbytes * 8 == 1.25 * 256 * 1000
    assert Remap.of(np.ones(0, np.bool_)).nbytes == 0


@given(num_ids=st.integers(0, 2000))
def test_its_bytes_are_those_of_its_arrays(num_ids: int) -> None:
    remap = Remap.of(np.ones(num_ids, np.bool_))
    assert remap.nbytes == remap_bytes(num_ids) == remap.words.nbytes + remap._ranks.nbytes


def test_other_arrays_are_refused() -> None:
    words = Remap.of(np.ones(70, np.bool_)).words
    with pytest.raises(TypeError, match="words must be a uint64 array, got int64"):
        Remap(words.view(np.int64), 70)
    with pytest.raises(ValueError, match=r"300 codes .* take 8 words, got shape \(4,\)"):
        Remap(words, 300)
    with pytest.raises(ValueError, match="code 69 is kept, beyond the 69 codes there are"):
        Remap(words, 69)
    with pytest.raises(TypeError, match=r"keep must be a bool array \[N\], got int64"):
        Remap.of(np.arange(3))
