"""The pictures of a comparison: effects with intervals, seeds, slices, and the path over days."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from recsys.comparison.judge import DailyPath, Judgement
from recsys.evaluation.arms.slices import SliceEffect
from recsys.reports.page import Picture, png
from recsys.reports.sheet import TITLES

matplotlib.use("Agg")

COLORS = {"better": "#11702d", "worse": "#b8433a", "undecided": "#6b7280"}
BETTER = {  # of differences
    "auc": "AUC, higher is better",
    "gauc": "GAUC, higher is better",
    "logloss": "logloss, lower is better",
    "ne": "NE, lower is better",
    "calibration": "calibration's distance from 1, lower is better",
}
COLUMNS = 3  # of panels
MARKERS = "osD^vP*X"
SHRUNK = "#4b5563"


def quality_against_bytes(
    judged: Judgement,
    sizes: Mapping[str, Mapping[str, int]],
    families: Mapping[str, str],
    best_possible: float | None = None,
) -> Picture:
    """Draw the AUC of arms on test over their resident bytes, with intervals.

    Args:
        judged: The arms.
        sizes: Their bytes by kind, by arm.
        families: Names of arms without their budgets: a line joins those of one name.
        best_possible: AUC of the generator's own probabilities, where it is known.
    """
    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for arm in judged.comparison.arms:
        place = (sizes[arm.name]["total"], arm.auc, *arm.auc_interval)
        points.setdefault(families[arm.name], []).append(place)
    for number, (name, places) in enumerate(points.items()):
        x, y, low, high = np.array(sorted(places)).T
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(x, y, [y - low, high - y], label=name, marker=marker, capsize=3, alpha=0.85)
    if best_possible is not None:
        axes.axhline(best_possible, color="black", linestyle=":", label="best possible")
    full = next(iter(sizes.values()))["full_table"]
    axes.axvline(full, color="grey", linewidth=0.8, linestyle="--", label="bytes of the full table")
    axes.set(xscale="log", xlabel="resident bytes in training", ylabel="test AUC")
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.0))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=9)
    note = (
        f"Up is better, left is smaller. AUC on test, mean over seeds, with {judged.comparison.level:.0%} intervals over "
        "rows and seeds; they overlap more than paired differences do, so the verdict is in the table."
    )
    return "Quality against bytes", png(figure), note


def comparison_pictures(judged: Judgement) -> list[Picture]:
    """Draw all pictures that show something."""
    pictures = [_effects_picture(judged)]
    if any(len(values) > 1 for values in judged.seeds["auc"].values()):
        pictures.append(_seeds_picture(judged))
    pictures += [
        _slices_picture(judged, dimension)
        for dimension in judged.sliced.sizes
        if _effects_of(judged, dimension)
    ]
    if judged.paths:
        pictures.append(_paths_picture(judged.paths))
    return pictures


def _effects_picture(judged: Judgement) -> Picture:
    """Draw a panel for each metric, for their scales differ; a line for each arm."""
    metrics = list(dict.fromkeys(d.metric for d in judged.comparison.differences))
    arms = list(dict.fromkeys(d.arm for d in judged.comparison.differences))
    figure, panels = _panels(len(metrics), 0.9 + 0.34 * max(len(arms), 2))
    for number, (axes, metric) in enumerate(zip(panels, metrics, strict=True)):
        for place, d in enumerate(d for d in judged.comparison.differences if d.metric == metric):
            _interval(axes, place, d.estimate, d.interval or (d.estimate, d.estimate), COLORS[d.verdict])
        if metric == "auc" and (effect := judged.power[0].effect) is not None:
            axes.axvspan(-effect, effect, color="#9ab8d6", alpha=0.3, linewidth=0)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(BETTER[metric], fontsize=9)
        _rows(axes, arms, labelled=number % COLUMNS == 0)
    figure.supxlabel(f"difference from {judged.comparison.baseline}", fontsize=9)
    note = (
        f"{judged.comparison.level:.0%} intervals over rows and, of several, seeds; not adjusted for the number of arms; "
        "coloured where the Holm-adjusted test decides; a point alone has too little data for a verdict."
        + (" Shaded: differences in AUC too small to matter." if judged.power[0].effect is not None else "")
    )
    return "Effects", png(figure), note


def _seeds_picture(judged: Judgement) -> Picture:
    arms = [arm.name for arm in judged.comparison.arms]
    figure, panels = _panels(len(judged.seeds), 0.9 + 0.34 * max(len(arms), 2))
    for number, (axes, (metric, values)) in enumerate(zip(panels, judged.seeds.items(), strict=True)):
        for place, name in enumerate(arms):
            axes.plot(
                values[name], [place] * len(values[name]), "o", color="#33608c", alpha=0.6, markersize=5
            )
            axes.plot(np.mean(values[name]), place, "|", color="black", markersize=14)
        axes.set_title(TITLES[metric], fontsize=9)
        _rows(axes, arms, labelled=number == 0)
    note = "One point for each training seed, on the same test rows; the line is their mean."
    return "Spread over training seeds", png(figure), note


def _slices_picture(judged: Judgement, dimension: str) -> Picture:
    """Draw a panel for each arm: the raw effect of every slice, and its shrunk one."""
    effects = _effects_of(judged, dimension)
    arms = list(dict.fromkeys(effect.arm for effect in effects))
    names = list(dict.fromkeys(effect.slice for effect in effects))
    figure, panels = _panels(len(arms), 0.9 + 0.36 * max(len(names), 2))
    overall = {d.arm: d.estimate for d in judged.auc}
    for number, (axes, arm) in enumerate(zip(panels, arms, strict=True)):
        for effect in (effect for effect in effects if effect.arm == arm):
            place = names.index(effect.slice)
            color = _slice_color(effect, judged.comparison.level)
            _interval(axes, place - 0.15, effect.estimate, effect.interval, color, size=5)
            _interval(axes, place + 0.15, effect.shrunk, effect.shrunk_interval, SHRUNK, size=4)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.axvline(overall[arm], color="#33608c", linestyle=":", linewidth=1)
        axes.set_title(arm, fontsize=9)
        _rows(axes, names, labelled=number % COLUMNS == 0)
    figure.supxlabel(f"difference in AUC from {judged.comparison.baseline}", fontsize=9)
    skipped = sum(skip.dimension == dimension for skip in judged.sliced.skipped)
    note = (
        "Above: the slice alone, coloured where the Holm-adjusted test over all slices and arms decides. "
        "Below, dark: shrunk towards their mean, of four or more. Dotted: all rows."
        + (f" Skipped, for reasons that the table gives: {skipped}." if skipped else "")
    )
    return f"Slices by {dimension}", png(figure), note


def _paths_picture(paths: Sequence[DailyPath]) -> Picture:
    figure, panels = _panels(len(paths), 2.9, width=4.2)
    for axes, path in zip(panels, paths, strict=True):
        _draw_path(axes, path)
    figure.supylabel("difference in logloss so far", fontsize=9)
    note = (
        "Line: the difference on all rows so far, below 0 the arm is better. Band: the confidence sequence, which holds on "
        "all days at once, so that it may be looked at every day. Grey dashes: the interval of one look at an end planned "
        "beforehand. Dotted: the day of decision. Early bands beyond the picture are cut. "
        "It judges these trained models: the spread over training seeds is not in it."
    )
    return "Day by day", png(figure), note


def _draw_path(axes: Axes, path: DailyPath) -> None:
    """Draw the sequence of one arm over the days on which it has an interval."""
    sequence = path.sequence
    looks = [
        day for day, interval in zip(sequence.days, sequence.intervals, strict=True) if interval is not None
    ]
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=7)
    word = {-1: "better", 1: "worse", 0: "undecided"}[sequence.direction]
    axes.set_title(f"{path.arm}: {word}, these models", fontsize=9)
    ticks = np.unique(np.linspace(0, len(path.days) - 1, min(len(path.days), 5)).astype(int)).tolist()
    axes.set_xticks(ticks, [path.days[day].rpartition(" to ")[2] for day in ticks], rotation=25, ha="right")
    axes.set_xlim(-0.5, len(path.days) - 0.5)
    if not looks:
        axes.text(0.5, 0.6, "too few users", ha="center", transform=axes.transAxes)
        return
    color = COLORS[word]
    value = np.array([sequence.estimates[day] for day in looks])
    low, high = np.array([sequence.intervals[day] for day in looks], float).T
    once = 1.96 * np.array([sequence.standard_errors[day] for day in looks], float)
    axes.fill_between(looks, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(looks, value, color=color, marker=".", markersize=4)
    for sign in (-1, 1):
        axes.plot(looks, value + sign * once, color="grey", linewidth=0.8, linestyle="--")
    if sequence.decided_on is not None:
        axes.axvline(sequence.decided_on, color=color, linestyle=":")
    middle = len(looks) // 4
    bottom, top = min(low[middle:].min(), 0.0), max(high[middle:].max(), 0.0)
    axes.set_ylim(bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom))


def _effects_of(judged: Judgement, dimension: str) -> list[SliceEffect]:
    """Return the effects in AUC of a dimension's slices."""
    return [e for e in judged.sliced.effects if (e.dimension, e.metric) == (dimension, "auc")]


def _slice_color(effect: SliceEffect, level: float) -> str:
    """Return the colour of the slice alone, which is what the test is of."""
    if effect.adjusted_p_value >= 1 - level:
        return "#c3c7cd"
    return COLORS["better" if effect.estimate > 0 else "worse"]


def _panels(count: int, height: float, width: float = 3.4) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(max(1.4 + width * columns, 6.0), height * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for unused in panels[count:]:
        unused.set_axis_off()
    return figure, list(panels[:count])


def _interval(
    axes: Axes, place: float, value: float, ends: tuple[float, float], color: str, size: float = 6
) -> None:
    axes.plot(ends, [place, place], color=color, linewidth=2)
    axes.plot(value, place, "o", color=color, markersize=size)


def _rows(axes: Axes, names: Sequence[str], labelled: bool) -> None:
    """Name the lines from top to bottom; of panels side by side the first has the names."""
    axes.set_yticks(range(len(names)), names if labelled else [""] * len(names), fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", alpha=0.3)
