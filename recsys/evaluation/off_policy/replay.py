"""Replay: what a target policy would have earned, from the rows where it chooses what a uniform policy had chosen.

Li, Chu, Langford & Wang 2011, "Unbiased offline evaluation of contextual-bandit-based news article recommendation
algorithms", algorithm 2, for a policy that does not learn on the way: of n rows logged by a policy that shows each of K
actions with probability 1 / K, those whose action the target chooses are kept, about n / K; their mean reward is unbiased.

A target that draws is drawn from once per row (`seed`): a row is kept with the target's probability of its action. The
value's error is that of the mean over kept rows, the difference's that of a ratio over all rows, both by cluster.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from recsys.evaluation.off_policy.errors import (
    Interval,
    Ratio,
    Settings,
    Terms,
    effective_rows,
    standard_error,
)
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.result import Verdict
from recsys.evaluation.off_policy.target import Target, support
from recsys.evaluation.off_policy.weights import FEW_REWARDS, FEW_ROWS, check_mean_weight, mean_weight_doubt

UNIFORM_TOLERANCE = 1e-6  # relative, of propensities: text files round


@dataclass(frozen=True)
class Replayed:
    """Replay on all rows or on those of a position.

    `value` is None where no row is kept, intervals where no error can be estimated; `note` says why.

    Attributes:
        expected: Rows that a supported target keeps on average.
        matched: Rows kept, whose action the target chooses too.
        clusters: Users with a kept row; None where rows are independent.
    """

    name: str
    rows: int
    expected: float
    matched: int
    clusters: int | None
    effective_rewards: float
    value: float | None
    interval: Interval | None
    standard_error: float | None
    logged_value: float
    difference: float | None
    difference_interval: Interval | None
    note: str


@dataclass(frozen=True)
class Replay:
    """The whole replay of one policy on one log."""

    policy: str
    source: str
    overall: Replayed
    positions: tuple[Replayed, ...]
    actions: int
    verdict: Verdict
    level: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, ready for JSON."""
        return asdict(self)


def replay(log: Log, target: Target, *, level: float = 0.95, seed: int = 0) -> Replay:
    """Replay `target` on a log whose actions were drawn uniformly.

    Raises:
        ValueError: Propensities are not those of a uniform policy; the target's actions were never logged, or it keeps
            more or fewer rows than chance allows; `level` is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: must be within (0, 1)")
    require_uniform(log)
    support(log, target)
    units = np.arange(log.rows) if log.clusters is None else log.clusters
    weights = target.logged / log.propensities
    error = standard_error(weights - weights.mean(), units)
    check_mean_weight(log, target, weights, error)
    matches = np.random.default_rng(seed).random(log.rows) < target.logged
    settings = Settings(np.inf, "normal", 2, level, seed)
    everything = np.ones(log.rows, bool)
    overall = _part("overall", everything, log, matches, settings)
    if doubt := mean_weight_doubt(float(weights.mean()), error):
        overall = replace(overall, note="; ".join(filter(None, (doubt, overall.note))))
    positions = [
        _part(f"position {name}", log.positions == code, log, matches, settings)
        for code, name in enumerate(log.position_names.tolist())
    ]
    return Replay(
        policy=target.name,
        source=log.source,
        overall=overall,
        positions=tuple(positions) if len(positions) > 1 else (),
        actions=len(log.action_names),
        verdict=_verdict(overall),
        level=float(level),
        seed=int(seed),
    )


def require_uniform(log: Log) -> None:
    """Raise ValueError where the logging policy was not uniform over the actions of a position."""
    column = log.columns["propensity"]
    cure = "replay needs a log drawn uniformly; weights do not: use `recsys ope` (ips, snips)"
    actions = (log.counts() > 0).sum(axis=1)
    for code in range(len(log.position_names)):
        rows = np.flatnonzero(log.positions == code)
        propensities = log.propensities[rows]
        low, high = int(rows[propensities.argmin()]), int(rows[propensities.argmax()])
        least, most = log.propensities[low], log.propensities[high]
        if most - least > UNIFORM_TOLERANCE * most:
            raise ValueError(
                f"{log.place(low)}: {column} is {least:.6g}, but {most:.6g} in row {log.numbers[high]}: the logging policy "
                f"was not uniform; {cure}"
            )
        if most * actions[code] > 1 + UNIFORM_TOLERANCE:
            raise ValueError(
                f"{log.place(high)}: {column} is {most:.6g} in every row, but {actions[code]} actions were logged, which "
                f"cannot all have it; {cure}"
            )


def _part(name: str, rows: np.ndarray, log: Log, matches: np.ndarray, settings: Settings) -> Replayed:
    """Replay on some rows of the log; `rows` and `matches`, those that the target chooses too, are bool [n]."""
    rewards, matching = log.rewards[rows], matches[rows]
    matched = rewards[matching]
    units = np.arange(rewards.size)
    if log.clusters is not None:
        units = np.unique(log.clusters[rows], return_inverse=True)[1]
    matched_units = np.unique(units[matching], return_inverse=True)[1]
    unit_count = int(matched_units.max()) + 1 if matched.size else 0
    common: dict[str, Any] = dict(
        name=name,
        rows=int(rewards.size),
        expected=float(log.propensities[rows].sum()),
        matched=int(matched.size),
        clusters=None if log.clusters is None else unit_count,
        effective_rewards=effective_rows(np.abs(matched)) if matched.any() else 0.0,
        value=float(matched.mean()) if matched.size else None,
        logged_value=float(rewards.mean()),
        difference=float(matched.mean() - rewards.mean()) if matched.size else None,
    )
    if reason := _no_error(matched, unit_count):
        return Replayed(**common, interval=None, standard_error=None, difference_interval=None, note=reason)
    mean = Terms(matched, np.ones_like(matched))
    value = Ratio(mean, mean, matched_units)
    weights, ones = matching.astype(np.float64), np.ones_like(rewards)
    change = Ratio(Terms(weights * rewards, weights), Terms(rewards, ones), units)
    interval, error = value.interval(None, settings)
    return Replayed(
        **common,
        interval=interval,
        standard_error=error,
        difference_interval=change.interval(None, settings, paired=True)[0],
        note=_doubt(matched.size, common["effective_rewards"]),
    )


def _no_error(matched: np.ndarray, units: int) -> str:
    """Return why no error can be estimated from the rewards of matched rows; empty where it can."""
    if not matched.size:
        return "no row is kept: the target never chose what was logged"
    if (matched == matched[0]).all():
        return f"every kept reward is {matched[0]:g}: no error can be estimated"
    return "kept rows of one row or user only: no error can be estimated" if units < 2 else ""


def _doubt(matched: int, rewards: float) -> str:
    if matched < FEW_ROWS:
        return f"{matched} rows kept: too few to rely on"
    return f"{rewards:.1f} effective rewards: too few to rely on" if rewards < FEW_REWARDS else ""


def _verdict(part: Replayed) -> Verdict:
    if part.note or part.difference_interval is None:
        return "unreliable"
    low, high = part.difference_interval
    return "better" if low > 0 else "worse" if high < 0 else "undecided"
