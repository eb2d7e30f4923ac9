"""What an online test results in: the sample ratio, effects and their sequences; plain values."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from recsys.evaluation.online.sequential import ConfidenceSequence

Interval = tuple[float, float]
Verdict = Literal["higher", "lower", "undecided"]


@dataclass(frozen=True)
class SampleRatio:
    """The test of users by variant against the shares expected: Pearson's chi-square."""

    users: dict[str, int]
    expected: dict[str, float]
    p_value: float
    passed: bool


@dataclass(frozen=True)
class Effect:
    """The difference of a variant from the control on one metric.

    Attributes:
        interval: Of the difference, not adjusted.
        lift: The difference relative to the control; None where a mean is not above 0.
        p_value: For one look at a planned end.
        adjusted_p_value: Holm's, over metrics and variants.
        minimum_detectable_effect: The true difference that one two-sided 5 % test finds with power 80 %.
        enough: Whether that effect is within the lift that would be worth finding; None where no lift is named.
        verdict: On the adjusted p-value, at 1 - level.
        sequence: Over days; None in a log without days.
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
    """The whole test, with effects by metric, then variant; they are empty where the sample ratio failed."""

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
