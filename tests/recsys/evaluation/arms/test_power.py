from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.power import (
    ALPHA,
    POWER,
    minimum_detectable_effect,
    planned,
    power_sentence,
    seeds_needed,
    units_needed,
)


@pytest.fixture(scope="module")
def difference():
    """Of 5 seeds, on 400 rows."""
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.3
    noise = 0.7 * rng.normal(size=(2, 5, 400)) + 0.3 * rng.normal(size=(2, 1, 400))
    arms = {str(a): 1 / (1 + np.exp(noise[a] - 1.0 * labels)) for a in range(2)}
    found = compare(arms, labels, metrics=("auc",), replicates=200).differences[0]
    assert found.row_variance > 0
    return found


def test_power_is_80_percent_at_the_minimum_detectable_effect(difference):
    assert difference.minimum_detectable_effect == pytest.approx(minimum_detectable_effect(difference))
    only_rows = replace(difference, row_variance=1.0, row_df=30.0, seed_variance=None, seed_df=None)
    effect = minimum_detectable_effect(only_rows)
    rng = np.random.default_rng(0)
    estimate, error = rng.normal(effect, 1, 100_000), np.sqrt(rng.chisquare(30, 100_000) / 30)
    found = np.abs(estimate) / error > t.ppf(1 - ALPHA / 2, 30)
    assert found.mean() == pytest.approx(POWER, abs=0.01)


def test_variances_shrink_with_units_and_seeds(difference):
    d = replace(difference, row_variance=4.0, row_df=50.0, seed_variance=1.0, seed_df=8.0)

    def by_hand(row, row_df, seeds, seed_df):
        df = (row + seeds) ** 2 / (row**2 / row_df + seeds**2 / seed_df)
        return np.sqrt(row + seeds) * (t.ppf(0.975, df) + t.ppf(0.8, df))

    assert planned(d) == pytest.approx(by_hand(4, 50, 1, 8))
    assert planned(d, (100, 300)) == pytest.approx(by_hand(4 / 3, 150, 1, 8))
    assert planned(d, (100, 300), (5, 9)) == pytest.approx(by_hand(4 / 3, 150, 5 / 9, 16))


@pytest.mark.parametrize("share", [0.7, 0.85, 1.0, 1.5, 4])
def test_units_needed_are_the_fewest(difference, share):
    effect = share * difference.minimum_detectable_effect
    count = units_needed(difference, 400, effect)
    if count is None:
        assert planned(difference, (1, 1e12)) > effect
    else:
        assert planned(difference, (400, count)) <= effect * (1 + 1e-12)
        assert count == 2 or planned(difference, (400, count - 1)) > effect
    if share == 1:
        assert count == pytest.approx(400, abs=1)


def test_more_seeds_where_no_number_of_units_suffices(difference):
    effect = planned(difference, (1, 1e12)) / 2
    assert units_needed(difference, 400, effect) is None
    more = seeds_needed(difference, 5, effect)
    rows_left = replace(difference, row_variance=0.0)
    assert planned(rows_left, seeds=(5, more)) * np.sqrt(2) <= effect
    assert planned(rows_left, seeds=(5, more - 1)) * np.sqrt(2) > effect
    count = units_needed(difference, 400, effect, (5, more))
    assert planned(difference, (400, count), (5, more)) <= effect
    sentence = power_sentence(difference, 400, 5, "rows", effect)
    assert f"no number of rows is enough with 5 seeds: you need about {more} seeds and " in sentence


def test_the_sentence(difference):
    rows = replace(difference, row_variance=1e-6, row_df=12_344.0, seed_variance=1e-9, seed_df=8.0)
    assert power_sentence(rows, 12_345, 5) == (
        "With 5 seeds and 12,345 users a difference of ±0.0028 AUC would be found four times in five, "
        "by a two-sided test at 5 %; to find ±0.001 you need about 98,000 users."
    )
    one = replace(rows, seed_variance=None, seed_df=None)
    assert "With 1 seed and 9 rows" in power_sentence(one, 9, 1, "rows")
    assert "one seed says nothing about other seeds" in power_sentence(one, 9, 1, "rows")
    nothing = replace(rows, row_variance=0.0, seed_variance=0.0)
    assert "what could be found is unknown" in power_sentence(nothing, 9, 2)


def test_of_several_arms_power_is_that_of_holms_first_step(difference):
    """An arm alone passes where its p-value is below 5 % over the number of arms."""
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.3
    arms = {str(a): 1 / (1 + np.exp(rng.normal(size=(1, 400)) - labels)) for a in range(4)}
    for d in compare(arms, labels, metrics=("auc",), replicates=50, level=0.9).differences:
        assert d.minimum_detectable_effect == pytest.approx(minimum_detectable_effect(d, 0.1 / 3))
        assert d.minimum_detectable_effect > 1.1 * minimum_detectable_effect(d, 0.1)
    only_rows = replace(difference, row_variance=1.0, row_df=30.0, seed_variance=None, seed_df=None)
    estimate, error = rng.normal(0, 1, 100_000), np.sqrt(rng.chisquare(30, 100_000) / 30)
    estimate += minimum_detectable_effect(only_rows, 0.05 / 3)
    assert (2 * t.sf(np.abs(estimate) / error, 30) < 0.05 / 3).mean() == pytest.approx(POWER, abs=0.01)
    sentence = power_sentence(only_rows, 400, 1, "rows", 2.0, arms=3)
    assert "by a two-sided test at 1.67 % (Holm's first step over 3 arms)" in sentence
    assert f"about {units_needed(only_rows, 400, 2.0, alpha=0.05 / 3):,}"[:8] in sentence
    assert units_needed(only_rows, 400, 2.0, alpha=0.05 / 3) > units_needed(only_rows, 400, 2.0)


def test_without_row_variance_units_change_nothing(difference):
    d = replace(difference, row_variance=0.0)
    assert units_needed(d, 400, 2 * planned(d)) == 400
    assert units_needed(d, 400, planned(d) / 2) is None


def test_bad_plans_are_refused(difference):
    for effect in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="effect is"):
            units_needed(difference, 400, effect)
    with pytest.raises(ValueError, match="two or more"):
        planned(difference, seeds=(5, 1))
    with pytest.raises(ValueError, match="one seed"):
        seeds_needed(replace(difference, seed_variance=None), 1, 0.1)
