"""Pictures of a search: settings side by side, the best so far, and how every trial learnt."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from typing_extensions import override

from recsys.config import FIT, Choices, ExperimentConfig, Range
from recsys.reports.page import Picture, png
from recsys.tuning.study import TuningResult
from recsys.tuning.trials import metrics_of

BAD = "#b8433a"
STOPPED = "#9aa3ad"
COLORS = colormaps["viridis"]
LOST_HEIGHT = -0.04  # of trials without a metric
SHOWN = 3.0  # distances of the median trial from the best that an axis of the metric shows


class SettingAxis(Protocol):
    """A vertical axis of height 1 of a picture with parallel coordinates."""

    def height(self, value: Any) -> float:
        """Return where a value lies."""

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights and labels of the ticks."""


class NumberAxis(SettingAxis):
    """An axis of the numbers from `low` to `high`; `log` spaces them by their logarithms, `flipped` puts `low` on top."""

    def __init__(self, low: float, high: float, log: bool = False, flipped: bool = False) -> None:
        self._log, self._flipped = log, flipped
        self._low, self._high = low, high

    @override
    def height(self, value: Any) -> float:
        low, high, at = (np.log(v) if self._log else v for v in (self._low, self._high, value))
        share = float((at - low) / (high - low)) if high > low else 0.5
        return 1 - share if self._flipped else share

    @override
    def ticks(self) -> list[tuple[float, str]]:
        locator = LogLocator(subs=(1.0, 2.0, 5.0)) if self._log else MaxNLocator(5)
        marks = [v for v in locator.tick_values(self._low, self._high) if self._low <= v <= self._high]
        return [(self.height(value), f"{value:.4g}") for value in marks]


class ListedAxis(SettingAxis):
    """An axis of listed values, in the order of the list, numbers by size."""

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = all(isinstance(value, int | float) for value in values)
        self._names = list(
            dict.fromkeys(json.dumps(value) for value in (sorted(values) if numbers else values))
        )

    @override
    def height(self, value: Any) -> float:
        last = len(self._names) - 1
        return self._names.index(json.dumps(value)) / last if last else 0.5

    @override
    def ticks(self) -> list[tuple[float, str]]:
        return [(self.height(json.loads(name)), name.strip('"')) for name in self._names]


def setting_axis(choices: Choices, values: Sequence[Any]) -> SettingAxis:
    """Return the axis of a setting that took `values`; those of the file itself may lie outside its choices."""
    if not isinstance(choices, Range):
        return ListedAxis([*(choice for choice in choices if choice != FIT), *values])
    if not all(isinstance(value, int | float) for value in values):
        return ListedAxis(values)
    return NumberAxis(min(choices.low, *values), max(choices.high, *values), choices.log and min(values) > 0)


def parallel_picture(tuned: TuningResult) -> Picture:
    """Draw one vertical axis a setting, and the monitored metric as the last; one line a trial."""
    config = tuned.config
    keys, monitor = list(config.tuning.space), config.training.monitor
    defaults = {key: value_of(config, key) for key in keys}
    columns = [[trial.settings.get(key, defaults[key]) for trial in tuned.trials] for key in keys]
    scores = np.array([trial.score(config) for trial in tuned.trials])
    values = np.abs(scores)  # the metric itself: logloss is scored by its negative
    known = np.isfinite(scores)
    worst = _worst_shown(values[known])
    shown = values.clip(min=worst) if monitor == "auc" else values.clip(max=worst)
    metric_axis = NumberAxis(shown[known].min(), shown[known].max(), flipped=monitor == "logloss")
    setting_axes = [
        setting_axis(config.tuning.space[key], column) for key, column in zip(keys, columns, strict=True)
    ]

    figure = Figure(figsize=(max(8.0, 1.9 * (len(keys) + 1)), 4.6), layout="constrained")
    axes = figure.subplots()
    ranks = Normalize(0, max(1, known.sum() - 1))
    for place in reversed(range(len(tuned.trials))):  # the best is drawn last
        heights = [axis.height(column[place]) for axis, column in zip(setting_axes, columns, strict=True)]
        heights.append(metric_axis.height(shown[place]) if known[place] else LOST_HEIGHT)
        color = COLORS(1 - ranks(place)) if known[place] else BAD
        _draw_trial(axes, heights, color, tuned.trials[place].end == "finished", place == 0)
    for place, axis in enumerate([*setting_axes, metric_axis]):
        axes.axvline(place, color="black", linewidth=0.8, zorder=0)
        for height, label in axis.ticks():
            box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
            _label(axes, label, place, height, bbox=box)
    names = [key.replace(".", ".\n", 1) for key in keys]
    axes.set_xticks(range(len(keys) + 1), [*names, f"validation\n{monitor}"], fontsize=8.5)
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.05)
    axes.set_xlim(-0.15, len(keys) + 0.45)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    if not known.all():
        _label(axes, "diverged, failed", len(keys), LOST_HEIGHT, color=BAD)
    note = (
        "A line is a trial. Yellow is best, dark is worst; the thick one is the best of all. Better is higher on the last "
        "axis, whose lower end holds all that are worse still. Dashed: stopped early. Where a setting matters, its axis "
        "sorts the colours."
    )
    return "Settings and metric", png(figure), note


def _draw_trial(axes: Axes, heights: list[float], color: Any, finished: bool, best: bool) -> None:
    """Draw the line of a trial: dashed where it ended early, thick where it is the best."""
    axes.plot(
        range(len(heights)),
        heights,
        color=color,
        linewidth=3 if best else 1.3,
        linestyle="-" if finished else "--",
        alpha=1.0 if best else 0.75,
        marker="o",
        markersize=5 if best else 3,
    )


def _label(axes: Axes, text: str, place: float, height: float, **style: Any) -> None:
    """Write a text beside an axis."""
    axes.annotate(
        text,
        (place, height),
        xytext=(5, 0),
        textcoords="offset points",
        fontsize=8,
        va="center",
        **style,
    )


def progress_picture(tuned: TuningResult) -> Picture:
    """Draw the metric of every trial in the order they were tried, and the best so far."""
    config = tuned.config
    trials = sorted(tuned.trials, key=lambda trial: trial.number)
    scores = np.array([trial.score(config) for trial in trials])
    known = np.flatnonzero(np.isfinite(scores))
    so_far = np.abs(np.maximum.accumulate(scores))
    shown = np.abs(np.sort(scores[known])[::-1])
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    axes = figure.subplots()
    for end, color, label in (
        ("finished", "#2a6f97", "trained to the end"),
        ("stopped", STOPPED, "stopped early"),
    ):
        if not (some := [place for place in known if trials[place].end == end]):
            continue
        axes.plot(some, np.abs(scores[some]), "o", color=color, label=label, markersize=5)
    lost = [place for place in range(len(trials)) if place not in known]
    if lost:
        axes.plot(lost, [_worst_shown(shown)] * len(lost), "x", color=BAD, label="diverged, failed")
    first = known[0]
    axes.step(range(first, len(trials)), so_far[first:], where="post", color="black", label="best so far")
    _limit(axes, shown)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(f"validation {config.training.monitor}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return (
        "Best so far",
        png(figure),
        "Trials in the order they were drawn; trial 0 has the file's own settings. Much worse ones lie outside.",
    )


def curves_picture(tuned: TuningResult) -> Picture:
    """Draw the monitored metric of every trial over epochs."""
    config = tuned.config
    monitor = config.training.monitor
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for place in reversed(range(len(tuned.trials))):
        trial = tuned.trials[place]
        curve = [metrics_of(entry)[monitor] for entry in trial.history]
        color = {"stopped": STOPPED, "diverged": BAD, "failed": BAD}.get(trial.end or "failed", "#2a6f97")
        best = place == 0
        axes.plot(
            [entry["epoch"] for entry in trial.history],
            curve,
            color="black" if best else color,
            linewidth=2.4 if best else 1.1,
            marker="." if len(curve) > 1 else "o",
            markersize=4,
            alpha=1.0 if best else 0.8,
        )
    _limit(axes, np.abs([trial.score(config) for trial in tuned.trials if trial.best(config)]))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {monitor}")
    axes.grid(alpha=0.3)
    note = "Black: the best. Blue: trained to the end. Grey: stopped early, where the line ends. Red: diverged or failed."
    return "Learning curves", png(figure), note


def _worst_shown(values: np.ndarray) -> float:
    """Return where an axis of the metric ends, of values sorted from the best: a few bad trials would hide the rest."""
    best, worst = values[0], values[-1]
    end = best + SHOWN * (np.median(values) - best)
    return float(end if 0 < abs(end - best) < abs(worst - best) else worst)


def _limit(axes: Axes, values: np.ndarray) -> None:
    """Show the metric from the best value to the worst that is shown."""
    best, worst = float(values[0]), _worst_shown(values)
    margin = 0.06 * abs(best - worst) or 0.01
    axes.set_ylim(min(best, worst) - margin, max(best, worst) + margin)


def value_of(config: ExperimentConfig, key: str) -> Any:
    """Return the value of a dotted key of a search in a configuration; None where features differ in it."""
    section, *path = key.split(".")
    raw = config.model_dump(mode="json")
    if section == "features":
        values = [feature.get(path[0]) for feature in raw["features"] if feature["kind"] == "categorical"]
        return values[0] if all(value == values[0] for value in values) else None
    value: Any = raw[section]
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
