"""Arithmetic of an online A/B test from its assignment log: is the split sound, and is the difference real?

The unit of randomisation is the user, so it is the unit of all errors: rows are summed by user first. For a ratio of
totals (clicks / impressions) this is the cluster-robust error of its rows (`ratio`). The sample ratio is scipy's
chi-square; the sequence over days is `sequential`.

A test whose sample ratio fails has no effects: users are missing from a variant, and nothing says that these
are like the others (Fabijan et al. 2019).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import chisquare

from recsys.evaluation.arms.multiplicity import holm
from recsys.evaluation.online.effect import effect_of
from recsys.evaluation.online.log import Assignments, Target, display_name, value_name
from recsys.evaluation.online.result import Effect, OnlineTest, SampleRatio, Verdict
from recsys.evaluation.online.sequential import (
    PLANNED_DAYS,
    ConfidenceSequence,
    confidence_sequence,
    daily_difference,
)

SAMPLE_RATIO_LEVEL = 0.001  # strict, as it is looked at in every test and again every day


def expected_shares(text: str | None, variants: Sequence[str]) -> dict[str, float]:
    """Read shares from `50:50` (control first, then the others as sorted) or `control=50,treatment=50`; equal if None.

    Shares by name may name a variant that no user saw, which is the worst broken split there is.
    """
    if text is None:
        return dict.fromkeys(variants, 1 / len(variants))
    try:
        parts = text.split(",") if "=" in text else text.split(":")
        if "=" in text:
            pairs = [part.rpartition("=") for part in parts]
            names = [name if name in variants else name.strip() for name, _, _ in pairs]
            shares = dict(zip(names, (float(share) for _, _, share in pairs), strict=True))
        else:
            shares = dict(zip(variants, map(float, parts), strict=True))
    except ValueError:
        shares, parts = {}, []
    total = sum(shares.values())
    valid = all(np.isfinite(share) and share > 0 for share in shares.values()) and all(shares)
    if not valid or len(shares) < len(parts) or not set(variants) <= set(shares):
        raise ValueError(
            f"expected share {text!r}: give one positive number for each of {', '.join(map(display_name, variants))}, in "
            f"this order, such as {':'.join('1' for _ in variants)}, or by name, such as "
            f"{','.join(f'{name}=50' for name in variants)}"
        )
    order = [*variants, *(name for name in shares if name not in variants)]
    return {name: shares[name] / total for name in order}


def sample_ratio(users: dict[str, int], expected: dict[str, float]) -> SampleRatio:
    """Test the users by variant against their expected shares, at `SAMPLE_RATIO_LEVEL`; a variant may have no users."""
    observed = {name: users.get(name, 0) for name in expected}
    counts = np.array([*observed.values()])
    p = float(chisquare(counts, np.array(list(expected.values())) * counts.sum()).pvalue)
    return SampleRatio(observed, dict(expected), p, p >= SAMPLE_RATIO_LEVEL)


def analyse(
    log: Assignments,
    expected: dict[str, float] | None = None,
    level: float = 0.95,
    worthwhile: float | None = None,
    planned_days: float = PLANNED_DAYS,
) -> OnlineTest:
    """Check the sample ratio, then compare every variant with the control on every metric.

    Args:
        log: The log, summed by user.
        expected: Expected shares of users by variant; equal ones unless given.
        level: Level of the intervals and the verdicts; sequences share 1 - level equally.
        worthwhile: The smallest relative lift that would matter. With it "no difference" (the interval of the lift lies
            within) is told from "too little data" (such a lift could have been missed).
        planned_days: Days that were planned, where the sequences are narrowest.

    Raises:
        ValueError: A metric or covariate is the same for all users, a variant has one user, or an option is out of
            range.
    """
    if not 0 < level < 1 or (worthwhile is not None and not 0 < worthwhile < np.inf) or not planned_days >= 1:
        raise ValueError(
            f"level is {level}, worthwhile {worthwhile}, planned_days {planned_days}: need within (0, 1), > 0, and >= 1"
        )
    arm = log.users["variant"].to_numpy()
    counts = {name: int((arm == name).sum()) for name in log.variants}
    ratio = sample_ratio(counts, expected_shares(None, log.variants) if expected is None else expected)
    return OnlineTest(
        sample_ratio=ratio,
        effects=_effects(log, counts, level, worthwhile, planned_days) if ratio.passed else (),
        control=log.variants[0],
        level=float(level),
        worthwhile=worthwhile,
        rows=log.rows,
        users=log.users.height,
        covariate=log.covariate,
        days=log.days,
        planned_days=float(planned_days),
    )


def _effects(
    log: Assignments, users: dict[str, int], level: float, worthwhile: float | None, planned_days: float
) -> tuple[Effect, ...]:
    """Estimate every metric of every variant, adjust the p-values over all of them, and give verdicts."""
    for name, count in users.items():
        if count < 2:
            raise ValueError(f"variant {name} has one user: nothing is known of the spread")
    control = log.variants[0]
    pairs = [(target, name) for target in log.targets for name in log.variants[1:]]
    effects: list[Effect] = []
    for target, name in pairs:
        effect = effect_of(log, target, name, control, level, worthwhile)
        if log.daily is not None:
            sequence = _sequence(log, target, name, control, (1 - level) / len(pairs), planned_days)
            effect = replace(effect, sequence=sequence)
        effects.append(effect)
    adjusted = holm([effect.p_value for effect in effects])
    return tuple(
        replace(e, adjusted_p_value=float(p), verdict=_verdict(e.difference, float(p), level))
        for e, p in zip(effects, adjusted, strict=True)
    )


def _sequence(
    log: Assignments, target: Target, variant: str, control: str, alpha: float, planned_days: float
) -> ConfidenceSequence:
    """Return the confidence sequence of one variant and metric over the days of the log."""
    daily = log.daily
    assert daily is not None
    arm = log.users["variant"].to_numpy()
    inside = (arm == control) | (arm == variant)
    place = np.cumsum(inside) - 1
    user, day = daily["user"].to_numpy(), daily["day"].to_numpy()
    rows = inside[user]

    def by_day(column: str) -> np.ndarray:
        values = np.zeros((int(inside.sum()), len(log.days)))
        values[place[user[rows]], day[rows]] = daily[value_name(column)].to_numpy()[rows]
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
