import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluation.diagnostics import collision_rate, effective_rank, information_abundance, rows_touched


def test_both_ranks_are_the_rank_where_all_directions_are_equal():
    for rank in (1, 3, 8):
        table = np.zeros((100, 8), np.float32)
        table[:rank, :rank] = 2 * np.eye(rank)
        assert effective_rank(table) == pytest.approx(rank)
        assert information_abundance(table) == pytest.approx(rank)


def test_both_ranks_by_their_formulas():
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(50, 3)))
    right, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    table = left @ np.diag([4, 2, 2]) @ right
    assert information_abundance(table) == pytest.approx(8 / 4)
    assert effective_rank(table) == pytest.approx(np.exp(0.5 * np.log(2) + 0.5 * np.log(4)))
    assert effective_rank(7 * table.T) == pytest.approx(effective_rank(table))


def collisions_by_loop(rows, impressions):
    every = some = 0
    for i, mine in enumerate(rows):
        others = [other for j, other in enumerate(rows) if j != i]
        every += impressions[i] * any(sorted(mine) == sorted(other) for other in others)
        some += impressions[i] * any(set(mine) & set(other) for other in others)
    return every / sum(impressions), some / sum(impressions)


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_collision_rate_agrees_with_a_loop(n, k, num_embeddings, seed):
    rng = np.random.default_rng(seed)
    rows, impressions = rng.integers(0, num_embeddings, (n, k)), rng.integers(1, 9, n)
    assert collision_rate(rows, impressions) == pytest.approx(
        collisions_by_loop(rows.tolist(), impressions.tolist())
    )
    assert rows_touched(rows, num_embeddings) == len(set(rows.ravel().tolist())) / num_embeddings


def test_collision_rate_weighs_by_impressions():
    assert collision_rate([0, 0, 1], [1, 2, 7]) == pytest.approx((0.3, 0.3))
    assert collision_rate([[0, 5], [5, 0], [0, 6]], [1, 1, 2]) == pytest.approx((0.5, 1))
    assert collision_rate([[3, 3], [4, 4]], [1, 1]) == (0, 0)


def test_bad_input_is_refused():
    for measure in (effective_rank, information_abundance):
        with pytest.raises(ValueError, match="row 1 of the table is not finite"):
            measure([[1, 2], [np.nan, 1]])
        with pytest.raises(ValueError, match="every entry of the table is 0"):
            measure(np.zeros((3, 2)))
        for empty in (np.ones(3), np.ones((0, 2))):
            with pytest.raises(ValueError, match="table has shape"):
                measure(empty)
    with pytest.raises(ValueError, match=r"impressions have shape \(1,\), but there are 2 ids"):
        collision_rate([0, 1], [1])
    with pytest.raises(ValueError, match="position 1 are -1"):
        collision_rate([0, 1], [1, -1])
    with pytest.raises(ValueError, match="0 impressions"):
        collision_rate([0, 1], [0, 0])
    with pytest.raises(ValueError, match="integers"):
        collision_rate([0.5], [1])
    with pytest.raises(ValueError, match="at least one id"):
        rows_touched(np.zeros((0, 2), int), 3)
    for rows in ([0, 3], [0, -1]):
        with pytest.raises(ValueError, match=r"position 1 are \[(3|-1)\]: must lie in 0..2"):
            rows_touched(rows, 3)
