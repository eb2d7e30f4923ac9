"""Online-test arithmetic against scipy, statsmodels, tea-tasting and short loops; bad input; the command."""

import datetime
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind
from statsmodels.stats.power import TTestIndPower
from typer.testing import CliRunner

from recsys import cli
from recsys.evaluation.online.effect import FEW, LEAKED
from recsys.evaluation.online.experiment import SAMPLE_RATIO_LEVEL, analyse, expected_shares, sample_ratio
from recsys.evaluation.online.log import Target, assignments, display_name
from recsys.evaluation.online.result import OnlineTest
from recsys.reports.online import online_json, summary, verdicts, write_online_report

HAS_PICTURES = find_spec("matplotlib") is not None  # the extra `pictures`

CLICKS, RATIO = Target("clicks"), Target("clicks", "impressions")


def events(
    seed: int = 0,
    users: int = 600,
    lift: float = 0.0,
    variants: tuple[str, ...] = ("control", "new"),
    days: int = 5,
) -> pl.DataFrame:
    """Several rows per user, of very uneven numbers and rates; in no order."""
    rng = np.random.default_rng(seed)
    arm = rng.integers(0, len(variants), users)
    rows = 1 + rng.poisson(rng.gamma(0.7, 5, users))
    user = rng.permutation(np.repeat(np.arange(users), rows))
    rate = 0.15 * rng.lognormal(-0.5, 1, users)
    before = rng.poisson(rate * 40)
    rate = np.minimum(rate * np.where(arm > 0, 1 + lift, 1), 0.9)
    shown = rng.integers(1, 4, user.size)
    return pl.DataFrame(
        {
            "user_id": [f"u{i}" for i in user],
            "variant": np.array(variants)[arm[user]],
            "day": [
                datetime.date(2026, 1, 1) + datetime.timedelta(int(d))
                for d in rng.integers(0, days, user.size)
            ],
            "clicks": rng.binomial(shown, rate[user]),
            "impressions": shown,
            "before": before[user],
        }
    )


def judged(log: pl.DataFrame, *targets: Target, **options: Any) -> OnlineTest:
    reading = {key: options.pop(key) for key in ("control", "covariate", "day") if key in options}
    return analyse(assignments(log, "user_id", "variant", targets or (CLICKS,), **reading), **options)


def by_user(log: pl.DataFrame) -> pl.DataFrame:
    return log.group_by("user_id").agg(
        pl.col("variant").first(),
        pl.col("clicks", "impressions").sum(),
        pl.col("before").first(),
        pl.len().alias("rows"),
    )


def test_mean_per_user_is_scipys_welch_test() -> None:
    log = events(lift=0.3)
    users = by_user(log)
    a, b = (users.filter(pl.col("variant") == name)["clicks"].to_numpy() for name in ("new", "control"))
    expected = ttest_ind(a, b, equal_var=False)
    found = judged(log).effects[0]
    assert found.difference == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert found.standard_error == pytest.approx(abs(found.difference / expected.statistic), rel=1e-9)
    assert found.lift == pytest.approx(a.mean() / b.mean() - 1)


def test_ratio_and_cuped_are_tea_tastings() -> None:
    log = events(1, lift=0.3)
    users = by_user(log).with_columns((pl.col("variant") == "new").cast(pl.Int64).alias("arm"))
    experiment = tt.Experiment(
        plain=tt.RatioOfMeans("clicks", "impressions"),
        cuped=tt.RatioOfMeans("clicks", "impressions", "before"),
        mean=tt.Mean("clicks", "before"),
        variant="arm",
    )
    expected = experiment.analyze(users)
    found = {
        "plain": judged(log, RATIO).effects[0],
        "cuped": judged(log, RATIO, covariate="before").effects[0],
        "mean": judged(log, CLICKS, covariate="before").effects[0],
    }
    for name, effect in found.items():
        theirs = expected[name]
        assert effect.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        assert effect.difference == pytest.approx(theirs.effect_size, rel=1e-9)
        assert effect.lift_interval == pytest.approx(
            (theirs.rel_effect_size_ci_lower, theirs.rel_effect_size_ci_upper), rel=1e-9
        )
        assert effect.standard_error == pytest.approx(theirs.effect_size / theirs.statistic, rel=1e-9)
    reduction = found["cuped"].variance_reduction
    assert reduction == pytest.approx(
        1 - (found["cuped"].standard_error / found["plain"].standard_error) ** 2
    )
    assert reduction is not None
    assert reduction > 0.1
    assert found["plain"].variance_reduction is None


def test_cuped_is_a_regression_on_the_covariate() -> None:
    users = by_user(events(2, users=5000, lift=0.2))
    design = sm.add_constant(np.column_stack([users["variant"] == "new", users["before"]]).astype(float))
    fit = sm.OLS(users["clicks"].to_numpy().astype(float), design).fit(cov_type="HC1")
    found = judged(users, CLICKS, covariate="before").effects[0]
    assert found.difference == pytest.approx(fit.params[1], abs=0.05 * fit.bse[1])
    assert found.standard_error == pytest.approx(fit.bse[1], rel=0.02)


def test_ratio_of_rows_is_statsmodels_cluster_robust_regression() -> None:
    log = events(3, users=3000, lift=0.2).with_columns(pl.lit(1).alias("rows"))
    design = sm.add_constant((log["variant"] == "new").to_numpy().astype(float))
    groups = log["user_id"].rank("dense").to_numpy()
    fit = sm.OLS(log["clicks"].to_numpy().astype(float), design).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    found = judged(log, Target("clicks", "rows")).effects[0]
    assert found.difference == pytest.approx(fit.params[1], rel=1e-9)
    assert found.standard_error == pytest.approx(fit.bse[1], rel=1e-3)
    row_wise = ttest_ind(
        *(log.filter(pl.col("variant") == v)["clicks"].to_numpy() for v in ("new", "control"))
    )
    assert abs(found.difference / found.standard_error) < 0.8 * abs(row_wise.statistic)


def test_detectable_effect_is_statsmodels_power() -> None:
    users = by_user(events(4))
    found = judged(users).effects[0]
    counts = users.group_by("variant").len().sort("variant")["len"]
    size = TTestIndPower().solve_power(nobs1=counts[0], ratio=counts[1] / counts[0], alpha=0.05, power=0.8)
    expected = size * users["clicks"].to_numpy().std(ddof=1)
    assert found.minimum_detectable_effect == pytest.approx(expected, rel=1e-3)
    assert found.minimum_detectable_lift == pytest.approx(
        found.minimum_detectable_effect / found.control_value
    )


def test_holm_over_metrics_and_variants() -> None:
    found = judged(events(5, variants=("control", "b", "c"), lift=0.25), CLICKS, RATIO)
    p = [effect.p_value for effect in found.effects]
    assert [(e.metric, e.variant) for e in found.effects] == [
        (m, v) for m in ("clicks", "clicks/impressions") for v in ("b", "c")
    ]
    order, adjusted, most = np.argsort(p), [0.0] * 4, 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1, p[i] * (4 - rank)))
        adjusted[i] = most
    assert [effect.adjusted_p_value for effect in found.effects] == pytest.approx(adjusted)
    for effect in found.effects:
        word = (
            "undecided" if effect.adjusted_p_value >= 0.05 else "higher" if effect.difference > 0 else "lower"
        )
        assert effect.verdict == word


@given(st.integers(50, 5000), st.integers(50, 5000), st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_sample_ratio_is_tea_tastings(a: int, b: int, share: float) -> None:
    found = sample_ratio({"a": a, "b": b}, {"a": share, "b": 1 - share})
    table = pl.DataFrame({"variant": [0] * a + [1] * b})
    theirs = tt.SampleRatio((1 - share) / share, method="norm", correction=False).analyze(
        table, 0, 1, "variant"
    )
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-300)
    assert found.passed == (found.p_value >= SAMPLE_RATIO_LEVEL)


def test_a_broken_sample_ratio_stops_the_verdict() -> None:
    log = events(6, users=2000)
    lost = log.filter((pl.col("variant") == "control") | (pl.col("user_id").str.slice(1).cast(int) % 4 > 0))
    found = judged(lost)
    assert not found.sample_ratio.passed
    assert found.effects == ()
    assert "No verdict" in summary(found)
    assert verdicts(found) == []
    assert judged(lost, expected={"control": 4 / 7, "new": 3 / 7}).sample_ratio.passed


def test_shares_in_order_and_by_name() -> None:
    names = ("control", "a", "b")
    assert expected_shares(None, names) == pytest.approx(dict.fromkeys(names, 1 / 3))
    assert expected_shares("50:25:25", names) == {"control": 0.5, "a": 0.25, "b": 0.25}
    assert expected_shares("a=1,b=1,control=2", names) == {"control": 0.5, "a": 0.25, "b": 0.25}
    for text in ("50:50", "1:2:3:4", "a:b:c", "1:0:1", "1:-1:1", "nan:1:1", "a=1,b=1", "a=1,b=1,c=2", ""):
        with pytest.raises(ValueError, match="expected share"):
            expected_shares(text, names)


def test_shares_by_name_may_name_a_variant_that_nobody_saw() -> None:
    shares = expected_shares("third=2,control=1,new=1", ("control", "new"))
    assert shares == {"control": 0.25, "new": 0.25, "third": 0.5}
    found = judged(events(6), CLICKS, expected=shares)
    assert found.sample_ratio.users["third"] == 0
    assert not found.sample_ratio.passed
    assert "third has 0 users." in summary(found)
    assert expected_shares("a =1,a=3", ("a", "a ")) == {"a": 0.75, "a ": 0.25}
    for text in ("control=1,new=1,new=2", "control=1,new=1,=1", "control=1,third=1", "control=1,new"):
        with pytest.raises(ValueError, match="expected share"):
            expected_shares(text, ("control", "new"))


def test_names_of_variants_are_quoted_where_they_would_not_be_seen() -> None:
    assert [display_name(name) for name in ("control", "a b", "control ", "", " ", "\ta", "a\u200b")] == [
        *("control", "a b", "'control '", "''", "' '", "'\\ta'", "'a\\u200b'")
    ]


@given(st.permutations(range(200)))
@settings(max_examples=10, deadline=None)
def test_order_of_rows_and_granularity_do_not_matter(order: list[int]) -> None:
    log = events(7, users=60)[:200]
    effect = judged(log, RATIO, day="day").effects[0]
    shuffled = judged(log[order], RATIO, day="day").effects[0]
    summed = log.group_by("user_id", "variant", "day").agg(pl.col("clicks", "impressions").sum())
    assert shuffled.p_value == pytest.approx(effect.p_value)
    assert judged(summed, RATIO, day="day").effects[0].p_value == pytest.approx(effect.p_value)
    assert effect.sequence is not None
    assert shuffled.sequence is not None
    assert shuffled.sequence.estimates == pytest.approx(effect.sequence.estimates)


def test_last_day_of_the_sequence_is_the_difference_at_the_end() -> None:
    found = judged(events(8, variants=("a", "b", "c")), CLICKS, RATIO, covariate="before", day="day")
    for effect in found.effects:
        assert effect.sequence is not None
        assert effect.sequence.estimates[-1] == pytest.approx(effect.difference, rel=1e-9)
        assert effect.sequence.standard_errors[-1] == pytest.approx(effect.standard_error, rel=1e-9)
        assert effect.sequence.alpha == pytest.approx(0.05 / 4)
        last = effect.sequence.intervals[-1]
        assert last is not None
        assert last[0] < effect.interval[0] < effect.interval[1] < last[1]


@pytest.mark.parametrize(
    "convert",
    [
        lambda day: day.cast(pl.String),
        lambda day: day.cast(pl.Datetime),
        lambda day: day.dt.day(),
        lambda day: day.dt.day().cast(pl.String),
    ],
)
def test_days_of_any_kind(convert: Callable[[pl.Series], pl.Series]) -> None:
    log = events(9, days=12)
    expected = judged(log, day="day").effects[0].sequence
    found = judged(log.with_columns(convert(log["day"])), day="day").effects[0].sequence
    assert expected is not None
    assert found is not None
    assert found.estimates == pytest.approx(expected.estimates)


def test_none_is_told_from_unknown() -> None:
    log = events(10, users=3000)
    lift = judged(log, RATIO).effects[0].minimum_detectable_lift
    assert lift is not None
    sentences = [verdicts(judged(log, RATIO, worthwhile=w))[0] for w in (10 * lift, lift / 10)]
    assert "no difference that matters" in sentences[0]
    assert "too little data" in sentences[1]
    assert "not excluded" in verdicts(judged(log, RATIO))[0]


def test_notes() -> None:
    rare = events(11, users=120).with_columns(
        pl.col("clicks") * (pl.col("user_id").str.slice(1).cast(int) < 20)
    )
    assert FEW in (judged(rare).effects[0].note or "")
    leaked = events(12, users=2000).with_columns(pl.col("before") + 5 * (pl.col("variant") == "new"))
    assert LEAKED in (judged(leaked, covariate="before").effects[0].note or "")
    assert judged(events(12, users=2000), covariate="before").effects[0].note is None


def test_no_lift_over_a_mean_that_is_not_positive() -> None:
    log = events(13).with_columns((pl.col("clicks") - 50).alias("profit"))
    effect = judged(log, Target("profit")).effects[0]
    assert effect.lift is None
    assert effect.lift_interval is None
    assert effect.minimum_detectable_lift is None
    assert np.isfinite([effect.p_value, *effect.interval, effect.minimum_detectable_effect]).all()


def small(**columns: list[Any]) -> pl.DataFrame:
    base: dict[str, list[Any]] = {
        "user_id": ["a", "b", "c", "d"],
        "variant": ["x", "x", "y", "y"],
        "clicks": [1, 2, 3, 5],
        "impressions": [4, 4, 5, 6],
        "day": [1, 2, 1, 2],
        "before": [1, 2, 2, 3],
    }
    return pl.DataFrame(base | columns, strict=False)


@pytest.mark.parametrize(
    ("log", "options", "message"),
    [
        (small(user_id=["a", "b", "a", "b"]), {}, r"two variants or more saw 2 users \(a, b\)"),
        (small(variant=["x"] * 4), {}, r"one variant only \(x\)"),
        (small(), {"control": "X"}, "no variant is called 'X': did you mean 'x'"),
        (small(), {"control": "quite other"}, "there are 'x', 'y'"),
        (
            small(clicks=[1, None, 3, 4]),
            {},
            "clicks is missing or NaN in 1 rows, first in row 1, user_id 'b'",
        ),
        (small(clicks=[1, 2.0, float("nan"), 4]), {}, "missing or NaN in 1 rows, first in row 2"),
        (small(clicks=[1, 2.0, float("inf"), 4]), {}, "clicks is infinite in row 2"),
        (
            small(clicks=["1", "2", "three", "4"]),
            {},
            "clicks is not numeric: it holds String, such as 'three'",
        ),
        (small(user_id=["a", None, "c", "d"]), {}, "user_id is missing or NaN in 1 rows, first in row 1"),
        (small(variant=["x", None, "y", "y"]), {}, "variant is missing"),
        (
            small(impressions=[4, -1, 5, 6]),
            {},
            "impressions is negative in 1 rows, first -1 in row 1, user_id 'b'",
        ),
        (
            small(impressions=[0, 0, 5, 6]),
            {},
            "impressions is 0 for all users of x: clicks/impressions has no value",
        ),
        (small(impressions=[0, 0, 0, 0]), {}, "0 for all users of x, y"),
        (small(day=[3, 3, 3, 3]), {"day": "day"}, r"day holds one day only \(3\)"),
        (
            small(day=["day 1", "day 10", "day 2", "day 3"]),
            {"day": "day"},
            "row 0: day is 'day 1', neither a date with the year first nor a whole number",
        ),
        (small(day=[1, None, 1, 2]), {"day": "day"}, "day is missing"),
        (small(day=[1.5, 2.0, 1.5, 2.0]), {"day": "day"}, "days are Float64"),
        (small(), {"day": "dya"}, "no column 'dya': did you mean 'day'"),
        (small(), {"covariate": "clicks"}, "covariate 'clicks' is also a metric"),
        (small(user_id=["a", "a", "c", "d"]), {"covariate": "before"}, r"changes within 1 user \(a\)"),
        (small(before=[1, 1, 1, 1]), {"covariate": "before"}, "covariate 'before' is the same for all users"),
        (small(before=[2, 4, 6, 10]), {"covariate": "before"}, "before determines clicks"),
        (small(clicks=[1, 1, 1, 1]), {}, "clicks is the same for all users of x and y"),
        (small(user_id=["a", "a", "c", "d"]), {}, "variant x has one user"),
        (small().clear(), {}, "the log has no rows"),
    ],
)
def test_bad_input(log: pl.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judged(log, CLICKS, RATIO, **options)


@pytest.mark.parametrize("options", [{"level": 1.0}, {"worthwhile": 0.0}, {"planned_days": 0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need within"):
        judged(events(), **options)


def test_names_of_columns_do_not_clash() -> None:
    log = events(14)
    odd = log.rename({"clicks": "variant_", "impressions": "first_day"}).rename(
        {"variant_": "user", "before": "_day"}
    )
    found = judged(odd, Target("user", "first_day"), covariate="_day", day="day").effects[0]
    assert found.p_value == judged(log, RATIO, covariate="before", day="day").effects[0].p_value


def errors(tests: int, users: int) -> tuple[float, float]:
    """Share of A/A tests rejected at 5 %: by user, by row."""
    user = row = 0
    for seed in range(tests):
        log = events(seed, users)
        found = judged(log, RATIO)
        user += bool(found.effects) and found.effects[0].p_value < 0.05
        rate = log.select(pl.col("variant"), pl.col("clicks") / pl.col("impressions"))
        sides = [rate.filter(pl.col("variant") == name)["clicks"].to_numpy() for name in ("control", "new")]
        row += ttest_ind(*sides, equal_var=False).pvalue < 0.05
    return user / tests, row / tests


def test_users_keep_the_level_and_rows_do_not() -> None:
    user, row = errors(100, 200)
    assert 0.01 <= user <= 0.1
    assert row > 0.085


@pytest.mark.slow
def test_users_keep_the_level_over_many_tests() -> None:
    user, row = errors(2000, 1000)
    assert 0.036 <= user <= 0.064
    assert row > 0.08


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["abtest", *map(str, arguments)])


def test_the_command(tmp_path: Path) -> None:
    path, report = tmp_path / "log.parquet", tmp_path / "out" / "report.html"
    events(16, users=3000, lift=0.4, variants=("control", "b", "c")).write_parquet(path)
    options = ["--metric", "clicks", "--ratio", "clicks/impressions", "--day", "day", "--covariate", "before"]
    found = call(path, *options, "--report", report, "--worthwhile", "0.05", "--details")
    assert found.exit_code == 0, found.output
    assert "decided on" in found.output
    assert max(map(len, found.output.splitlines())) <= 100
    html = report.read_text()
    assert html.count("data:image/png;base64,") == 2 * HAS_PICTURES
    assert "http" not in html.replace("http-equiv", "")
    parsed = json.loads(call(path, *options, "--report", report, "--json").output)
    assert parsed["effects"][0]["sequence"]["days"][0] == "2026-01-01"
    assert len(parsed["verdicts"]) == 4
    assert parsed["summary"].startswith("Against control: higher")


def test_the_command_stops_at_a_broken_split(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    events(17, users=2000).write_csv(path)
    found = call(path, "--metric", "clicks", "--expected-share", "80:20", "--report", tmp_path / "r.html")
    assert found.exit_code == 1
    assert "No verdict" in found.output
    assert "difference" not in found.output
    assert "image/png" not in (tmp_path / "r.html").read_text()


def test_the_command_refuses_half_a_ratio(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    events(18).write_csv(path)
    for text in ("clicks", "clicks/", "/impressions"):
        assert isinstance(call(path, "--ratio", text).exception, ValueError)


@pytest.mark.parametrize("days", [False, True])
def test_reports_of_few_users_and_of_no_lift(tmp_path: Path, days: bool) -> None:
    log = events(19, users=40).with_columns(pl.col("clicks") - 1)
    found = judged(log, CLICKS, **({"day": "day"} if days else {}))
    write_online_report(found, tmp_path / "r.html", "log")
    assert "A/B test of log" in (tmp_path / "r.html").read_text()
    assert json.loads(json.dumps(online_json(found), default=str))["control"] == "control"
