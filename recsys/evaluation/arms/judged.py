"""One judgement of an arm against the baseline on a metric, from which everything that is said of it follows.

Verdict, p-value, interval, detectable effect, note and the probability of being the best all ask `Judged` whether there is
enough to judge by (`support`), so that none of them speaks where another is silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recsys.evaluation.arms.bca import bca_interval
from recsys.evaluation.arms.best import best_probabilities
from recsys.evaluation.arms.intervals import difference_interval
from recsys.evaluation.arms.multiplicity import benjamini_hochberg, holm
from recsys.evaluation.arms.power import first_step, minimum_detectable_effect
from recsys.evaluation.arms.result import Difference, Interval
from recsys.evaluation.arms.support import RANKED, Rarer, Support
from recsys.evaluation.arms.variance import Arms, Contrast
from recsys.evaluation.arms.weighted import badness_slope

ONE_SEED = "one seed: intervals cover rows only"
NO_VARIANCE = "no resampling changes this difference: too few rows to judge it"


@dataclass(frozen=True)
class Judged:
    """The judgement of an arm against the baseline on one metric, for calibration on their distances from 1.

    Attributes:
        arm: Number of the arm.
        baseline: Number of the baseline.
        signs: Signs of the two in `contrast`, by number.
        contrast: Their difference.
        support: What the difference stands on.
        no_verdict: Why there can be no verdict; None where there can be one.
    """

    arm: int
    baseline: int
    signs: dict[int, float]
    contrast: Contrast
    support: Support
    no_verdict: str | None

    @property
    def p_value(self) -> float:
        """The two-sided p-value of the arms being equally good; 1, which is no evidence, where there is no verdict."""
        return 1.0 if self.no_verdict else self.contrast.p_value

    @property
    def note(self) -> str | None:
        """Return what to know of the difference."""
        notes = [ONE_SEED] if self.contrast.seed_variance is None else []
        return "; ".join([*notes, *([self.no_verdict] if self.no_verdict else [])]) or None


def judged(values: Arms, a: int, b: int, metric: str, support: Support, rarer: Rarer) -> Judged:
    """Judge arm a against arm b on a metric, whose `values` all arms have."""
    signs = {a: 1.0, b: -1.0}
    if metric == "calibration":
        signs = {a: badness_slope(metric, values.mean(a)), b: -badness_slope(metric, values.mean(b))}
    contrast = values.contrast(signs)
    contrast = replace(contrast, value=contrast.value - sum(signs.values()))  # distances are from 1
    no_verdict = support.lack(metric, rarer)
    if no_verdict is None and not support.same and contrast.error_and_df[0] == 0:
        no_verdict = NO_VARIANCE
    return Judged(a, b, signs, contrast, support, no_verdict)


def differences(
    judgements: Sequence[Judged],
    values: Arms,
    resampled: np.ndarray,
    names: Sequence[str],
    metric: str,
    level: float,
) -> list[Difference]:
    """Turn the judgements of all arms on one metric into results, with corrections over the arms.

    Args:
        judgements: A judgement of every arm but the baseline.
        values: The metric of all arms.
        resampled: The metric of every prediction in every replicate [K, R].
        names: Names of the arms.
        metric: Name of the metric.
        level: Level of the intervals.
    """
    if not judgements:
        return []
    p_values = [judgement.p_value for judgement in judgements]
    means = np.stack([resampled[values.owners == a].mean(axis=0) for a in range(len(names))])
    alpha = first_step(level, len(judgements))
    out = []
    for judgement, p, false_discovery_p in zip(
        judgements, holm(p_values), benjamini_hochberg(p_values), strict=True
    ):
        contrast, known = judgement.contrast, judgement.no_verdict is None
        worse = (contrast.value < 0) == (metric in RANKED)
        out.append(
            Difference(
                arm=names[judgement.arm],
                baseline=names[judgement.baseline],
                metric=metric,
                estimate=contrast.value,
                interval=difference_interval(metric, contrast, level) if known else None,
                bca_interval=_bca(judgement, values, means, level) if known else None,
                standard_error=contrast.error_and_df[0],
                p_value=judgement.p_value,
                adjusted_p_value=p,
                false_discovery_p_value=false_discovery_p,
                delong_p_value=None,
                row_variance=contrast.row_variance,
                row_df=contrast.row_df,
                seed_variance=contrast.seed_variance,
                seed_df=contrast.seed_df,
                minimum_detectable_effect=minimum_detectable_effect(contrast, alpha) if known else None,
                support=judgement.support,
                no_verdict=judgement.no_verdict,
                verdict="undecided" if p >= 1 - level else "worse" if worse else "better",
                note=judgement.note,
            )
        )
    return out


def _bca(judgement: Judged, values: Arms, means: np.ndarray, level: float) -> Interval | None:
    """Return the BCa interval of the judged contrast; `means` [A, R] over seeds of the resampled metric."""
    arms, signs = [*judgement.signs], np.array([*judgement.signs.values()])
    resampled = signs @ means[arms] - signs.sum()
    return bca_interval(judgement.contrast.value, resampled, signs @ values.influence[arms], level)


def probabilities(
    judgements: Sequence[Judged], values: Arms, names: Sequence[str], metric: str
) -> dict[str, float]:
    """Return the probability of being best of the baseline and the arms with a verdict; nobody's where no arm has one."""
    arms = [judgement.arm for judgement in judgements if judgement.no_verdict is None]
    if not arms:
        return {}
    arms = sorted([*arms, judgements[0].baseline])
    best = best_probabilities(metric, *values.joint(arms)).tolist()
    return dict(zip([names[a] for a in arms], best, strict=True))
