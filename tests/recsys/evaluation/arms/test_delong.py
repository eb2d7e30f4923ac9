import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.delong import delong


def by_components(labels, scores):
    """AUCs and covariance from all m·n pairs: eq. 5 to 7 of the 1988 paper, sums spelled out."""
    x, y = scores[:, labels], scores[:, ~labels]
    psi = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])  # [K, m, n]
    m, n = psi.shape[1:]
    auc, v10, v01 = psi.mean(axis=(1, 2)), psi.mean(axis=2), psi.mean(axis=1)
    covariance = np.empty((len(auc), len(auc)))
    for a in range(len(auc)):
        for b in range(len(auc)):
            s10 = sum((v10[a, i] - auc[a]) * (v10[b, i] - auc[b]) for i in range(m)) / (m - 1)
            s01 = sum((v01[a, j] - auc[a]) * (v01[b, j] - auc[b]) for j in range(n)) / (n - 1)
            covariance[a, b] = s10 / m + s01 / n
    return auc, covariance


def drawn(n, models, distinct, rate, seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < rate
    labels[:4] = [True, True, False, False]
    scores = rng.normal(size=(models, n)) + rng.normal(size=n) + labels
    return labels, np.round(scores * distinct) / distinct


@settings(max_examples=60)
@given(
    st.integers(4, 60),
    st.integers(1, 4),
    st.sampled_from([0.5, 2, 1e6]),
    st.sampled_from([0.05, 0.5, 0.9]),
    st.integers(0, 2**32 - 1),
)
def test_delong_agrees_with_all_pairs(n, models, distinct, rate, seed):
    labels, scores = drawn(n, models, distinct, rate, seed)
    found = delong(labels, scores)
    auc, covariance = by_components(labels, scores)
    np.testing.assert_allclose(found.auc, auc, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.auc, [roc_auc_score(labels, row) for row in scores], rtol=1e-12)


def test_delong_agrees_with_all_pairs_on_many_rows():
    labels, scores = drawn(4000, 3, 50, 0.02, 0)
    found = delong(labels, scores)
    auc, covariance = by_components(labels, scores)
    np.testing.assert_allclose(found.auc, auc, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12)
    test = found.test(0, 1)
    c = covariance
    error = np.sqrt(c[0, 0] + c[1, 1] - 2 * c[0, 1])
    assert test.estimate == pytest.approx(auc[0] - auc[1], rel=1e-12)
    assert test.standard_error == pytest.approx(error, rel=1e-12)
    assert test.z == pytest.approx((auc[0] - auc[1]) / error, rel=1e-12)
    assert test.p_value == pytest.approx(2 * norm.sf(abs(test.z)), rel=1e-12)
    assert test.interval == pytest.approx(norm.interval(0.95, auc[0] - auc[1], error), rel=1e-12)
    assert found.interval(2, 0.9) == pytest.approx(norm.interval(0.9, auc[2], np.sqrt(c[2, 2])), rel=1e-12)
    assert found.test(1, 0).p_value == test.p_value


def test_delong_agrees_with_the_row_bootstrap():
    labels, scores = drawn(3000, 2, 1e6, 0.2, 1)
    arms = {name: 1 / (1 + np.exp(-row))[None] for name, row in zip("ab", scores, strict=True)}
    found = compare(arms, labels, metrics=("auc",), replicates=2000).differences[0]
    assert found.standard_error == pytest.approx(delong(labels, scores).test(1, 0).standard_error, rel=0.07)


def test_the_level_holds_on_independent_rows_and_not_on_clusters():
    rng = np.random.default_rng(0)
    rejected = np.zeros(2)
    for _ in range(400):
        for clustered in (0, 1):
            user = np.repeat(np.arange(40), 10) if clustered else np.arange(400)
            features = rng.normal(size=(2, 400))[:, user]
            labels = rng.random(400) < 1 / (1 + np.exp(-features.sum(axis=0) - rng.normal(size=400)[user]))
            rejected[clustered] += delong(labels, features).test(0, 1).p_value < 0.05
    assert 0.02 < rejected[0] / 400 < 0.09
    assert rejected[1] / 400 > 0.2


def test_equal_rankings_do_not_differ():
    labels, scores = drawn(50, 1, 3, 0.4, 0)
    test = delong(labels, np.concatenate([scores, np.exp(scores)])).test(0, 1)
    assert (test.estimate, test.standard_error, test.z, test.p_value) == (0, 0, 0, 1)


def test_a_difference_without_variance_is_not_judged():
    labels = np.array([1, 1, 0, 0])
    test = delong(labels, [labels, 1 - labels]).test(0, 1)
    assert (test.estimate, test.standard_error, test.p_value) == (1, 0, 1)


def test_one_model_may_be_flat():
    labels, scores = drawn(30, 1, 5, 0.4, 0)
    found = delong(labels, scores[0])
    assert found.auc.shape == (1,)
    assert found.covariance.shape == (1, 1)


def test_bad_input_is_refused():
    labels = np.array([0, 1, 1, 0])
    with pytest.raises(ValueError, match="scores have shape"):
        delong(labels, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="scores have shape"):
        delong(labels, np.zeros((0, 4)))
    with pytest.raises(ValueError, match="scores have shape"):
        delong(labels, np.zeros((1, 1, 4)))
    with pytest.raises(ValueError, match="model 1 at position 2 is nan"):
        delong(labels, [[0, 0, 0, 0], [0, 0, np.nan, 0]])
    with pytest.raises(ValueError, match="1 positives and 3 negatives"):
        delong([0, 1, 0, 0], np.zeros(4))
    with pytest.raises(ValueError, match="0 positives"):
        delong(np.zeros(4), np.zeros(4))
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        delong([0, 1, 2, 0], np.zeros(4))
    with pytest.raises(ValueError, match="level is 1"):
        delong(labels, np.arange(4.0)).interval(0, 1)
