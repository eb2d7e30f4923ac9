import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm, t, ttest_ind

from recsys.evaluation import metrics
from recsys.evaluation.arms import bootstrap as bootstrapping
from recsys.evaluation.arms.bootstrap import poisson_bootstrap
from recsys.evaluation.arms.compare import compare
from recsys.evaluation.arms.delong import delong
from recsys.evaluation.arms.multiplicity import benjamini_hochberg, holm
from recsys.evaluation.arms.weighted import WeightedMetrics
from recsys_cython_ext.ranks import fill_poisson

# (labels, predictions, users, weights of rows) -> number
ORACLES = {
    "auc": lambda y, p, user, w: metrics.auc(y, p, w),
    "gauc": lambda y, p, user, w: metrics.gauc(y, p, user, w).value,
    "logloss": lambda y, p, user, w: metrics.logloss(y, p, w),
    "ne": lambda y, p, user, w: metrics.normalized_entropy(y, p, w),
    "calibration": lambda y, p, user, w: metrics.calibration(y, p, w),
}


def generated(rng, seeds=4, users=60, same=False, noise=0.5, gap=0.0):
    """Two arms that see exchangeable features (or the same): equal expected metrics where gap is 0.

    Users carry part of the features and of the labels; seeds differ in their noise and in its amount.
    """
    user = np.repeat(np.arange(users), rng.poisson(11, users) + 1)
    features = rng.normal(size=(users, 2))[user] + 0.5 * rng.normal(size=(user.size, 2))
    logit = 0.8 * features.sum(axis=1) + rng.normal(size=users)[user] - 1
    labels = rng.random(user.size) < 1 / (1 + np.exp(-logit))
    arms = {}
    for a, name in enumerate(("plain", "hashed")):
        amount = (noise + a * gap) * np.exp(0.3 * rng.normal(size=(seeds, 1)))
        scores = features[:, 0 if same else a] + amount * rng.normal(size=(seeds, user.size)) - 1
        arms[name] = np.round(1 / (1 + np.exp(-scores)), 3)
    return arms, labels, user


def rejections(count, clustered, **world):
    rng = np.random.default_rng(0)
    rejected = np.zeros(2)
    for seed in range(count):
        arms, labels, user = generated(rng, **world)
        result = compare(
            arms,
            labels,
            user if clustered else None,
            metrics=("auc", "logloss"),
            replicates=100,
            seed=seed,
        )
        rejected += [difference.p_value < 0.05 for difference in result.differences]
    return rejected / count


def poisson(seed, replicates, units):
    weights = np.empty((replicates, units), np.uint8)
    fill_poisson(np.random.PCG64(seed), weights)
    return weights


def slopes(oracle, labels, p, user, step=1e-4):
    """Return the derivative of a metric by each user's weight, by central differences."""
    found = []
    for u in range(user.max() + 1):
        up, down = (oracle(labels, p, user, 1 + sign * step * (user == u)) for sign in (1, -1))
        found.append((up - down) / (2 * step))
    return np.array(found)


def test_compare_agrees_with_a_naive_loop():
    """The same Poisson weights, one replicate at a time, and the formulas spelled out."""
    arms, labels, user = generated(np.random.default_rng(3), seeds=3, users=40)
    arms["hashed"] = arms["hashed"][:2]
    result = compare(arms, labels, user, replicates=40, seed=5)
    units = user.max() + 1
    weights = poisson(5, 40, units)
    assert [d.metric for d in result.differences] == list(ORACLES)
    for difference in result.differences:
        oracle = ORACLES[difference.metric]
        point, replicates, influence = [], [], 0
        for sign, name in ((1, "hashed"), (-1, "plain")):
            point.append(np.array([oracle(labels, p, user, None) for p in arms[name]]))
            influence += sign * np.mean([slopes(oracle, labels, p, user) for p in arms[name]], axis=0)
            for p in arms[name]:
                replicates.append([oracle(labels, p, user, w[user]) for w in weights])
        c = np.cov(replicates) * units / (units - 1)
        own = c[0, 1] + (c[2, 3] + c[2, 4] + c[3, 4]) / 3
        row = max(own - 2 * c[:2, 2:].mean(), 0)
        squares = influence**2
        row_df = min(3 * squares.sum() ** 2 / (squares**2).sum(), units - 1)
        by_seed = [x.var(ddof=1) / x.size for x in point]
        df = (row + sum(by_seed)) ** 2 / (row**2 / row_df + by_seed[0] ** 2 / 1 + by_seed[1] ** 2 / 2)
        error = np.sqrt(row + sum(by_seed))
        estimate = point[0].mean() - point[1].mean()
        if difference.metric == "calibration":  # of the distances from 1, and both arms are below
            assert max(point[0].mean(), point[1].mean()) < 1
            estimate = -estimate
        assert difference.estimate == pytest.approx(estimate, rel=1e-12)
        assert difference.row_variance == pytest.approx(row, rel=1e-9)
        assert difference.row_df == pytest.approx(row_df, rel=1e-4)  # the slopes are numerical
        assert difference.seed_variance == pytest.approx(sum(by_seed), rel=1e-12)
        assert difference.standard_error == pytest.approx(error, rel=1e-9)
        half = t.ppf(0.975, df) * error
        assert difference.interval == pytest.approx((estimate - half, estimate + half), rel=1e-4)
        assert difference.minimum_detectable_effect == pytest.approx(
            (t.ppf(0.975, df) + t.ppf(0.8, df)) * error, rel=1e-4
        )
        assert difference.p_value == pytest.approx(2 * t.sf(abs(estimate) / error, df), rel=1e-3)
        lower = difference.metric not in ("auc", "gauc")
        better = "better" if (estimate < 0) == lower else "worse"
        assert difference.verdict == (better if difference.p_value < 0.05 else "undecided")


def bootstrap_one_by_one(arms, labels, user, replicates, seed, together):
    """AUC of each replicate, drawn in blocks of `together`, with those that lost a class drawn again."""
    bits = np.random.PCG64(seed)
    values, redrawn = [], 0

    def draw(count):
        weights = np.empty((count, user.max() + 1), np.uint8)
        fill_poisson(bits, weights)
        return weights

    def lacks(w):
        return len({*np.unique(labels[w[user] > 0])}) < 2

    for start in range(0, replicates, together):
        weights = draw(min(together, replicates - start))
        while (again := np.array([lacks(w) for w in weights])).any():
            redrawn += again.sum()
            weights[again] = draw(again.sum())
        values += [[metrics.auc(labels, p, w[user]) for p in arms] for w in weights]
    return np.transpose(values), redrawn


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("entries", "most_bytes"),
    [(2**18, 2**28), (24 * 7, 2**28), (24 * 7, 16 * 9 * 6), (24 * 7, 1), (1, 2**28)],
)
def test_the_bootstrap_is_one_by_one_whatever_its_blocks(monkeypatch, threads, entries, most_bytes):
    """Blocks, layout of weights and threads change neither the random numbers nor the metrics."""
    rng = np.random.default_rng(0)
    user = np.r_[np.arange(9), rng.integers(0, 9, 15)]  # of uneven size
    labels = user == 3
    labels[:3] = False
    arms = rng.integers(0, 6, (2, 24)) / 5
    monkeypatch.setattr(bootstrapping, "DRAW_ENTRIES", entries)
    monkeypatch.setattr(bootstrapping, "MOST_BYTES", most_bytes)
    monkeypatch.setattr(bootstrapping, "MOST_BYTES_A_ROW", 0)
    monkeypatch.setattr(bootstrapping, "available_cores", lambda: threads)
    weighted = WeightedMetrics(labels, arms, user, ("auc", "logloss"))
    found, redrawn = poisson_bootstrap(weighted, weighted.needed, 9, 24, 150, 4)
    together = max(1, min(150, entries // 24))
    expected, expected_redrawn = bootstrap_one_by_one(arms, labels, user, 150, 4, together)
    assert redrawn == expected_redrawn > 30
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
    assert np.isfinite(found).all()


def test_point_estimates_are_means_over_seeds():
    arms, labels, user = generated(np.random.default_rng(0))
    for arm in compare(arms, labels, user, replicates=20).arms:
        aucs = [metrics.auc(labels, p) for p in arms[arm.name]]
        assert arm.auc == pytest.approx(np.mean(aucs), rel=1e-12)
        assert arm.seed_std_auc == pytest.approx(np.std(aucs, ddof=1))
        assert arm.logloss == pytest.approx(np.mean([metrics.logloss(labels, p) for p in arms[arm.name]]))
        assert arm.auc_interval[0] < arm.auc < arm.auc_interval[1]
        assert arm.logloss_interval[0] < arm.logloss < arm.logloss_interval[1]
        assert arm.seeds == 4


def test_row_error_agrees_with_scipys_bootstrap():
    """Independent rows, one seed: the Poisson bootstrap against scipy's resampling, both of 2,000 draws."""
    arms, labels, _ = generated(np.random.default_rng(1), seeds=1)
    result = compare(arms, labels, metrics=("auc",), replicates=2000)

    def difference(rows):
        return metrics.auc(labels[rows], arms["hashed"][0, rows]) - metrics.auc(
            labels[rows], arms["plain"][0, rows]
        )

    oracle = bootstrap((np.arange(labels.size),), difference, n_resamples=2000, method="basic", rng=0)
    assert result.differences[0].standard_error == pytest.approx(oracle.standard_error, rel=0.08)


@pytest.mark.parametrize("ties", [False, True])
def test_error_of_one_auc_agrees_with_scipys_bootstrap(ties):
    rng = np.random.default_rng(4)
    labels = rng.random(300) < 0.3
    p = 1 / (1 + np.exp(-rng.normal(size=300) - labels))
    p = np.round(p, 1) if ties else p
    error = (
        compare({"a": p[None]}, labels, metrics=("auc",), replicates=4000)
        .arms[0]
        .metrics["auc"]
        .standard_error
    )

    def auc(rows):
        return metrics.auc(labels[rows], p[rows])

    oracle = bootstrap((np.arange(300),), auc, n_resamples=4000, method="basic", vectorized=False, rng=0)
    # Two standard deviations of 4,000 draws are 1.1 % each; Poisson totals and resampling differ by O(1/n).
    assert error == pytest.approx(oracle.standard_error, rel=0.05)


def test_same_row_luck_leaves_a_welch_test_on_seeds():
    """Arms of one kind, and so many rows that seeds are all that differs."""
    rng = np.random.default_rng(2)
    feature = rng.normal(size=20_000)
    labels = rng.random(feature.size) < 1 / (1 + np.exp(-feature))
    amounts = np.array([[0.2, 0.5, 0.8, 0.6], [0.3, 0.9, 0.7, 0.5]])
    arms = {
        str(a): 1 / (1 + np.exp(-feature - amount[:, None] * rng.normal(size=(4, feature.size))))
        for a, amount in enumerate(amounts)
    }
    found = compare(arms, labels, metrics=("auc",), replicates=100).differences[0]
    aucs = [[metrics.auc(labels, p) for p in arms[name]] for name in ("1", "0")]
    assert found.row_variance < 0.1 * found.seed_variance
    assert found.p_value == pytest.approx(ttest_ind(*aucs, equal_var=False).pvalue, rel=0.1)


def test_equal_arms_are_found_different_at_the_nominal_rate():
    exchangeable = rejections(300, clustered=True)
    assert (exchangeable >= 0.01).all()
    assert (exchangeable <= 0.10).all()
    assert (rejections(100, clustered=True, same=True) <= 0.12).all()
    assert (rejections(150, clustered=False) > 0.12).all()  # rows of a user are not independent


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", [{}, {"same": True, "seeds": 5}, {"noise": 0.0}, {"seeds": 2}])
def test_equal_arms_are_found_different_at_the_nominal_rate_in_2000_runs(world):
    rejected = rejections(2000, clustered=True, **world)
    assert (rejected <= 0.07).all()
    # With row luck in common the row part is cut at 0, which costs some level.
    assert (rejected >= (0.015 if "same" in world else 0.03)).all()


def test_a_real_difference_is_found():
    arms, labels, user = generated(np.random.default_rng(0), seeds=8, users=200, same=True, gap=1.5)
    judged = ("auc", "logloss", "gauc", "ne")
    result = compare(arms, labels, user, metrics=judged, replicates=200)
    assert [d.verdict for d in result.differences] == ["worse"] * 4
    assert result.differences[0].estimate < 0 < result.differences[1].estimate
    assert all(result.best[metric]["plain"] > 0.99 for metric in judged)
    flipped = compare(arms, labels, user, baseline="hashed", metrics=judged, replicates=200)
    assert [d.verdict for d in flipped.differences] == ["better"] * 4
    assert flipped.differences[0].interval == pytest.approx(
        [-x for x in result.differences[0].interval[::-1]]
    )


def test_identical_arms_are_undecided():
    arms, labels, user = generated(np.random.default_rng(0), seeds=1)
    found = compare({"a": arms["plain"], "b": arms["plain"]}, labels, user, replicates=10).differences[0]
    assert (found.estimate, found.standard_error, found.p_value, found.verdict) == (0, 0, 1, "undecided")
    assert (found.bca_interval, found.delong_p_value, found.false_discovery_p_value) == ((0, 0), 1, 1)


def test_a_difference_without_variance_is_not_believed():
    found = compare({"a": [[0.1, 0.9]], "b": [[0.9, 0.1]]}, [0, 1], metrics=("auc",), replicates=10)
    assert found.differences[0].verdict == "undecided"
    assert "too few rows" in found.differences[0].note


def test_one_seed_covers_rows_only_and_says_so():
    arms, labels, user = generated(np.random.default_rng(0))
    arms["plain"] = arms["plain"][:1]
    result = compare(arms, labels, user, replicates=20)
    assert result.differences[0].seed_variance is None
    assert result.differences[0].note == "one seed: intervals cover rows only"
    assert result.arms[0].seed_std_auc is None
    assert result.arms[1].seed_std_auc > 0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_and_arms_is_irrelevant(seed):
    rng = np.random.default_rng(seed)
    arms, labels, _ = generated(rng, users=20)
    user = rng.integers(0, 15, labels.size)
    order = rng.permutation(labels.size)
    first = compare(arms, labels, user, baseline="plain", replicates=20)
    moved = {name: arms[name][:, order] for name in ("hashed", "plain")}
    second = compare(moved, labels[order], user[order], baseline="plain", replicates=20)
    for one, two in zip(first.differences, second.differences, strict=True):
        assert one.estimate == pytest.approx(two.estimate, abs=1e-12)
        assert one.standard_error == pytest.approx(two.standard_error, rel=1e-9)


def test_the_result_is_json_and_repeats():
    arms, labels, user = generated(np.random.default_rng(0))
    result = compare(arms, labels, user, replicates=20).to_dict()
    assert json.loads(json.dumps(result, allow_nan=False))["differences"][0]["metric"] == "auc"
    assert result == compare(arms, labels, user, replicates=20).to_dict()
    assert result["clusters"] == 60
    assert compare(arms, labels, replicates=5).clusters is None


def test_replicates_without_a_class_are_drawn_again():
    rng = np.random.default_rng(0)
    result = compare({"a": rng.random((2, 30))}, np.arange(30) == 0, replicates=200)
    assert 50 < result.redrawn < 250  # a single positive is lost in 37 % of draws
    assert np.isfinite(result.arms[0].auc_interval).all()
    assert result.differences == ()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("other", "verdict"),
    [(1.2, "better"), (1.9, "worse"), (0.95, "better"), (0.6, "undecided"), (0.2, "worse")],
)
def test_calibration_is_better_the_nearer_it_is_to_one(seeds, other, verdict):
    """Against 1.4; 0.6 is as far away, on the other side, and differs."""
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.2
    p = 0.2 * np.exp(0.1 * rng.normal(size=(seeds, labels.size)))
    p *= labels.mean() / p.mean()
    result = compare({"a": p * 1.4, "b": p * other}, labels, metrics=("calibration",), replicates=200)
    found = result.differences[0]
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(abs(other - 1) - 0.4, abs=0.01)
    assert (
        (found.interval[0] <= 0 <= found.interval[1]) == (found.p_value >= 0.05) == (verdict == "undecided")
    )
    assert found.bca_interval[0] < found.estimate < found.bca_interval[1]
    b = result.best["calibration"]["b"]
    assert (
        0.05 < b < 0.95
        if verdict == "undecided"
        else b == pytest.approx(float(verdict == "better"), abs=1e-3)
    )


def test_calibration_on_opposite_sides_is_tested_by_the_sum():
    """The distance |a - 1| - |b - 1| = a + b - 2 of a above and b below 1, of one seed each."""
    rng = np.random.default_rng(1)
    labels = rng.random(500) < 0.3
    p = rng.uniform(0.1, 0.45, 500)
    found = compare({"b": p[None] * 0.8, "a": p[None] * 1.3}, labels, metrics=("calibration",), replicates=50)
    difference, weights = found.differences[0], poisson(0, 50, 500)
    a, b = (np.array([metrics.calibration(labels, p * f, w) for w in weights]) for f in (1.3, 0.8))
    distance = metrics.calibration(labels, p * 1.3) + metrics.calibration(labels, p * 0.8) - 2
    z = distance / (np.std(a + b, ddof=1) * np.sqrt(500 / 499))
    influence = (p * 2.1 - labels * metrics.calibration(labels, p * 2.1)) ** 2
    df = 3 * influence.sum() ** 2 / (influence**2).sum()
    assert difference.p_value == pytest.approx(2 * t.sf(abs(z), min(df, 499)), rel=1e-9)


def test_delong_is_of_the_mean_over_seeds():
    arms, labels, user = generated(np.random.default_rng(0), seeds=3)
    arms["third"] = arms["plain"][:1]
    result = compare(arms, labels, user, metrics=("logloss", "auc"), replicates=20)
    found = {d.arm: d for d in result.differences if d.metric == "auc"}
    single = delong(labels, np.concatenate(list(arms.values())))
    for name, weights in {
        "hashed": [-1 / 3] * 3 + [1 / 3] * 3 + [0],
        "third": [2 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0],
    }.items():
        w = np.array(weights)
        z = w @ single.auc / np.sqrt(w @ single.covariance @ w)
        assert found[name].delong_p_value == pytest.approx(2 * norm.sf(abs(z)), rel=1e-8)
    assert all(d.delong_p_value is None for d in result.differences if d.metric == "logloss")
    few = np.arange(labels.size) == 0
    assert compare(arms, few, metrics=("auc",), replicates=5).differences[0].delong_p_value is None


def test_metrics_are_those_that_the_rows_allow():
    rng = np.random.default_rng(0)
    arms, labels = {"a": rng.random((1, 40)), "b": rng.random((1, 40))}, np.arange(40) % 2

    def compared(clusters):
        return list(compare(arms, labels, clusters, replicates=5).best)

    assert compared(None) == compared(labels) == ["auc", "logloss", "ne", "calibration"]
    assert compared(np.arange(40) // 2) == ["auc", "gauc", "logloss", "ne", "calibration"]
    for clusters in (None, labels):
        with pytest.raises(ValueError, match="gauc needs clusters"):
            compare(arms, labels, clusters, metrics=("gauc",))


def test_many_arms_are_corrected_together():
    arms, labels, user = generated(np.random.default_rng(0), seeds=1)
    arms |= {str(i): np.clip(arms["plain"] + 0.05 * i * labels, 0, 1) for i in range(3)}
    result = compare(arms, labels, user, metrics=("auc", "calibration"), replicates=50)
    for metric in ("auc", "calibration"):
        found = [d for d in result.differences if d.metric == metric]
        p = [d.p_value for d in found]
        assert [d.adjusted_p_value for d in found] == holm(p)
        assert [d.false_discovery_p_value for d in found] == benjamini_hochberg(p)
        assert sum(result.best[metric].values()) == pytest.approx(1)


def test_bad_input_is_refused():
    labels, good = np.array([0, 1, 1, 0]), np.full((2, 4), 0.5)
    for bad in (np.nan, -0.1, 1.1):
        worse = good.copy()
        worse[1, 2] = bad
        with pytest.raises(ValueError, match=f"arm 'b', seed 1, row 2: prediction is {bad}"):
            compare({"a": good, "b": worse}, labels)
    for shape in ((2, 3), (4,), (0, 4)):
        with pytest.raises(ValueError, match="arm 'b' has predictions of shape"):
            compare({"a": good, "b": np.full(shape, 0.5)}, labels)
    with pytest.raises(ValueError, match="both classes"):
        compare({"a": good}, np.ones(4))
    with pytest.raises(ValueError, match="position 0 is 2"):
        compare({"a": good}, labels + 2)
    with pytest.raises(ValueError, match="one cluster"):
        compare({"a": good}, labels, np.zeros(4))
    with pytest.raises(ValueError, match="groups have shape"):
        compare({"a": good}, labels, np.zeros(3))
    with pytest.raises(ValueError, match=r"baseline 'c' is not among the arms: choose one of \['a'\]"):
        compare({"a": good}, labels, baseline="c")
    with pytest.raises(ValueError, match="no arms"):
        compare({}, labels)
    for chosen in (("auc", "auc"), ("mrr",), ()):
        with pytest.raises(ValueError, match="metrics are"):
            compare({"a": good}, labels, metrics=chosen)
    for options in ({"replicates": 1}, {"level": 1.0}):
        with pytest.raises(ValueError, match="replicates is"):
            compare({"a": good}, labels, **options)
