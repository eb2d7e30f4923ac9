"""What a comparison can find: the minimum detectable effect, and the users and seeds a smaller effect needs.

The variance of a difference is row variance + seed variance. The first shrinks as 1 / units (users, or rows), the
second as 1 / seeds of each arm; so do not expect more users to make up for too few seeds. Degrees of freedom grow
with both. The plan is as good as those variances, which this comparison has estimated.

The test is the verdict's: two-sided, at 1 - level, and of several arms at the first step of Holm's, which an arm must
pass by itself whatever becomes of the others (`first_step`).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from recsys.evaluation.arms.result import Difference
from recsys.evaluation.arms.variance import Contrast

POWER = 0.8
ALPHA = 0.05  # of a two-sided test of one arm
MOST = 10**15  # units or seeds; beyond, none suffice


def first_step(level: float, arms: int) -> float:
    """Return α of the first step of Holm's test of several arms against a baseline; it is Bonferroni's for all of them."""
    return (1 - level) / arms


def contrast_of(difference: Contrast | Difference) -> Contrast:
    """Return the value and variances of a difference, from which intervals of any level follow."""
    if isinstance(difference, Contrast):
        return difference
    d = difference
    return Contrast(d.estimate, d.row_variance, d.row_df, d.seed_variance, d.seed_df)


def minimum_detectable_effect(difference: Contrast | Difference, alpha: float = ALPHA) -> float:
    """Return the true difference that a two-sided test at `alpha` finds with power 80 %; 0 where nothing varies."""
    error, df = contrast_of(difference).error_and_df
    return error * float(stdtrit(df, 1 - alpha / 2) + stdtrit(df, POWER))


def planned(
    difference: Difference,
    units: tuple[float, float] = (1, 1),
    seeds: tuple[int, int] = (1, 1),
    alpha: float = ALPHA,
) -> float:
    """Return the minimum detectable effect after a change of units and of seeds of each arm: (as they were, as planned)."""
    contrast = contrast_of(difference)
    ratio = units[1] / units[0]
    contrast = replace(
        contrast, row_variance=contrast.row_variance / ratio, row_df=max(contrast.row_df * ratio, 1.0)
    )
    if contrast.seed_variance is not None and contrast.seed_df is not None and seeds[0] != seeds[1]:
        if min(seeds) < 2:
            raise ValueError(
                f"seeds are {seeds}: their variance needs two or more of each arm, now and planned"
            )
        contrast = replace(
            contrast,
            seed_variance=contrast.seed_variance * seeds[0] / seeds[1],
            seed_df=contrast.seed_df * (seeds[1] - 1) / (seeds[0] - 1),
        )
    return minimum_detectable_effect(contrast, alpha)


def units_needed(
    difference: Difference,
    units: int,
    effect: float,
    seeds: tuple[int, int] = (1, 1),
    alpha: float = ALPHA,
) -> int | None:
    """Return the fewest units with which `effect` is found four times in five; `units` are those of the comparison.

    It is None where the variance of the seeds alone hides the effect, so that no number of units suffices, and
    `seeds_needed` says how many seeds do. `seeds` are those of each arm, as they were and as planned.
    """
    _check(effect)
    if difference.row_variance == 0:
        return units if planned(difference, seeds=seeds, alpha=alpha) <= effect else None
    return _fewest(lambda count: planned(difference, (units, count), seeds, alpha) <= effect)


def seeds_needed(difference: Difference, seeds: int, effect: float, alpha: float = ALPHA) -> int:
    """Return the fewest seeds of each arm that leave half of the allowed variance to the rows; `seeds` as they were.

    Fewer might do with far more users.

    Raises:
        ValueError: An arm has one seed, from which the variance of seeds cannot be known.
    """
    _check(effect)
    if difference.seed_variance is None:
        raise ValueError(
            "an arm has one seed: how much seeds vary is unknown, so train two or more of each arm"
        )
    seeds_only = replace(difference, row_variance=0.0)
    fewest = _fewest(
        lambda count: planned(seeds_only, seeds=(seeds, count), alpha=alpha) * np.sqrt(2) <= effect
    )
    assert fewest is not None  # the variance of seeds vanishes with more of them
    return fewest


def power_sentence(
    difference: Difference,
    units: int,
    seeds: int,
    unit: str = "users",
    effect: float | None = None,
    level: float = 1 - ALPHA,
    arms: int = 1,
) -> str:
    """Say what this comparison can find, and what an effect of half the size (unless given) would need.

    `units`, `seeds` (of each arm; of the arm with fewest), `level` and `arms` (without the baseline) are those of the
    comparison.
    """
    alpha = first_step(level, arms)
    metric = {"auc": "AUC", "gauc": "GAUC", "ne": "NE", "logloss": "log loss"}.get(
        difference.metric, difference.metric
    )
    have = f"With {seeds} seed{'s' if seeds > 1 else ''} and {units:,} {unit}"
    if difference.no_verdict:
        return f"{have} what could be found in {metric} is unknown: {difference.no_verdict}."
    now = minimum_detectable_effect(difference, alpha)
    if now == 0:
        return f"{have} nothing varies in {metric}, so what could be found is unknown."
    effect = float(f"{now / 2:.0e}") if effect is None else effect
    sentence = (
        f"{have} a difference of ±{now:.2g} {metric} would be found four times in five, {_test(alpha, arms)}"
    )
    if difference.seed_variance is None:
        sentence += " (on other rows; one seed says nothing about other seeds)"
    need = units_needed(difference, units, effect, alpha=alpha)
    if need is not None:
        return f"{sentence}; to find ±{effect:g} you need about {_rounded(need)} {unit}."
    more = seeds_needed(difference, seeds, effect, alpha)
    need = units_needed(difference, units, effect, (seeds, more), alpha)
    return (
        f"{sentence}; to find ±{effect:g} no number of {unit} is enough with {seeds} seeds: "
        f"you need about {more} seeds and {_rounded(need or units)} {unit}."
    )


def _test(alpha: float, arms: int) -> str:
    """Name the test of one arm, or the hardest step of the test of several."""
    return f"by a two-sided test at {100 * alpha:.3g} %" + (
        f" (Holm's first step over {arms} arms)" if arms > 1 else ""
    )


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """Return the least count from 2 on that is enough, where more always are; None if even `MOST` is not."""
    high = 2
    while not enough(high):
        if high >= MOST:
            return None
        high *= 2
    low = high // 2  # not enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _rounded(count: int) -> str:
    """Round to two significant digits, for a plan is no more exact."""
    return f"{int(float(f'{count:.1e}')):,}"


def _check(effect: float) -> None:
    if not 0 < effect < np.inf:
        raise ValueError(f"effect is {effect}: give the size of a difference, above 0")
