"""No verdict, probability, interval or detectable effect stands on fewer than ten units; one object decides for all."""

import numpy as np
import pytest

from recsys.comparison.judge import _power
from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.intervals import bounded_interval, margin_interval
from recsys.evaluation.arms.support import LEAST, Support, support
from recsys.evaluation.arms.variance import Contrast, influence_df


def scores(rng, positives, rows=500, signal=1.2, arms=2):
    """Independent arms that rank positives higher."""
    labels = np.arange(rows) < positives
    return {
        f"arm{a}": 1 / (1 + np.exp(-signal * labels - rng.normal(size=(1, rows)))) for a in range(arms)
    }, labels


def said(found):
    return {
        (d.p_value, d.adjusted_p_value, d.interval, d.bca_interval, d.minimum_detectable_effect, d.verdict)
        for d in found.differences
    }


SILENCE = {(1.0, 1.0, None, None, None, "undecided")}


@pytest.mark.parametrize("positives", [1, 2, 5, 9, 491, 499])
def test_nothing_is_said_where_few_rows_hold_the_rarer_class(positives):
    arms, labels = scores(np.random.default_rng(positives), positives, signal=3.0)
    arms["arm1"] = 1 - arms["arm1"]  # as different as can be
    found = compare(arms, labels, replicates=50)
    assert said(found) == SILENCE
    assert set(map(str, found.best.values())) == {"{}"}
    kind = "positive" if positives < 250 else "negative"
    few = min(positives, 500 - positives)
    assert {d.no_verdict for d in found.differences} == {
        f"too few rows to judge: {few} {kind}, at least 10 are needed"
    }
    for d in found.differences:
        assert str(d.no_verdict) in str(d.note)
        assert (d.verdict, d.verdict_word) == ("undecided", "no verdict")
    power = _power(found.differences[0], found, 0.002)
    assert (power.not_worse, power.worse, power.interval, power.units_needed) == (False, False, None, None)
    assert str(found.differences[0].no_verdict) in power.sentence


@pytest.mark.parametrize("users", [2, 5, 9])
def test_nothing_is_said_of_few_users_however_many_rows_they_have(users):
    rng = np.random.default_rng(users)
    arms, labels = scores(rng, 200)
    clusters = np.arange(500) % users
    found = compare(arms, labels, clusters, replicates=50)
    assert {d.metric for d in found.differences} == {"auc", "gauc", "logloss", "ne", "calibration"}
    assert said(found) == SILENCE
    assert found.differences[0].no_verdict == (
        f"too few users to judge: {users} hold a positive, at least 10 are needed"
    )
    assert said(compare(arms, labels, np.arange(500) % 12, replicates=50)) != SILENCE


def test_users_are_counted_by_the_class_they_hold():
    """Twenty users, of whom four have all positives: sixty rows of the rarer class are four units."""
    arms, labels = scores(np.random.default_rng(0), 60, 300)
    clusters = np.where(labels, np.arange(300) % 4, np.arange(300) % 20)
    assert compare(arms, labels, clusters, replicates=20).differences[0].support.holding == 4


@pytest.mark.parametrize("moved", [1, 4, 9])
def test_nothing_is_said_where_the_arms_see_few_rows_differently(moved):
    """Neighbours of different classes change places: `moved` rows, or one more, are ranked differently."""
    labels = np.arange(200) % 2 == 1
    first = np.linspace(0.1, 0.9, 200)
    second = first.copy()
    for i in range(0, moved, 2):
        second[[20 * i, 20 * i + 1]] = second[[20 * i + 1, 20 * i]]
    found = compare({"a": first[None], "b": second[None]}, labels, metrics=("auc",), replicates=50)
    differing = moved + moved % 2
    assert found.differences[0].support == Support(100, differing, False)
    if differing < LEAST:
        assert said(found) == SILENCE
        assert f"the arms differ in how {differing} are ranked" in str(found.differences[0].no_verdict)
    else:
        assert found.best["auc"].keys() == {"a", "b"}


@pytest.mark.parametrize("rows", [40, 200])
def test_two_arms_that_separate_fully_are_not_said_to_be_alike(rows):
    rng = np.random.default_rng(rows)
    labels = np.arange(rows) % 2 == 1
    arms = {name: (0.5 * labels + 0.4 * rng.random(rows))[None] for name in "ab"}
    found = compare(arms, labels, metrics=("auc",), replicates=50)
    power = _power(found.differences[0], found, 0.002)
    assert (found.differences[0].estimate, power.not_worse) == (0.0, False)
    low, high = found.arms[0].auc_interval
    assert low == pytest.approx(0.025 ** (2 / rows))
    assert high == 1
    assert found.best == {"auc": {}}


@pytest.mark.parametrize("transform", [lambda p: p, lambda p: p**3, lambda p: 0.1 + 0.5 * p])
def test_the_same_ranking_is_not_worse_but_not_of_few_rows(transform):
    arms, labels = scores(np.random.default_rng(1), 60, 300)
    same = {"a": arms["arm0"], "b": transform(arms["arm0"])}
    found = compare(same, labels, metrics=("auc",), replicates=50)
    (d,) = found.differences
    assert (d.support.differing, d.support.same, d.no_verdict, d.verdict) == (0, True, None, "undecided")
    assert _power(d, found, 0.002).not_worse
    assert found.best["auc"] == {"a": 0.5, "b": 0.5}
    few = compare({k: v[:, 55:90] for k, v in same.items()}, labels[55:90], metrics=("auc",), replicates=50)
    assert not _power(few.differences[0], few, 0.002).not_worse


def test_an_arm_without_a_verdict_takes_no_part_in_who_is_best():
    arms, labels = scores(np.random.default_rng(2), 100, 400, arms=3)
    near = arms["arm0"].copy()
    order = np.argsort(near[0])
    places = next(i for i in range(150, 399) if labels[order[i]] != labels[order[i + 1]])
    near[0, order[[places, places + 1]]] = near[0, order[[places + 1, places]]]
    found = compare(arms | {"near": near}, labels, metrics=("auc",), replicates=50)
    assert found.best["auc"].keys() == {"arm0", "arm1", "arm2"}
    assert sum(found.best["auc"].values()) == pytest.approx(1)
    assert {d.arm for d in found.differences if d.no_verdict} == {"near"}


def test_sameness_is_of_each_seed():
    first = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    nothing, units = np.zeros(3), np.arange(3)
    assert support("auc", 10, nothing, units, first, first**2).same
    assert not support("auc", 10, nothing, units, first, first[::-1]).same
    assert not support("auc", 10, nothing, units, first, first[:1]).same
    assert not support("logloss", 10, nothing, units, first, first**2).same


@pytest.mark.parametrize("value", [0.5, 0.98, 0.999, 0.02])
@pytest.mark.parametrize("error", [0.001, 0.02, 0.3])
def test_intervals_stay_where_a_metric_can_be(value, error):
    contrast = Contrast(value, error**2, 30.0, None, None)
    for metric, top in (
        ("auc", 1.0),
        ("gauc", 1.0),
        ("logloss", np.inf),
        ("ne", np.inf),
        ("calibration", np.inf),
    ):
        low, high = bounded_interval(metric, contrast, 0.95, 100)
        assert 0 <= low < value < high <= top
    low, high = bounded_interval("auc", Contrast(0.8, 1e-6, 30.0, None, None), 0.95, 100)
    assert (low, high) == pytest.approx(Contrast(0.8, 1e-6, 30.0, None, None).interval(0.95), abs=1e-5)


def test_one_positive_says_next_to_nothing_of_an_auc():
    low, high = bounded_interval("auc", Contrast(0.9, 1e-6, 30.0, None, None), 0.95, 1)
    assert low < 0.1
    assert high > 0.99


def test_a_margin_near_one_asks_for_more_and_leaves_a_verdict_of_better():
    contrast = Contrast(-0.001, 0.001**2, 100.0, None, None)
    plain = contrast.interval(0.95)
    low, high = margin_interval(contrast, (0.998, 0.999), 50, 0.95)
    assert high == plain[1]
    assert low < plain[0] - 0.001
    far, _ = margin_interval(contrast, (0.75, 0.751), 50_000, 0.95)
    assert far == pytest.approx(plain[0], abs=1e-6)
    better = Contrast(0.01, 0.001**2, 100.0, None, None)
    assert margin_interval(better, (0.999, 0.989), 50, 0.95) == better.interval(0.95)


@pytest.mark.parametrize("units", [5, 10, 50])
def test_degrees_of_freedom_of_equal_units_are_one_less_than_their_number(units):
    influences = np.random.default_rng(0).normal(size=(4000, units))
    ratio = np.mean([(row**4).sum() / (row**2).sum() ** 2 for row in influences])
    assert 3 / ratio == pytest.approx(units + 2, rel=0.05)
    assert influence_df(np.ones(units)) == units - 1


def test_degrees_of_freedom_are_few_where_few_units_have_most_of_the_influence():
    influence = np.array([10.0, 10.0, *np.full(98, 0.1)])
    expected = 3 * (influence**2).sum() ** 2 / (influence**4).sum()
    assert influence_df(influence) == pytest.approx(expected)
    assert 5 < expected < 7
