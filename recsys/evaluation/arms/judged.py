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
    """Arm a against baseline b on one metric: their difference, for calibration that of their distances from 1.

    `signs`: of a and b in `contrast`. `no_verdict`: why there can be none.
    """

    arm: int
    baseline: int
    signs: dict[int, float]
    contrast: Contrast
    support: Support
    no_verdict: str | None

    @property
    def p_value(self) -> float:
        """Two-sided, of the arms being equally good; 1 where there is no verdict, which is no evidence."""
        return 1.0 if self.no_verdict else self.contrast.p_value

    @property
    def note(self) -> str | None:
        """What to know of the difference."""
        notes = [ONE_SEED] if self.contrast.seed_variance is None else []
        return "; ".join([*notes, *([self.no_verdict] if self.no_verdict else [])]) or None


def judged(found: Arms, a: int, b: int, metric: str, support: Support, rarer: Rarer) -> Judged:
    """Judge arm a against arm b."""
    signs = {a: 1.0, b: -1.0}
    if metric == "calibration":
        signs = {a: badness_slope(metric, found.mean(a)), b: -badness_slope(metric, found.mean(b))}
    contrast = found.contrast(signs)
    contrast = replace(contrast, value=contrast.value - sum(signs.values()))  # distances are from 1
    no_verdict = support.lack(metric, rarer)
    if no_verdict is None and not support.same and contrast.error_and_df[0] == 0:
        no_verdict = NO_VARIANCE
    return Judged(a, b, signs, contrast, support, no_verdict)


def differences(
    judgements: Sequence[Judged],
    found: Arms,
    resampled: np.ndarray,
    names: Sequence[str],
    metric: str,
    level: float,
) -> list[Difference]:
    """Say what was judged of every arm on one metric, with corrections over the arms; `resampled` [K, R]."""
    if not judgements:
        return []
    p_values = [one.p_value for one in judgements]
    means = np.stack([resampled[found.owners == a].mean(axis=0) for a in range(len(names))])
    alpha = first_step(level, len(judgements))
    out = []
    for one, p, false_discovery_p in zip(
        judgements, holm(p_values), benjamini_hochberg(p_values), strict=True
    ):
        contrast, known = one.contrast, one.no_verdict is None
        worse = (contrast.value < 0) == (metric in RANKED)
        out.append(
            Difference(
                arm=names[one.arm],
                baseline=names[one.baseline],
                metric=metric,
                estimate=contrast.value,
                interval=difference_interval(metric, contrast, level) if known else None,
                bca_interval=_bca(one, found, means, level) if known else None,
                standard_error=contrast.error_and_df[0],
                p_value=one.p_value,
                adjusted_p_value=p,
                false_discovery_p_value=false_discovery_p,
                delong_p_value=None,
                row_variance=contrast.row_variance,
                row_df=contrast.row_df,
                seed_variance=contrast.seed_variance,
                seed_df=contrast.seed_df,
                minimum_detectable_effect=minimum_detectable_effect(contrast, alpha) if known else None,
                support=one.support,
                no_verdict=one.no_verdict,
                verdict="undecided" if p >= 1 - level else "worse" if worse else "better",
                note=one.note,
            )
        )
    return out


def _bca(one: Judged, found: Arms, means: np.ndarray, level: float) -> Interval | None:
    """BCa interval of the judged contrast; `means` [A, R] over seeds of the resampled metric."""
    arms, signs = [*one.signs], np.array([*one.signs.values()])
    resampled = signs @ means[arms] - signs.sum()
    return bca_interval(one.contrast.value, resampled, signs @ found.influence[arms], level)


def probabilities(
    judgements: Sequence[Judged], found: Arms, names: Sequence[str], metric: str
) -> dict[str, float]:
    """Probability of being the best of the baseline and the arms of which there is a verdict; nobody's without one."""
    arms = [one.arm for one in judgements if one.no_verdict is None]
    if not arms:
        return {}
    arms = sorted([*arms, judgements[0].baseline])
    values = best_probabilities(metric, *found.joint(arms)).tolist()
    return dict(zip([names[a] for a in arms], values, strict=True))
