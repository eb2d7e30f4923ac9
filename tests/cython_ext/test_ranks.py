"""Weighted ranks against a loop over all pairs, and bulk Poisson numbers against scipy's distribution."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, poisson

from recsys_cython_ext import ranks
from recsys_cython_ext.ranks import WeightedRanks, empty_weights, fill_poisson, fill_weights


def by_pairs(positive, scores, units, weights):
    """Twice the weight of pairs won, and the weights of both classes, in Python's integers."""
    w = weights[units].astype(object)
    wins = sum(
        w[i] * w[j] * (2 if scores[i] > scores[j] else int(scores[i] == scores[j]))
        for i in np.flatnonzero(positive)
        for j in np.flatnonzero(~positive)
    )
    return wins, sum(w[positive]), sum(w[~positive])


def drawn(n, count, distinct, rate, seed):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < rate
    scores = rng.integers(0, distinct, n) / distinct - 0.3
    # Uneven: unit k is about twice as likely as unit k + 1, and every unit has a row.
    units = np.minimum(rng.geometric(0.5, n) - 1, count - 1)
    units = np.unique(units, return_inverse=True)[1]
    return positive, scores, units, rng


@settings(max_examples=150)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from([1, 2, 7, 1000]),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.integers(1, 140),
    st.sampled_from([1, 12, 255]),
    st.integers(0, 2**32 - 1),
)
def test_wins_are_those_of_all_pairs(n, count, distinct, rate, replicates, largest, seed):
    positive, scores, units, rng = drawn(n, count, distinct, rate, seed)
    weights = rng.integers(0, largest + 1, (replicates, units.max() + 1)).astype(np.uint8)
    fast = WeightedRanks(positive, scores, units)
    found = np.transpose(fast.wins(weights))
    assert found.shape == (replicates, 3)
    for b in {0, replicates // 2, replicates - 1}:
        assert found[b].tolist() == list(by_pairs(positive, scores, units, weights[b]))
    # The same from any layout and integer dtype.
    for same in (np.asfortranarray(weights), weights.astype(np.int64), np.repeat(weights, 2, axis=0)[::2]):
        np.testing.assert_array_equal(np.transpose(fast.wins(same)), found)
    laid = empty_weights(replicates, weights.shape[1])
    laid[:] = 0
    fill_weights(laid, 0, weights)
    np.testing.assert_array_equal(np.transpose(fast.wins(laid))[:replicates], found)
    with np.errstate(invalid="ignore"):
        expected = found[:, 0] / (2.0 * found[:, 1] * found[:, 2])
    np.testing.assert_array_equal(fast.auc(weights), expected)


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_the_order_of_rows_is_irrelevant(n, seed):
    positive, scores, units, rng = drawn(n, 5, 4, 0.4, seed)
    weights = rng.poisson(1.0, (3, units.max() + 1)).astype(np.uint8)
    order = rng.permutation(n)
    found = WeightedRanks(positive, scores, units).wins(weights)
    moved = WeightedRanks(positive[order], scores[order], units[order]).wins(weights)
    np.testing.assert_array_equal(found, moved)


def test_one_positive_and_a_class_without_weight():
    positive = np.array([False, True, False, False])
    scores = np.array([0.1, 0.5, 0.5, 0.9])
    weights = np.array([[1, 1, 1, 1], [3, 2, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], np.uint8)
    fast = WeightedRanks(positive, scores, np.arange(4))
    np.testing.assert_array_equal(fast.auc(weights), [0.5, 7 / 8, np.nan, np.nan, np.nan])
    assert fast.auc(weights[:0]).shape == (0,)


def test_infinite_scores_and_zeros_of_both_signs():
    scores = np.array([-np.inf, -0.0, 0.0, np.inf, np.inf], np.float32)
    positive = np.array([False, True, False, True, False])
    fast = WeightedRanks(positive, scores, np.zeros(5, np.int32))
    assert fast.wins(np.full((1, 1), 2, np.int16))[0].tolist() == [4 * (2 + 1 + 2 + 2 + 1)]


def test_sums_near_the_limit_are_exact():
    """Half of the largest total each: products of 2^60, which float64 cannot hold."""
    n = (2**31 - 1) // 255
    positive = np.zeros(n, np.bool_)
    positive[1 : n // 2] = True
    scores = positive.astype(np.float32)
    fast = WeightedRanks(positive, scores, np.zeros(n, np.int32))
    wins, up, down = (int(x[0]) for x in fast.wins(np.full((1, 1), 255, np.uint8)))
    assert (up, down) == (255 * (n // 2 - 1), 255 * (n - n // 2 + 1))
    assert wins == 2 * up * down > 2**60


def test_sums_beyond_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(ranks, "_LIMIT", 100)
    fast = WeightedRanks(np.arange(10) < 5, np.arange(10.0), np.arange(10))
    fast.auc(np.full((1, 10), 9, np.uint8))
    with pytest.raises(ValueError, match=r"10 rows of weight up to 10 might sum to 2\^31"):
        fast.auc(np.full((1, 10), 10, np.uint8))


def test_bad_input_is_refused():
    positive, scores, units = np.array([True, False]), np.array([0.1, 0.2]), np.array([0, 1])
    with pytest.raises(TypeError, match="int64, float64, int64"):
        WeightedRanks(positive.astype(np.int64), scores, units)
    with pytest.raises(TypeError, match="bool, int64, int64"):
        WeightedRanks(positive, units, units)
    with pytest.raises(TypeError, match="bool, float64, float64"):
        WeightedRanks(positive, scores, scores)
    for shapes in (
        (positive[:1], scores, units),
        (positive, scores[:1], units),
        (positive, scores, units[:1]),
    ):
        with pytest.raises(ValueError, match="one value per row"):
            WeightedRanks(*shapes)
    with pytest.raises(ValueError, match="one value per row"):
        WeightedRanks(positive[:0], scores[:0], units[:0])
    with pytest.raises(ValueError, match="position 1 is nan"):
        WeightedRanks(positive, np.array([0, np.nan]), units)
    for bad in (-1, 2**31):
        with pytest.raises(ValueError, match="units must lie in"):
            WeightedRanks(positive, scores, np.array([0, bad]))
    fast = WeightedRanks(positive, scores, units)
    with pytest.raises(TypeError, match="float64"):
        fast.auc(np.ones((1, 2)))
    for shape in ((2,), (1, 1), (1, 3)):
        with pytest.raises(ValueError, match=r"shape \[B, 2\]"):
            fast.auc(np.ones(shape, np.uint8))
    for bad in (-1, 256):
        with pytest.raises(ValueError, match=r"lie in 0\.\.255"):
            fast.auc(np.full((1, 2), bad))


@pytest.mark.parametrize(
    ("replicates", "room"), [(1, 16), (16, 16), (17, 64), (64, 64), (65, 80), (100, 128), (0, 0)]
)
def test_room_for_weights(replicates, room):
    weights = empty_weights(replicates, 3)
    assert weights.shape == (room, 3)
    if room:
        assert weights.T.flags.c_contiguous
        assert weights.ctypes.data % 64 == 0


@given(st.integers(1, 70), st.integers(1, 600), st.integers(0, 60))
def test_filled_weights_are_transposed(replicates, units, start):
    weights = empty_weights(start + replicates, units)
    weights[:] = 9
    values = np.random.default_rng(0).integers(0, 9, (replicates, units)).astype(np.uint8)
    fill_weights(weights, start, values)
    np.testing.assert_array_equal(weights[start : start + replicates], values)
    assert (weights[:start] == 9).all()
    assert (weights[start + replicates :] == 9).all()


def test_weights_that_do_not_fit_are_refused():
    weights = empty_weights(16, 3)
    for start, values in (
        (0, np.ones((17, 3), np.uint8)),
        (1, np.ones((16, 3), np.uint8)),
        (-1, np.ones((1, 3), np.uint8)),
        (0, np.ones((1, 2), np.uint8)),
        (0, np.ones((1, 3), np.int64)),
    ):
        with pytest.raises(ValueError, match=r"fit|take"):
            fill_weights(weights, start, values)
    with pytest.raises(ValueError, match="take"):
        fill_weights(np.ones((16, 3), np.uint8), 0, np.ones((16, 3), np.uint8))


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 40_000), max_size=4))
@settings(max_examples=20)
def test_poisson_numbers_invert_the_distribution_function(seed, sizes):
    bits, same = np.random.PCG64(seed), np.random.PCG64(seed)
    steps = [round(2**32 * poisson.cdf(k, 1.0)) for k in range(12)]
    for size in sizes:
        out = np.empty(size, np.uint8)
        fill_poisson(bits, out)
        words = np.ravel(
            [(word & 0xFFFFFFFF, word >> 32) for word in same.random_raw((size + 1) // 2).tolist()]
        )
        np.testing.assert_array_equal(out, np.searchsorted(steps, words[:size], side="right"))


def test_poisson_numbers_are_of_rate_one():
    out = np.empty((1001, 1000), np.uint8)
    fill_poisson(np.random.PCG64(0), out)
    expected = out.size * np.r_[poisson.pmf(range(7), 1.0), poisson.sf(6, 1.0)]
    assert chisquare(np.bincount(np.minimum(out.ravel(), 7)), expected).pvalue > 0.001
    for bad in (np.empty(3, np.int64), out[:, ::2]):
        with pytest.raises(ValueError, match="contiguous uint8"):
            fill_poisson(np.random.PCG64(0), bad)


def test_threads_share_one_ranking():
    positive, scores, units, rng = drawn(20_000, 8, 500, 0.3, 0)
    weights = rng.poisson(1.0, (64, units.max() + 1)).astype(np.uint8)
    fast = WeightedRanks(positive, scores, units)
    expected, found = fast.auc(weights), [None] * 4

    def work(i):
        found[i] = fast.auc(weights)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        np.testing.assert_array_equal(one, expected)
