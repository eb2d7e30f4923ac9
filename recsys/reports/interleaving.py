"""The report of an interleaving: a sentence, tables in a terminal and in a self-contained HTML file, a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.evaluation.online.interleaving import Interleaving
from recsys.reports.page import Picture, drawn, png, share, write_page
from recsys.reports.sheet import Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#33608c", "#b8433a")


def interleaving_dict(result: Interleaving) -> dict[str, Any]:
    """Return plain values for JSON, with the sentence."""
    return {**result.to_dict(), "summary": interleaving_summary(result)}


def interleaving_summary(result: Interleaving) -> str:
    """Return the verdict in a sentence."""
    first, second = result.teams
    size = f"{result.impressions:,} lists" + ("" if result.users is None else f" of {result.users:,} users")
    preference = f"preference {_points(result.preference)} points"
    if result.interval is not None:
        ends = " to ".join(map(_points, result.interval))
        preference += f" ({result.level:.0%} interval {ends}, p = {result.p_value:.2g})"
    texts = {
        "first": f"{first} against {second}: users prefer {first}, {preference}",
        "second": f"{first} against {second}: users prefer {second}, {preference}",
        "undecided": f"{first} against {second}: not told apart, {preference}",
        "unreliable": f"{first} against {second}: no verdict, {result.note}: {preference}",
        "broken": f"{first} against {second}: no verdict, {result.note}",
    }
    return f"{texts[result.verdict]}; {size}."


def interleaving_sheets(result: Interleaving) -> list[Sheet]:
    """Return the credit of the teams, and the preference with its tests."""
    return [_credit_sheet(result), _preference_sheet(result)]


def _credit_sheet(result: Interleaving) -> Sheet:
    rows = [
        (
            team,
            f"{result.shown[t]:,}",
            f"{result.clicks[t]:,}",
            share(result.clicks[t] / result.shown[t]) if result.shown[t] else "–",
            f"{result.wins[t]:,}",
            share(result.wins[t] / result.impressions),
            f"{result.preferring[t]:,}",
            f"{result.first_places[t]:,}",
        )
        for t, team in enumerate(result.teams)
    ]
    return Sheet(
        "Credit",
        (
            *("team", "shown", "clicks", "click\nrate", "lists\nwon", "share"),
            *(f"{_unit(result)}\npreferring", "lists\nopened"),
        ),
        rows,
        f"{result.impressions:,} lists: {result.ties:,} tied with clicks, {result.without_click:,} without a click. A "
        "list is won by the team with more clicks.",
    )


def _preference_sheet(result: Interleaving) -> Sheet:
    row = (
        result.teams[0],
        _points(result.preference),
        "–" if result.interval is None else " to ".join(map(_points, result.interval)),
        "–" if result.p_value is None else f"{result.p_value:.3g}",
        f"{result.sign_p:.3g}",
        f"{result.coin_p:.3g}",
    )
    return Sheet(
        "Preference",
        ("for", "preference", f"{result.level:.0%} interval", "p", "sign test", "fair coin"),
        [row],
        "Preference: share of lists won, ties counted half, above one half, in percentage points. p: Student's t"
        + (", impressions of a user together" if result.users is not None else "")
        + f". Sign test: exact, of {_unit(result)} that prefer either. Fair coin: p-value of how many lists each team "
        "opened; below 0.001 the drafts, or the log, are broken.",
    )


def _unit(result: Interleaving) -> str:
    return "impressions" if result.users is None else "users"


def write_interleaving(result: Interleaving, path: Path | str) -> None:
    """Write sentence, tables and picture as one HTML file that needs nothing beside it."""
    write_page(
        path,
        f"Interleaving of {' and '.join(result.teams)}",
        [
            interleaving_summary(result),
            f"Log: {result.source}. Team draft (Radlinski, Kurup & Joachims 2008).",
        ],
        interleaving_sheets(result),
        drawn(lambda: [_picture(result)]),
    )


def _points(value: float) -> str:
    """Return a share in percentage points, with a sign."""
    return f"{100 * value:+.2f}"


def _picture(result: Interleaving) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_shares(left, result)
    _draw_click_rates(right, result)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
    note = f"{result.teams[0]} is blue, {result.teams[1]} red, lists that neither won grey."
    return "Who wins, and where", png(figure), note


def _draw_shares(axes: "Axes", result: Interleaving) -> None:
    """Draw the lists won, tied and won, and the preference with its interval below."""
    counts = [result.wins[0], result.ties + result.without_click, result.wins[1]]
    start = 0.0
    for count, color, text in zip(
        counts, (COLORS[0], "#c9ced6", COLORS[1]), ("white", "black", "white"), strict=True
    ):
        width = count / result.impressions
        axes.barh(1, width, 0.5, left=start, color=color)
        if width > 0.07:
            axes.text(start + width / 2, 1, f"{width:.1%}", ha="center", va="center", fontsize=8, color=text)
        start += width
    centre = 0.5 + result.preference
    half = 0.0 if result.interval is None else result.interval[1] - result.preference
    axes.errorbar([centre], [0], xerr=[half], fmt="o", color="#222", capsize=4)
    axes.axvline(0.5, color="grey", linestyle="--", linewidth=1)
    axes.set_yticks([1, 0], ["lists won", f"share of {result.teams[0]},\nties half"])
    axes.set(ylim=(-0.6, 1.6), xlim=(0, 1))
    axes.set_title("Won, tied, won", fontsize=9)


def _draw_click_rates(axes: "Axes", result: Interleaving) -> None:
    """Draw the click rate of each team by position."""
    places = np.arange(len(result.positions))
    for t, (team, rates) in enumerate(zip(result.teams, result.click_rates, strict=True)):
        values = np.array([np.nan if rate is None else rate for rate in rates])
        axes.plot(places, values, "o-", color=COLORS[t], markersize=4, label=team)
    step = max(1, len(places) // 10)
    axes.set_xticks(places[::step], result.positions[::step])
    axes.set(xlabel="position", ylabel="click rate")
    axes.set_ylim(bottom=0)
    axes.set_title("Click rate by position", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(axis="y", alpha=0.3)
