"""Which column is the label. Every rule has a name, which the reason of a guess begins with.

    named     the only column called click, label, target, conversion, … that holds 0 and 1 (or true and false)
    rating    a column of numbers called rating, stars, score: at least a threshold is positive
    only      nothing is called so, and one column alone holds 0 and 1

What is ambiguous, and what cannot be a label, is an error that names the candidates and the flag.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.starting import names
from recsys.starting.sample import Column, Sample
from recsys.starting.text import listed, one_line
from recsys_pipelines.sources.base import SourceError

FEW_POSITIVES = 50
NO_POSITIVES_HINT = (
    "it needs rows with label 0 (write negatives into the log), or a rating or a count with --label COLUMN "
    "--threshold NUMBER"
)


class Ambiguous(SourceError):
    """A role that several columns could play, or none: the message names them and the flag that decides."""


@dataclass(frozen=True)
class Label:
    """The label's column, from which value on it is positive (None for 0 and 1), the share of positives, and why."""

    column: str
    threshold: float | None
    positive: float
    reason: str


def named_column(sample: Sample, flag: str, name: str) -> Column:
    """Return the column that a flag names. Raises Ambiguous where there is none."""
    if name in sample.unreadable:
        raise Ambiguous(f"{flag} {one_line(name)}: this column {sample.unreadable[name]}")
    if name not in sample.columns:
        near = difflib.get_close_matches(name, sample.columns, 1, 0.4)
        hint = f"; did you mean {one_line(near[0])}?" if near else ""
        raise Ambiguous(
            f"{flag} {one_line(name)}: there is no such column{hint} There are {listed(sample.columns)}"
        )
    return sample.columns[name]


def choose_label(
    sample: Sample, path: str, name: str | None, threshold: float | None, known: str | None
) -> Label:
    """Return the label: the one that a flag names, or what is known of the log, or a guess. Raises Ambiguous."""
    if name is not None:
        column = named_column(sample, "--label", name)
        return _as_label(path, column, threshold, "named by --label")
    if threshold is not None:
        raise Ambiguous(f"{path}: --threshold is of a label: name its column with --label too")
    if known is not None and known in sample.columns:
        return _as_label(path, sample.columns[known], None, "this log's label")
    return _guessed(sample, path)


def _guessed(sample: Sample, path: str) -> Label:
    columns = list(sample.columns.values())
    called = [column for column in columns if names.is_label(column.name)]
    two = [column for column in called if _is_two_valued(column)]
    best = [column for column in two if column.name.lower() in names.BEST_LABEL]
    if len(two) == 1 or len(best) == 1:
        return _as_label(path, (best if len(best) == 1 else two)[0], None, "named: it is called like a label")
    if len(two) > 1:
        raise Ambiguous(
            f"{path}: {listed(c.name for c in two)} are each called like a label and hold two values: say which with "
            f"--label, such as --label {one_line(two[0].name)}"
        )
    ratings = [column for column in columns if names.is_rating(column.name) and _is_scale(column)]
    if called and not ratings:
        return _as_label(path, called[0], None, "named: it is called like a label")
    if len(ratings) > 1:
        raise Ambiguous(
            f"{path}: {listed(c.name for c in ratings)} could each be a rating: say which with --label and --threshold"
        )
    if ratings:
        return _as_label(path, ratings[0], None, "rating: it is called like one")
    zero_one = [column for column in columns if _is_zero_one(column)]
    if len(zero_one) == 1 and not names.has_word(zero_one[0].name, frozenset(("is", "has"))):
        return _as_label(path, zero_one[0], None, "only: no other column holds 0 and 1")
    raise Ambiguous(_no_label(sample, path, zero_one))


def _no_label(sample: Sample, path: str, zero_one: Sequence[Column]) -> str:
    if zero_one:
        return (
            f"{path}: no column is called like a label (click, label, target, …), and {listed(c.name for c in zero_one)} "
            f"hold 0 and 1: say which is the label with --label, such as --label {one_line(zero_one[0].name)}"
        )
    numbers = [name for name in sample.columns if re.fullmatch(r"[-+]?\d+([._]\d+)?", name)]
    if 2 * len(numbers) >= len(sample.columns):
        return (
            f"{path}: no column is called like a label, for the first line holds values ({listed(numbers)}) and not names: "
            "give the file a header"
        )
    users = [name for name in sample.columns if names.user_rank(name) is not None]
    items = [name for name in sample.columns if names.is_item(name)]
    if users and items:
        return (
            f"{path}: looks like a log of positives only: it has {one_line(users[0])} and {one_line(items[0])}, and no "
            f"column that tells a click from none. Such a log cannot be trained on: {NO_POSITIVES_HINT}"
        )
    return (
        f"{path}: no column can be the label: none is called like one (click, label, target, …) and none holds 0 and 1 "
        f"alone; name it with --label COLUMN, and for a number from which value on it is positive with --threshold. There "
        f"are {listed(sample.columns)}"
    )


def _as_label(path: str, column: Column, threshold: float | None, reason: str) -> Label:
    """Return a column as a label. Raises Ambiguous where it is none, with what would make it one."""
    shown = one_line(column.name)
    x = column.series.to_numpy().astype(float) if column.is_boolean else column.numbers
    if x is None:
        raise Ambiguous(f"{path}: {shown} cannot be the label: {_not_numbers(column)}")
    values = np.unique(x)
    if threshold is None and not set(values) <= {0.0, 1.0}:
        threshold, how = _threshold(path, column, x, values)
        reason += how
    positive = float(np.mean(x >= (0.5 if threshold is None else threshold)))
    if positive in (0.0, 1.0):
        which = "is positive" if positive else "is negative"
        raise Ambiguous(
            f"{path}: {shown} is {_values(values)} in all {len(x):,} rows looked at, so every row {which}"
            + (", as in a log of positives only" if positive else "")
            + f", and nothing can be learnt: {NO_POSITIVES_HINT}"
        )
    return Label(column.name, threshold, positive, f"{reason}; {positive:.2%} of the rows are positive")


def _threshold(path: str, column: Column, x: np.ndarray, values: np.ndarray) -> tuple[float, str]:
    """Return from which value on a column is positive, and why."""
    if len(values) == 2:
        return float(values[1]), f", and holds {_values(values)}, of which the larger is positive"
    if not names.is_rating(column.name):
        shown = one_line(column.name)
        raise Ambiguous(
            f"{path}: {shown} has {len(values):,} values ({_values(values)}), and a label has two: say from which value on "
            f"it is positive, such as --label {shown} --threshold {values[len(values) // 2]:g}, or name another column"
        )
    steps = values if len(values) <= 100 else np.quantile(x, np.linspace(0.05, 0.95, 19))
    shares = np.array([np.mean(x >= step) for step in steps])
    best = float(f"{steps[np.argmin(np.abs(shares - 0.5))]:.4g}")
    return best, f"; {best:g} and more is positive, which cuts nearest to half (--threshold sets another)"


def _not_numbers(column: Column) -> str:
    if column.values is None or not len(column.present):
        return "it has no values"
    values = column.series.unique().sort().head(4).to_list() if column.is_text else []
    if column.is_text and column.distinct == 2:
        return f"its values are the texts {listed(values)}: write 1 and 0"
    if column.is_text:
        return f"it has {column.distinct:,} values and some are texts ({listed(values)}): write 1 and 0, or a number"
    return f"its type is {column.type_name}: a label is 0 or 1, or a number with --threshold"


def _values(values: np.ndarray) -> str:
    shown = [f"{value:g}" for value in values[:4]]
    return ", ".join(shown) + (", …" if len(values) > 4 else "")


def _is_two_valued(column: Column) -> bool:
    return column.is_boolean or (column.distinct == 2 and column.numbers is not None) or _is_zero_one(column)


def _is_zero_one(column: Column) -> bool:
    if column.is_boolean:
        return column.distinct == 2
    x = column.numbers
    return x is not None and column.distinct <= 4 and set(np.unique(x)) == {0.0, 1.0}


def _is_scale(column: Column) -> bool:
    return column.numbers is not None and len(np.unique(column.numbers)) > 2
