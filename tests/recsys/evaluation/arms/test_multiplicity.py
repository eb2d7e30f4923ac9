import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from recsys.evaluation.arms.multiplicity import benjamini_hochberg, holm

LISTS = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(LISTS)
def test_holm_is_a_step_down_bonferroni(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if p_values[i] * (len(p_values) - step) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
    assert (np.array(adjusted) >= np.array(benjamini_hochberg(p_values)) - 1e-12).all()


@given(LISTS)
def test_benjamini_hochberg_bounds_the_share_of_false_rejections(p_values):
    """All up to the largest p[i] <= level · rank / count are rejected."""
    adjusted = benjamini_hochberg(p_values)
    for level in (0.01, 0.05, 0.3):
        within = [p for rank, p in enumerate(sorted(p_values), 1) if p * len(p_values) <= level * rank]
        assert {i for i, p in enumerate(adjusted) if p <= level} == {
            i for i, p in enumerate(p_values) if within and p <= max(within)
        }


def test_both_are_statsmodels():
    p = np.random.default_rng(0).random(30) ** 3
    p[:5] = p[5:10]
    for ours, name in ((holm, "holm"), (benjamini_hochberg, "fdr_bh")):
        assert ours(p) == pytest.approx(multipletests(p, method=name)[1], rel=1e-12)


def test_bad_p_values_are_refused_and_none_is_fine():
    assert holm([]) == benjamini_hochberg([]) == []
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match=f"position 1 is {bad}"):
            holm([0.5, bad])
