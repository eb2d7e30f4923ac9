import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.evaluation import metrics

TIGHT = {"rel": 1e-12, "abs": 1e-12}


@st.composite
def rows(draw, groups=4):
    """Labels of both classes, tied probabilities, groups and whole weights >= 1."""
    n = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, 2, n)
    labels[:2] = [0, 1]
    levels = draw(st.integers(1, 12))
    return labels, rng.integers(1, levels + 1, n) / 13, rng.integers(0, groups, n), rng.integers(1, 4, n)


def log_rows(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.round(rng.beta(1, 6, n), 3)
    return rng.random(n) < truth, truth, rng.integers(0, n // 8, n)


def evaluated(*data):
    """`evaluate`, with -1 for a missing GAUC, which approx cannot compare."""
    return {key: -1 if value is None else value for key, value in metrics.evaluate(*data).items()}


@given(rows())
def test_auc_and_logloss_agree_with_sklearn(data):
    y, p, _, w = data
    assert metrics.auc(y, p) == pytest.approx(roc_auc_score(y, p), **TIGHT)
    assert metrics.logloss(y, p) == pytest.approx(log_loss(y, p), **TIGHT)
    assert metrics.auc(y, p, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w), **TIGHT)
    assert metrics.logloss(y, p, w) == pytest.approx(log_loss(y, p, sample_weight=w), **TIGHT)


def test_agrees_with_sklearn_on_many_rows_and_fractional_weights():
    y, p, _ = log_rows()
    w = np.random.default_rng(1).exponential(size=y.size)
    assert metrics.auc(y, p, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w), **TIGHT)
    assert metrics.auc(y, p.astype(np.float32)) == pytest.approx(roc_auc_score(y, p), **TIGHT)


@given(rows(), st.randoms(use_true_random=False))
def test_order_of_rows_is_irrelevant(data, random):
    y, p, g, w = data
    order = list(range(y.size))
    random.shuffle(order)
    result = evaluated(y[order], p[order], g[order], w[order])
    assert result == pytest.approx(evaluated(y, p, g, w), **TIGHT)


@given(rows())
def test_a_weight_is_a_repetition(data):
    y, p, g, w = data
    repeated = evaluated(*(np.repeat(values, w) for values in (y, p, g)))
    weighted = evaluated(y, p, g, w)
    for key in ("auc", "logloss", "ne", "calibration", "gauc", "gauc_coverage"):
        assert weighted[key] == pytest.approx(repeated[key], **TIGHT)
    assert (weighted["rows"], weighted["positives"]) == (y.size, y.sum())


@given(rows())
def test_rows_of_weight_zero_do_not_exist(data):
    y, p, g, w = data
    keep = np.r_[True, True, w[2:] > 1]
    assert evaluated(y, p, g, keep) == pytest.approx(evaluated(y[keep], p[keep], g[keep]), **TIGHT)


def gauc_by_loop(y, p, g):
    total = covered = 0
    for group in set(g):
        mine = g == group
        if 0 < y[mine].sum() < mine.sum():
            total += mine.sum() * roc_auc_score(y[mine], p[mine])
            covered += mine.sum()
    return (total / covered, covered / y.size) if covered else None


@given(rows())
def test_gauc_agrees_with_a_loop(data):
    y, p, g, _ = data
    expected = gauc_by_loop(y, p, g)
    if expected is None:
        with pytest.raises(ValueError, match="no group"):
            metrics.gauc(y, p, g)
        assert metrics.evaluate(y, p, g)["gauc"] is None
        assert metrics.evaluate(y, p, g)["gauc_coverage"] == 0
    else:
        assert metrics.gauc(y, p, g) == pytest.approx(expected, **TIGHT)
        assert metrics.gauc(y, p, np.array([f"user {i}" for i in g])) == pytest.approx(expected, **TIGHT)


def test_gauc_of_many_users():
    y, p, g = log_rows()
    assert metrics.gauc(y, p, g) == pytest.approx(gauc_by_loop(y, p, g), **TIGHT)


def test_known_values():
    assert metrics.auc([0, 1], [0.5, 0.5]) == 0.5
    assert metrics.auc([0, 1], [-np.inf, 3]) == 1
    assert metrics.auc([False, True, True], [2, 1, 3]) == 0.5
    assert metrics.normalized_entropy([0, 0, 1, 0], [0.25] * 4) == pytest.approx(1, **TIGHT)
    assert metrics.calibration([0, 1], [0.5, 1.0]) == 1.5
    assert metrics.logloss([1, 0], np.array([0, 0], np.float32)) == pytest.approx(-np.log(1e-15) / 2)
    assert np.isfinite(metrics.logloss([0], np.array([1], np.float32)))


def test_recalibrate_undoes_the_sampling_of_negatives():
    p, rate = np.array([0, 0.01, 0.3, 1]), 0.1
    sampled = p / (p + (1 - p) * rate)
    np.testing.assert_allclose(metrics.recalibrate(sampled, rate), p, rtol=1e-12)
    np.testing.assert_array_equal(metrics.recalibrate(p, 1), p)


def test_evaluate_has_every_scalar():
    y, p, g = log_rows()
    result = metrics.evaluate(y, p, g)
    assert list(result) == [
        *("auc", "logloss", "ne", "calibration", "gauc", "gauc_coverage", "rows", "positives")
    ]
    assert (result["rows"], result["positives"]) == (y.size, y.sum())
    assert all(type(value) in (int, float) for value in result.values())
    assert metrics.evaluate(y, p)["gauc"] is None


def test_the_truth_is_the_best_possible():
    y, truth, _ = log_rows(50_000)
    best, other = metrics.best_possible(y, truth), metrics.evaluate(y, truth**1.3)
    assert best["logloss"] < other["logloss"]
    assert best["calibration"] == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match=r"position 1 is 0\.0 but the label is 1"):
        metrics.best_possible([0, 1], [0.5, 0])


def test_reliability_bins_have_equal_mass_and_cover_the_truth():
    rng = np.random.default_rng(0)
    truth = rng.beta(1, 6, 20_000)
    y = rng.random(truth.size) < truth
    table = metrics.reliability(y, truth)
    assert (table.count == 1000).all()
    assert (np.diff(table.mean_probability) > 0).all()
    assert ((table.low <= table.mean_probability) & (table.mean_probability <= table.high)).mean() >= 0.8
    first = np.argsort(truth)[:1000]
    assert table.mean_probability[0] == pytest.approx(truth[first].mean(), **TIGHT)
    assert table.mean_label[0] == pytest.approx(y[first].mean(), **TIGHT)


def test_reliability_interval_is_wilsons():
    table = metrics.reliability([1, 0, 0, 0, 0, 0, 0], [0.1] * 7)
    expected = binomtest(1, 7).proportion_ci(method="wilson")
    assert (table.low[0], table.high[0]) == pytest.approx((expected.low, expected.high), **TIGHT)


@given(rows(), st.integers(1, 30))
def test_reliability_keeps_ties_together_and_loses_no_row(data, bins):
    y, p, _, _ = data
    table = metrics.reliability(y, p, bins)
    backwards = metrics.reliability(y[::-1], p[::-1], bins)
    np.testing.assert_array_equal(table.count, backwards.count)
    assert table.count.sum() == y.size
    assert table.count.size <= min(bins, np.unique(p).size)
    assert (table.mean_label * table.count).sum() == pytest.approx(y.sum())


PROBABILITY_METRICS = [metrics.logloss, metrics.normalized_entropy, metrics.calibration, metrics.evaluate]


@pytest.mark.parametrize("metric", [*PROBABILITY_METRICS, metrics.reliability, metrics.best_possible])
@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5, np.inf])
def test_improper_probabilities_are_named(metric, bad):
    with pytest.raises(ValueError, match=f"position 1 is {bad}"):
        metric([0, 1, 1], [0.5, bad, bad])


@pytest.mark.parametrize("metric", [metrics.auc, *PROBABILITY_METRICS])
def test_bad_input_is_refused(metric):
    with pytest.raises(ValueError, match=r"shape \(2,\), labels \(3,\)"):
        metric([0, 1, 1], [0.5, 0.5])
    with pytest.raises(ValueError, match="at least one row"):
        metric([], [])
    with pytest.raises(ValueError, match="position 2 is 2"):
        metric([0, 1, 2], [0.5] * 3)
    with pytest.raises(ValueError, match="position 0 is nan"):
        metric([np.nan, 1], [0.5] * 2)
    with pytest.raises(ValueError, match="weights have shape"):
        metric([0, 1], [0.5] * 2, weights=[1])
    with pytest.raises(ValueError, match="weight at position 1 is -1"):
        metric([0, 1], [0.5] * 2, weights=[1, -1])
    with pytest.raises(ValueError, match="every weight is 0"):
        metric([0, 1], [0.5] * 2, weights=[0, 0])


@pytest.mark.parametrize("metric", [metrics.auc, metrics.normalized_entropy])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auc_and_no_entropy(metric, label):
    with pytest.raises(ValueError, match="both classes"):
        metric([label, label], [0.2, 0.5])
    with pytest.raises(ValueError, match="both classes"):
        metric([label, 1 - label], [0.2, 0.5], weights=[1, 0])


@pytest.mark.parametrize(
    ("labels", "weights"),
    [([0, 0, 0], None), ([1, 1, 1], None), ([0, 1, 0], [1, 0, 2]), ([1, 0, 1], [1, 0, 2])],
)
def test_of_one_class_what_can_be_measured_is_and_the_rest_is_missing(labels, weights):
    p = [0.2, 0.5, 0.9]
    found = metrics.evaluate(labels, p, groups=[1, 1, 2], weights=weights)
    assert found["logloss"] == metrics.logloss(labels, p, weights)
    assert [found[name] for name in ("auc", "ne", "gauc", "gauc_coverage")] == [None, None, None, 0.0]
    if found["positives"]:
        assert found["calibration"] == metrics.calibration(labels, p, weights)
    else:
        assert found["calibration"] is None


def test_other_errors():
    with pytest.raises(ValueError, match="score at position 1 is nan"):
        metrics.auc([0, 1], [1, np.nan])
    with pytest.raises(ValueError, match="positive"):
        metrics.calibration([0, 0], [0.5, 0.5])
    with pytest.raises(ValueError, match="groups have shape"):
        metrics.gauc([0, 1], [0, 1], [1])
    for missing in ([1, np.nan], np.array([1, None], object)):
        with pytest.raises(ValueError, match="group id at position 1"):
            metrics.gauc([0, 1], [0, 1], missing)
    for rate in (0, 1.5, np.nan):
        with pytest.raises(ValueError, match="negative_rate"):
            metrics.recalibrate([0.5], rate)
    with pytest.raises(ValueError, match="bins is 0"):
        metrics.reliability([0, 1], [0.5, 0.5], 0)
