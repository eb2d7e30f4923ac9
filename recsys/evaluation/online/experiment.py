"""Arithmetic of an online A/B test from its assignment log: is the split sound, and is the difference real?

The unit of randomisation is the user, so it is the unit of all errors: rows are summed by user first. For a ratio of
totals (clicks / impressions) this is the cluster-robust error of its rows, by the delta method (Deng, Knoblich
& Lu 2018). Means, ratios, CUPED (Deng, Xu, Kohavi & Walker 2013) and the minimum detectable effect are tea-tasting's;
the sample ratio is scipy's chi-square, Holm's correction statsmodels'; the sequence over days is `sequential`.

A test whose sample ratio fails has no effects: users are missing from a variant, and nothing says that these
are like the others (Fabijan et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.stats import chisquare
from statsmodels.stats.multitest import multipletests
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from recsys.evaluation.online.log import Assignments, Target, held, printed
from recsys.evaluation.online.sequential import (
    INFORMATIVE,
    PLANNED_DAYS,
    ConfidenceSequence,
    confidence_sequence,
    daily_difference,
)

POWER = 0.8
SAMPLE_RATIO_LEVEL = 0.001  # strict, as it is looked at in every test and again every day
COVARIATE_LEVEL = 0.001  # of a difference in a covariate that is older than the test
FEW = f"fewer than {INFORMATIVE} users of a variant have a value other than 0: the normal approximation is doubtful"
LEAKED = "the covariate itself differs between the variants: is it older than the test? Drop it if not"

ROUNDING = 1e-16  # a share of a variance, or of a squared mean, that is rounding

Interval = tuple[float, float]
Verdict = Literal["higher", "lower", "undecided"]


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


def expected_shares(text: str | None, variants: Sequence[str]) -> dict[str, float]:
    """Shares from `50:50` (control first, then the others as sorted) or `control=50,treatment=50`; equal if None.

    Shares by name may name a variant that no user saw, which is the worst broken split there is.
    """
    if text is None:
        return dict.fromkeys(variants, 1 / len(variants))
    try:
        parts = text.split(",") if "=" in text else text.split(":")
        if "=" in text:
            pairs = [part.rpartition("=") for part in parts]
            names = [name if name in variants else name.strip() for name, _, _ in pairs]
            given = dict(zip(names, (float(share) for _, _, share in pairs), strict=True))
        else:
            given = dict(zip(variants, map(float, parts), strict=True))
    except ValueError:
        given, parts = {}, []
    total = sum(given.values())
    valid = all(np.isfinite(share) and share > 0 for share in given.values()) and all(given)
    if not valid or len(given) < len(parts) or not set(variants) <= set(given):
        raise ValueError(
            f"expected share {text!r}: give one positive number for each of {', '.join(map(printed, variants))}, in this "
            f"order, such as {':'.join('1' for _ in variants)}, or by name, such as "
            f"{','.join(f'{name}=50' for name in variants)}"
        )
    order = [*variants, *(name for name in given if name not in variants)]
    return {name: given[name] / total for name in order}


def sample_ratio(users: dict[str, int], expected: dict[str, float]) -> SampleRatio:
    """Test the users by variant against their expected shares, at `SAMPLE_RATIO_LEVEL`; a variant may have no users."""
    seen = {name: users.get(name, 0) for name in expected}
    counts = np.array([*seen.values()])
    p = float(chisquare(counts, np.array(list(expected.values())) * counts.sum()).pvalue)
    return SampleRatio(seen, dict(expected), p, p >= SAMPLE_RATIO_LEVEL)


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
            part[held(target.numerator)].to_numpy(),
            None if target.denominator is None else part[held(target.denominator)].to_numpy(),
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
    if min(part[held(target.numerator)].to_numpy().nonzero()[0].size for part in parts) < INFORMATIVE:
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
        values[place[user[kept]], day[kept]] = daily[held(column)].to_numpy()[kept]
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
