import numpy as np
import pytest
from scipy.stats import bootstrap

from recsys.evaluation import metrics
from recsys.evaluation.arms.bca import bca_interval
from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.delong import placements
from recsys.evaluation.arms.weighted import auc_influence


def skewed(rng, n=150):
    labels = rng.random(n) < 0.15
    scores = rng.normal(size=n) + 1.5 * labels
    arms = {"a": scores + 0.8 * rng.normal(size=n), "b": scores + 0.2 * rng.normal(size=n)}
    return {name: 1 / (1 + np.exp(-row))[None] for name, row in arms.items()}, labels


def test_the_interval_is_scipys_on_independent_rows():
    """Endpoints of 10,000 draws are right to 0.027 SE (quantile) and 0.025 SE (bias, doubled); two runs, and 4 sigma."""
    arms, labels = skewed(np.random.default_rng(0))
    found = compare(arms, labels, metrics=("auc", "logloss"), replicates=10_000).differences
    for difference, metric in zip(found, (metrics.auc, metrics.logloss), strict=True):

        def change(rows, metric=metric):
            return metric(labels[rows], arms["b"][0, rows]) - metric(labels[rows], arms["a"][0, rows])

        oracle = bootstrap((np.arange(labels.size),), change, n_resamples=10_000, method="BCa", rng=0)
        assert difference.bca_interval == pytest.approx(
            oracle.confidence_interval, abs=0.2 * difference.standard_error
        )


def deleted_one_by_one(labels, p, user, metric):
    """Acceleration by the jackknife over users, as in Efron & Tibshirani 1993, eq. 14.15."""
    values = np.array([metric(labels[user != u], p[user != u]) for u in range(user.max() + 1)])
    away = values.mean() - values
    return (away**3).sum() / (6 * (away**2).sum() ** 1.5)


def test_acceleration_is_nearly_the_jackknifes():
    rng = np.random.default_rng(1)
    arms, labels = skewed(rng, 900)
    user = rng.integers(0, 300, 900)
    for p in (arms["a"][0], np.round(arms["b"][0], 1)):
        influence = auc_influence(labels, placements(labels, p), user)
        a = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
        assert a == pytest.approx(deleted_one_by_one(labels, p, user, metrics.auc), rel=0.1)
        assert abs(a) > 0.01


def test_the_formula_by_hand():
    replicates = np.arange(1000.0)  # 400 below the estimate, which equals none
    influence = np.array([-1.0, -1.0, 2.0])
    low, high = bca_interval(399.5, replicates, influence, 0.9)
    # z0 = -0.25335, a = 6 / (6 · 6^1.5) = 0.06804; z0 - 1.64485 over 1.12916, and z0 + 1.64485 over 0.90532, plus z0
    assert low == pytest.approx(999 * 0.02653, rel=1e-3)
    assert high == pytest.approx(999 * 0.90037, rel=1e-4)


def test_nothing_varies_or_all_lies_on_one_side():
    assert bca_interval(0.5, np.full(10, 0.5), np.zeros(3), 0.95) == (0.5, 0.5)
    assert bca_interval(2.0, np.arange(2.0), np.arange(3.0), 0.95) is None
