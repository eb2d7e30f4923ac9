"""The report of an online test: tables for a terminal, and a self-contained HTML file with pictures."""

from pathlib import Path
from typing import Any

from recsys.evaluation.online.result import Effect, OnlineTest
from recsys.reports.online_words import (
    day_text,
    decision,
    names_alike,
    several_variants,
    verdict_word,
    with_display_names,
)
from recsys.reports.page import Picture, drawn, write_html
from recsys.reports.sheet import Sheet

VERDICTS = ("higher", "lower", "undecided")


def write_online_report(test: OnlineTest, path: Path | str, source: str = "") -> None:
    """Render `test` into a self-contained HTML file, written under a temporary name first."""
    write_html(
        path,
        "online.html.j2",
        title="A/B test" + (f" of {source}" if source else ""),
        summary=summary(test),
        verdicts=verdicts(test),
        sheets=online_sheets(test),
        pictures=drawn(lambda: _pictures(test)),
        passed=test.sample_ratio.passed,
    )


def _pictures(test: OnlineTest) -> list[Picture]:
    from recsys.reports.pictures.online import online_pictures  # here, for it needs matplotlib

    return online_pictures(test)


def online_json(test: OnlineTest) -> dict[str, Any]:
    """Return everything as plain values, with the sentences."""
    return {"summary": summary(test), "verdicts": verdicts(test), **test.to_dict()}


def summary(test: OnlineTest) -> str:
    """Say in a few sentences how the whole test ended."""
    alike = names_alike(test)
    test = with_display_names(test)
    if not test.sample_ratio.passed:
        return _broken(test) + alike
    counts = {word: [e for e in test.effects if verdict_word(e) == word] for word in VERDICTS}
    names = {
        word: ", ".join(f"{e.metric} ({e.variant})" if several_variants(test) else e.metric for e in effects)
        for word, effects in counts.items()
    }
    parts = [f"{word}: {names[word]}" for word in VERDICTS if counts[word]]
    how = (
        f"looked at on {len(test.days)} days, an error of {1 - test.level:.0%} over all looks and comparisons"
        if test.days
        else f"one look, p-values by Holm over {len(test.effects)} comparisons"
        if len(test.effects) > 1
        else "one look"
    )
    return f"Against {test.control}: {'; '.join(parts)} ({how}).{alike}"


def _broken(test: OnlineTest) -> str:
    """Say that users are missing or assigned otherwise, so that there is no verdict."""
    ratio = test.sample_ratio
    observed = ", ".join(f"{name} {count:,}" for name, count in ratio.users.items())
    expected = ":".join(f"{share:.4g}" for share in ratio.expected.values())
    empty = "".join(f"{name} has 0 users. " for name, count in ratio.users.items() if count == 0)
    return (
        f"No verdict: the users split as {observed}, which is not {expected} (chi-square p = {ratio.p_value:.2g}). {empty}"
        "Users are missing from a variant, or assigned otherwise than planned: find out why before reading any metric."
    )


def verdicts(test: OnlineTest) -> list[str]:
    """Say in one sentence per metric and variant how it ended; none where the sample ratio failed."""
    test = with_display_names(test)
    return [_sentence(effect, test) for effect in test.effects]


def online_sheets(test: OnlineTest) -> list[Sheet]:
    """Return the sample ratio; then what the test can find, the differences, and the path over days."""
    test = with_display_names(test)
    if not test.effects:
        return [_users_sheet(test)]
    paths = [_path_sheet(effect) for effect in test.effects] if test.days else []
    return [_users_sheet(test), _detectable_sheet(test), _differences_sheet(test), *paths]


def _users_sheet(test: OnlineTest) -> Sheet:
    ratio = test.sample_ratio
    total = sum(ratio.users.values())
    return Sheet(
        "users by variant",
        ("variant", "users", "share", "expected"),
        [
            (name, f"{count:,}", f"{count / total:.2%}", f"{ratio.expected[name]:.2%}")
            for name, count in ratio.users.items()
        ],
        f"{test.rows:,} rows, summed by user. Sample ratio: chi-square p = {ratio.p_value:.3g}, "
        f"{'sound' if ratio.passed else 'broken: no metric is compared'}.",
    )


def _detectable_sheet(test: OnlineTest) -> Sheet:
    return Sheet(
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


def _differences_sheet(test: OnlineTest) -> Sheet:
    return Sheet(
        f"differences from {test.control}",
        (
            *("metric", "variant", test.control, "variant's", "difference", "interval", "lift", "of lift"),
            *("p", "p (Holm)", "at the end"),
            *(("any day",) if test.days else ()),
        ),
        [_row(effect, bool(test.days)) for effect in test.effects],
        f"{test.level:.0%} intervals, unit: the user. p and “at the end” are for one look at an end planned beforehand"
        + ("; “any day” is for as many looks as one likes." if test.days else "."),
    )


def _sentence(effect: Effect, test: OnlineTest) -> str:
    """Say how one metric of one variant ended."""
    lines = [f"{effect.metric}, {effect.variant} against {effect.control}: {_size(effect, test.level)}."]
    if effect.sequence is not None:
        if effect.sequence.decided_on is None:
            lines.append(f"Undecided after {len(test.days)} days.")
        else:
            word = {1: "Higher", -1: "Lower"}[effect.sequence.direction]
            lines.append(f"{word}, decided on {day_text(effect.sequence.decided_on)}.")
    p = f"Holm-adjusted p = {effect.adjusted_p_value:.2g}"
    once = "" if effect.sequence is None else "One look, at an end planned beforehand, would say: "
    if effect.verdict != "undecided":
        lines.append(f"{once}{effect.verdict if once else effect.verdict.capitalize()} ({p}).")
    else:
        detectable = (
            f"±{effect.minimum_detectable_effect:.3g}"
            if effect.minimum_detectable_lift is None
            else f"±{effect.minimum_detectable_lift:.2%}"
        )
        lines.append(f"{once}{'n' if once else 'N'}ot told apart ({p}): {_why(effect, test)}")
        lines.append(f"This much data finds {detectable} four times in five.")
    if effect.note:
        lines.append(f"Beware: {effect.note}.")
    return " ".join(lines)


def _size(effect: Effect, level: float) -> str:
    """Return the lift with its interval, or the difference where there is no lift."""
    low, high = effect.lift_interval or effect.interval
    if effect.lift is not None:
        return f"{effect.lift:+.2%} ({level:.0%} interval {low:+.2%} to {high:+.2%})"
    return f"{effect.difference:+.4g} ({level:.0%} interval {low:+.4g} to {high:+.4g})"


def _why(effect: Effect, test: OnlineTest) -> str:
    """Return whether there is no difference that matters, or too little data to tell."""
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
        *((decision(effect),) if days else ()),
    )


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
                day_text(day),
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


def _percent(value: float | None, sign: str) -> str:
    if value is None:
        return "–"
    return f"±{value:.2%}" if sign == "±" else f"{value:+.2%}"
