"""The pictures of an online test: effects with intervals, and the confidence sequences over days."""

from datetime import date
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from recsys.evaluation.online.result import Effect, OnlineTest
from recsys.reports.online_words import decision, several_variants, verdict_word, with_display_names
from recsys.reports.page import Picture, png

COLUMNS = 2  # of panels
COLORS = {"higher": "#11702d", "lower": "#b8433a", "undecided": "#6b7280"}


def online_pictures(test: OnlineTest) -> list[Picture]:
    """Draw the effect with its interval of each metric and variant, and their sequences over days."""
    if not test.effects:
        return []
    test = with_display_names(test)
    pictures = [_effects_picture(test)]
    if test.days:
        pictures.append(_paths_picture(test))
    return pictures


def _effects_picture(test: OnlineTest) -> Picture:
    relative = all(effect.lift_interval is not None for effect in test.effects)
    figure = Figure(figsize=(8.5, 1.3 + 0.42 * max(len(test.effects), 2)), layout="constrained")
    axes = figure.subplots()
    for place, effect in enumerate(test.effects):
        value, (low, high) = _shown_effect(effect, relative)
        color = COLORS[effect.verdict]
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot(value, place, "o", color=color)
    axes.axvline(0, color="black", linewidth=0.8)
    if relative and test.worthwhile is not None:
        axes.axvspan(-test.worthwhile, test.worthwhile, color="#9ab8d6", alpha=0.25, linewidth=0)
    several = several_variants(test)
    labels = [f"{e.metric}, {e.variant}" if several else e.metric for e in test.effects]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    if relative:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"{'relative lift' if relative else 'difference in standard errors'} over {test.control}")
    axes.grid(axis="x", alpha=0.3)
    band = " Shaded: lifts too small to matter." if relative and test.worthwhile is not None else ""
    note = (
        f"{test.level:.0%} intervals of one look at the end, not adjusted for the number of comparisons; "
        f"coloured where the Holm-adjusted test decides.{band}"
    )
    return "Effects", png(figure), note


def _shown_effect(effect: Effect, relative: bool) -> tuple[float, tuple[float, float]]:
    """Return the lift with its interval, or, as all must share an axis, the difference in standard errors."""
    if relative:
        assert effect.lift is not None
        assert effect.lift_interval is not None
        return effect.lift, effect.lift_interval
    low, high = (end / effect.standard_error for end in effect.interval)
    return effect.difference / effect.standard_error, (low, high)


def _paths_picture(test: OnlineTest) -> Picture:
    lines = -(-len(test.effects) // COLUMNS)
    columns = min(COLUMNS, len(test.effects))
    figure = Figure(figsize=(max(5.2 * columns, 7.5), 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for unused in panels[len(test.effects) :]:
        unused.set_axis_off()
    for axes, effect in zip(panels, test.effects, strict=False):
        _draw_path(axes, effect)
        axes.set_title(f"{effect.metric}, {effect.variant}: {decision(effect)}", fontsize=9)
    note = (
        "Line: the difference so far, of totals per user or of ratios. Band: the confidence sequence, "
        f"{1 - test.effects[0].sequence.alpha:.4g} for all days of a panel at once"  # type: ignore[union-attr]
        f"{', so that all panels together err with ' + format(1 - test.level, '.0%') if len(test.effects) > 1 else ''}. "
        "Grey dashes: the interval of one look, which may not be looked at daily. Dotted: the day of decision. "
        "Early bands beyond the picture are cut."
    )
    return "Day by day", png(figure), note


def _draw_path(axes: Axes, effect: Effect) -> None:
    """Draw the sequence of one metric and variant over the days on which it has an interval."""
    sequence = effect.sequence
    assert sequence is not None
    looks = [i for i, interval in enumerate(sequence.intervals) if interval is not None]
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    x: Any = sequence.days if isinstance(sequence.days[0], date) else np.array(sequence.days)
    if not looks:
        axes.text(0.5, 0.6, "too few users with a value", ha="center", transform=axes.transAxes)
        axes.set_xlim(x[0], x[-1])
        return
    color = COLORS[verdict_word(effect)]
    days = [x[i] for i in looks]
    value = np.array([sequence.estimates[i] for i in looks])
    low, high = np.array([sequence.intervals[i] for i in looks]).T
    once = 1.96 * np.array([sequence.standard_errors[i] for i in looks], np.float64)
    axes.fill_between(days, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(days, value, color=color, marker=".", markersize=4)
    for sign in (-1, 1):
        axes.plot(days, value + sign * once, color="grey", linewidth=0.8, linestyle="--")
    if sequence.decided_on is not None:
        axes.axvline(sequence.decided_on, color=color, linestyle=":")
    middle = len(looks) // 4
    bottom, top = min(low[middle:].min(), 0.0), max(high[middle:].max(), 0.0)
    axes.set_ylim(bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom))
    if isinstance(sequence.days[0], date):
        axes.tick_params(axis="x", labelrotation=30)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("day", fontsize=8)
