"""What an off-policy evaluation results in: estimates on all rows and by position, plain values, ready for JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from recsys.evaluation.off_policy.errors import Interval

Verdict = Literal["better", "worse", "undecided", "unreliable"]


@dataclass(frozen=True)
class Estimate:
    """The target's value by one estimator, and its difference from the logging policy on the same rows.

    All on weights is None where the estimator uses none. It is `reliable` with enough effective rows and rewards, and
    no row that carries a tenth of the weight; elsewhere intervals are too narrow (the rare rows with large weights
    have not been seen). At most a hundredth of the weight may be cut, and weights must average 1; elsewhere a bias is
    in no interval. The direct method never is, for its bias is unknown.

    Attributes:
        effective_rows: Kish's effective sample size (Σw)² / Σw² of the weights.
        effective_rewards: The same of |w r|: how many rewards decide, for clicks are rare.
        largest_weight: The largest weight used.
        largest_share: Its share of Σw.
        clipped_rows: Share of rows above the threshold.
        clipped_weight: Share of the weight that they lose.
    """

    estimator: str
    value: float
    interval: Interval
    standard_error: float
    difference: float
    difference_interval: Interval
    effective_rows: float | None
    effective_rewards: float | None
    largest_weight: float | None
    largest_share: float | None
    clipped_rows: float | None
    clipped_weight: float | None
    reliable: bool
    note: str


@dataclass(frozen=True)
class Slice:
    """Estimates on some of the rows; none, and a note that says why, where they cannot be made.

    Attributes:
        mean_weight: Mean of the weights, whose expectation is 1 where the log supports the target.
        mean_weight_error: Its standard error.
        overlap: Share of the target's mass on logged actions; None where only those probabilities are known.
    """

    name: str
    rows: int
    clusters: int | None
    logged_value: float
    logged_interval: Interval | None
    mean_weight: float
    mean_weight_error: float | None
    overlap: float | None
    estimates: tuple[Estimate, ...]
    note: str

    def __getitem__(self, estimator: str) -> Estimate:
        """Return the estimate of that name."""
        return next(estimate for estimate in self.estimates if estimate.estimator == estimator)


@dataclass(frozen=True)
class OffPolicy:
    """The whole evaluation of one policy on one log.

    Attributes:
        primary: The estimator the verdict is on, chosen before the estimates are seen.
        weights: Counts of log10 w in bins between `edges`.
        zero_weights: How many weights are 0.
    """

    policy: str
    source: str
    overall: Slice
    positions: tuple[Slice, ...]
    actions: int
    primary: str
    verdict: Verdict
    level: float
    method: Literal["normal", "bootstrap"]
    replicates: int
    threshold: float
    reward_model: str | None
    edges: tuple[float, ...]
    weights: tuple[int, ...]
    zero_weights: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)
