"""Where arms differ: the comparison within slices of the rows, corrected for their number and for the noise of small ones.

A dimension parts the rows into slices: every row is in exactly one, and rows in = sum over slices. Within a slice
each arm is compared with the baseline just as on all rows (`compare.compare`), users resampled as a whole.

Many slices find differences by chance, so p-values are adjusted over all slices of all dimensions and all arms,
metric by metric: Holm's (no false finding, 5 %) and Benjamini-Hochberg's (5 % of findings false; slices that share
users are positively dependent, which it allows: Benjamini & Yekutieli 2001).

Small slices have large differences by chance, too. Within a dimension of G slices, true differences θ[g] are taken as
normal around a common mean (parametric empirical Bayes: Efron & Morris 1975; Morris 1983):

    y[g] ~ N(θ[g], s[g]²),  θ[g] ~ N(μ, τ²),  shrunk[g] = (1 - B[g]) y[g] + B[g] μ,
    B[g] = (G - 3) / (G - 1) · s[g]² / (s[g]² + τ²)

τ² is Paule & Mandel's (1982; DerSimonian & Kacker 2007), which needs no normal y, μ the mean weighted by
w[g] = 1 / (s[g]² + τ²). With m the weighted mean of s², the variance of shrunk[g] is Morris's (1983, section 5), whose
last term stands for what is not known of τ²:

    s[g]² (1 - (1 - w[g] / Σw) B[g]) + 2 / (G - 3) · B[g]² · (m + τ²) w[g] · (y[g] - μ)²

All slices of an arm share its seeds' luck, and some users: y[g] = θ[g] + c + e[g]. Between slices c can be seen
neither in their spread nor in their errors, but the error S of the difference on all rows is that of c and the mean
of e[g]. So

    c² = S² - 1 / Σ 1 / s[g]²,   cut to [0, 0.9 · min s²]

is taken off every s[g]² above, and added to the variance of shrunk[g]: shrinking does not take it away. Without this,
where seeds' luck is most of the error, 95 % intervals cover 62 to 92 % of the time.

s[g] and S are half an interval over the normal quantile, so that an error known from few seeds counts as larger.
Fewer than four slices are not shrunk: nothing would be gained (Efron & Morris).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from recsys.evaluation.arms.compare import Comparison, Difference, Interval, compare
from recsys.evaluation.arms.multiplicity import benjamini_hochberg, holm
from recsys.evaluation.arms.pairing import Paired

LEAST_ROWS = 100
LEAST_OF_A_CLASS = 10
LEAST_USERS = 10
LEAST_SLICES = 4  # to shrink
MOST_COMMON = 0.9  # of the least variance of a slice: some is its own
METRICS = ("auc", "logloss")


@dataclass(frozen=True)
class Slicing:
    """A dimension with the slice of each row, codes [n] in 0..len(names)-1; `ordered` by time where slices are days."""

    dimension: str
    names: tuple[str, ...]
    codes: np.ndarray
    note: str = ""
    ordered: bool = False


@dataclass(frozen=True)
class SliceEffect:
    """Metric of `arm` minus metric of the baseline on the rows of one slice, and the same shrunk to its dimension.

    `adjusted_p_value` (Holm) and `false_discovery_p_value` (Benjamini-Hochberg) are over all slices and arms.
    """

    dimension: str
    slice: str
    arm: str
    metric: str
    rows: int
    positives: int
    users: int | None
    estimate: float
    interval: Interval
    standard_error: float
    shrunk: float
    shrunk_interval: Interval
    p_value: float
    adjusted_p_value: float
    false_discovery_p_value: float


@dataclass(frozen=True)
class Skipped:
    """A slice without a number, and the reason."""

    dimension: str
    slice: str
    rows: int
    reason: str


@dataclass(frozen=True)
class Spread:
    """The mean μ and standard deviation τ of the true differences of a dimension's slices; None of fewer than four."""

    dimension: str
    arm: str
    metric: str
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Sliced:
    """The comparisons within slices; the rows of `sizes[dimension]` sum up to all rows."""

    effects: tuple[SliceEffect, ...]
    skipped: tuple[Skipped, ...]
    spreads: tuple[Spread, ...]
    sizes: dict[str, dict[str, int]]
    notes: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


def compare_slices(
    paired: Paired,
    slicings: Sequence[Slicing],
    baseline: str,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    overall: Sequence[Difference] = (),
) -> Sliced:
    """Compare all arms with `baseline` within every slice.

    Args:
        paired: The predictions of all arms.
        slicings: The dimensions, each of which parts the rows.
        baseline: Name of the arm that the others are compared with.
        replicates: Replicates of the bootstrap in every slice.
        seed: Seed of the bootstrap.
        level: Level of the intervals.
        overall: The differences on all rows, at the same level; without them slices are taken as independent.

    Raises:
        ValueError: A row has no slice, or a slicing or the name of a slice is there twice.
    """
    half = (1 + level) / 2
    errors = {(d.arm, d.metric): _error(d.interval, half) for d in overall if d.interval is not None}
    effects: list[SliceEffect] = []
    skipped: list[Skipped] = []
    spreads: list[Spread] = []
    sizes: dict[str, dict[str, int]] = {}
    for slicing in slicings:
        if slicing.dimension in sizes:
            raise ValueError(f"slices by {slicing.dimension} are asked for twice: name each once")
        sizes[slicing.dimension] = _checked_sizes(slicing, paired.labels.size)
        raw: list[SliceEffect] = []
        for code, name in enumerate(slicing.names):
            result = _compare_slice(paired, slicing, code, baseline, replicates, seed, level)
            if isinstance(result, str):
                skipped.append(Skipped(slicing.dimension, name, sizes[slicing.dimension][name], result))
            else:
                raw += result
        for arm in dict.fromkeys(effect.arm for effect in raw):
            for metric in METRICS:
                group = [effect for effect in raw if (effect.arm, effect.metric) == (arm, metric)]
                shrunk, spread = _shrink(group, half, errors.get((arm, metric), 0.0))
                effects += shrunk
                spreads.append(spread)
    return Sliced(
        effects=tuple(_adjusted(effects)),
        skipped=tuple(skipped),
        spreads=tuple(spreads),
        sizes=sizes,
        notes={slicing.dimension: slicing.note for slicing in slicings if slicing.note},
    )


def _checked_sizes(slicing: Slicing, rows: int) -> dict[str, int]:
    """Return the rows of each slice; names must differ, and every row must have a slice."""
    if repeated := [name for name, times in Counter(slicing.names).items() if times > 1]:
        raise ValueError(
            f"slices by {slicing.dimension}: two of them are called {repeated[0]!r}: rename that value in the column"
        )
    counts = np.bincount(slicing.codes, minlength=len(slicing.names))
    if counts.sum() != rows or len(counts) > len(slicing.names):
        raise ValueError(f"slices by {slicing.dimension}: not every row has one of {slicing.names}")
    return dict(zip(slicing.names, counts.tolist(), strict=True))


def _compare_slice(
    paired: Paired, slicing: Slicing, code: int, baseline: str, replicates: int, seed: int, level: float
) -> list[SliceEffect] | str:
    """Compare all arms within one slice; return why it is skipped where there can be no verdict on some arm."""
    rows = np.flatnonzero(slicing.codes == code)
    labels = paired.labels[rows]
    users = None if paired.clusters is None else paired.clusters[rows]
    if reason := _unfit(labels, users):
        return reason
    comparison = compare(
        {arm: values[:, rows] for arm, values in paired.arms.items()},
        labels,
        users,
        baseline=baseline,
        metrics=METRICS,
        replicates=replicates,
        seed=seed,
        level=level,
    )
    for d in comparison.differences:
        if d.no_verdict:
            return f"{d.arm}: {d.no_verdict}"
    return [_effect(d, slicing.dimension, slicing.names[code], comparison) for d in comparison.differences]


def _unfit(labels: np.ndarray, users: np.ndarray | None) -> str:
    """Return why a slice cannot be judged; empty where it can."""
    positives = int(labels.sum())
    if labels.size == 0:
        return "no rows"
    if positives in (0, labels.size):
        return f"one class: every label is {int(labels[0])}"
    if labels.size < LEAST_ROWS:
        return f"too few rows: {labels.size}, at least {LEAST_ROWS} are needed"
    if min(positives, labels.size - positives) < LEAST_OF_A_CLASS:
        kind = "positive" if positives < LEAST_OF_A_CLASS else "negative"
        fewer = min(positives, labels.size - positives)
        return f"too few {kind} rows: {fewer}, at least {LEAST_OF_A_CLASS} are needed"
    if users is not None:
        count = np.unique(users).size
        if count == 1:
            return "one user: there is nothing to resample"
        if count < LEAST_USERS:
            return f"too few users: {count}, at least {LEAST_USERS} are needed"
    return ""


def _effect(d: Difference, dimension: str, name: str, comparison: Comparison) -> SliceEffect:
    """Return the effect in a slice from a difference with a verdict, neither shrunk nor adjusted yet."""
    assert d.interval is not None
    return SliceEffect(
        dimension=dimension,
        slice=name,
        arm=d.arm,
        metric=d.metric,
        rows=comparison.rows,
        positives=comparison.positives,
        users=comparison.clusters,
        estimate=d.estimate,
        interval=d.interval,
        standard_error=d.standard_error,
        shrunk=d.estimate,
        shrunk_interval=d.interval,
        p_value=d.p_value,
        adjusted_p_value=d.p_value,
        false_discovery_p_value=d.p_value,
    )


def shrink(
    estimates: np.ndarray, errors: np.ndarray, overall: float = 0.0
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return shrunk estimates and their standard errors [G], the common mean μ, and τ.

    Args:
        estimates: Differences of the slices [G], at least four.
        errors: Their standard errors [G], above 0.
        overall: Standard error of the difference on all rows, which tells the luck that the slices share; 0: they share
            none.
    """
    whole = errors**2
    common = float(np.clip(overall**2 - 1 / (1 / whole).sum(), 0.0, MOST_COMMON * whole.min()))
    count, variance = estimates.size, whole - common
    unit = float(np.sqrt(np.median(variance)))  # tolerances are absolute
    tau2 = _paule_mandel(estimates / unit, variance / unit**2) * unit**2
    weights = 1 / (variance + tau2)
    mean = float(np.average(estimates, weights=weights))
    toward = (count - 3) / (count - 1) * variance * weights
    unknown = 2 / (count - 3) * toward**2 * (np.average(variance, weights=weights) + tau2) * weights
    shrunk_variance = (
        variance * (1 - (1 - weights / weights.sum()) * toward) + unknown * (estimates - mean) ** 2
    )
    return (
        (1 - toward) * estimates + toward * mean,
        np.sqrt(shrunk_variance + common),
        mean,
        float(np.sqrt(tau2)),
    )


def _paule_mandel(estimates: np.ndarray, variance: np.ndarray) -> float:
    """Return τ², at which the weighted squares about their mean are as many as their degrees of freedom; 0 if fewer."""
    from scipy.optimize import brentq  # here, for it is slow to import, and few comparisons have slices

    def excess(tau2: float) -> float:
        weights = 1 / (variance + tau2)
        squares = (estimates - np.average(estimates, weights=weights)) ** 2
        return float((weights * squares).sum() - (estimates.size - 1))

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, estimates.var(ddof=1)))  # where all weights are at most 1 / τ²


def _error(interval: Interval, half: float) -> float:
    """Return half of an interval over the normal quantile at `half`."""
    return (interval[1] - interval[0]) / (2 * float(ndtri(half)))


def _shrink(group: Sequence[SliceEffect], half: float, overall: float) -> tuple[list[SliceEffect], Spread]:
    """Shrink the slices of one dimension, arm and metric. One that equals the baseline exactly has no error, and stays."""
    first = group[0]
    varied = [effect for effect in group if effect.standard_error > 0]
    if len(varied) < LEAST_SLICES:
        return list(group), Spread(first.dimension, first.arm, first.metric, None, None)
    z = float(ndtri(half))
    values, errors, mean, tau = shrink(
        np.array([effect.estimate for effect in varied]),
        np.array([_error(effect.interval, half) for effect in varied]),
        overall,
    )
    shrunk = iter(
        replace(effect, shrunk=value, shrunk_interval=(value - z * error, value + z * error))
        for effect, value, error in zip(varied, values.tolist(), errors.tolist(), strict=True)
    )
    together = [next(shrunk) if effect.standard_error > 0 else effect for effect in group]
    return together, Spread(first.dimension, first.arm, first.metric, mean, tau)


def _adjusted(effects: Sequence[SliceEffect]) -> list[SliceEffect]:
    """Return the effects with p-values adjusted over slices and arms, each metric a family."""
    out = list(effects)
    for metric in METRICS:
        places = [i for i, effect in enumerate(out) if effect.metric == metric]
        p = [out[i].p_value for i in places]
        for i, first, second in zip(places, holm(p), benjamini_hochberg(p), strict=True):
            out[i] = replace(out[i], adjusted_p_value=first, false_discovery_p_value=second)
    return out
