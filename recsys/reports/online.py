"""What `recsys abtest` shows: tables for a terminal, and a self-contained HTML file with pictures."""

from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from recsys.evaluation.online.experiment import Effect, OnlineTest
from recsys.evaluation.online.log import printed
from recsys.reports.page import Picture, png, write_html
from recsys.reports.sheet import Sheet

COLUMNS = 2  # of panels
COLORS = {"higher": "#11702d", "lower": "#b8433a", "undecided": "#6b7280"}


def write_online_report(test: OnlineTest, path: Path, source: str = "") -> None:
    """Render `test` into a self-contained HTML file, written under a temporary name first."""
    write_html(
        path,
        "online.html.j2",
        title="A/B test" + (f" of {source}" if source else ""),
        summary=summary(test),
        verdicts=verdicts(test),
        sheets=online_sheets(test),
        pictures=online_pictures(test),
        passed=test.sample_ratio.passed,
    )


def online_json(test: OnlineTest) -> dict[str, Any]:
    """Everything as plain values, with the sentences."""
    return {"summary": summary(test), "verdicts": verdicts(test), **test.to_dict()}


def summary(test: OnlineTest) -> str:
    """Say in a few sentences how the whole test ended."""
    test, alike = _printed(test), _alike(test)
    ratio = test.sample_ratio
    if not ratio.passed:
        seen = ", ".join(f"{name} {count:,}" for name, count in ratio.users.items())
        wanted = ":".join(f"{share:.4g}" for share in ratio.expected.values())
        empty = "".join(f"{name} has 0 users. " for name, count in ratio.users.items() if count == 0)
        return (
            f"No verdict: the users split as {seen}, which is not {wanted} (chi-square p = {ratio.p_value:.2g}). {empty}"
            "Users are missing from a variant, or assigned otherwise than planned: find out why before reading any metric."
            f"{alike}"
        )
    counts = {word: [e for e in test.effects if _word(e) == word] for word in COLORS}
    names = {
        word: ", ".join(f"{e.metric} ({e.variant})" if _several(test) else e.metric for e in effects)
        for word, effects in counts.items()
    }
    parts = [f"{word}: {names[word]}" for word in ("higher", "lower") if counts[word]]
    if counts["undecided"]:
        parts.append(f"undecided: {names['undecided']}")
    how = (
        f"looked at on {len(test.days)} days, an error of {1 - test.level:.0%} over all looks and comparisons"
        if test.days
        else f"one look, p-values by Holm over {len(test.effects)} comparisons"
        if len(test.effects) > 1
        else "one look"
    )
    return f"Against {test.control}: {'; '.join(parts)} ({how}).{alike}"


def verdicts(test: OnlineTest) -> list[str]:
    """One sentence per metric and variant; none where the sample ratio failed."""
    test = _printed(test)
    return [_sentence(effect, test) for effect in test.effects]


def online_sheets(test: OnlineTest) -> list[Sheet]:
    """Sample ratio; then what the test could find, what it found, and the path over days."""
    test = _printed(test)
    ratio = test.sample_ratio
    total = sum(ratio.users.values())
    sheets = [
        Sheet(
            "users by variant",
            ("variant", "users", "share", "expected"),
            [
                (name, f"{count:,}", f"{count / total:.2%}", f"{ratio.expected[name]:.2%}")
                for name, count in ratio.users.items()
            ],
            f"{test.rows:,} rows, summed by user. Sample ratio: chi-square p = {ratio.p_value:.3g}, "
            f"{'sound' if ratio.passed else 'broken: no metric is compared'}.",
        )
    ]
    if not test.effects:
        return sheets
    sheets.append(
        Sheet(
            "what this much data can find",
            ("metric", "variant", "of control", "detectable", "relative")
            + (("variance saved",) if test.covariate else ()),
            [
                (e.metric, e.variant, f"{e.control_value:.6g}", f"±{e.minimum_detectable_effect:.4g}")
                + (_percent(e.minimum_detectable_lift, "±"),)
                + ((f"{e.variance_reduction:.1%}",) if e.variance_reduction is not None else ())
                for e in test.effects
            ],
            "Detectable: the true difference that one two-sided 5 % test at the end finds four times in five."
            + (f" Variance saved: by CUPED with {test.covariate}." if test.covariate else ""),
        )
    )
    sheets.append(
        Sheet(
            f"differences from {test.control}",
            (
                *(
                    "metric",
                    "variant",
                    test.control,
                    "variant's",
                    "difference",
                    "interval",
                    "lift",
                    "of lift",
                ),
                *("p", "p (Holm)", "at the end"),
                *(("any day",) if test.days else ()),
            ),
            [_row(effect, bool(test.days)) for effect in test.effects],
            f"{test.level:.0%} intervals, unit: the user. p and “at the end” are for one look at an end planned beforehand"
            + ("; “any day” is for as many looks as one likes." if test.days else "."),
        )
    )
    if test.days:
        for effect in test.effects:
            sheets.append(_path_sheet(effect))
    return sheets


def online_pictures(test: OnlineTest) -> list[Picture]:
    """Lift with interval for each metric and variant; the sequence over days."""
    if not test.effects:
        return []
    test = _printed(test)
    pictures = [_effects_picture(test)]
    if test.days:
        pictures.append(_paths_picture(test))
    return pictures


def _printed(test: OnlineTest) -> OnlineTest:
    """The same test with its variants' names as they are printed."""
    ratio = test.sample_ratio
    return replace(
        test,
        control=printed(test.control),
        sample_ratio=replace(
            ratio,
            users={printed(name): count for name, count in ratio.users.items()},
            expected={printed(name): share for name, share in ratio.expected.items()},
        ),
        effects=tuple(
            replace(effect, variant=printed(effect.variant), control=printed(effect.control))
            for effect in test.effects
        ),
    )


def _alike(test: OnlineTest) -> str:
    """A sentence for each group of variants whose names differ in blanks alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in test.sample_ratio.users:
        groups["".join(name.split())].append(printed(name))
    return "".join(
        f" {' and '.join(names)} differ in blanks alone and are counted apart: correct the log if they are one."
        for names in groups.values()
        if len(names) > 1
    )


def _word(effect: Effect) -> str:
    """Verdict of the sequence where there is one: whoever has days has looked before the end."""
    if effect.sequence is None:
        return effect.verdict
    return {1: "higher", -1: "lower", 0: "undecided"}[effect.sequence.direction]


def _several(test: OnlineTest) -> bool:
    return len({effect.variant for effect in test.effects}) > 1


def _sentence(effect: Effect, test: OnlineTest) -> str:
    low, high = effect.lift_interval or effect.interval
    size = f"{effect.difference:+.4g}"
    if effect.lift is not None:
        size = f"{effect.lift:+.2%} ({test.level:.0%} interval {low:+.2%} to {high:+.2%})"
    else:
        size += f" ({test.level:.0%} interval {low:+.4g} to {high:+.4g})"
    detectable = (
        f"±{effect.minimum_detectable_effect:.3g}"
        if effect.minimum_detectable_lift is None
        else f"±{effect.minimum_detectable_lift:.2%}"
    )
    lines = [f"{effect.metric}, {effect.variant} against {effect.control}: {size}."]
    if effect.sequence is not None:
        if effect.sequence.decided_on is None:
            lines.append(f"Undecided after {len(test.days)} days.")
        else:
            word = {1: "Higher", -1: "Lower"}[effect.sequence.direction]
            lines.append(f"{word}, decided on {_day_text(effect.sequence.decided_on)}.")
    p = f"Holm-adjusted p = {effect.adjusted_p_value:.2g}"
    once = "" if effect.sequence is None else "One look, at an end planned beforehand, would say: "
    if effect.verdict != "undecided":
        lines.append(f"{once}{effect.verdict if once else effect.verdict.capitalize()} ({p}).")
    else:
        lines.append(f"{once}{'n' if once else 'N'}ot told apart ({p}): {_why(effect, test)}")
        lines.append(f"This much data finds {detectable} four times in five.")
    if effect.note:
        lines.append(f"Beware: {effect.note}.")
    return " ".join(lines)


def _why(effect: Effect, test: OnlineTest) -> str:
    """Whether nothing was found because there is nothing, or because there is little data."""
    if test.worthwhile is None or effect.lift_interval is None:
        return "smaller effects than this much data can find are not excluded."
    low, high = effect.lift_interval
    if -test.worthwhile < low and high < test.worthwhile:
        return f"no difference that matters, the interval lies within ±{test.worthwhile:.2%}."
    if not effect.enough:
        return f"too little data, a lift of {test.worthwhile:.2%} is easily missed."
    return f"a lift of {test.worthwhile:.2%} would mostly have been found, but is not excluded."


def _row(effect: Effect, days: bool) -> tuple[str, ...]:
    lift = "–" if effect.lift_interval is None else "{:+.1%} to {:+.1%}".format(*effect.lift_interval)
    return (
        effect.metric,
        effect.variant,
        f"{effect.control_value:.5g}",
        f"{effect.variant_value:.5g}",
        f"{effect.difference:+.3g}",
        "{:+.3g} to {:+.3g}".format(*effect.interval),
        _percent(effect.lift, "+"),
        lift,
        f"{effect.p_value:.2g}",
        f"{effect.adjusted_p_value:.2g}",
        effect.verdict,
        *((_any_day(effect),) if days else ()),
    )


def _any_day(effect: Effect) -> str:
    assert effect.sequence is not None
    if effect.sequence.decided_on is None:
        return "undecided"
    return f"{_word(effect)}, {_day_text(effect.sequence.decided_on)}"


def _path_sheet(effect: Effect) -> Sheet:
    sequence = effect.sequence
    assert sequence is not None
    rows = []
    for day, value, interval, p in zip(
        sequence.days, sequence.estimates, sequence.intervals, sequence.p_values, strict=True
    ):
        known = interval is not None and p is not None
        rows.append(
            (
                _day_text(day),
                f"{value:+.4g}",
                "{:+.4g} to {:+.4g}".format(*interval) if known else "too few users",  # type: ignore[misc]
                f"{p:.3g}" if known else "–",
                "decided" if day == sequence.decided_on else "",
            )
        )
    return Sheet(
        f"day by day: {effect.metric}, {effect.variant} against {effect.control}",
        ("day", "difference", "interval for any day", "p for any day", ""),
        rows,
        f"Confidence sequence: all days' intervals hold at once with {1 - sequence.alpha:.4g}.",
        folded=True,
    )


def _effects_picture(test: OnlineTest) -> Picture:
    relative = all(effect.lift_interval is not None for effect in test.effects)
    figure = Figure(figsize=(8.5, 1.3 + 0.42 * max(len(test.effects), 2)), layout="constrained")
    axes = figure.subplots()
    for place, effect in enumerate(test.effects):
        # Without a lift for all, differences in standard errors are what can share an axis.
        scale = 1.0 if relative else effect.standard_error
        value = effect.lift if relative else effect.difference / scale
        interval = effect.lift_interval if relative else tuple(end / scale for end in effect.interval)
        assert value is not None
        assert interval is not None
        color = COLORS[effect.verdict]
        low, high = interval
        axes.plot([low, high], [place, place], color=color, linewidth=2)
        axes.plot(value, place, "o", color=color)
    axes.axvline(0, color="black", linewidth=0.8)
    if relative and test.worthwhile is not None:
        axes.axvspan(-test.worthwhile, test.worthwhile, color="#9ab8d6", alpha=0.25, linewidth=0)
    several = _several(test)
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


def _paths_picture(test: OnlineTest) -> Picture:
    lines = -(-len(test.effects) // COLUMNS)
    columns = min(COLUMNS, len(test.effects))
    figure = Figure(figsize=(max(5.2 * columns, 7.5), 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for unused in panels[len(test.effects) :]:
        unused.set_axis_off()
    for axes, effect in zip(panels, test.effects, strict=False):
        _draw_path(axes, effect)
        axes.set_title(f"{effect.metric}, {effect.variant}: {_any_day(effect)}", fontsize=9)
    note = (
        "Line: the difference so far, of totals per user or of ratios. Band: the confidence sequence, "
        f"{1 - test.effects[0].sequence.alpha:.4g} for all days of a panel at once"  # type: ignore[union-attr]
        f"{', so that all panels together err with ' + format(1 - test.level, '.0%') if len(test.effects) > 1 else ''}. "
        "Grey dashes: the interval of one look, which may not be looked at daily. Dotted: the day of decision. "
        "Early bands beyond the picture are cut."
    )
    return "Day by day", png(figure), note


def _draw_path(axes: Axes, effect: Effect) -> None:
    sequence = effect.sequence
    assert sequence is not None
    kept = [i for i, interval in enumerate(sequence.intervals) if interval is not None]
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    x: Any = sequence.days if isinstance(sequence.days[0], date) else np.array(sequence.days)
    if not kept:
        axes.text(0.5, 0.6, "too few users with a value", ha="center", transform=axes.transAxes)
        axes.set_xlim(x[0], x[-1])
        return
    color = COLORS[_word(effect)]
    days = [x[i] for i in kept]
    value = np.array([sequence.estimates[i] for i in kept])
    low, high = np.array([sequence.intervals[i] for i in kept]).T
    once = 1.96 * np.array([sequence.standard_errors[i] for i in kept], np.float64)
    axes.fill_between(days, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(days, value, color=color, marker=".", markersize=4)
    for sign in (-1, 1):
        axes.plot(days, value + sign * once, color="grey", linewidth=0.8, linestyle="--")
    if sequence.decided_on is not None:
        axes.axvline(sequence.decided_on, color=color, linestyle=":")
    middle = len(kept) // 4
    bottom, top = min(low[middle:].min(), 0.0), max(high[middle:].max(), 0.0)
    axes.set_ylim(bottom - 0.1 * (top - bottom), top + 0.1 * (top - bottom))
    if isinstance(sequence.days[0], date):
        axes.tick_params(axis="x", labelrotation=30)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("day", fontsize=8)


def _day_text(day: Any) -> str:
    return day.isoformat() if isinstance(day, date) else f"day {day}"


def _percent(value: float | None, sign: str) -> str:
    if value is None:
        return "–"
    return f"±{value:.2%}" if sign == "±" else f"{value:+.2%}"
