"""Words for an online test that its sentences, tables and pictures share."""

from collections import defaultdict
from dataclasses import replace
from datetime import date
from typing import Any

from recsys.evaluation.online.log import display_name
from recsys.evaluation.online.result import Effect, OnlineTest


def with_display_names(test: OnlineTest) -> OnlineTest:
    """Return the same test with the names of its variants as they are printed."""
    ratio = test.sample_ratio
    return replace(
        test,
        control=display_name(test.control),
        sample_ratio=replace(
            ratio,
            users={display_name(name): count for name, count in ratio.users.items()},
            expected={display_name(name): share for name, share in ratio.expected.items()},
        ),
        effects=tuple(
            replace(effect, variant=display_name(effect.variant), control=display_name(effect.control))
            for effect in test.effects
        ),
    )


def names_alike(test: OnlineTest) -> str:
    """Return a sentence for each group of variants whose names differ in blanks alone; empty without any."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in test.sample_ratio.users:
        groups["".join(name.split())].append(display_name(name))
    return "".join(
        f" {' and '.join(names)} differ in blanks alone and are counted apart: correct the log if they are one."
        for names in groups.values()
        if len(names) > 1
    )


def verdict_word(effect: Effect) -> str:
    """Return the verdict, that of the sequence where there is one: whoever has days has looked before the end."""
    if effect.sequence is None:
        return effect.verdict
    return {1: "higher", -1: "lower", 0: "undecided"}[effect.sequence.direction]


def several_variants(test: OnlineTest) -> bool:
    """Return whether more than one variant is compared with the control."""
    return len({effect.variant for effect in test.effects}) > 1


def decision(effect: Effect) -> str:
    """Return the verdict of the sequence, and the day on which it was reached."""
    assert effect.sequence is not None
    if effect.sequence.decided_on is None:
        return "undecided"
    return f"{verdict_word(effect)}, {day_text(effect.sequence.decided_on)}"


def day_text(day: Any) -> str:
    """Return a day as it is printed."""
    return day.isoformat() if isinstance(day, date) else f"day {day}"
