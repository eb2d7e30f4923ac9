"""The effect of a variant on one metric: the difference, its error with or without a covariate, and what can be detected.

The arithmetic is that of `ratio`; here stand what is refused, and what a reader should know.
"""

import numpy as np
import polars as pl

from recsys.evaluation.online.log import Assignments, Target, value_name
from recsys.evaluation.online.ratio import (
    Users,
    difference_interval,
    estimate,
    lift_interval,
    minimum_detectable_effect,
    p_value,
)
from recsys.evaluation.online.result import Effect
from recsys.evaluation.online.sequential import INFORMATIVE

COVARIATE_LEVEL = 0.001  # of a difference in a covariate that is older than the test
FEW = f"fewer than {INFORMATIVE} users of a variant have a value other than 0: the normal approximation is doubtful"
LEAKED = "the covariate itself differs between the variants: is it older than the test? Drop it if not"

ROUNDING = 1e-16  # a share of a variance, or of a squared mean, that is rounding


def effect_of(
    log: Assignments, target: Target, variant: str, control: str, level: float, worthwhile: float | None
) -> Effect:
    """Estimate one metric of one variant at the end of the log; the correction and the verdict come later."""
    parts = [_users(log, target, name) for name in (control, variant)]
    with np.errstate(divide="ignore", invalid="ignore"):  # of a variant whose total is 0
        plain, adjusted = _checked_variances(parts, target, variant, control, log.covariate)
        both = parts[0] + parts[1]
        slope, center = both.slope, 0.0 if both.covariate is None else float(both.covariate.mean())
        left, right = (estimate(part, slope, center) for part in parts)
        detectable = minimum_detectable_effect(
            estimate(both, slope, center).variance, (left.count, right.count)
        )
    p = p_value(left, right)
    above = left.value > 0 and right.value > 0
    notes = [LEAKED] if _covariate_differs(parts) else []
    if min(np.count_nonzero(part.numerator) for part in parts) < INFORMATIVE:
        notes.insert(0, FEW)
    return Effect(
        variant=variant,
        control=control,
        metric=target.name,
        control_value=left.value,
        variant_value=right.value,
        difference=right.value - left.value,
        interval=difference_interval(left, right, level),
        standard_error=float(np.sqrt(adjusted)),
        lift=right.value / left.value - 1 if above else None,
        lift_interval=lift_interval(left, right, level) if above else None,
        p_value=p,
        adjusted_p_value=p,
        minimum_detectable_effect=detectable,
        minimum_detectable_lift=detectable / left.value if above else None,
        variance_reduction=None if log.covariate is None else float(1 - adjusted / plain),
        enough=None if worthwhile is None or not above else detectable / left.value <= worthwhile,
        verdict="undecided",
        sequence=None,
        note="; ".join(notes) or None,
    )


def _users(log: Assignments, target: Target, variant: str) -> Users:
    """Return the users of a variant on one metric."""
    users = log.users.filter(pl.col("variant") == variant)

    def column(name: str) -> np.ndarray:
        return users[name].to_numpy().astype(np.float64)

    return Users(
        column(value_name(target.numerator)),
        None if target.denominator is None else column(value_name(target.denominator)),
        None if log.covariate is None else column("covariate"),
    )


def _covariate_differs(parts: list[Users]) -> bool:
    """Return whether the covariate, which is older than the test, differs between control and variant."""
    control, variant = (part.covariate for part in parts)
    if control is None or variant is None:
        return False
    return p_value(estimate(Users(control)), estimate(Users(variant))) < COVARIATE_LEVEL


def _checked_variances(
    parts: list[Users], target: Target, variant: str, control: str, covariate: str | None
) -> tuple[float, float]:
    """Return the variance of the difference without and with the covariate; both must be there to test."""
    both = parts[0] + parts[1]
    if both.covariate is not None and both.covariate.var() <= 0:
        raise ValueError(f"covariate {covariate!r} is the same for all users: leave it out")
    plain = sum(part.contributions.var(ddof=1) / part.count for part in parts)
    adjusted = sum(estimate(part, both.slope).variance / part.count for part in parts)
    if plain * both.count <= ROUNDING * both.value**2:
        raise ValueError(
            f"{target.name} is the same for all users of {control} and {variant}: there is nothing to test"
        )
    if adjusted <= ROUNDING * plain:
        raise ValueError(
            f"{covariate} determines {target.name}: it is no covariate from before the test, leave it out"
        )
    return float(plain), float(adjusted)
