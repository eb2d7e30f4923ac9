"""The report of a replay: a sentence, a table in a terminal and in a self-contained HTML file, a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from recsys.evaluation.off_policy.replay import Replay, Replayed
from recsys.reports.page import DAGGER, Picture, drawn, interval, number, png, share, write_page
from recsys.reports.sheet import Sheet


def replay_dict(result: Replay) -> dict[str, Any]:
    """Return plain values for JSON, with the sentence."""
    return {**result.to_dict(), "summary": replay_summary(result)}


def replay_summary(result: Replay) -> str:
    """Return the verdict in a sentence."""
    whole = result.overall
    against = f"{result.policy} against the uniform policy that wrote {result.source}"
    matched = f"{whole.matched:,} of {whole.rows:,} rows kept ({share(whole.matched / whole.rows)})"
    if whole.interval is None or whole.value is None:
        return f"{against}: no verdict, {whole.note}; {matched}."
    worth = (
        f"{number(whole.value)} by replay ({result.level:.0%} interval {interval(whole.interval)}), "
        f"logged {number(whole.logged_value)}"
    )
    if result.verdict == "unreliable":
        return f"{against}: no verdict, {whole.note}: {worth}; {matched}."
    assert whole.difference is not None
    assert whole.difference_interval is not None
    change = f"difference {number(whole.difference, '+')} ({interval(whole.difference_interval, '+')})"
    word = "not told apart from it" if result.verdict == "undecided" else result.verdict
    return f"{against}: {word}, {worth}, {change}; {matched}."


def replay_sheets(result: Replay) -> list[Sheet]:
    """Return one table: overall, and by position where positions differ."""
    clusters = result.overall.clusters is not None
    headers: tuple[str, ...] = (
        "rows of",
        "rows",
        "kept",
        "expected",
        *(("users\nkept",) if clusters else ()),
    )
    headers += (
        "effective\nrewards",
        "value",
        f"{result.level:.0%} interval",
        "logged",
        "against logged",
    )
    note = (
        f"{result.actions} actions, shown uniformly. Kept: rows whose logged action the target chooses; expected: the sum "
        "of propensities. Their mean reward is unbiased for the target (Li et al. 2011). Intervals: Student's t"
        + (", rows of a user together." if clusters else ".")
    )
    remarks: dict[str, list[str]] = {}
    for part in (result.overall, *result.positions):
        if part.note:
            remarks.setdefault(part.note, []).append(part.name)
    note += "".join(f" {', '.join(names)}: {remark}." for remark, names in remarks.items())
    note += f" {DAGGER} not to be relied on." if remarks else ""
    return [Sheet("Replay", headers, [_row(part) for part in (result.overall, *result.positions)], note)]


def write_replay(result: Replay, path: Path | str) -> None:
    """Write sentence, table and picture as one HTML file that needs nothing beside it."""
    write_page(
        path,
        f"Replay of {result.policy}",
        [replay_summary(result), f"Draws of the target: seed {result.seed}."],
        replay_sheets(result),
        [] if result.overall.value is None else drawn(lambda: [_picture(result)]),
    )


def _row(part: Replayed) -> tuple[str, ...]:
    against = "–"
    if part.difference is not None and part.difference_interval is not None:
        against = f"{number(part.difference, '+')} ({interval(part.difference_interval, '+')})"
    return (
        f"{part.name} {DAGGER}" if part.note else part.name,
        f"{part.rows:,}",
        f"{part.matched:,}",
        f"{part.expected:,.1f}",
        *(() if part.clusters is None else (f"{part.clusters:,}",)),
        f"{part.effective_rewards:,.1f}",
        "–" if part.value is None else number(part.value),
        "–" if part.interval is None else interval(part.interval),
        number(part.logged_value),
        against,
    )


def _picture(result: Replay) -> Picture:
    from matplotlib.figure import Figure

    parts = [part for part in (result.overall, *result.positions) if part.value is not None]
    figure = Figure(figsize=(7.5, 1.4 + 0.42 * len(parts)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(parts))
    value = np.array([part.value for part in parts])
    low, high = np.array([part.interval or (part.value, part.value) for part in parts]).T
    errors = np.maximum([value - low, high - value], 0)
    axes.errorbar(value, places, xerr=errors, fmt="o", color="#33608c", capsize=3, label="target, kept rows")
    logged = [part.logged_value for part in parts]
    axes.plot(logged, places, "D", color="grey", markersize=5, label="uniform policy, all rows")
    axes.set_yticks(places, [part.name for part in parts])
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlabel("mean reward")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=2, fontsize=8)
    note = f"{result.level:.0%} intervals; a point without one has too few kept rewards to estimate an error."
    return "Mean rewards", png(figure), note
