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
degrees of freedom, or percentiles of a bootstrap with Poisson(1) weights per cluster. The direct method's influence
goes through its fitted means; neither its bias nor that of clipping is in any interval.

Positions of a slate: a row is one shown item with the propensity of its position, so each position is a bandit of its
own (the item-position model of Li et al. 2018, "Offline evaluation of ranking policies with click models"). The overall
value is the mean over rows, with the positions' shares of the log.
"""

from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from recsys.evaluation.off_policy.errors import Ratio, Settings, Terms, bootstrap, standard_error, terms_of
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.result import Estimate, OffPolicy, Slice, Verdict
from recsys.evaluation.off_policy.reward import FOLDS, PRIOR_ROWS, RewardModel, fit_reward_model
from recsys.evaluation.off_policy.target import Target, support
from recsys.evaluation.off_policy.weights import (
    WeightSummary,
    check_mean_weight,
    mean_weight_doubt,
    summarised,
)

ESTIMATORS = ("ips", "snips", "clipped", "dm", "dr", "switch-dr")
MODEL_FREE = ESTIMATORS[:3]
CUTTING = ("clipped", "switch-dr")
WEIGHT_FIGURES = tuple(WeightSummary.__dataclass_fields__)
BINS = 40


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

    Args:
        log: The log, by another policy.
        target: The policy to be judged.
        primary: The estimator the verdict is on; unless given dr, or snips without a reward model.
        threshold: Weight above which clipped and switch-dr cut; √n unless given.
        model: Reward model; `fit_reward_model` unless given.
        folds: Of the default reward model.
        prior_rows: Of the default reward model.
        method: How intervals are made.
        replicates: Replicates of the bootstrap.
        level: Level of the intervals and the verdict.
        seed: Seed of the folds and the bootstrap.

    Raises:
        ValueError: The log does not support the target (`support`, `check_mean_weight`), or an option is unknown.
    """
    overlap = support(log, target)
    if model is None and target.table is not None:
        model = fit_reward_model(log, target, folds, prior_rows, seed)
    estimators, primary = _checked_estimators(primary, model)
    settings = _checked_settings(log.rows, threshold, method, replicates, level, seed)
    weights = target.logged / log.propensities
    slices = _Slices(log, weights, model, estimators, settings)
    overall = slices.overall(overlap)
    check_mean_weight(log, target, weights, overall.mean_weight_error)
    counts, edges = _histogram(weights)
    return OffPolicy(
        policy=target.name,
        source=log.source,
        overall=overall,
        positions=slices.by_position(overlap),
        actions=len(log.action_names),
        primary=primary,
        verdict=_verdict(overall[primary]),
        level=float(level),
        method=method,
        replicates=int(replicates),
        threshold=settings.threshold,
        reward_model=None if model is None else model.description,
        edges=tuple(edges.tolist()),
        weights=tuple(counts.tolist()),
        zero_weights=int((weights == 0).sum()),
        seed=int(seed),
    )


def _checked_estimators(primary: str | None, model: RewardModel | None) -> tuple[tuple[str, ...], str]:
    """Return the estimators that can be made with the model, or without one, and the one that the verdict is on."""
    estimators = MODEL_FREE if model is None else ESTIMATORS
    primary = primary or ("snips" if model is None else "dr")
    if primary not in estimators:
        raise ValueError(
            f"estimator {primary!r} is not among {list(estimators)}: {ESTIMATORS[3:]} need the probabilities of all actions"
        )
    return estimators, primary


def _checked_settings(
    rows: int, threshold: float | None, method: str, replicates: int, level: float, seed: int
) -> Settings:
    threshold = float(np.sqrt(rows)) if threshold is None else float(threshold)
    if not threshold > 0 or not 0 < level < 1 or replicates < 2 or method not in ("normal", "bootstrap"):
        raise ValueError(
            f"threshold is {threshold}, level {level}, replicates {replicates}, method {method!r}: need > 0, "
            "within (0, 1), >= 2, and normal or bootstrap"
        )
    return Settings(threshold, method, replicates, level, seed)


def _histogram(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count log10 of the weights above 0 in bins, and return the edges of these."""
    positive = np.log10(weights[weights > 0])
    low, high = float(positive.min()), float(positive.max())
    return np.histogram(positive, BINS, (low, high) if high - low > 1e-9 else (low - 0.5, low + 0.5))


class _Slices:
    """Evaluates slices of one log: all share weights, reward model, estimators and settings."""

    def __init__(
        self,
        log: Log,
        weights: np.ndarray,
        model: RewardModel | None,
        estimators: tuple[str, ...],
        settings: Settings,
    ) -> None:
        self._log, self._weights, self._model = log, weights, model
        self._estimators, self._settings = estimators, settings

    def overall(self, overlap: np.ndarray | None) -> Slice:
        """Evaluate all rows; `overlap` [P] is that of each position."""
        log = self._log
        share = None if overlap is None else float(overlap @ log.counts().sum(axis=1) / log.rows)
        return self.of("overall", np.ones(log.rows, bool), share)

    def by_position(self, overlap: np.ndarray | None) -> tuple[Slice, ...]:
        """Evaluate each position by itself, with its `overlap` [P]; none where there is one position."""
        names = self._log.position_names.tolist()
        if len(names) == 1:
            return ()
        return tuple(
            self.of(
                f"position {name}",
                self._log.positions == code,
                None if overlap is None else float(overlap[code]),
            )
            for code, name in enumerate(names)
        )

    def of(self, name: str, rows: np.ndarray, overlap: float | None) -> Slice:
        """Evaluate the slice of `rows`, bool [n]."""
        rewards, weights = self._log.rewards[rows], self._weights[rows]
        units = np.arange(rewards.size)
        if self._log.clusters is not None:
            units = np.unique(self._log.clusters[rows], return_inverse=True)[1]
        count = int(units.max()) + 1
        common: dict[str, Any] = dict(
            name=name,
            rows=int(rewards.size),
            clusters=None if self._log.clusters is None else count,
            logged_value=float(rewards.mean()),
            mean_weight=float(weights.mean()),
            overlap=overlap,
        )
        if reason := _no_estimate(rewards, weights, count):
            return Slice(**common, logged_interval=None, mean_weight_error=None, estimates=(), note=reason)
        plain = Terms(rewards, np.ones_like(weights))
        model = self._model
        predictions = (
            None if model is None else (model.logged[rows], model.policy[rows], model.influence[rows])
        )
        terms = [
            terms_of(name, rewards, weights, predictions, self._settings.threshold)
            for name in self._estimators
        ]
        ratios = [Ratio(term, plain, units) for term in (plain, *terms)]  # the logging policy's first
        draws: list[np.ndarray | None] = [None] * len(ratios)
        if self._settings.method == "bootstrap":
            draws = [*bootstrap(ratios, count, self._settings)]
        weight_error = standard_error(weights - weights.mean(), units)
        note = mean_weight_doubt(float(weights.mean()), weight_error)
        logged_interval, _ = ratios[0].interval(draws[0], self._settings)
        return Slice(
            **common,
            logged_interval=logged_interval,
            mean_weight_error=weight_error,
            estimates=self._estimates(ratios, draws, rewards, weights, predictions, bool(note)),
            note=note,
        )

    def _estimates(
        self,
        ratios: list[Ratio],
        draws: list[np.ndarray | None],
        rewards: np.ndarray,
        weights: np.ndarray,
        predictions: tuple[np.ndarray, ...] | None,
        doubtful: bool,
    ) -> tuple[Estimate, ...]:
        """Estimate a slice by every estimator; `ratios` and their bootstrap `draws` begin with the logging policy's."""
        threshold = self._settings.threshold
        some_cut = bool((weights > threshold).any())
        fitted = predictions is not None and bool(predictions[2].any())
        estimates = []
        for estimator, ratio, replicates in zip(self._estimators, ratios[1:], draws[1:], strict=True):
            interval, error = ratio.interval(replicates, self._settings)
            change = None if replicates is None or draws[0] is None else replicates - draws[0]
            difference_interval, _ = ratio.interval(change, self._settings, paired=True)
            used, figures, doubt = ratio.terms.used, dict[str, Any].fromkeys(WEIGHT_FIGURES), ""
            if used is not None:
                summary = summarised(used, weights, rewards, threshold, estimator in CUTTING)
                figures, doubt = asdict(summary), summary.doubt()
            estimates.append(
                Estimate(
                    estimator=estimator,
                    value=ratio.value,
                    interval=interval,
                    standard_error=error,
                    difference=ratio.value - ratios[0].value,
                    difference_interval=difference_interval,
                    **figures,
                    reliable=not doubt and not doubtful and estimator != "dm",
                    note=_note(estimator, doubt, some_cut, fitted),
                )
            )
        return tuple(estimates)


def _no_estimate(rewards: np.ndarray, weights: np.ndarray, units: int) -> str:
    """Return why a slice has no estimate; empty where it has."""
    if units < 2:
        return "one row or user only: no error can be estimated"
    if (rewards == rewards[0]).all():
        return f"every reward is {rewards[0]:g}: no error can be estimated"
    if not weights.any():
        return "no overlap: the target gives probability 0 to every action logged here"
    return ""


def _note(estimator: str, doubt: str, some_cut: bool, fitted: bool) -> str:
    """Return what to know of an estimate: the doubt of its weights, and which bias is in no interval."""
    notes = [doubt] if doubt else []
    if estimator == "dm":
        missing = "bias is" if fitted else "bias and error of training are"
        notes.append(f"as good as its reward model, whose {missing} not in the interval")
    elif some_cut and estimator == "clipped":
        notes.append("too low where rewards are positive: the weight cut is not in the interval")
    elif some_cut and estimator == "switch-dr":
        notes.append("the reward model alone stands for the weight cut; its bias is not in the interval")
    return "; ".join(notes)


def _verdict(estimate: Estimate) -> Verdict:
    if not estimate.reliable:
        return "unreliable"
    low, high = estimate.difference_interval
    return "better" if low > 0 else "worse" if high < 0 else "undecided"
