"""Arithmetic of an online A/B test from its assignment log: is the split sound, and is the difference real?

The unit of randomisation is the user, so it is the unit of all errors: rows are summed by user first. For a ratio of
totals (clicks / impressions) this is the cluster-robust error of its rows, by the delta method (Deng, Knoblich
& Lu 2018). Means, ratios, CUPED (Deng, Xu, Kohavi & Walker 2013) and the minimum detectable effect are tea-tasting's;
the sample ratio is scipy's chi-square, Holm's correction statsmodels'; the sequence over days is `sequential`.

A test whose sample ratio fails has no effects: users are missing from a variant, and nothing says that these
are like the others (Fabijan et al. 2019).
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import chisquare
from statsmodels.stats.multitest import multipletests
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from recsys.evaluation.sequential import (
    INFORMATIVE,
    PLANNED_DAYS,
    ConfidenceSequence,
    confidence_sequence,
    daily_difference,
)

POWER = 0.8
SAMPLE_RATIO_LEVEL = 0.001  # strict, as it is looked at in every test and again every day
COVARIATE_LEVEL = 0.001  # of a difference in a covariate that is older than the test
CONTROL_NAMES = ("control", "baseline", "a", "0", "off", "false")  # in this order, when none is named
FEW = f"fewer than {INFORMATIVE} users of a variant have a value other than 0: the normal approximation is doubtful"
LEAKED = "the covariate itself differs between the variants: is it older than the test? Drop it if not"

ROUNDING = 1e-16  # a share of a variance, or of a squared mean, that is rounding

Interval = tuple[float, float]
Verdict = Literal["higher", "lower", "undecided"]


@dataclass(frozen=True)
class Target:
    """What is compared: the mean per user of a column's total, or the ratio of two columns' totals."""

    numerator: str
    denominator: str | None = None

    @property
    def name(self) -> str:
        """As it is printed."""
        return self.numerator if self.denominator is None else f"{self.numerator}/{self.denominator}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns it needs."""
        return (self.numerator,) if self.denominator is None else (self.numerator, self.denominator)


@dataclass(frozen=True)
class Assignments:
    """A checked log by user: `users` (variant, metrics' totals, covariate, first day), control the first variant.

    `daily`, where there are days: one row per user and day, `user` and `day` as positions in `users` and `days`.
    """

    users: pl.DataFrame
    variants: tuple[str, ...]
    targets: tuple[Target, ...]
    covariate: str | None
    rows: int
    days: tuple[Any, ...] = ()
    daily: pl.DataFrame | None = None


@dataclass(frozen=True)
class SampleRatio:
    """Users by variant against the shares expected: Pearson's chi-square."""

    users: dict[str, int]
    expected: dict[str, float]
    p_value: float
    passed: bool


@dataclass(frozen=True)
class Effect:
    """`variant` minus `control` on one metric. `lift` is relative; None where a variant's mean is not above 0.

    The p-value is for one look at a planned end, `adjusted_p_value` Holm over metrics and variants;
    `verdict` is on the latter, at 1 - level. Intervals are not adjusted. `minimum_detectable_effect`: the true
    difference that one two-sided 5 % test finds with power 80 %. `sequence` is there when days are.
    `enough`: is that effect within the lift that would be worth finding? None when none was given.
    """

    variant: str
    control: str
    metric: str
    control_value: float
    variant_value: float
    difference: float
    interval: Interval
    standard_error: float
    lift: float | None
    lift_interval: Interval | None
    p_value: float
    adjusted_p_value: float
    minimum_detectable_effect: float
    minimum_detectable_lift: float | None
    variance_reduction: float | None
    enough: bool | None
    verdict: Verdict
    sequence: ConfidenceSequence | None
    note: str | None


@dataclass(frozen=True)
class OnlineTest:
    """The whole test. `effects` by metric, then variant: empty where the sample ratio failed."""

    sample_ratio: SampleRatio
    effects: tuple[Effect, ...]
    control: str
    level: float
    worthwhile: float | None
    rows: int
    users: int
    covariate: str | None
    days: tuple[Any, ...]
    planned_days: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and dates."""
        return asdict(self)


def read_assignments(
    path: Path | str,
    user: str,
    variant: str,
    targets: Sequence[Target],
    control: str | None = None,
    covariate: str | None = None,
    day: str | None = None,
) -> Assignments:
    """Read a Parquet or CSV file (.csv, .csv.gz, .tsv) and check it as `assignments` does."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith((".csv", ".tsv")):
            separator = "\t" if name.endswith(".tsv") else ","
            log = pl.read_csv(path, separator=separator, infer_schema_length=None, try_parse_dates=True)
        else:
            log = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: neither readable Parquet nor CSV (by its name): {reason}") from None
    return assignments(log, user, variant, targets, control, covariate, day)


def assignments(
    log: pl.DataFrame,
    user: str,
    variant: str,
    targets: Sequence[Target],
    control: str | None = None,
    covariate: str | None = None,
    day: str | None = None,
) -> Assignments:
    """Check a log (one row per user, per user and day, or per event) and sum it by user.

    Errors (ValueError): missing columns or values, metrics that are no finite numbers, a user in two
    variants, one variant only, an unknown control, a covariate that changes within a user, denominators that are
    negative or all 0 in a variant, days that have no order, one day only.
    """
    targets = tuple(dict.fromkeys(targets))
    if not targets:
        raise ValueError("no metric: name at least one column to compare, or a ratio of two")
    measured = tuple(dict.fromkeys(column for target in targets for column in target.columns))
    keys = [user, variant] if day is None else [user, variant, day]
    if covariate in measured:
        raise ValueError(f"covariate {covariate!r} is also a metric: it must be older than the test")
    _require(log, [*keys, *measured, *([] if covariate is None else [covariate])])
    if log.is_empty():
        raise ValueError("the log has no rows")
    for column in keys:
        _complete(log, column, user)
    numbers = [*measured] if covariate is None else [*measured, covariate]
    log = log.select(
        pl.col(user).alias("_user"),
        pl.col(variant).cast(pl.String).alias("_variant"),
        *([] if day is None else [_ordered_days(log[day]).alias("_day")]),
        *(_number(log, column, user).alias(_held(column)) for column in numbers),
    )
    _one_variant_each(log, user)
    variants = _variants(log, variant, control)
    for target in targets:
        if target.denominator is not None:
            _check_denominator(log, target, user)
    if covariate is not None:
        changing = log.group_by("_user", maintain_order=True).agg(
            (pl.col(_held(covariate)).min() != pl.col(_held(covariate)).max()).alias("changes")
        )
        _refuse_users(
            changing.filter("changes")["_user"],
            f"covariate {covariate!r} changes within",
            "it must be one value per user, from before the test",
        )
    days: tuple[Any, ...] = ()
    if day is not None:
        days = tuple(log["_day"].unique().sort().to_list())
        if len(days) < 2:
            raise ValueError(f"{day} holds one day only ({days[0]}): leave --day out to test once")
        log = log.with_columns(pl.col("_day").rank("dense").cast(pl.Int64) - 1)
    users = log.group_by("_user", maintain_order=True).agg(
        pl.col("_variant").first().alias("variant"),
        *(pl.col(_held(column)).sum() for column in measured),
        *([] if covariate is None else [pl.col(_held(covariate)).first().alias("covariate")]),
        *([] if day is None else [pl.col("_day").min().alias("first_day")]),
    )
    for target in targets:
        if target.denominator is not None:
            totals = users.group_by("variant").agg(pl.col(_held(target.denominator)).sum().alias("total"))
            empty = sorted(totals.filter(pl.col("total") <= 0)["variant"])
            if empty:
                raise ValueError(
                    f"{target.denominator} is 0 for all users of {', '.join(empty)}: {target.name} has no value"
                )
    daily = None
    if day is not None:
        position = users.select("_user").with_row_index("user")
        daily = (
            log.join(position, on="_user")
            .group_by("user", pl.col("_day").alias("day"))
            .agg(pl.col(_held(column)).sum() for column in measured)
        )
    return Assignments(
        users=users.drop("_user"),
        variants=variants,
        targets=targets,
        covariate=covariate,
        rows=log.height,
        days=days,
        daily=daily,
    )


def expected_shares(text: str | None, variants: Sequence[str]) -> dict[str, float]:
    """Shares from `50:50` (control first, then the others as sorted) or `control=50,treatment=50`; equal if None."""
    if text is None:
        return dict.fromkeys(variants, 1 / len(variants))
    try:
        if "=" in text:
            pairs = [part.split("=") for part in text.split(",")]
            given = {name.strip(): float(share) for name, share in pairs}
        else:
            parts = text.split(":")
            given = dict(zip(variants, map(float, parts), strict=len(parts) <= len(variants)))
            if len(parts) != len(variants):
                raise ValueError
    except ValueError:
        given = {}
    total = sum(given.values())
    valid = all(np.isfinite(share) and share > 0 for share in given.values())
    if set(given) != set(variants) or not valid:
        raise ValueError(
            f"expected share {text!r}: give one positive number for each of {', '.join(variants)}, in this order, "
            f"such as {':'.join('1' for _ in variants)}, or by name, such as {variants[0]}=50,…"
        )
    return {name: given[name] / total for name in variants}


def sample_ratio(users: dict[str, int], expected: dict[str, float]) -> SampleRatio:
    """Test the users by variant against their expected shares, at `SAMPLE_RATIO_LEVEL`."""
    counts = np.array([users[name] for name in expected])
    p = float(chisquare(counts, np.array(list(expected.values())) * counts.sum()).pvalue)
    return SampleRatio(dict(users), dict(expected), p, p >= SAMPLE_RATIO_LEVEL)


def analyse(
    log: Assignments,
    expected: dict[str, float] | None = None,
    level: float = 0.95,
    worthwhile: float | None = None,
    planned_days: float = PLANNED_DAYS,
) -> OnlineTest:
    """Check the sample ratio, then compare every variant with the control on every metric.

    `worthwhile`: the smallest relative lift that would matter. With it "no difference" (the interval of the lift lies
    within) is told from "too little data" (such a lift could have been missed). Sequences share 1 - level equally.
    Errors (ValueError): a metric or covariate that is the same for all users, a variant of one user,
    options out of range.
    """
    if not 0 < level < 1 or (worthwhile is not None and not 0 < worthwhile < np.inf) or not planned_days >= 1:
        raise ValueError(
            f"level is {level}, worthwhile {worthwhile}, planned_days {planned_days}: need within (0, 1), > 0, and >= 1"
        )
    arm = log.users["variant"].to_numpy()
    counts = {name: int((arm == name).sum()) for name in log.variants}
    ratio = sample_ratio(counts, expected_shares(None, log.variants) if expected is None else expected)
    effects: list[Effect] = []
    if ratio.passed:
        alone = [name for name, count in counts.items() if count < 2]
        if alone:
            raise ValueError(f"variant {alone[0]} has one user: nothing is known of the spread")
        control = log.variants[0]
        pairs = [(target, name) for target in log.targets for name in log.variants[1:]]
        for target, name in pairs:
            effect = _effect(log, target, name, control, level, worthwhile)
            if log.daily is not None:
                sequence = _sequence(log, target, name, control, (1 - level) / len(pairs), planned_days)
                effect = replace(effect, sequence=sequence)
            effects.append(effect)
        adjusted = multipletests([effect.p_value for effect in effects], method="holm")[1]
        effects = [
            replace(e, adjusted_p_value=float(p), verdict=_verdict(e.difference, float(p), level))
            for e, p in zip(effects, adjusted, strict=True)
        ]
    return OnlineTest(
        sample_ratio=ratio,
        effects=tuple(effects),
        control=log.variants[0],
        level=float(level),
        worthwhile=worthwhile,
        rows=log.rows,
        users=log.users.height,
        covariate=log.covariate,
        days=log.days,
        planned_days=float(planned_days),
    )


def aggregates(
    numerator: np.ndarray, denominator: np.ndarray | None = None, covariate: np.ndarray | None = None
) -> Aggregates:
    """Count, means, variances and covariances over users [n], for tea-tasting."""
    columns = {"numerator": numerator, "denominator": denominator, "covariate": covariate}
    present = {name: np.asarray(values, np.float64) for name, values in columns.items() if values is not None}
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


def _effect(
    log: Assignments, target: Target, variant: str, control: str, level: float, worthwhile: float | None
) -> Effect:
    """One metric, one variant, at the end of the log; the correction and the verdict come later."""
    parts = [log.users.filter(pl.col("variant") == name) for name in (control, variant)]
    base, other = (
        aggregates(
            part[_held(target.numerator)].to_numpy(),
            None if target.denominator is None else part[_held(target.denominator)].to_numpy(),
            None if log.covariate is None else part["covariate"].to_numpy(),
        )
        for part in parts
    )
    both = base + other
    bottom = None if target.denominator is None else "denominator"
    slope = 0.0
    if log.covariate is not None:
        if both.var("covariate") <= 0:
            raise ValueError(f"covariate {log.covariate!r} is the same for all users: leave it out")
        slope = both.ratio_cov("numerator", bottom, "covariate", None) / both.var("covariate")
    plain = adjusted = 0.0
    for one in (base, other):
        own = one.ratio_var("numerator", bottom)
        cross = one.ratio_cov("numerator", bottom, "covariate" if log.covariate else None, None)
        spread = one.var("covariate" if log.covariate else None)
        plain += own / one.count()
        adjusted += (own + slope**2 * spread - 2 * slope * cross) / one.count()
    if plain * both.count() <= ROUNDING * (both.mean("numerator") / both.mean(bottom)) ** 2:
        raise ValueError(
            f"{target.name} is the same for all users of {control} and {variant}: there is nothing to test"
        )
    if adjusted <= ROUNDING * plain:
        raise ValueError(
            f"{log.covariate} determines {target.name}: it is no covariate from before the test, leave it out"
        )
    metric = RatioOfMeans(
        "numerator",
        bottom,
        "covariate" if log.covariate else None,
        alternative="two-sided",
        confidence_level=level,
        equal_var=False,
        use_t=True,
        alpha=0.05,
        power=POWER,
        ratio=other.count() / base.count(),
    )
    found = metric.analyze_aggregates(base, other)
    detectable = float(metric.solve_power_from_aggregates(both, "effect_size")[0].effect_size)
    above = found.control > 0 and found.treatment > 0
    lift_interval = (float(found.rel_effect_size_ci_lower), float(found.rel_effect_size_ci_upper))
    notes = []
    if min(part[_held(target.numerator)].to_numpy().nonzero()[0].size for part in parts) < INFORMATIVE:
        notes.append(FEW)
    if log.covariate is not None and _covariate_differs(base, other):
        notes.append(LEAKED)
    return Effect(
        variant=variant,
        control=control,
        metric=target.name,
        control_value=float(found.control),
        variant_value=float(found.treatment),
        difference=float(found.effect_size),
        interval=(float(found.effect_size_ci_lower), float(found.effect_size_ci_upper)),
        standard_error=float(np.sqrt(adjusted)),
        lift=float(found.rel_effect_size) if above else None,
        lift_interval=lift_interval if above else None,
        p_value=float(found.pvalue),
        adjusted_p_value=float(found.pvalue),
        minimum_detectable_effect=detectable,
        minimum_detectable_lift=detectable / float(found.control) if above else None,
        variance_reduction=None if log.covariate is None else float(1 - adjusted / plain),
        enough=None if worthwhile is None or not above else detectable / found.control <= worthwhile,
        verdict="undecided",
        sequence=None,
        note="; ".join(notes) or None,
    )


def _covariate_differs(base: Aggregates, other: Aggregates) -> bool:
    found = RatioOfMeans("covariate", use_t=True, equal_var=False).analyze_aggregates(base, other)
    return bool(found.pvalue < COVARIATE_LEVEL)


def _sequence(
    log: Assignments, target: Target, variant: str, control: str, alpha: float, planned_days: float
) -> ConfidenceSequence:
    """The confidence sequence of one variant and metric."""
    daily = log.daily
    assert daily is not None
    arm = log.users["variant"].to_numpy()
    inside = (arm == control) | (arm == variant)
    place = np.cumsum(inside) - 1
    user, day = daily["user"].to_numpy(), daily["day"].to_numpy()
    kept = inside[user]

    def by_day(column: str) -> np.ndarray:
        values = np.zeros((int(inside.sum()), len(log.days)))
        values[place[user[kept]], day[kept]] = daily[_held(column)].to_numpy()[kept]
        return values

    difference = daily_difference(
        by_day(target.numerator),
        None if target.denominator is None else by_day(target.denominator),
        None if log.covariate is None else log.users["covariate"].to_numpy()[inside],
        log.users["first_day"].to_numpy()[inside],
        (arm == variant)[inside],
    )
    return confidence_sequence(log.days, difference, alpha, planned_days)


def _verdict(difference: float, p_value: float, level: float) -> Verdict:
    if p_value >= 1 - level:
        return "undecided"
    return "higher" if difference > 0 else "lower"


def _require(log: pl.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in log.columns:
            raise ValueError(f"no column {column!r}{_did_you_mean(column, log.columns)}")


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.casefold(), [known.casefold() for known in names], 1, 0.6)
    known = next((known for known in names if near and known.casefold() == near[0]), None)
    return f": did you mean {known!r}?" if known else f": there are {', '.join(map(repr, names))}"


def _complete(log: pl.DataFrame, column: str, user: str) -> None:
    """Refuse missing values and NaN."""
    missing = log[column].is_null()
    if log[column].dtype.is_float():
        missing = missing | log[column].is_nan()
    if missing.any():
        i = int(missing.arg_max() or 0)
        of = "" if column == user else f", {user} {log[user][i]!r}"
        raise ValueError(
            f"{column} is missing or NaN in {missing.sum():,} rows, first in row {i}{of}: "
            "fill it (a user without events has 0), or drop these users from all variants alike"
        )


def _number(log: pl.DataFrame, column: str, user: str) -> pl.Series:
    """A column as float64, without missing, NaN or infinite values."""
    values = log[column]
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        sample = values.drop_nulls()
        if values.dtype == pl.String and len(sample):
            bad = sample.filter(sample.cast(pl.Float64, strict=False).is_null())
            sample = bad if len(bad) else sample
        example = f", such as {sample[0]!r}" if len(sample) else ""
        raise ValueError(f"{column} is not numeric: it holds {values.dtype}{example}")
    _complete(log, column, user)
    values = values.cast(pl.Float64)
    infinite = values.is_infinite()
    if infinite.any():
        i = int(infinite.arg_max() or 0)
        raise ValueError(f"{column} is infinite in row {i}, {user} {log[user][i]!r}: correct it")
    return values


def _ordered_days(days: pl.Series) -> pl.Series:
    """Days as dates or whole numbers."""
    if days.dtype == pl.Date or days.dtype.is_integer():
        return days
    if isinstance(days.dtype, pl.Datetime):
        return days.dt.date()
    if days.dtype == pl.String:
        numbers = days.cast(pl.Int64, strict=False)
        if not numbers.has_nulls():
            return numbers
        dates = days.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
        if not dates.has_nulls():
            return dates
        bad = days.filter(dates.is_null())[0]
        raise ValueError(
            f"day {bad!r} is neither a whole number nor YYYY-MM-DD: days as text have no order, give dates"
        )
    raise ValueError(f"days are {days.dtype}: give dates, times or whole numbers")


def _one_variant_each(log: pl.DataFrame, user: str) -> None:
    several = log.group_by("_user", maintain_order=True).agg(pl.col("_variant").n_unique().alias("variants"))
    _refuse_users(
        several.filter(pl.col("variants") > 1)["_user"],
        "two variants or more saw",
        f"find out why, and drop them only if this hits the variants alike (by {user})",
    )


def _refuse_users(users: pl.Series, fault: str, cure: str) -> None:
    if len(users):
        some = ", ".join(str(value) for value in users[:5].to_list()) + (", …" if len(users) > 5 else "")
        raise ValueError(f"{fault} {len(users):,} {'user' if len(users) == 1 else 'users'} ({some}): {cure}")


def _variants(log: pl.DataFrame, column: str, control: str | None) -> tuple[str, ...]:
    """Control first, the others sorted."""
    names = sorted(log["_variant"].unique().to_list())
    if control is not None and control not in names:
        raise ValueError(f"no variant is called {control!r}{_did_you_mean(control, names)}")
    if len(names) < 2:
        raise ValueError(f"{column} holds one variant only ({names[0]}): there is nothing to compare it with")
    if control is None:
        usual = [name for known in CONTROL_NAMES for name in names if name.casefold() == known]
        control = usual[0] if usual else names[0]
    return (control, *(name for name in names if name != control))


def _check_denominator(log: pl.DataFrame, target: Target, user: str) -> None:
    assert target.denominator is not None
    counts = log[_held(target.denominator)]
    below = counts < 0
    if below.any():
        i = int(below.arg_max() or 0)
        raise ValueError(
            f"{target.denominator} is negative in {below.sum():,} rows, first {counts[i]:g} "
            f"in row {i}, {user} {log['_user'][i]!r}: a ratio's denominator counts something"
        )


def _held(column: str) -> str:
    """Name of a metric or covariate inside: no column of the log can clash with the others."""
    return f"value of {column}"
