"""The assignment log of an online A/B test: checked, and summed by user.

Rows are one per user, per user and day, or per event; the unit of randomisation is the user.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from recsys.evaluation.days import written_times

CONTROL_NAMES = ("control", "baseline", "a", "0", "off", "false")  # in this order, when none is named


@dataclass(frozen=True)
class Target:
    """A metric to compare: the mean per user of a column's total, or the ratio of two columns' totals."""

    numerator: str
    denominator: str | None = None

    @property
    def name(self) -> str:
        """The name as it is printed."""
        return self.numerator if self.denominator is None else f"{self.numerator}/{self.denominator}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the metric needs."""
        return (self.numerator,) if self.denominator is None else (self.numerator, self.denominator)


@dataclass(frozen=True)
class Assignments:
    """A checked log, summed by user.

    Attributes:
        users: One row per user: variant, totals of the metrics' columns, covariate, first day.
        variants: Their names, the control first.
        targets: What is compared.
        covariate: Name of the covariate.
        rows: How many rows the log has.
        days: The days in order; none where the log has no column of them.
        daily: One row per user and day, which are given by their places in `users` and `days`; None without days.
    """

    users: pl.DataFrame
    variants: tuple[str, ...]
    targets: tuple[Target, ...]
    covariate: str | None
    rows: int
    days: tuple[Any, ...] = ()
    daily: pl.DataFrame | None = None


def assignments(
    log: pl.DataFrame,
    user: str,
    variant: str,
    targets: Sequence[Target],
    control: str | None = None,
    covariate: str | None = None,
    day: str | None = None,
) -> Assignments:
    """Check a log (one row per user, per user and day, or per event) and sum it by user.

    Args:
        log: The log.
        user: Column of the unit of randomisation.
        variant: Column of what the user was shown.
        targets: What is compared.
        control: The variant that the others are compared with; one with a usual name, or the first, unless given.
        covariate: Column of a value per user from before the test, for CUPED.
        day: Column of days, for a sequence over them.

    Raises:
        ValueError: Columns or values are missing, metrics are no finite numbers, a user is in two variants, there is
            one variant or one day only, the control is unknown, the covariate changes within a user, a denominator is
            negative or all 0 in a variant, or days have no order.
    """
    targets = tuple(dict.fromkeys(targets))
    measured = tuple(dict.fromkeys(column for target in targets for column in target.columns))
    if not targets:
        raise ValueError("no metric: name at least one column to compare, or a ratio of two")
    if covariate in measured:
        raise ValueError(f"covariate {covariate!r} is also a metric: it must be older than the test")
    rows = _typed(log, user, variant, measured, covariate, day)
    _one_variant_each(rows, user)
    variants = _variants(rows, variant, control)
    for target in targets:
        _check_denominator(rows, target, user)
    if covariate is not None:
        _check_covariate(rows, covariate)
    days: tuple[Any, ...] = ()
    if day is not None:
        days = tuple(rows["_day"].unique().sort().to_list())
        if len(days) < 2:
            raise ValueError(f"{day} holds one day only ({days[0]}): leave --day out to test once")
        rows = rows.with_columns(pl.col("_day").rank("dense").cast(pl.Int64) - 1)
    users = _by_user(rows, measured, covariate, day)
    for target in targets:
        _check_totals(users, target)
    return Assignments(
        users=users.drop("_user"),
        variants=variants,
        targets=targets,
        covariate=covariate,
        rows=rows.height,
        days=days,
        daily=None if day is None else _by_day(rows, users, measured),
    )


def _typed(
    log: pl.DataFrame,
    user: str,
    variant: str,
    measured: Sequence[str],
    covariate: str | None,
    day: str | None,
) -> pl.DataFrame:
    """Return the columns of a log that are needed, complete and of one type each, under names that cannot clash."""
    keys = [user, variant] if day is None else [user, variant, day]
    numbers = [*measured] if covariate is None else [*measured, covariate]
    require_columns(log.columns, [*keys, *numbers])
    if log.is_empty():
        raise ValueError("the log has no rows")
    for column in keys:
        _complete(log, column, user)
    return log.select(
        pl.col(user).alias("_user"),
        pl.col(variant).cast(pl.String).alias("_variant"),
        *([] if day is None else [_ordered_days(log[day]).alias("_day")]),
        *(_number(log, column, user).alias(value_name(column)) for column in numbers),
    )


def _by_user(
    rows: pl.DataFrame, measured: Sequence[str], covariate: str | None, day: str | None
) -> pl.DataFrame:
    """Sum the rows by user."""
    return rows.group_by("_user", maintain_order=True).agg(
        pl.col("_variant").first().alias("variant"),
        *(pl.col(value_name(column)).sum() for column in measured),
        *([] if covariate is None else [pl.col(value_name(covariate)).first().alias("covariate")]),
        *([] if day is None else [pl.col("_day").min().alias("first_day")]),
    )


def _by_day(rows: pl.DataFrame, users: pl.DataFrame, measured: Sequence[str]) -> pl.DataFrame:
    """Sum the rows by user and day; users are named by their places in `users`."""
    places = users.select("_user").with_row_index("user")
    return (
        rows.join(places, on="_user")
        .group_by("user", pl.col("_day").alias("day"))
        .agg(pl.col(value_name(column)).sum() for column in measured)
    )


def require_columns(names: Sequence[str], required: Sequence[str]) -> None:
    """Raise ValueError for the first of `required` that is not among `names`, with the nearest one."""
    for column in required:
        if column not in names:
            raise ValueError(f"no column {column!r}{_did_you_mean(column, names)}")


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    """Name the nearest of `names`, or all of them where none is near."""
    near = difflib.get_close_matches(name.casefold(), [known.casefold() for known in names], 1, 0.6)
    known = next((known for known in names if near and known.casefold() == near[0]), None)
    return f": did you mean {known!r}?" if known else f": there are {', '.join(map(repr, names))}"


def _complete(log: pl.DataFrame, column: str, user: str) -> None:
    """Refuse missing values and NaN."""
    missing = log[column].is_null()
    if log[column].dtype.is_float():
        missing = missing | log[column].is_nan()
    if missing.any():
        i = int(missing.arg_max() or 0)
        whose = "" if column == user else f", {user} {log[user][i]!r}"
        raise ValueError(
            f"{column} is missing or NaN in {missing.sum():,} rows, first in row {i}{whose}: "
            "fill it (a user without events has 0), or drop these users from all variants alike"
        )


def _number(log: pl.DataFrame, column: str, user: str) -> pl.Series:
    """Return a column as float64, which must be without missing, NaN or infinite values."""
    values = log[column]
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        sample = values.drop_nulls()
        if values.dtype == pl.String and len(sample):
            bad = sample.filter(sample.cast(pl.Float64, strict=False).is_null())
            sample = bad if len(bad) else sample
        example = f", such as {sample[0]!r}" if len(sample) else ""
        raise ValueError(f"{column} is not numeric: it holds {values.dtype}{example}")
    _complete(log, column, user)
    values = values.cast(pl.Float64)
    infinite = values.is_infinite()
    if infinite.any():
        i = int(infinite.arg_max() or 0)
        raise ValueError(f"{column} is infinite in row {i}, {user} {log[user][i]!r}: correct it")
    return values


def _ordered_days(days: pl.Series) -> pl.Series:
    """Return days as dates or whole numbers; a time with a zone counts for the date that it has there."""
    if days.dtype == pl.Date or days.dtype.is_integer():
        return days
    if isinstance(days.dtype, pl.Datetime):
        return days.dt.date()
    if days.dtype == pl.String:
        times = written_times(days)
        return times.dt.date() if times.dtype == pl.Datetime else times
    raise ValueError(f"days are {days.dtype}: give dates, times or whole numbers")


def _one_variant_each(log: pl.DataFrame, user: str) -> None:
    """Refuse a user whom two variants or more saw."""
    several = log.group_by("_user", maintain_order=True).agg(pl.col("_variant").n_unique().alias("variants"))
    _refuse_users(
        several.filter(pl.col("variants") > 1)["_user"],
        "two variants or more saw",
        f"find out why, and drop them only if this hits the variants alike (by {user})",
    )


def _refuse_users(users: pl.Series, fault: str, cure: str) -> None:
    """Raise ValueError where there are `users` of a fault, the first of whom are named."""
    if len(users):
        some = ", ".join(str(value) for value in users[:5].to_list()) + (", …" if len(users) > 5 else "")
        raise ValueError(f"{fault} {len(users):,} {'user' if len(users) == 1 else 'users'} ({some}): {cure}")


def _variants(log: pl.DataFrame, column: str, control: str | None) -> tuple[str, ...]:
    """Return the names of the variants, the control first, the others sorted."""
    names = sorted(log["_variant"].unique().to_list())
    if control is not None and control not in names:
        raise ValueError(f"no variant is called {control!r}{_did_you_mean(control, names)}")
    if len(names) < 2:
        raise ValueError(
            f"{column} holds one variant only ({display_name(names[0])}): there is nothing to compare it with"
        )
    if control is None:
        usual = [name for known in CONTROL_NAMES for name in names if name.casefold() == known]
        control = usual[0] if usual else names[0]
    return (control, *(name for name in names if name != control))


def _check_denominator(rows: pl.DataFrame, target: Target, user: str) -> None:
    """Refuse a ratio whose denominator is negative somewhere."""
    if target.denominator is None:
        return
    counts = rows[value_name(target.denominator)]
    below = counts < 0
    if below.any():
        i = int(below.arg_max() or 0)
        raise ValueError(
            f"{target.denominator} is negative in {below.sum():,} rows, first {counts[i]:g} "
            f"in row {i}, {user} {rows['_user'][i]!r}: a ratio's denominator counts something"
        )


def _check_totals(users: pl.DataFrame, target: Target) -> None:
    """Refuse a ratio whose denominator is 0 for all users of a variant."""
    if target.denominator is None:
        return
    totals = users.group_by("variant").agg(pl.col(value_name(target.denominator)).sum().alias("total"))
    empty = sorted(totals.filter(pl.col("total") <= 0)["variant"])
    if empty:
        raise ValueError(
            f"{target.denominator} is 0 for all users of {', '.join(empty)}: {target.name} has no value"
        )


def _check_covariate(rows: pl.DataFrame, covariate: str) -> None:
    """Refuse a covariate that changes within a user."""
    values = pl.col(value_name(covariate))
    changing = rows.group_by("_user", maintain_order=True).agg(
        (values.min() != values.max()).alias("changes")
    )
    _refuse_users(
        changing.filter("changes")["_user"],
        f"covariate {covariate!r} changes within",
        "it must be one value per user, from before the test",
    )


def value_name(column: str) -> str:
    """Name the column of a metric or covariate inside, where no column of the log can clash with the others."""
    return f"value of {column}"


def display_name(variant: str) -> str:
    """Return the name of a variant as it is printed: in quotes where blanks or invisible characters would not show."""
    plain = variant == variant.strip() != "" and variant.isprintable()
    return variant if plain else repr(variant)
