"""Off-policy evaluation: what would a target policy π have earned on a log that another policy μ wrote?

Symbols: n rows, r reward, μ_i logged propensity of the action taken, π_i the target's probability of it,
w = π / μ its weight, q̂ a reward model fitted out of fold, q̂_π = Σ_a π(a | x) q̂(x, a), τ a threshold on weights.

    ips       mean(w r)                          unbiased (Horvitz & Thompson 1952; Dudík et al. 2011, section 2)
    snips     Σ w r / Σ w                        Swaminathan & Joachims 2015, "The self-normalized estimator"
    clipped   mean(min(w, τ) r)                  truncated weights: Ionides 2008; Bottou et al. 2013
    dm        mean(q̂_π)                          direct method (Dudík et al. 2011, section 2)
    dr        mean(q̂_π + w (r - q̂))              doubly robust (Dudík et al. 2011, eq. 1)
    switch-dr mean(q̂_π + w 1[w ≤ τ] (r - q̂))     Wang et al. 2017: SWITCH, with DR for the kept weights

τ is √n unless given: at that rate both bias and variance vanish (Ionides 2008).

Every estimate is a mean or a ratio of means over rows, so its error is that of the mean of its influence values
(the delta method for SNIPS), summed by cluster where rows of a user are dependent. Student's t with (clusters - 1)
degrees of freedom, or percentiles of a bootstrap with Poisson(1) weights per cluster. The direct method's influence goes
through its fitted means; its bias is in no interval. Clipping's is not either.

Positions of a slate: a row is one shown item with the propensity of its position, so each position is a bandit of its
own (the item-position model of Li et al. 2018, "Offline evaluation of ranking policies with click models"). The overall
value is the mean over rows, with the positions' shares of the log.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from recsys.evaluation.off_policy.data import Log, Target, support
from recsys.evaluation.off_policy.errors import (
    Column,
    Interval,
    Settings,
    Terms,
    bootstrap,
    effective_rows,
    standard_error,
    terms_of,
)
from recsys.evaluation.off_policy.reward import FOLDS, PRIOR_ROWS, RewardModel, fit_reward_model

ESTIMATORS = ("ips", "snips", "clipped", "dm", "dr", "switch-dr")
FEW_ROWS = 100  # effective rows below which no verdict is given
FEW_REWARDS = 10  # effective rewards, likewise: with fewer, a normal interval of rare clicks is too narrow
HEAVY_ROW = 0.1  # share of the weight that one row may carry in a verdict
REFUSE_AT, WARN_AT = 5.0, 3.0  # standard errors by which the mean weight may miss 1
MARGIN = 0.05  # by which it may always miss it
CUT_WEIGHT = 0.01  # share of the weight that a threshold may cut in a verdict: the bias is of this order
BINS = 40


@dataclass(frozen=True)
class Estimate:
    """The target's value by one estimator, and its difference from the logging policy on the same rows.

    Of the weights it used (None where it uses none): Kish's effective sample size (Σw)² / Σw², the same of |w r|
    (how many rewards decide: clicks are rare), the largest weight, its share of Σw, the share of rows above the threshold
    and the share of weight they lose. `reliable`: enough effective rows and rewards, and no row that carries a tenth of the
    weight; elsewhere intervals are too narrow (the rare rows with large weights have not been seen). At most a hundredth
    of the weight cut, and weights that average 1: elsewhere a bias is in no interval. Never dm, whose bias is unknown.
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

    `mean_weight`, whose expectation is 1 where the log supports the target, with its standard error. `overlap`: share of
    the target's mass on logged actions; None where only probabilities of logged actions are known.
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
    """All of an evaluation. `weights`: counts of log10 w in bins between `edges`, and of w = 0.

    `primary`: the estimator the verdict is on, chosen before the estimates are seen.
    """

    policy: str
    source: str
    overall: Slice
    positions: tuple[Slice, ...]
    actions: int
    primary: str
    verdict: Literal["better", "worse", "undecided", "unreliable"]
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


def evaluate_policy(
    log: Log,
    target: Target,
    *,
    primary: str | None = None,
    threshold: float | None = None,
    model: RewardModel | None = None,
    folds: int = FOLDS,
    prior_rows: float = PRIOR_ROWS,
    method: Literal["normal", "bootstrap"] = "normal",
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> OffPolicy:
    """Estimate the value of `target` on `log` by every estimator that the target's probabilities allow.

    `model` replaces the default reward model (`fit_reward_model`). `primary`: dr, or snips where there is no model.
    Errors (ValueError): the log does not support the target (`support`, `check_mean_weight`), or propensities, target and
    log do not belong together; unknown options.
    """
    overlap = support(log, target)
    if model is None and target.table is not None:
        model = fit_reward_model(log, target, folds, prior_rows, seed)
    names = [name for name in ESTIMATORS if model is not None or name in ESTIMATORS[:3]]
    chosen = primary or ("snips" if model is None else "dr")
    if chosen not in names:
        raise ValueError(
            f"estimator {chosen!r} is not among {names}: {ESTIMATORS[3:]} need the probabilities of all actions"
        )
    limit = float(np.sqrt(log.rows)) if threshold is None else float(threshold)
    if not limit > 0 or not 0 < level < 1 or replicates < 2 or method not in ("normal", "bootstrap"):
        raise ValueError(
            f"threshold is {limit}, level {level}, replicates {replicates}, method {method!r}: need > 0, within (0, 1), "
            ">= 2, and normal or bootstrap"
        )
    weights = target.logged / log.propensities
    settings = Settings(limit, method, replicates, level, seed)
    everything = np.ones(log.rows, bool)
    shares = None if overlap is None else float(overlap @ log.counts().sum(axis=1) / log.rows)
    overall = _slice("overall", everything, log, weights, model, shares, names, settings)
    check_mean_weight(log, target, weights, overall.mean_weight_error)
    by_position = []
    if len(log.position_names) > 1:
        for code, name in enumerate(log.position_names.tolist()):
            share = None if overlap is None else float(overlap[code])
            rows = log.positions == code
            by_position.append(_slice(f"position {name}", rows, log, weights, model, share, names, settings))
    positive = np.log10(weights[weights > 0])
    low, high = float(positive.min()), float(positive.max())
    counts, edges = np.histogram(positive, BINS, (low, high) if high - low > 1e-9 else (low - 0.5, low + 0.5))
    return OffPolicy(
        policy=target.name,
        source=log.source,
        overall=overall,
        positions=tuple(by_position),
        actions=len(log.action_names),
        primary=chosen,
        verdict=_verdict(overall[chosen]),
        level=float(level),
        method=method,
        replicates=int(replicates),
        threshold=limit,
        reward_model=None if model is None else model.description,
        edges=tuple(edges.tolist()),
        weights=tuple(counts.tolist()),
        zero_weights=int((weights == 0).sum()),
        seed=int(seed),
    )


def _slice(
    name: str,
    rows: np.ndarray,
    log: Log,
    all_weights: np.ndarray,
    model: RewardModel | None,
    overlap: float | None,
    estimators: list[str],
    settings: Settings,
) -> Slice:
    rewards, weights = log.rewards[rows], all_weights[rows]
    units = np.arange(rewards.size)
    if log.clusters is not None:
        units = np.unique(log.clusters[rows], return_inverse=True)[1]
    count = int(units.max()) + 1
    clusters = None if log.clusters is None else count
    fixed: dict[str, Any] = dict(
        name=name, rows=int(rewards.size), clusters=clusters, logged_value=float(rewards.mean())
    )
    fixed |= dict(mean_weight=float(weights.mean()), overlap=overlap)
    reason = ""
    if count < 2:
        reason = "one row or user only: no error can be estimated"
    elif (rewards == rewards[0]).all():
        reason = f"every reward is {rewards[0]:g}: no error can be estimated"
    elif not weights.any():
        reason = "no overlap: the target gives probability 0 to every action logged here"
    if reason:
        return Slice(**fixed, logged_interval=None, mean_weight_error=None, estimates=(), note=reason)
    parts = None if model is None else (model.logged[rows], model.policy[rows], model.influence[rows])
    plain = Terms(rewards, np.ones_like(weights))
    baseline = Column(plain, plain, units)
    columns = [
        Column(terms_of(estimator, rewards, weights, parts, settings.threshold), plain, units)
        for estimator in estimators
    ]
    draws = bootstrap([baseline, *columns], count, settings) if settings.method == "bootstrap" else None
    weight_error = standard_error(weights - weights.mean(), units)
    note = mean_weight_doubt(float(weights.mean()), weight_error)
    estimates = []
    for number, (estimator, column) in enumerate(zip(estimators, columns, strict=True), 1):
        interval, error = column.interval(None if draws is None else draws[number], settings)
        change = None if draws is None else draws[number] - draws[0]
        difference_interval, _ = column.interval(change, settings, paired=True)
        told = _weights_told(
            column.terms.used, weights, rewards, settings.threshold, estimator in ("clipped", "switch-dr")
        )
        doubt = _uneven(told)
        estimates.append(
            Estimate(
                estimator=estimator,
                value=column.value,
                interval=interval,
                standard_error=error,
                difference=column.value - baseline.value,
                difference_interval=difference_interval,
                **told,
                reliable=not doubt and not note and estimator != "dm",
                note=_note(
                    estimator,
                    doubt,
                    bool((weights > settings.threshold).any()),
                    parts is not None and bool(parts[2].any()),
                ),
            )
        )
    logged_interval, _ = baseline.interval(None if draws is None else draws[0], settings)
    return Slice(
        **fixed,
        logged_interval=logged_interval,
        mean_weight_error=weight_error,
        estimates=tuple(estimates),
        note=note,
    )


def _weights_told(
    used: np.ndarray | None, weights: np.ndarray, rewards: np.ndarray, threshold: float, cut: bool
) -> dict[str, float | None]:
    if used is None:
        keys = (
            "effective_rows",
            "effective_rewards",
            "largest_weight",
            "largest_share",
            "clipped_rows",
            "clipped_weight",
        )
        return dict.fromkeys(keys)
    return {
        "effective_rows": effective_rows(used) if used.any() else 0.0,
        "effective_rewards": effective_rows(np.abs(used * rewards)) if (used * rewards).any() else 0.0,
        "largest_weight": float(used.max()),
        "largest_share": float(used.max() / used.sum()) if used.any() else 0.0,
        "clipped_rows": float((weights > threshold).mean()) if cut else 0.0,
        "clipped_weight": float(1 - used.sum() / weights.sum()) if cut else 0.0,
    }


def _note(estimator: str, doubt: str, cut: bool, fitted: bool) -> str:
    notes = [doubt] if doubt else []
    if estimator == "dm":
        missing = "bias is" if fitted else "bias and error of training are"
        notes.append(f"as good as its reward model, whose {missing} not in the interval")
    elif cut and estimator == "clipped":
        notes.append("too low where rewards are positive: the weight cut is not in the interval")
    elif cut and estimator == "switch-dr":
        notes.append("the reward model alone stands for the weight cut; its bias is not in the interval")
    return "; ".join(notes)


def _uneven(told: dict[str, float | None]) -> str:
    """Why weights are too uneven, or cut too much, to be relied on; nothing where they are not, or there are none."""
    rows, rewards, share = told["effective_rows"], told["effective_rewards"], told["largest_share"]
    cut = told["clipped_weight"]
    if rows is None or rewards is None or share is None or cut is None:
        return ""
    if cut > CUT_WEIGHT:
        return f"{cut:.1%} of the weight is cut"
    if share > HEAVY_ROW:
        return f"one row carries {share:.0%} of the weight"
    if rows < FEW_ROWS:
        return f"{rows:.0f} effective rows"
    if rewards < FEW_REWARDS:
        return f"{rewards:.1f} effective rewards"
    return ""


def mean_weight_doubt(mean: float, error: float) -> str:
    """What a mean weight far from 1 says of an estimate; nothing where it is near."""
    if abs(mean - 1) < MARGIN or abs(mean - 1) < WARN_AT * error:
        return ""
    return f"weights average {mean:.3g} ± {error:.2g}, not 1: propensities or support are doubtful"


def _verdict(estimate: Estimate) -> Literal["better", "worse", "undecided", "unreliable"]:
    if not estimate.reliable:
        return "unreliable"
    low, high = estimate.difference_interval
    return "better" if low > 0 else "worse" if high < 0 else "undecided"


def check_mean_weight(log: Log, target: Target, weights: np.ndarray, error: float | None) -> None:
    """Raise ValueError for weights [n] that do not average 1; `error`: standard error of their mean.

    E w is the target's mass that the log supports: more than 1 is impossible, less is lost support. Where few heavy rows
    decide, heavier ones may not have been seen: the error is then too small to refuse a low mean by it, and
    `mean_weight_doubt` is all that can be said.
    """
    off = float(weights.mean()) - 1
    if error is None or abs(off) < MARGIN or abs(off) < REFUSE_AT * error:
        return
    told = f"{log.source}: the weights of {target.name} average {1 + off:.4g} ± {error:.2g}"
    propensity = log.columns["propensity"]
    if off > 0:
        raise ValueError(
            f"{told}, and at most 1 is possible: {propensity} or the target's probabilities are not those of these rows"
        )
    if effective_rows(weights) < FEW_ROWS or weights.max() > HEAVY_ROW * weights.sum():
        return
    if target.table is None:
        raise ValueError(
            f"{told}, and would average 1 if the logging policy had shown all that the target shows: no support for the "
            "rest, or probabilities that are not of these rows; give the target's probabilities of all actions to see which"
        )
    raise ValueError(
        f"{told}, not 1: in some contexts the log never, or too rarely, shows what the target shows (no support), or "
        f"{propensity} is too large; use a log with randomisation in every context, or correct it"
    )
