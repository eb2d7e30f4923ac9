"""Metrics under weightings against the metrics themselves, on repeated rows; influences against differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from recsys.evaluation import metrics
from recsys.evaluation.arms import weighted
from recsys.evaluation.arms.best import best_probabilities
from recsys.evaluation.arms.delong import placements
from recsys.evaluation.arms.variance import Arms
from recsys.evaluation.arms.weighted import METRICS, WeightedMetrics, auc_influence, badness, badness_slope


def oracle(metric, labels, predictions, user, weights=None):
    if metric == "gauc":
        return metrics.gauc(labels, predictions, user, weights).value
    name = "normalized_entropy" if metric == "ne" else metric
    return getattr(metrics, name)(labels, predictions, weights)


def drawn(n, count, seed, predictions=3):
    """Uneven units, every one of them used; unit 0 has both classes; many ties, and predictions of 0 and 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(bool)
    labels[:2] = [True, False]
    units = np.r_[0, 0, np.arange(count), rng.integers(0, count, n)][:n]
    units = np.unique(units, return_inverse=True)[1]
    return labels, rng.integers(0, 8, (predictions, n)) / 7, units, rng


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_weighted_metrics_are_metrics_of_repeated_rows(n, count, seed):
    labels, predictions, units, rng = drawn(n, count, seed)
    weights = rng.poisson(1.0, (5, units.max() + 1)).astype(np.int32)
    weights[:, 0] += 1
    found = WeightedMetrics(labels, predictions, units, METRICS)(weights)
    assert found.shape == (5, 3, 5)
    for values, metric in zip(found, METRICS, strict=True):
        for b, row_weights in enumerate(weights[:, units]):
            rows = np.repeat(np.arange(n), row_weights)
            for value, p in zip(values[:, b], predictions, strict=True):
                assert value == pytest.approx(oracle(metric, labels[rows], p[rows], units[rows]), abs=1e-12)


def test_metrics_come_in_the_order_asked_for_and_add_up_over_many_units(monkeypatch):
    rng = np.random.default_rng(0)
    labels, p = rng.random(1000) < 0.3, rng.random((2, 1000))
    weights = rng.poisson(1.0, (3, 1000)).astype(np.uint8)
    monkeypatch.setattr(weighted, "UNITS_AT_ONCE", 77)
    chosen = ("ne", "auc", "logloss")
    found = WeightedMetrics(labels, p, np.arange(1000), chosen)(weights)
    for values, metric in zip(found, chosen, strict=True):
        expected = [[oracle(metric, labels, row, None, w) for w in weights] for row in p]
        np.testing.assert_allclose(values, expected, rtol=1e-13)


def test_what_a_weighting_needs():
    labels, units = np.array([1, 0, 1, 0, 0]).astype(bool), np.array([0, 0, 1, 2, 2])
    p = [np.full(5, 0.5)]
    assert [u.tolist() for u in WeightedMetrics(labels, p, units, ("auc",)).needed] == [[0, 1], [0, 2]]
    assert [u.tolist() for u in WeightedMetrics(labels, p, units, METRICS).needed] == [[0, 1], [0, 2], [0]]


@given(st.integers(8, 60), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_influence_is_the_derivative_by_a_units_weight(n, count, seed):
    labels, predictions, units, _ = drawn(n, count, seed)
    chosen = np.array([True, False, True])
    prepared = WeightedMetrics(labels, predictions, units, METRICS)
    placed = np.mean([placements(labels, p) for p in predictions[chosen]], axis=0)
    step = 1e-4
    for metric in METRICS:
        found = (
            auc_influence(labels, placed, units) if metric == "auc" else prepared.influence(metric, chosen)
        )
        for unit, value in enumerate(found):
            up, down = (
                np.mean([oracle(metric, labels, p, units, w) for p in predictions[chosen]])
                for w in (1 + step * (units == unit), 1 - step * (units == unit))
            )
            assert value == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-6)
        assert found.sum() == pytest.approx(0, abs=1e-9)  # twice the rows is the same metric


@pytest.mark.parametrize("metric", METRICS)
def test_badness_is_lower_for_the_better(metric):
    good, poor = {"auc": (0.8, 0.6), "gauc": (0.8, 0.6), "calibration": (0.9, 1.2)}.get(metric, (0.2, 0.4))
    low, high = badness(metric, np.array([good, poor]))
    assert low < high
    for value in (good, poor):
        change = badness(metric, np.array([value, value + 1e-3]))
        assert badness_slope(metric, value) == pytest.approx(np.diff(change)[0] / 1e-3)


def test_the_best_arm_of_two_is_a_normal_probability():
    covariance = np.array([[1.0, 0.9], [0.9, 1.2]]) * 1e-4
    found = best_probabilities("auc", np.array([0.70, 0.705]), covariance, np.zeros(2), 1)
    expected = norm.cdf(0.005 / np.sqrt(1e-4 * (1 + 1.2 - 1.8)))
    assert found == pytest.approx([1 - expected, expected], abs=0.012)
    assert best_probabilities(
        "logloss", np.array([0.70, 0.705]), covariance, np.zeros(2), 1
    ) == pytest.approx([expected, 1 - expected], abs=0.012)


@pytest.mark.parametrize("rows", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("seeds", [(2, 2), (2, 4), (5, 5)])
@pytest.mark.parametrize("gap", [0.5, 1.5, 3.0])
def test_the_better_of_two_arms_is_the_best_with_one_minus_half_p(rows, seeds, gap):
    """`rows`: variance over rows of the difference, relative to the seeds' variance of a mean."""
    own = [np.linspace(-1, 1, count) for count in seeds]
    own = [values / np.sqrt(values.var(ddof=1) / values.size) for values in own]
    error = np.sqrt(2 + rows)
    owners = np.repeat([0, 1], seeds)
    covariance = (rows / 2) * (owners[:, None] == owners) + 5.0  # luck in common
    influence = np.random.default_rng(0).normal(size=(2, 1000))
    found = Arms(np.r_[own[0], own[1] + gap * error], covariance, owners, influence)
    contrast = found.contrast({1: 1.0, 0: -1.0})
    assert contrast.error_and_df[0] == pytest.approx(error)
    assert best_probabilities("auc", *found.joint())[1] == pytest.approx(1 - contrast.p_value / 2, abs=0.04)


def test_equal_arms_share_and_a_sure_arm_has_all():
    luck = np.full((3, 3), 1e-4)  # in common
    none = np.zeros(3), 1
    assert best_probabilities("auc", np.full(3, 0.7), luck, *none) == pytest.approx(np.full(3, 1 / 3))
    assert best_probabilities("auc", np.array([0.7, 0.8, 0.6]), np.zeros((3, 3)), *none) == pytest.approx(
        [0, 1, 0]
    )
    assert best_probabilities("calibration", np.array([0.7, 1.1, 1.4]), luck, *none) == pytest.approx(
        [0, 1, 0]
    )
    assert best_probabilities("auc", np.array([0.7]), np.zeros((1, 1)), np.zeros(1), 1).tolist() == [1]
    twins = np.array([[1.0, 1.0, 0.2], [1.0, 1.0, 0.2], [0.2, 0.2, 1.0]]) * 1e-6
    a, b, c = best_probabilities("auc", np.full(3, 0.7), twins, *none)
    assert a == b == pytest.approx(0.25, abs=0.012)
    assert c == pytest.approx(0.5, abs=0.012)
    negative = np.array([[1.0, 1.1], [1.1, 1.0]]) * 1e-6  # cannot be; estimated so
    assert best_probabilities("auc", np.full(2, 0.7), negative, np.zeros(2), 1).sum() == pytest.approx(1)
