"""Pictures of a search for small tables: what each field keeps, quality against bytes, and how the searches went.

Qualities are drawn as they are searched, so that up is better: of logloss the ticks show the value, the axis is turned.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from recsys.compression.evolution import Outcome, Scored
from recsys.compression.search import CompressionResult
from recsys.reports.page import Picture, png
from recsys_pipelines.features import FIRST_CODE

NAMES = {"evolution": "evolution", "random": "random search", "uniform": "uniform shrink"}
COLORS = {"evolution": "#2a6f97", "random": "#c9821b", "uniform": "#7a5195"}
MARKERS = {"evolution": "*", "random": "s", "uniform": "D"}
SHOWN = 3.0  # distances of the evolution's best from the very best that an axis of qualities shows
LONGEST = 28  # characters of a field's name


def evaluated(result: CompressionResult) -> Outcome:
    """Return every genome that any of the searches evaluated, once, and all that the learner keeps."""
    everything = result.space.everything()
    every = [scored for search in (*result.outcomes.values(), result.front) for scored in search.evaluated]
    every.append(Scored(everything, result.full, result.space.bytes(everything)))
    return Outcome(tuple({scored.genome: scored for scored in every}.values()))


def fields_picture(result: CompressionResult, shares: Mapping[str, float | None]) -> Picture:
    """Draw kept ids and widths, a line a field; `shares` of impressions whose id keeps a row are None where unknown."""
    space, best = result.space, result.best
    places = np.arange(len(space.features))
    figure = Figure(figsize=(10.5, 1.5 + 0.27 * max(len(places), 2)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    ids = [space.num_codes[name] - FIRST_CODE for name in space.features]
    kept_shares = [rows / max(n, 1) for rows, n in zip(best.rows, ids, strict=True)]
    left.barh(places, kept_shares, color=COLORS["evolution"], height=0.72, label="ids that keep a row")
    known = [place for place in places if shares[space.features[place]] is not None]
    left.plot(
        [shares[space.features[place]] for place in known],
        known,
        "o",
        color="black",
        markersize=4.5,
        markerfacecolor="white",
        label="impressions whose id keeps a row",
    )
    for place, rows, n in zip(places, best.rows, ids, strict=True):
        left.text(1.03, place, f"{rows:,} of {n:,}", va="center", fontsize=8)
    left.set_xlim(0, 1.36)
    left.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    left.set_yticks(places, [_short(name) for name in space.features], fontsize=8)
    left.set_ylim(len(places) - 0.4, -0.6)
    left.set_xlabel("share of the field")
    right.barh(places, best.widths, color="#8aa9a0", height=0.72)
    for place, width in zip(places, best.widths, strict=True):
        right.text(
            width + 0.015 * space.embedding_dim, place, str(width or "given up"), va="center", fontsize=8
        )
    right.set_xlim(0, 1.12 * space.embedding_dim)
    right.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 4, 5, 8, 10]))
    right.set_xlabel(f"width, of {space.embedding_dim}")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelsize=8)
    figure.legend(*left.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=2)
    note = (
        "Left: the bar is the share of a field's ids that keep a row; all others share the row of unknown ids. The ring is "
        "the share of validation impressions of known ids whose id keeps its row: far right of a short bar, few ids do "
        "nearly all of the work. Right: width of the rows; a field that is given up has none."
    )
    return "What each field keeps", png(figure), note


def trade_picture(result: CompressionResult) -> Picture:
    """Draw validation quality against bytes of everything evaluated, the Pareto front, and the best of each search."""
    every = evaluated(result)
    bytes_, quality = np.array([(scored.bytes, scored.quality) for scored in every.evaluated]).T
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(bytes_, quality, "o", color="#8a94a0", markersize=3.5, alpha=0.35, label="evaluated")
    x, y = np.array([(scored.bytes, scored.quality) for scored in every.front]).T
    x, y = np.append(x, bytes_.max()), np.append(y, y[-1])  # beyond the last, more bytes buy nothing
    axes.plot(x, y, color="black", linewidth=1.2, marker=".", drawstyle="steps-post", label="Pareto front")
    for name, outcome in result.outcomes.items():
        evolved = name == "evolution"
        axes.plot(
            outcome.best.bytes,
            outcome.best.quality,
            MARKERS[name],
            color=COLORS[name],
            markerfacecolor=COLORS[name] if evolved else "none",
            markersize=17 if evolved else 10,
            markeredgecolor="white" if evolved else COLORS[name],
            markeredgewidth=0.8 if evolved else 2,
            label=f"best of {NAMES[name]}",
            zorder=5 if evolved else 4,
        )
    axes.axvline(result.budget_bytes, color="#b8433a", linewidth=1, linestyle="--", label="budget")
    floor = _quality_axis(axes, result)
    shown = quality >= floor
    axes.set_xlim(bytes_[shown].min() / 1.15, bytes_.max() * 1.15)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("resident bytes in training")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4)
    below = int((~shown).sum())
    note = (
        "A grey point is a genome, judged by the learner's weights and not trained. The black steps join those that no "
        "other beats in quality without more bytes: where they are flat, bytes buy nothing. How far the star is below the "
        "green line is the price of the budget, on the rows that chose it; above it, pruning helps on these rows."
        + (f" {below:,} genomes that are worse lie below the picture." if below else "")
    )
    return "Quality against bytes, on validation", png(figure), note


def progress_picture(result: CompressionResult) -> Picture:
    """Draw the best quality so far by the number of evaluations, a line a search."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    axes = figure.subplots()
    for name, outcome in result.outcomes.items():
        numbers, qualities, _ = zip(*outcome.history, strict=True)
        axes.plot(
            [*numbers, outcome.evaluations],
            [*qualities, qualities[-1]],
            color=COLORS[name],
            linewidth=3 if name == "evolution" else 1.5,
            drawstyle="steps-post",
            marker="o",
            markersize=3,
            markevery=range(len(numbers)),
            label=f"{NAMES[name]}, {outcome.evaluations:,} evaluations",
        )
    _quality_axis(axes, result)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("genomes evaluated, all within the budget")
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=4)
    note = (
        "The evolution pays where its line ends above the others, which may evaluate as many genomes and end early only "
        "where they run out of new ones. Its first points are cuts by the learner's scores; the rise after them is what "
        "evolving adds. What begins below the picture began worse."
    )
    return "Progress of the searches", png(figure), note


def _quality_axis(axes: Axes, result: CompressionResult) -> float:
    """Mark all that the learner keeps, and show what is near it: many tiny tables are so bad that they would hide the rest.

    The axis goes down to the best of every search, and to some distances of the evolution's from the top; return its end.
    """
    every = evaluated(result)
    top, worst = every.best.quality, every.front[0].quality
    bests = [outcome.best.quality for outcome in result.outcomes.values()]
    distance = max(top - bests[0], (top - worst) / 10)
    floor = min(*bests, max(top - SHOWN * distance, worst))
    margin = 0.06 * (top - floor) or 0.01
    axes.set_ylim(floor - margin, top + margin)
    axes.axhline(result.full, color="#3a7d44", linewidth=1, linestyle=":", label="all that the learner keeps")
    axes.set_ylabel("validation AUC")
    axes.grid(alpha=0.3)
    return floor - margin


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
