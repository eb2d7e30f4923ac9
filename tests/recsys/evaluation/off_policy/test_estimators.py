"""Off-policy estimators against short formulas, and against bandits whose truth is known."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.evaluation.off_policy.errors import effective_rows
from recsys.evaluation.off_policy.estimators import ESTIMATORS, evaluate_policy
from recsys.evaluation.off_policy.log import Log, bandit_log
from recsys.evaluation.off_policy.result import OffPolicy
from recsys.evaluation.off_policy.reward import RewardModel, fit_reward_model
from recsys.evaluation.off_policy.target import (
    Target,
    frequencies,
    probabilities,
    support,
    uniform,
)
from recsys.reports.off_policy import on_policy, ope_sheets, ope_summary

MEANS = np.array([[0.10, 0.30, 0.50, 0.20], [0.40, 0.15, 0.05, 0.60]])  # of a reward: context × action
LOGGING = np.array([[0.40, 0.30, 0.20, 0.10], [0.10, 0.20, 0.30, 0.40]])
TARGET = np.array([[0.10, 0.20, 0.60, 0.10], [0.35, 0.05, 0.10, 0.50]])
TRUTH = float((TARGET * MEANS).sum(axis=1).mean())


def simulate(
    seed: int, n: int = 1000, *, context_is_position: bool = False, users: int = 0
) -> tuple[Log, Target]:
    """Draw a log of contextual choices; with users, each brings one context and one mood to all its rows."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n) if users else None
    context = rng.integers(0, 2, n) if user is None else rng.integers(0, 2, users)[user]
    mood = 0.0 if user is None else rng.choice([-1.0, 1.0], users)[user]
    action = (rng.random(n)[:, None] > LOGGING[context].cumsum(axis=1)[:, :-1]).sum(axis=1)
    mean = MEANS[context, action]
    reward = (rng.random(n) < mean * (1 + 0.9 * mood * np.minimum(1, 1 / mean - 1))).astype(float)
    positions = context if context_is_position else None
    log = bandit_log(action, reward, LOGGING[context, action], positions, user)
    return log, probabilities(log, None, TARGET, context)


def small(seed: int, n: int = 60) -> tuple[Log, Target, dict[str, np.ndarray]]:
    """Draw a log with positions and users whose target has a distribution of its own in every row; its plain arrays."""
    rng = np.random.default_rng(seed)
    action, position, user = np.arange(n) % 3, np.arange(n) // 3 % 2, rng.integers(0, 9, n)
    plain = {
        "r": rng.normal(size=n),
        "p": rng.uniform(0.05, 1, n),
        "a": action,
        "z": position,
        "u": user,
        "pi": rng.dirichlet(np.ones(3), n),
    }
    log = bandit_log(action, plain["r"], plain["p"], position, user)
    return log, probabilities(log, None, plain["pi"]), plain


def run(log: Log, target: Target, **options: object) -> OffPolicy:
    return evaluate_policy(log, target, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_those_of_ten_line_formulas(seed: int) -> None:
    log, target, x = small(seed)
    model = fit_reward_model(log, target)
    result = run(log, target, threshold=1.5, model=model)
    for part, rows in [
        (result.overall, x["z"] >= 0),
        *((p, x["z"] == i) for i, p in enumerate(result.positions)),
    ]:
        r, w = x["r"][rows], x["pi"][np.arange(60), x["a"]][rows] / x["p"][rows]
        q, v, n = model.logged[rows], model.policy[rows], rows.sum()
        expected = {
            "ips": sum(w * r) / n,
            "snips": sum(w * r) / sum(w),
            "clipped": sum(np.minimum(w, 1.5) * r) / n,
            "dm": sum(v) / n,
            "dr": sum(v + w * (r - q)) / n,
            "switch-dr": sum(v + (w <= 1.5) * w * (r - q)) / n,
        }
        for name, value in expected.items():
            assert part[name].value == pytest.approx(value, abs=1e-12)
            assert part[name].difference == pytest.approx(value - r.mean(), abs=1e-12)
        assert part["ips"].effective_rows == pytest.approx(sum(w) ** 2 / sum(w**2), rel=1e-12)
        assert part["ips"].effective_rewards == pytest.approx(
            sum(abs(w * r)) ** 2 / sum((w * r) ** 2), rel=1e-12
        )
        assert part["dr"].largest_weight == w.max()
        assert part["clipped"].clipped_rows == pytest.approx((w > 1.5).mean())
        assert part["clipped"].clipped_weight == pytest.approx(1 - np.minimum(w, 1.5).sum() / w.sum())
        assert part["clipped"].largest_weight == min(1.5, w.max())
        assert part["switch-dr"].largest_weight == w[w <= 1.5].max()
        assert part["dm"].effective_rows is None
        assert part.mean_weight == pytest.approx(w.mean())
        assert part.overlap == 1


def test_errors_are_those_of_formulas_with_and_without_users() -> None:
    log, target, x = small(1)
    w = x["pi"][np.arange(60), x["a"]] / x["p"]
    v = sum(w * x["r"]) / sum(w)
    by_user = [sum((w * (x["r"] - v))[x["u"] == u]) for u in np.unique(x["u"])]
    g = len(by_user)
    expected = np.sqrt(sum(np.square(by_user)) * g / (g - 1)) / sum(w)
    assert run(log, target).overall["snips"].standard_error == pytest.approx(expected, rel=1e-12)
    plain = bandit_log(x["a"], x["r"], x["p"], x["z"])
    independent = run(plain, probabilities(plain, None, x["pi"])).overall["ips"]
    assert independent.standard_error == pytest.approx(np.std(w * x["r"], ddof=1) / np.sqrt(60), rel=1e-12)


@pytest.mark.parametrize("users", [True, False])
def test_the_reward_model_is_an_out_of_fold_mean_and_its_influence_is_a_derivative(users: bool) -> None:
    log, target, x = small(3)
    if not users:
        log = bandit_log(x["a"], x["r"], x["p"], x["z"])
    units = x["u"] if users else np.arange(60)
    fold = (np.random.default_rng(7).permutation(units.max() + 1) % 3)[units]

    def direct(weight: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        logged, policy = np.empty(60), np.empty(60)
        for i in range(60):
            other = (fold != fold[i]) & (x["z"] == x["z"][i])
            mean = np.average(x["r"][other], weights=weight[other])
            q = np.empty(3)
            for a in range(3):
                w = weight * (other & (x["a"] == a))
                q[a] = (w @ x["r"] + 2.5 * mean) / (w.sum() + 2.5)
            logged[i], policy[i] = q[x["a"][i]], q @ x["pi"][i]
        return float(np.average(policy, weights=weight)), logged, policy

    model = fit_reward_model(log, target, folds=3, prior_rows=2.5, seed=7)
    value, logged, policy = direct(np.ones(60))
    np.testing.assert_allclose(model.logged, logged, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.policy, policy, rtol=0, atol=1e-12)
    for i in range(0, 60, 7):
        up, down = np.ones(60), np.ones(60)
        up[i], down[i] = 1 + 1e-5, 1 - 1e-5
        slope = 60 * (direct(up)[0] - direct(down)[0]) / 2e-5
        assert model.policy[i] - value + model.influence[i] == pytest.approx(slope, abs=1e-7)


def test_a_log_with_fewer_users_than_folds_has_fewer_folds() -> None:
    log = bandit_log(np.arange(40) % 2, np.arange(40) % 3, np.full(40, 0.5), None, np.arange(40) // 20)
    assert "2-fold" in fit_reward_model(log, uniform(log)).description
    assert run(log, uniform(log)).overall.clusters == 2


def test_the_same_probabilities_by_row_and_by_table_give_the_same() -> None:
    log, target = simulate(0)
    assert target.table is not None
    assert target.index is not None
    by_row = run(log, probabilities(log, target.logged, target.table[target.index]))
    for estimate in run(log, target).overall.estimates:
        assert by_row.overall[estimate.estimator].value == pytest.approx(estimate.value, abs=1e-12)
        assert by_row.overall[estimate.estimator].standard_error == pytest.approx(estimate.standard_error)


def test_weights_of_zero_leave_the_model_and_the_logging_policy_judges_itself() -> None:
    log, target = simulate(2)
    model = RewardModel(np.full(1000, 0.3), np.linspace(0, 1, 1000), np.zeros(1000), "given")
    result = run(log, target, model=model, threshold=1e-9)
    assert result.overall["switch-dr"].value == pytest.approx(result.overall["dm"].value, abs=1e-12)
    assert result.reward_model == "given"
    exact = RewardModel(log.rewards, np.full(1000, 0.25), np.zeros(1000), "no residuals")
    result = run(log, target, model=exact)
    assert result.overall["dr"].value == pytest.approx(0.25, abs=1e-12)
    itself = run(log, probabilities(log, log.propensities))
    assert [e.estimator for e in itself.overall.estimates] == list(ESTIMATORS[:3])
    for estimate in itself.overall.estimates:
        assert estimate.value == pytest.approx(log.rewards.mean(), abs=1e-12)
        assert estimate.difference_interval == pytest.approx((0, 0), abs=1e-12)
        assert estimate.effective_rows == pytest.approx(1000)
    assert itself.verdict == "undecided"


@settings(max_examples=50, deadline=None)
@given(
    rewards=arrays(float, 30, elements=st.floats(-5, 5)),
    propensities=arrays(float, 30, elements=st.floats(0.2, 1)),
    shift=st.floats(-100, 100),
)
def test_snips_moves_with_the_rewards_and_stays_among_them(
    rewards: np.ndarray, propensities: np.ndarray, shift: float
) -> None:
    if np.ptp(rewards) < 1e-6:
        rewards = np.arange(30.0)
    actions = np.arange(30) % 3
    pair = []
    for r in (rewards, rewards + shift):
        log = bandit_log(actions, r, propensities)
        target = probabilities(log, None, [[0.05, 0.05, 0.9]], np.zeros(30, int))
        target = replace(target, logged=target.logged * propensities)  # so that no weight is impossible
        pair.append(run(log, target).overall["snips"])
    assert pair[1].value - shift == pytest.approx(pair[0].value, abs=1e-9)
    assert pair[1].standard_error == pytest.approx(pair[0].standard_error, abs=1e-9)
    assert rewards.min() - 1e-9 <= pair[0].value <= rewards.max() + 1e-9


@settings(max_examples=100, deadline=None)
@given(arrays(float, 20, elements=st.floats(0, 1e6)), st.floats(1e-3, 1e3))
def test_effective_rows_are_between_one_and_all_and_know_no_unit(weights: np.ndarray, scale: float) -> None:
    weights[0] = max(weights[0], 1e-3)
    rows = effective_rows(weights)
    assert 1 - 1e-9 <= rows <= 20 + 1e-9
    assert effective_rows(weights * scale) == pytest.approx(rows)


@pytest.fixture(scope="module")
def simulations() -> dict[str, np.ndarray]:
    """Value, low and high of each estimator in 500 logs: [500, 3]. Contexts are positions, so that the model is right."""
    out: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(500):
        log, target = simulate(seed, context_is_position=True)
        for estimate in run(log, target, prior_rows=1.0, threshold=1e9).overall.estimates:
            out.setdefault(estimate.estimator, []).append((estimate.value, *estimate.interval))
    return {name: np.array(values) for name, values in out.items()}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimates_are_unbiased_and_intervals_cover(
    estimator: str, simulations: dict[str, np.ndarray]
) -> None:
    value, low, high = simulations[estimator].T
    # snips is a ratio, and its bias of order 1 / n is far below this
    assert abs(value.mean() - TRUTH) < 3.5 * value.std() / np.sqrt(500)
    assert 0.92 <= ((low <= TRUTH) & (high >= TRUTH)).mean() <= 0.98


def test_dr_is_unbiased_with_a_model_that_is_wrong_and_better_than_ips_with_one_that_is_right(
    simulations: dict[str, np.ndarray],
) -> None:
    values = []
    for seed in range(500):
        log, target = simulate(seed)
        wrong = RewardModel(np.full(1000, 0.9), np.full(1000, 0.9), np.zeros(1000), "wrong")
        values.append(run(log, target, model=wrong).overall["dr"].value)
    assert abs(np.mean(values) - TRUTH) < 3.5 * np.std(values) / np.sqrt(500)
    assert simulations["dr"][:, 0].std() < 0.95 * simulations["ips"][:, 0].std()


def test_intervals_cover_where_rows_of_a_user_are_dependent() -> None:
    covered = {"normal": 0, "bootstrap": 0, "rows alone": 0}
    for seed in range(500):
        log, target = simulate(seed, 1000, users=60)
        alone = bandit_log(log.actions, log.rewards, log.propensities)
        results = {
            "normal": run(log, target),
            "bootstrap": run(log, target, method="bootstrap", replicates=400),
            "rows alone": run(alone, target),
        }
        for name, result in results.items():
            low, high = result.overall["snips"].interval
            covered[name] += low <= TRUTH <= high
    assert 0.92 <= covered["normal"] / 500 <= 0.98
    assert 0.92 <= covered["bootstrap"] / 500 <= 0.98
    assert covered["rows alone"] / 500 < 0.85, "independent rows are the wrong model here"


def test_bootstrap_and_delta_method_agree_and_repeat() -> None:
    log, target = simulate(5, 1500, context_is_position=True)
    normal = run(log, target).overall
    drawn = run(log, target, method="bootstrap", replicates=4000).overall
    for name in ESTIMATORS:
        assert drawn[name].interval == pytest.approx(
            normal[name].interval, abs=0.15 * normal[name].standard_error
        )
    again = run(log, target, method="bootstrap", replicates=4000).overall
    assert again == drawn


def test_verdicts() -> None:
    log, target = simulate(0, 5000)
    assert run(log, target).verdict == "better"
    worst = np.array([[0.9, 0.1, 0, 0], [0, 0.1, 0.9, 0]])
    assert target.index is not None
    assert run(log, probabilities(log, None, worst, target.index)).verdict == "worse"
    few = bandit_log([0, 1] * 30, [0, 1, 0] * 20, [0.5] * 60)
    result = run(few, uniform(few))
    assert result.verdict == "unreliable"
    assert "60 effective rows" in result.overall["dr"].note
    assert not result.overall["dr"].reliable
    assert result.zero_weights == 0
    assert sum(result.weights) == 60


def test_rows_rewards_and_single_weights_that_decide_are_told() -> None:
    log, target = simulate(0, 5000)
    for estimate in run(log, target).overall.estimates:
        assert estimate.reliable == (estimate.estimator != "dm"), "the bias of a model is unknown"
    assert run(log, target, primary="dm").verdict == "unreliable"
    rare = bandit_log(np.arange(5000) % 2, (np.arange(5000) % 600 == 0) * 1.0, np.full(5000, 0.5))
    assert run(rare, uniform(rare)).overall["ips"].note == "9.0 effective rewards"
    p = np.full(5000, 0.5)
    p[7] = 1e-4
    heavy = bandit_log(np.arange(5000) % 2, np.arange(5000) % 3 == 0, p)
    result = run(heavy, uniform(heavy))
    assert result.overall["snips"].note == "one row carries 50% of the weight"
    assert result.verdict == "unreliable"


def test_cut_weight_is_a_bias_that_no_interval_holds() -> None:
    log, target = simulate(0, 5000)
    assert TARGET[1, 0] / LOGGING[1, 0] == pytest.approx(3.5), "the largest weight, of 17.5% of the weight"
    kept = run(log, target, threshold=3.6).overall
    assert kept["clipped"].reliable
    assert kept["switch-dr"].reliable
    cut = run(log, target, threshold=3.4)
    assert 0 < (cut.overall["clipped"].clipped_weight or 0) < 0.01
    assert cut.overall["clipped"].reliable
    assert cut.overall["clipped"].note.startswith("too low")
    assert not cut.overall["switch-dr"].reliable
    assert re.match(r"1\d\.\d% of the weight is cut; the reward model", cut.overall["switch-dr"].note)
    assert cut.verdict == "better", "dr cuts nothing"
    assert run(log, target, threshold=3.4, primary="switch-dr").verdict == "unreliable"
    assert not run(log, target, threshold=2).overall["clipped"].reliable
    nothing_left = run(log, target, threshold=1e-9, primary="switch-dr")
    assert nothing_left.verdict == "unreliable"
    assert nothing_left.overall["switch-dr"].note.startswith("100.0% of the weight is cut")


def test_a_position_without_rewards_gets_a_note_and_no_number() -> None:
    n = 400
    position = np.arange(n) % 2
    log = bandit_log(np.arange(n) // 2 % 2, (np.arange(n) % 6 == 0) * 1.0, np.full(n, 0.5), position)
    first, second = run(log, uniform(log)).positions
    assert first.estimates
    assert second.estimates == ()
    assert second.logged_interval is None
    assert second.note == "every reward is 0: no error can be estimated"


def test_frequencies_follow_names_and_positions() -> None:
    log = bandit_log(["a", "b", "c"] * 4, [0, 1] * 6, [0.3] * 12, [1] * 6 + [2] * 6)
    other = bandit_log(["c", "b", "b", "b", "b"], [0, 1, 0, 0, 1], [0.5] * 5, [2, 2, 2, 2, 1])
    target = frequencies(log, other)
    assert target.table is not None
    np.testing.assert_array_equal(target.table, [[0, 1, 0], [0, 0.75, 0.25]])
    np.testing.assert_array_equal(target.logged, [0, 1, 0] * 2 + [0, 0.75, 0.25] * 2)
    np.testing.assert_array_equal(support(log, target), [1, 1])
    with pytest.raises(
        ValueError, match=r"no support: action c never occurs in it, but has 20\.00% of the rows"
    ):
        frequencies(bandit_log(["a", "b"], [0, 1], [0.5, 0.5], [1, 2]), other)
    with pytest.raises(ValueError, match="has no position 3"):
        frequencies(bandit_log(["b", "c"], [0, 1], [0.5, 0.5], [1, 3]), other)


GOOD = {"actions": [0, 1, 0, 1], "rewards": [0, 1, 1, 0], "propensities": [0.5, 0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": [0.5, 0.0, 0.5, 0.5]}, "log: row 1: propensity is 0.0: .* within"),
        ({"propensities": [0.5, 0.5, -0.1, 0.5]}, "log: row 2: propensity is -0.1"),
        ({"propensities": [0.5, 0.5, 0.5, 1.01]}, "log: row 3: propensity is 1.01"),
        ({"propensities": [0.5, 0.5, 0.5, np.nan]}, "log: row 3: propensity is nan"),
        ({"propensities": None}, "has no column 'propensity': without the probability"),
        ({"rewards": [0, np.nan, 1, 0]}, "log: row 1: reward is nan"),
        ({"rewards": [0, np.inf, 1, 0]}, "log: row 1: reward is inf"),
        ({"rewards": [0, 0, 0, 0]}, "reward is 0 in every row"),
        ({"rewards": [0, 1]}, r"reward has shape \(2,\): the log has 4 rows"),
        ({"actions": [1, 1, 1, 1]}, "action is 1 in every row: a log with one action only"),
        ({"actions": [0.0, np.nan, 1, 1]}, "row 1: action is nan"),
        ({"actions": np.array(["a", None, "b", "b"], object)}, "row 1: action is None"),
        ({"actions": []}, "at least one row"),
        ({"row_ids": [7, 8, 8, 9]}, r"log: row 1 \(row id 8\): row_id 8 occurs 2 times"),
        ({"clusters": [3, 3, 3, 3]}, "all rows have one user"),
    ],
)
def test_bad_logs_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bandit_log(**{**GOOD, **change})  # type: ignore[arg-type]


def test_bad_targets_are_refused() -> None:
    log = bandit_log(**GOOD)  # type: ignore[arg-type]
    same = np.zeros(4, int)
    for logged, message in [
        ([0.5, 1.5, 0, 0], "policy: log: row 1: probability is 1.5"),
        ([0.5, np.nan, 0, 0], "log: row 1: probability is nan"),
        ([0.5, 0.5], r"probabilities have shape \(2,\)"),
        (None, "give probabilities"),
    ]:
        with pytest.raises(ValueError, match=message):
            probabilities(log, logged)
    for table, message in [
        ([[0.7, 0.4]], "log: row 0: probabilities of all actions sum to 1.1"),
        ([[0.7, -0.1]], "log: row 0: probability of 1 is -0.1"),
        ([[0.7]], r"shape \(1, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            probabilities(log, None, table, same)
    with pytest.raises(ValueError, match="index runs from 0 to 2, of 1"):
        probabilities(log, None, [[0.5, 0.5]], [0, 0, 0, 2])
    with pytest.raises(ValueError, match=r"row 1: probability is 0.2, but 0.6 in the column of its action 1"):
        probabilities(log, [0.4, 0.2, 0.4, 0.6], [[0.4, 0.6]], same)


def test_no_support_is_refused() -> None:
    log = bandit_log([0, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 0], [0.5] * 6, [1, 1, 1, 1, 2, 2])
    with pytest.raises(
        ValueError, match="no support: action 1 was never logged at position 2, but uniform shows"
    ):
        run(log, uniform(log))
    with pytest.raises(ValueError, match="no overlap: policy gives probability 0 to every logged action"):
        run(log, probabilities(log, np.zeros(6)))
    short = probabilities(log, None, [[0.3, 0.4], [0.7, 0]], log.positions)
    with pytest.raises(ValueError, match=r"no support: at position 1 .* sum to 0.7"):
        run(log, short)


def test_weights_that_cannot_average_one_are_refused() -> None:
    log, target = simulate(1, 3000)
    with pytest.raises(ValueError, match=r"average 0.\d+ ± .*no support for the rest"):
        run(log, probabilities(log, np.where(log.actions == 2, 0, target.logged)))
    halved = bandit_log(log.actions, log.rewards, log.propensities / 2)
    with pytest.raises(ValueError, match=r"average 2.* at most 1 is possible"):
        run(halved, target)


def test_contexts_that_the_log_does_not_randomise_are_refused() -> None:
    rows = np.arange(1000)
    segment, reward = rows % 2, rows % 3 == 0
    always = bandit_log(segment, reward, np.ones(1000))
    with pytest.raises(
        ValueError,
        match=r"uniform average 0\.5 ± 0, not 1: in some contexts the log never.* or propensity is too large",
    ):
        run(always, uniform(always))
    mixed = bandit_log(np.where(rows < 500, segment, rows // 2 % 2), reward, np.where(rows < 500, 1, 0.5))
    with pytest.raises(ValueError, match=r"average 0\.75 ± 0\.0079, not 1: in some contexts"):
        run(mixed, uniform(mixed))


def test_a_mean_weight_that_chance_hardly_allows_gives_no_verdict() -> None:
    rows = np.arange(200)
    log = bandit_log(rows % 2, rows % 3 == 0, np.full(200, 0.5))
    own = np.where(rows // 2 % 2, 0.75, 0.05)  # weights 1.5 and 0.1: 0.8, four standard errors below 1
    target = probabilities(log, None, np.where(np.eye(2)[log.actions], own[:, None], 1 - own[:, None]))
    result = run(log, target)
    assert result.overall["dr"].note == ""
    assert result.verdict == "unreliable"
    assert not any(estimate.reliable for estimate in result.overall.estimates)
    assert "not to be relied on (weights average 0.8 ± 0.05, not 1: propensities or" in ope_summary(result)


@pytest.mark.parametrize("known", [True, False], ids=["all actions", "logged actions"])
def test_a_low_mean_of_few_heavy_weights_is_unreliable_and_not_refused(known: bool) -> None:
    rows = np.arange(2000)
    heavy = rows % 100 == 0
    log = bandit_log(heavy.astype(int), rows % 3 == 0, np.where(heavy, 0.05, 0.99))
    table = np.where(heavy[:, None], [0.0, 1.0], [0.0099, 0.9901])  # weights 20 and 0.01
    target = probabilities(log, table[rows, log.actions], table if known else None)
    result = run(log, target)
    assert result.overall.mean_weight == pytest.approx(0.21, abs=0.001)
    assert result.verdict == "unreliable"
    summary = ope_summary(result)
    assert "weights average 0.21" in summary
    assert "22 effective rows" in summary


def test_a_target_seen_with_one_user_at_a_position_has_no_error_there() -> None:
    rows = np.arange(400)
    log = bandit_log(rows // 2 % 2, rows % 3 == 0, np.full(400, 0.5), rows % 2 + 1)
    place, user = np.where(rows < 390, 1, 2), np.minimum(rows // 3, 130)
    own = bandit_log(rows % 2, rows % 3 == 0, np.full(400, 0.5), place, user)
    truth = on_policy(own)
    by_user = np.bincount(user, own.rewards - own.rewards.mean())
    assert truth.overall.standard_error == pytest.approx(
        np.sqrt(np.square(by_user).sum() * 131 / 130) / 400, rel=1e-12
    )
    assert truth.by_position["position 2"].standard_error is None
    sheet = next(s for s in ope_sheets(run(log, uniform(log)), truth) if s.title == "Estimates, position 2")
    assert "Target, its own log: 0.4 ± –" in sheet.note
    assert {row[-1] for row in sheet.rows} == {"–"}


def test_options_are_checked() -> None:
    log, target = simulate(1)
    for options, message in [
        ({"primary": "magic"}, "estimator 'magic' is not among"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"level": 1.0}, "level 1.0"),
        ({"method": "guess"}, "method 'guess'"),
        ({"folds": 1}, "folds is 1"),
        ({"prior_rows": 0.0}, "prior_rows is 0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(log, target, **options)
    with pytest.raises(ValueError, match="estimator 'dr' is not among"):
        run(log, probabilities(log, target.logged), primary="dr")
    with pytest.raises(ValueError, match="needs the probabilities of all actions"):
        fit_reward_model(log, probabilities(log, target.logged))
