"""What a comparison results in: arms, differences, and who is probably best; plain values, ready for JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from recsys.evaluation.arms.support import Support

Interval = tuple[float, float]
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A metric of one arm, mean over seeds. With one seed, `seed_std` and `seed_variance` are None.

    Variances are shares of the mean's variance: standard_error² = row_variance + (seed_variance or 0). The interval stays
    where the metric can be (`intervals`).
    """

    value: float
    interval: Interval
    standard_error: float
    row_variance: float
    seed_variance: float | None
    seed_std: float | None


@dataclass(frozen=True)
class ArmResult:
    """An arm with an `Estimate` for each metric compared. The named properties need theirs in `metrics`."""

    name: str
    seeds: int
    metrics: dict[str, Estimate]

    @property
    def auc(self) -> float:
        """Mean AUC over seeds."""
        return self.metrics["auc"].value

    @property
    def auc_interval(self) -> Interval:
        """Interval of the expected AUC."""
        return self.metrics["auc"].interval

    @property
    def seed_std_auc(self) -> float | None:
        """Standard deviation of AUC over seeds."""
        return self.metrics["auc"].seed_std

    @property
    def logloss(self) -> float:
        """Mean log loss over seeds."""
        return self.metrics["logloss"].value

    @property
    def logloss_interval(self) -> Interval:
        """Interval of the expected log loss."""
        return self.metrics["logloss"].interval


@dataclass(frozen=True)
class Difference:
    """Metric of `arm` minus metric of `baseline`; `verdict` is on the arm, at 1 - level, Holm over arms.

    Of calibration everything here is of the distance from 1: |arm - 1| - |baseline - 1|, which is below 0 where the
    arm is better. So estimate, intervals and p-value ask one question. Where there can be no verdict it is undecided,
    p-values are 1, and intervals and the detectable effect are None.

    Attributes:
        interval: Over rows and seeds; of AUC and GAUC within -1 and 1.
        bca_interval: Over rows only, seeds held fixed; None, too, where the bootstrap lies on one side of the estimate.
        adjusted_p_value: Holm's, over the arms, on this metric.
        false_discovery_p_value: Benjamini & Hochberg's, likewise.
        delong_p_value: Of AUC only; assumes independent rows; a fast check, never the verdict.
        row_df: Degrees of freedom of `row_variance`.
        seed_variance: None, and `note` says so, where the arm or the baseline has one seed.
        seed_df: Degrees of freedom of `seed_variance`.
        minimum_detectable_effect: The true difference that the verdict's test finds with power 80 %: two-sided, of
            several arms at Holm's first step.
        no_verdict: Why there can be no verdict; None where `support` is enough.
    """

    arm: str
    baseline: str
    metric: str
    estimate: float
    interval: Interval | None
    bca_interval: Interval | None
    standard_error: float
    p_value: float
    adjusted_p_value: float
    false_discovery_p_value: float
    delong_p_value: float | None
    row_variance: float
    row_df: float
    seed_variance: float | None
    seed_df: float | None
    minimum_detectable_effect: float | None
    support: Support
    no_verdict: str | None
    verdict: Verdict
    note: str | None

    @property
    def verdict_word(self) -> str:
        """The verdict as tables show it, which says where there can be none."""
        return "no verdict" if self.no_verdict else self.verdict


@dataclass(frozen=True)
class Comparison:
    """The whole comparison: arms in the order of the input, differences by metric, then arm.

    Attributes:
        best: By metric, then arm, the probability that the arm's expected metric is the best; they sum to 1. Arms of
            which there is no verdict are not in it, and nobody is where there is none at all.
        redrawn: Replicates that were drawn again, for they had lost a class.
    """

    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    best: dict[str, dict[str, float]]
    baseline: str
    level: float
    rows: int
    positives: int
    clusters: int | None
    replicates: int
    redrawn: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
