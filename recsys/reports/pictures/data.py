"""The pictures of `reports.data`: each is a title, a PNG in base64, and what to see in it."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from recsys_pipelines.inspection.drift import Drift
from recsys_pipelines.inspection.psi import DRIFTED, SHIFTED, FeatureDrift
from recsys_pipelines.inspection.result import CategoricalReport, Inspection, NumericReport, Rate

matplotlib.use("Agg")

PANELS = 48  # of one picture
COLUMNS = 6
SPLIT_COLORS = {"train": "#9ab8d6", "validation": "#e8a33d", "test": "#b8433a"}
VERDICT_COLORS = {"stable": "#3a7d44", "shifted": "#e8a33d", "drifted": "#b8433a"}

Item = TypeVar("Item")
Picture = tuple[str, str, str]  # title, PNG in base64, what to see in it


def curves_picture(features: Sequence[CategoricalReport]) -> Picture:
    """Draw the counts of ids by rank, a panel for each feature."""

    def draw(axes: Axes, feature: CategoricalReport) -> None:
        rank, count = np.array(feature.skew.curve or [(1, 1)]).T
        axes.plot(rank, count, marker="." if len(rank) < 12 else None, color="#33608c")
        axes.set(xscale="log", yscale="log")
        axes.set_xlim(0.8, max(float(rank[-1]), 10.0) * 1.25)
        axes.set_ylim(0.7, max(float(count[0]), 10.0) * 1.6)
        zipf = "" if feature.skew.zipf is None else f", s = {feature.skew.zipf:.2f}"
        axes.set_title(f"{feature.name}: {feature.ids:,} ids{zipf}", fontsize=8)

    figure = _panels([f for f in features if f.ids], draw, "rank of the id", "impressions in training")
    note = "On logarithmic axes a power law is a straight line of slope -s. The flat end at 1 is the ids seen once."
    return "Counts of ids by rank", _png(figure), note + _left_out(sum(f.ids > 0 for f in features))


def deciles_picture(inspection: Inspection) -> Picture:
    """Draw the label rate by decile, a panel for each numeric column."""
    base = inspection.splits["train"].label.rate

    def draw(axes: Axes, column: NumericReport) -> None:
        places = [decile.number + 1 for decile in column.deciles]
        _with_intervals(axes, places, [decile.label for decile in column.deciles], "#33608c", "o-")
        _with_intervals(axes, [-1.5], [column.missing], "#b8433a", "s")
        axes.axhline(base or 0.0, color="grey", linewidth=0.8, linestyle="--")
        axes.set_title(column.name, fontsize=8)
        axes.set_xlim(-3.2, 10.7)
        axes.set_xticks([-1.5, 1, 5, 10], ["missing", "1", "5", "10"])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    figure = _panels(inspection.numeric, draw, "decile of training's values", "label rate")
    note = (
        "Training rows, with Wilson 95 % intervals; dashed: all of training. A value that many rows share takes the "
        "deciles it covers, and its point stands at the first."
    )
    return "Label rate by decile", _png(figure), note + _left_out(len(inspection.numeric))


def shares_pictures(title: str, shares: Mapping[str, Mapping[str, float | None]], note: str) -> list[Picture]:
    """Draw bars of a share in each split for the features that have any; no picture where none has."""
    shares = {name: by_split for name, by_split in shares.items() if any(by_split.values())}
    if not shares:
        return []
    figure = Figure(figsize=(9.5, 1.2 + 0.34 * max(len(shares), 2)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(SPLIT_COLORS)
    for number, (split, color) in enumerate(SPLIT_COLORS.items()):
        places = np.arange(len(shares)) + (number - 1) * height
        axes.barh(
            places, [by_split[split] or 0.0 for by_split in shares.values()], height, color=color, label=split
        )
    _name_bars(axes, list(shares))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("share of values")
    figure.legend(loc="outside upper right", ncols=3, fontsize=8)
    return [(title, _png(figure), f"{note} Features without one are left out.")]


def psi_picture(features: Sequence[FeatureDrift]) -> Picture:
    """Draw the PSI of each feature, as bars, with the two thresholds."""
    figure = Figure(figsize=(9.5, 1.3 + 0.26 * max(len(features), 2)), layout="constrained")
    axes = figure.subplots()
    places = range(len(features))
    colors = [VERDICT_COLORS[feature.verdict] for feature in features]
    axes.barh(places, [feature.psi for feature in features], 0.7, color=colors)
    chance = [feature.by_chance for feature in features]
    axes.plot([np.nan if c is None else c for c in chance], places, "k|", markersize=9, label="by chance")
    for limit, color in ((SHIFTED, VERDICT_COLORS["shifted"]), (DRIFTED, VERDICT_COLORS["drifted"])):
        axes.axvline(limit, color=color, linestyle="--", linewidth=1)
    _name_bars(axes, [feature.name for feature in features])
    axes.set_xlabel(f"population stability index (dashed: {SHIFTED} and {DRIFTED})")
    axes.legend(fontsize=8, loc="lower right")
    note = "A tick marks the PSI to be expected of two samples of one population: a bar that ends near it is no drift."
    return "Population stability index", _png(figure), note


def new_ids_picture(features: Sequence[FeatureDrift]) -> Picture:
    """Draw impressions of new and of vanished ids, for the features (largest PSI first) that have any."""
    features = [f for f in features if f.new_impressions or f.vanished_impressions]
    figure = Figure(figsize=(9.5, 1.3 + 0.34 * max(len(features), 2)), layout="constrained")
    axes = figure.subplots()
    bars: list[tuple[str, str, Callable[[FeatureDrift], float | None]]] = [
        ("new, of B's impressions", "#b8433a", lambda feature: feature.new_impressions),
        ("vanished, of A's impressions", "#33608c", lambda feature: feature.vanished_impressions),
    ]
    for number, (label, color, share) in enumerate(bars):
        places = np.arange(len(features)) + (number - 0.5) * 0.4
        axes.barh(places, [share(feature) or 0.0 for feature in features], 0.4, color=color, label=label)
    _name_bars(axes, [feature.name for feature in features])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    note = "Impressions of ids that training rows of the other set do not have. Features without one are left out."
    return "New and vanished ids", _png(figure), note


def labels_picture(drift: Drift) -> Picture:
    """Draw the label rates of both sets, by split."""
    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axes = figure.subplots()
    for number, (name, color) in enumerate((("A", "#33608c"), ("B", "#b8433a"))):
        rates = [pair[number] for pair in drift.splits.values()]
        places = [place + (number - 0.5) * 0.2 for place in range(len(rates))]
        _with_intervals(axes, places, rates, color, "o", name)
    axes.set_xticks(range(len(drift.splits)), list(drift.splits))
    axes.set_xlim(-0.6, len(drift.splits) - 0.4)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("label rate")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return "Label rates", _png(figure), "With Wilson 95 % intervals, of independent rows."


def _name_bars(axes: Axes, names: Sequence[str]) -> None:
    """Write names beside horizontal bars, the first at the top."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _with_intervals(
    axes: Axes,
    places: Sequence[float],
    rates: Sequence[Rate],
    color: str,
    style: str,
    label: str | None = None,
) -> None:
    points = [
        (place, rate.rate, rate.rate - rate.interval[0], rate.interval[1] - rate.rate)
        for place, rate in zip(places, rates, strict=True)
        if rate.rate is not None and rate.interval is not None
    ]
    if points:
        x, y, below, above = np.array(points).T
        errors = np.maximum([below, above], 0)
        axes.errorbar(
            x, y, yerr=errors, fmt=style, color=color, markersize=3.5, linewidth=1, capsize=2, label=label
        )


def _panels(items: Sequence[Item], draw: Callable[[Axes, Item], None], xlabel: str, ylabel: str) -> Figure:
    """Draw small multiples of the first `PANELS` items."""
    items = items[:PANELS]
    columns = min(COLUMNS, max(len(items), 1))
    lines = max(-(-len(items) // columns), 1)
    figure = Figure(figsize=(max(2.3 * columns, 3.5), 2.0 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, item in zip(panels, items, strict=False):
        draw(axes, item)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    for unused in panels[len(items) :]:
        unused.set_axis_off()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure


def _left_out(count: int) -> str:
    return f" The first {PANELS} of {count} are shown." if count > PANELS else ""


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
