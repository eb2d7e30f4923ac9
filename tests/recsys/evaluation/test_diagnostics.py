import numpy as np
import pytest

from recsys.evaluation.diagnostics import effective_rank, information_abundance


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


def test_bad_input_is_refused():
    for measure in (effective_rank, information_abundance):
        with pytest.raises(ValueError, match="row 1 of the table is not finite"):
            measure([[1, 2], [np.nan, 1]])
        with pytest.raises(ValueError, match="every entry of the table is 0"):
            measure(np.zeros((3, 2)))
        for empty in (np.ones(3), np.ones((0, 2))):
            with pytest.raises(ValueError, match="table has shape"):
                measure(empty)
