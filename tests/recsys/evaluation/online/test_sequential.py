"""Confidence sequences against the formula as printed, a loop over users, tea-tasting, and simulated looks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from recsys.evaluation.online.sequential import (
    INFORMATIVE,
    DailyDifference,
    anytime_p_values,
    boundary,
    confidence_sequence,
    daily_difference,
    information_clock,
    tuned_rho2,
)


def log(
    seed: int, users: int = 400, days: int = 8, lift: float = 0.0, back: bool = True
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = np.where(rng.random(users) < 0.5, 0, rng.integers(0, days, users))
    treated = rng.random(users) < 0.5
    active = (np.arange(days) >= first[:, None]) if back else (np.arange(days) == first[:, None])
    shown = rng.poisson(rng.gamma(0.7, 4, users)[:, None], (users, days)) * active
    shown[np.arange(users), first] += 1
    rate = 0.1 * rng.lognormal(-0.5, 1, users) * np.where(treated, 1 + lift, 1)
    return {
        "clicks": rng.binomial(shown, np.minimum(rate, 1)[:, None]).astype(float),
        "shown": shown.astype(float),
        "before": rng.poisson(20 * rate).astype(float),
        "first": first,
        "treated": treated,
    }


def of(
    log: dict[str, np.ndarray], ratio: bool = False, cuped: bool = False, until: int | None = None
) -> DailyDifference:
    here = log["first"] < (until or log["clicks"].shape[1])
    return daily_difference(
        log["clicks"][here, :until],
        log["shown"][here, :until] if ratio else None,
        log["before"][here] if cuped else None,
        log["first"][here],
        log["treated"][here],
    )


@pytest.mark.parametrize(("t", "rho", "alpha"), [(1, 1.0, 0.05), (10, 0.3, 0.05), (1000, 0.02, 0.01)])
def test_boundary_is_the_published_margin(t: float, rho: float, alpha: float) -> None:
    margin = np.sqrt(2 * (t * rho**2 + 1) / (t**2 * rho**2) * np.log(np.sqrt(t * rho**2 + 1) / alpha))
    assert boundary(t, rho**2, alpha) / np.sqrt(t) == pytest.approx(margin, rel=1e-12)


def test_boundary_is_narrowest_where_it_was_tuned() -> None:
    rho2 = tuned_rho2(10, 0.05)
    width = boundary(10, rho2, 0.05)
    assert all(width < boundary(10, rho2 * factor, 0.05) for factor in (0.3, 3))
    assert width == pytest.approx(min(boundary(10, r, 0.05) for r in np.geomspace(0.01, 10, 2000)), rel=1e-3)


@given(st.floats(0.1, 1e4), st.floats(1e-3, 10), st.floats(0.001, 0.5))
def test_p_value_is_alpha_on_the_boundary(clock: float, rho2: float, alpha: float) -> None:
    z = boundary(clock, rho2, alpha)
    assert anytime_p_values([z], [clock], rho2)[0] == pytest.approx(alpha, rel=1e-9)


def test_p_values_never_rise() -> None:
    p = anytime_p_values([0.0, 5.0, 1.0, 6.0], [1.0, 2.0, 3.0, 4.0], 0.5)
    assert (np.diff(p) <= 0).all()
    assert p[0] == 1


def aggregates(
    numerator: np.ndarray, denominator: np.ndarray | None, covariate: np.ndarray | None
) -> Aggregates:
    columns = {"numerator": numerator, "denominator": denominator, "covariate": covariate}
    present = {name: values for name, values in columns.items() if values is not None}
    covariance = np.atleast_2d(np.cov(list(present.values())))
    names = list(present)
    return Aggregates(
        count_=len(numerator),
        mean_={name: float(values.mean()) for name, values in present.items()},
        var_={name: float(covariance[i, i]) for i, name in enumerate(names)},
        cov_={
            (names[i], names[j]): float(covariance[i, j])
            for i in range(len(names))
            for j in range(i + 1, len(names))
        },
    )


@pytest.mark.parametrize("ratio", [False, True])
@pytest.mark.parametrize("cuped", [False, True])
def test_last_day_is_tea_tastings_answer(ratio: bool, cuped: bool) -> None:
    data = log(1)
    found = of(data, ratio, cuped)
    for day in (3, data["clicks"].shape[1] - 1):
        here = data["first"] <= day
        arms = [
            aggregates(
                data["clicks"][side, : day + 1].sum(axis=1),
                data["shown"][side, : day + 1].sum(axis=1) if ratio else None,
                data["before"][side] if cuped else None,
            )
            for side in (here & ~data["treated"], here & data["treated"])
        ]
        metric = RatioOfMeans(
            "numerator",
            "denominator" if ratio else None,
            "covariate" if cuped else None,
            equal_var=False,
            use_t=False,
        )
        expected = metric.analyze_aggregates(*arms)
        assert found.estimates[day] == pytest.approx(expected.effect_size, rel=1e-9)
        error = expected.effect_size / expected.statistic
        assert np.sqrt(found.covariance[day, day]) == pytest.approx(error, rel=1e-9)


def test_covariance_of_days_is_a_loop_over_users() -> None:
    data = log(2, users=60)
    found, total = of(data), np.cumsum(data["clicks"], axis=1)
    for s, t in [(0, 0), (1, 4), (3, 7)]:
        expected = 0.0
        for side in (True, False):
            there = [
                [i for i in range(60) if data["treated"][i] == side and data["first"][i] <= day]
                for day in (s, t)
            ]
            means = [
                np.mean([total[i, day] for i in users]) for users, day in zip(there, (s, t), strict=True)
            ]
            n, m = map(len, there)
            both = sum((total[i, s] - means[0]) * (total[i, t] - means[1]) for i in there[0])
            expected += both / np.sqrt(n * (n - 1) * m * (m - 1))
        assert found.covariance[s, t] == pytest.approx(expected, rel=1e-9)


def test_covariance_is_what_a_bootstrap_of_users_gives() -> None:
    data = log(3, users=800)
    rng, values = np.random.default_rng(0), []
    for _ in range(400):
        take = rng.integers(0, 800, 800)
        values.append(of({name: column[take] for name, column in data.items()}, ratio=True).estimates)
    resampled = np.corrcoef(np.array(values).T)
    error = np.sqrt(np.diag(of(data, ratio=True).covariance))
    assert resampled == pytest.approx(of(data, ratio=True).covariance / np.outer(error, error), abs=0.12)
    assert np.std(values, axis=0) == pytest.approx(error, rel=0.15)


def test_clock_counts_users_when_nobody_comes_back() -> None:
    data = log(4, users=40_000, days=6, back=False)
    users = np.array([(data["first"] <= day).sum() for day in range(6)])
    assert information_clock(of(data).covariance) == pytest.approx(users / users[0], rel=0.1)


def test_clock_counts_days_when_days_are_independent_and_stands_when_they_repeat() -> None:
    rng = np.random.default_rng(5)
    treated, first = rng.random(20_000) < 0.5, np.zeros(20_000, int)
    fresh = daily_difference(rng.normal(size=(20_000, 5)), None, None, first, treated)
    assert information_clock(fresh.covariance) == pytest.approx(np.arange(1, 6), rel=0.1)
    same = daily_difference(np.repeat(rng.normal(size=(20_000, 1)), 5, axis=1), None, None, first, treated)
    assert information_clock(same.covariance) == pytest.approx(np.ones(5), rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_clock_is_never_faster_than_correlations_allow(seed: int, days: int) -> None:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(days, 2 * days)) + 0.7
    covariance = factor @ factor.T
    clock = information_clock(covariance)
    error = np.sqrt(np.diag(covariance))
    correlation = np.maximum(covariance / np.outer(error, error), 1e-3)
    for t in range(1, days):
        assert clock[t] >= clock[t - 1]
        assert (np.sqrt(clock[:t] / clock[t]) <= correlation[:t, t] * (1 + 1e-9)).all()


@given(st.integers(0, 1000), st.integers(2, 7), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_path_does_not_change_when_days_are_added(seed: int, until: int, ratio: bool, cuped: bool) -> None:
    data = log(seed)
    whole = confidence_sequence(range(8), of(data, ratio, cuped))
    part = confidence_sequence(range(until), of(data, ratio, cuped, until))
    for one, other in zip(part.intervals, whole.intervals[:until], strict=True):
        assert (one is None and other is None) or one == pytest.approx(other)
    assert part.decided_on == (whole.decided_on if (whole.decided_on or 0) < until else None)


def test_starts_when_enough_users_have_a_value() -> None:
    data = log(6, users=300)
    data["clicks"][:, :3] = 0
    found = confidence_sequence(range(8), of(data))
    assert found.intervals[:3] == (None, None, None)
    assert of(data).informative[2] == 0
    start = int((of(data).informative >= INFORMATIVE).argmax())
    assert [interval is not None for interval in found.intervals] == [day >= start for day in range(8)]
    assert found.clock[start] == 1


def test_a_real_effect_is_decided_and_stays_so() -> None:
    found = confidence_sequence(range(1, 9), of(log(7, users=20_000, lift=0.5)))
    assert found.decided_on is not None
    assert found.direction == 1
    first = found.days.index(found.decided_on)
    interval = found.intervals[first]
    assert interval is not None
    assert interval[0] > 0
    assert all(i is None or i[0] <= 0 <= i[1] for i in found.intervals[:first])


def test_a_variant_without_users_on_the_first_day_has_no_interval_then() -> None:
    data = log(8)
    data["first"][data["treated"]] = np.maximum(data["first"][data["treated"]], 2)
    data["clicks"] *= np.arange(8) >= data["first"][:, None]
    found = confidence_sequence(range(8), of(data))
    assert found.intervals[:2] == (None, None)
    assert found.intervals[2] is not None


@pytest.mark.parametrize(
    ("days", "settings", "message"),
    [
        ([1], {}, "one day only"),
        ([1, 3, 2], {}, "out of order: 3 comes before 2"),
        ([1, 2, 2], {}, "out of order"),
        ([1, 2], {}, "2 days, but 3"),
        ([1, 2, 3], {"alpha": 0.0}, "alpha is 0.0"),
        ([1, 2, 3], {"planned_days": 0.5}, "planned_days 0.5"),
    ],
)
def test_bad_input(days: list[int], settings: dict[str, float], message: str) -> None:
    size = 1 if days == [1] else 3
    difference = DailyDifference(np.zeros(size), np.eye(size), np.full(size, 100))
    with pytest.raises(ValueError, match=message):
        confidence_sequence(days, difference, **settings)


def errors(tests: int, users: int, days: int) -> tuple[float, float]:
    """Share of A/A tests that any day decides: by the sequence, by a test made for one look."""
    ours = rival = 0
    for seed in range(tests):
        difference = of(log(seed, users, days), ratio=True)
        ours += confidence_sequence(range(days), difference).decided_on is not None
        rival += bool((np.abs(difference.estimates) > 1.96 * np.sqrt(np.diag(difference.covariance))).any())
    return ours / tests, rival / tests


def test_daily_looks_keep_the_level() -> None:
    ours, rival = errors(200, 500, 30)
    assert ours <= 0.05
    assert rival > 0.12


@pytest.mark.slow
def test_daily_looks_keep_the_level_over_many_tests() -> None:
    ours, rival = errors(3000, 1000, 30)
    assert ours <= 0.05
    assert rival > 0.12
