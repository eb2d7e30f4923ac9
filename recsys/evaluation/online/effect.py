"""The effect of a variant on one metric: the difference, its error with or without a covariate, and what can be detected.

Means, ratios, CUPED (Deng, Xu, Kohavi & Walker 2013) and the minimum detectable effect are tea-tasting's.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from tea_tasting.aggr import Aggregates
from tea_tasting.metrics import RatioOfMeans

from recsys.evaluation.online.log import Assignments, Target, value_name
from recsys.evaluation.online.result import Effect
from recsys.evaluation.online.sequential import INFORMATIVE

POWER = 0.8
COVARIATE_LEVEL = 0.001  # of a difference in a covariate that is older than the test
FEW = f"fewer than {INFORMATIVE} users of a variant have a value other than 0: the normal approximation is doubtful"
LEAKED = "the covariate itself differs between the variants: is it older than the test? Drop it if not"

ROUNDING = 1e-16  # a share of a variance, or of a squared mean, that is rounding


def aggregates(
    numerator: np.ndarray, denominator: np.ndarray | None = None, covariate: np.ndarray | None = None
) -> Aggregates:
    """Return count, means, variances and covariances over users [n], for tea-tasting."""
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


@dataclass(frozen=True)
class _Pair:
    """The users of control and variant on one metric, summed up for tea-tasting.

    `denominator` and `covariate` name columns of the aggregates; None where the metric or the test has none.
    """

    control: Aggregates
    variant: Aggregates
    denominator: str | None
    covariate: str | None

    @property
    def both(self) -> Aggregates:
        """The users of control and variant together."""
        return self.control + self.variant

    def variances(self) -> tuple[float, float]:
        """Return the variance of the difference without and with the covariate (CUPED, one slope for both)."""
        both, slope = self.both, 0.0
        if self.covariate is not None:
            covariance = both.ratio_cov("numerator", self.denominator, self.covariate, None)
            slope = covariance / both.var(self.covariate)
        plain = adjusted = 0.0
        for part in (self.control, self.variant):
            variance = part.ratio_var("numerator", self.denominator)
            cross = part.ratio_cov("numerator", self.denominator, self.covariate, None)
            spread = part.var(self.covariate)
            plain += variance / part.count()
            adjusted += (variance + slope**2 * spread - 2 * slope * cross) / part.count()
        return plain, adjusted

    def covariate_differs(self) -> bool:
        """Return whether the covariate, which is older than the test, differs between control and variant."""
        if self.covariate is None:
            return False
        metric = RatioOfMeans("covariate", use_t=True, equal_var=False)
        return bool(metric.analyze_aggregates(self.control, self.variant).pvalue < COVARIATE_LEVEL)


def effect_of(
    log: Assignments, target: Target, variant: str, control: str, level: float, worthwhile: float | None
) -> Effect:
    """Estimate one metric of one variant at the end of the log; the correction and the verdict come later."""
    parts = [log.users.filter(pl.col("variant") == name) for name in (control, variant)]
    pair = _Pair(
        _aggregated(parts[0], target, log.covariate),
        _aggregated(parts[1], target, log.covariate),
        None if target.denominator is None else "denominator",
        None if log.covariate is None else "covariate",
    )
    plain, adjusted = _checked_variances(pair, target, variant, control, log.covariate)
    metric = RatioOfMeans(
        "numerator",
        pair.denominator,
        pair.covariate,
        alternative="two-sided",
        confidence_level=level,
        equal_var=False,
        use_t=True,
        alpha=0.05,
        power=POWER,
        ratio=pair.variant.count() / pair.control.count(),
    )
    result = metric.analyze_aggregates(pair.control, pair.variant)
    detectable = float(metric.solve_power_from_aggregates(pair.both, "effect_size")[0].effect_size)
    above = result.control > 0 and result.treatment > 0
    lift_interval = (float(result.rel_effect_size_ci_lower), float(result.rel_effect_size_ci_upper))
    notes = [LEAKED] if pair.covariate_differs() else []
    if min(part[value_name(target.numerator)].to_numpy().nonzero()[0].size for part in parts) < INFORMATIVE:
        notes.insert(0, FEW)
    return Effect(
        variant=variant,
        control=control,
        metric=target.name,
        control_value=float(result.control),
        variant_value=float(result.treatment),
        difference=float(result.effect_size),
        interval=(float(result.effect_size_ci_lower), float(result.effect_size_ci_upper)),
        standard_error=float(np.sqrt(adjusted)),
        lift=float(result.rel_effect_size) if above else None,
        lift_interval=lift_interval if above else None,
        p_value=float(result.pvalue),
        adjusted_p_value=float(result.pvalue),
        minimum_detectable_effect=detectable,
        minimum_detectable_lift=detectable / float(result.control) if above else None,
        variance_reduction=None if log.covariate is None else float(1 - adjusted / plain),
        enough=None if worthwhile is None or not above else detectable / result.control <= worthwhile,
        verdict="undecided",
        sequence=None,
        note="; ".join(notes) or None,
    )


def _aggregated(users: pl.DataFrame, target: Target, covariate: str | None) -> Aggregates:
    """Sum up the users of a variant on one metric."""
    return aggregates(
        users[value_name(target.numerator)].to_numpy(),
        None if target.denominator is None else users[value_name(target.denominator)].to_numpy(),
        None if covariate is None else users["covariate"].to_numpy(),
    )


def _checked_variances(
    pair: _Pair, target: Target, variant: str, control: str, covariate: str | None
) -> tuple[float, float]:
    """Return the variance of the difference without and with the covariate; both must be there to test."""
    both = pair.both
    if pair.covariate is not None and both.var(pair.covariate) <= 0:
        raise ValueError(f"covariate {covariate!r} is the same for all users: leave it out")
    plain, adjusted = pair.variances()
    if plain * both.count() <= ROUNDING * (both.mean("numerator") / both.mean(pair.denominator)) ** 2:
        raise ValueError(
            f"{target.name} is the same for all users of {control} and {variant}: there is nothing to test"
        )
    if adjusted <= ROUNDING * plain:
        raise ValueError(
            f"{covariate} determines {target.name}: it is no covariate from before the test, leave it out"
        )
    return plain, adjusted
