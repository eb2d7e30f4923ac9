"""The report of an off-policy evaluation: a sentence, the same tables in a terminal and in HTML, two pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.evaluation.off_policy.errors import standard_error
from recsys.evaluation.off_policy.log import Log
from recsys.evaluation.off_policy.result import Estimate, OffPolicy, Slice
from recsys.reports.page import DAGGER, Picture, drawn, interval, number, png, share, write_page
from recsys.reports.sheet import Sheet


@dataclass(frozen=True)
class Mean:
    """A mean reward with its standard error, which is None where one row or user says nothing of others."""

    value: float
    standard_error: float | None

    def __str__(self) -> str:
        error = "–" if self.standard_error is None else number(self.standard_error)
        return f"{number(self.value)} ± {error}"


@dataclass(frozen=True)
class OnPolicy:
    """The rewards of the target policy in a log of its own, overall and by position."""

    source: str
    rows: int
    overall: Mean
    by_position: dict[str, Mean]

    def of(self, part: str) -> Mean | None:
        """Return the mean on the rows of a slice."""
        return self.overall if part == "overall" else self.by_position.get(part)


def on_policy(log: Log) -> OnPolicy:
    """Return the mean reward of a log, with its standard error (summed by user where users are known)."""

    def mean(rows: np.ndarray) -> Mean:
        rewards = log.rewards[rows]
        units = np.arange(rewards.size)
        if log.clusters is not None:
            units = np.unique(log.clusters[rows], return_inverse=True)[1]
        error = standard_error(rewards - rewards.mean(), units) if units.any() else None
        return Mean(float(rewards.mean()), error)

    by_position = {
        f"position {name}": mean(log.positions == code)
        for code, name in enumerate(log.position_names.tolist())
    }
    return OnPolicy(log.source, log.rows, mean(np.ones(log.rows, bool)), by_position)


def ope_dict(result: OffPolicy, truth: OnPolicy | None) -> dict[str, Any]:
    """Return plain values for JSON, with the sentence and the target's own log."""
    return {
        **result.to_dict(),
        "summary": ope_summary(result, truth),
        "on_policy": None if truth is None else asdict(truth),
    }


def ope_summary(result: OffPolicy, truth: OnPolicy | None = None) -> str:
    """Return the verdict in a sentence, and what must be known to believe it."""
    whole, estimate = result.overall, result.overall[result.primary]
    doubts = "; ".join(filter(None, (whole.note, estimate.note)))
    against = f"{result.policy} against the policy that wrote {result.source}"
    worth = (
        f"{number(estimate.value)} by {result.primary} ({result.level:.0%} interval {interval(estimate.interval)}), "
        f"logged {number(whole.logged_value)}"
    )
    rows = (
        "" if estimate.effective_rows is None else f" from {_count(estimate.effective_rows)} effective rows"
    )
    change = f"difference {number(estimate.difference, '+')} ({interval(estimate.difference_interval, '+')})"
    texts = {
        "better": f"{against}: better, {worth}, {change}",
        "worse": f"{against}: worse, {worth}, {change}",
        "undecided": f"{against}: not told apart from it, {worth}, {change}",
        "unreliable": f"{against}: no verdict, {estimate.estimator} is not to be relied on ({doubts}): {worth}",
    }
    text = f"{texts[result.verdict]};{rows or ' from its model'} of {whole.rows:,}."
    if truth is not None:
        mean = truth.overall
        text += f" In its own log the policy earned {mean}: {_where(estimate, mean)} the interval."
    return text


def ope_sheets(result: OffPolicy, truth: OnPolicy | None = None) -> list[Sheet]:
    """Return estimates overall, by position where positions differ, and what they rest on."""
    parts = (result.overall, *result.positions)
    sheets = [
        _estimates_sheet(result, part, None if truth is None else truth.of(part.name)) for part in parts
    ]
    return [*sheets, _slices_sheet(result)]


def write_ope(result: OffPolicy, path: Path | str, truth: OnPolicy | None = None) -> None:
    """Write sentence, tables and pictures as one HTML file that needs nothing beside it."""
    texts = [
        ope_summary(result, truth),
        f"{result.overall.rows:,} rows, {result.actions} actions. Intervals: {_method(result)}. Threshold on weights of "
        f"clipped and switch-dr: {result.threshold:.4g}. Reward model: {result.reward_model or 'none'}.",
    ]
    pictures = drawn(lambda: [_estimates_picture(result, truth), _weights_picture(result)])
    write_page(path, f"Off-policy evaluation of {result.policy}", texts, ope_sheets(result, truth), pictures)


def _estimates_sheet(result: OffPolicy, part: Slice, truth: Mean | None) -> Sheet:
    headers: tuple[str, ...] = ("estimator", "value", f"{result.level:.0%} interval", "against logged")
    headers += (
        "effective\nrows",
        "effective\nrewards",
        "largest\nweight",
        "rows\ncut",
        "weight\ncut",
        "overlap",
    )
    headers += () if truth is None else ("own\nlog", "errors\napart")
    notes = [f"Logged policy: {number(part.logged_value)}"]
    if part.logged_interval is not None:
        notes[0] += f" ({interval(part.logged_interval)})"
    notes[0] += f" on {part.rows:,} rows"
    notes[0] += "" if part.clusters is None else f" of {part.clusters:,} users"
    if truth is not None:
        notes.append(f"Target, its own log: {truth}")
    notes += [part.note] if part.note else []
    remarks: dict[str, list[str]] = {}
    for estimate in part.estimates:
        if estimate.note:
            remarks.setdefault(estimate.note, []).append(estimate.estimator)
    notes += [f"{', '.join(names)}: {remark}" for remark, names in remarks.items()]
    if not all(estimate.reliable for estimate in part.estimates):
        notes.append(f"{DAGGER} not to be relied on")
    rows = [_row(estimate, part, truth) for estimate in part.estimates]
    return Sheet(
        f"Estimates, {part.name}", headers, rows, f"{'. '.join(notes)}.", folded=part is not result.overall
    )


def _row(estimate: Estimate, part: Slice, truth: Mean | None) -> tuple[str, ...]:
    against_truth: tuple[str, ...] = ()
    if truth is not None:
        against_truth = _where(estimate, truth), _errors_apart(estimate, truth)
    return (
        estimate.estimator if estimate.reliable else f"{estimate.estimator} {DAGGER}",
        number(estimate.value),
        interval(estimate.interval),
        f"{number(estimate.difference, '+')} ({interval(estimate.difference_interval, '+')})",
        _count(estimate.effective_rows),
        _count(estimate.effective_rewards),
        "–" if estimate.largest_weight is None else f"{estimate.largest_weight:,.4g}",
        share(estimate.clipped_rows),
        share(estimate.clipped_weight),
        share(part.overlap),
        *against_truth,
    )


def _count(effective: float | None) -> str:
    if effective is None:
        return "–"
    return f"{effective:,.0f}" if effective >= 10 else f"{effective:.1f}"


def _errors_apart(estimate: Estimate, truth: Mean) -> str:
    if truth.standard_error is None:
        return "–"
    both = float(np.hypot(estimate.standard_error, truth.standard_error))
    return f"{round((estimate.value - truth.value) / both, 1) + 0.0:+.1f}" if both else "–"


def _where(estimate: Estimate, truth: Mean) -> str:
    low, high = estimate.interval
    return "within" if low <= truth.value <= high else "outside"


def _slices_sheet(result: OffPolicy) -> Sheet:
    rows = [
        (
            part.name,
            f"{part.rows:,}",
            number(part.logged_value),
            f"{part.mean_weight:.4g}"
            + ("" if part.mean_weight_error is None else f" ± {part.mean_weight_error:.2g}"),
            share(part.overlap),
            part.note or "–",
        )
        for part in (result.overall, *result.positions)
    ]
    note = (
        "Mean weight: 1 but for chance where the log supports all of the target; far from it, propensities or support are "
        "wrong. Overlap: share of the target's mass on pairs of position and action that were logged, – where only "
        "probabilities of logged actions are known."
    )
    return Sheet(
        "What they rest on", ("rows of", "rows", "logged value", "mean weight", "overlap", "note"), rows, note
    )


def _estimates_picture(result: OffPolicy, truth: OnPolicy | None) -> Picture:
    from matplotlib.figure import Figure

    parts = [part for part in (result.overall, *result.positions) if part.estimates]
    names = [estimate.estimator for estimate in result.overall.estimates]
    figure = Figure(figsize=(max(3.2 * len(parts), 5.5), 1.2 + 0.42 * len(names)), layout="constrained")
    for column, (axes, part) in enumerate(
        zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True)
    ):
        value = np.array([estimate.value for estimate in part.estimates])
        low, high = np.array([estimate.interval for estimate in part.estimates]).T
        places = np.arange(len(names))
        errors = np.maximum([value - low, high - value], 0)
        axes.errorbar(value, places, xerr=errors, fmt="o", color="#33608c", markersize=4, capsize=3)
        doubtful = np.array([not estimate.reliable for estimate in part.estimates])
        axes.plot(value[doubtful], places[doubtful], "o", color="#33608c", mfc="white", ms=4, zorder=3)
        axes.axvline(part.logged_value, color="grey", linestyle="--", linewidth=1, label="logging policy")
        if truth is not None and (mean := truth.of(part.name)) is not None:
            axes.axvline(mean.value, color="#b8433a", linewidth=1, label="target, its own log")
        axes.set_yticks(places, names if column == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(part.name, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8)
    figure.supxlabel("mean reward", fontsize=9)
    note = (
        f"{result.level:.0%} intervals. They hold neither the bias of the reward model (dm) nor that of cut "
    )
    note += "weights. Hollow: not to be relied on."
    return "Estimates with intervals", png(figure), note


def _weights_picture(result: OffPolicy) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.array(result.edges)
    axes.bar(
        edges[:-1],
        result.weights,
        np.diff(edges),
        align="edge",
        color="#9ab8d6",
        edgecolor="white",
        linewidth=0.3,
    )
    axes.axvline(0, color="grey", linewidth=1, linestyle="--", label="w = 1")
    at = float(np.log10(result.threshold))
    if at <= edges[-1] + 1:
        axes.axvline(
            at, color="#b8433a", linewidth=1, linestyle="--", label=f"threshold {result.threshold:.3g}"
        )
    axes.set(yscale="log", xlabel="log10 of the weight, target over logged probability", ylabel="rows")
    axes.set_ylim(bottom=0.7)
    axes.legend(fontsize=8)
    note = (
        f"{result.zero_weights:,} of {result.overall.rows:,} rows have weight 0 and are not shown. "
        "A long right tail means that few rows decide."
    )
    return "Weights", png(figure), note


def _method(result: OffPolicy) -> str:
    clusters = "" if result.overall.clusters is None else ", rows of a user together"
    if result.method == "bootstrap":
        return f"percentiles of {result.replicates:,} bootstrap replicates{clusters}"
    return f"Student's t of influence values{clusters}"
