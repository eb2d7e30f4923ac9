"""Ways to part rows into slices: by value, by decile of a number, by time, by how often training saw an id.

Rows outside the named values go to a slice of others, so that every row is in exactly one slice.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from recsys.evaluation.arms.slices import Slicing
from recsys.evaluation.days import written_times
from recsys_pipelines.sources.whole import numbers_of

MOST_VALUES = 10  # that get a slice of their own, the most frequent,
FEW_VALUES = 20  # unless there are so few that all do; numbers with more are cut at deciles
PARTS = 10
MOST_DAYS = 31
DAY = 86_400
MISSING, OTHERS = "(missing)", "(others)"
COUNT_BANDS = ((0, "0"), (1, "1 to 9"), (10, "10 to 99"), (100, "100 to 999"), (1000, "1,000 or more"))
# Units that whole numbers since 1970 are taken for, by size: 1e8 seconds is 1973, and 1e11 is the year 5138.
UNITS = (
    (1e8, 1, "seconds"),
    (1e11, 10**3, "milliseconds"),
    (1e14, 10**6, "microseconds"),
    (1e17, 10**9, "nanoseconds"),
)


def by_column(dimension: str, values: pa.Array) -> Slicing:
    """Slice rows by any column [n], nulls allowed: times by day, numbers of many values by decile, others by value.

    Text stays text, so that 01 and 1 are two slices, but for numbers with fractions, which no id has.
    """
    if pt.is_nested(values.type):
        raise ValueError(
            f"slices by {dimension}: its values are {values.type}, and a row may be in one slice only"
        )
    if pt.is_temporal(values.type):
        return by_time(dimension, *time_numbers(dimension, values))
    if pt.is_large_string(values.type) and _many(values):
        values = _fractions(values)
    if (pt.is_integer(values.type) or pt.is_floating(values.type)) and _many(values):
        return by_decile(dimension, values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return by_value(dimension, values)


def _many(values: pa.Array) -> bool:
    return bool(pc.count_distinct(values).as_py() > FEW_VALUES)


def _fractions(texts: pa.Array) -> pa.Array:
    """Return the float64 of texts that are all numbers, some with a fraction; the texts themselves otherwise."""
    numbers = numbers_of(texts)
    if numbers is None or numbers.null_count > texts.null_count:
        return texts
    finite = pc.is_finite(numbers)
    fraction = pc.not_equal(numbers, pc.floor(numbers))
    return numbers if pc.all(finite).as_py() and pc.any(fraction).as_py() else texts


def by_value(dimension: str, values: pa.Array) -> Slicing:
    """Slice rows by the most frequent values, then all others, then missing ones."""
    top = frequent(values)
    return by_named_value(dimension, values, top, [str(value) for value in top.to_pylist()])


def frequent(values: pa.Array) -> pa.Array:
    """Return the values that get a slice of their own, by falling count."""
    counted = values.drop_null().value_counts()
    order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")
    top = order if order.size <= FEW_VALUES else order[:MOST_VALUES]
    return counted.field("values").take(pa.array(top))


def by_named_value(
    dimension: str, values: pa.Array, top: pa.Array, names: Sequence[str], note: str = ""
) -> Slicing:
    """Slice rows by the values `top`, called `names`, then all others, then missing ones."""
    places = pc.index_in(values, value_set=top)
    missing = values.is_null()
    others = pc.any(pc.and_(places.is_null(), pc.invert(missing)), min_count=0).as_py()
    codes = pc.if_else(missing, len(names) + bool(others), pc.fill_null(places, len(names)))
    names = [*names, *([OTHERS] * bool(others)), *([MISSING] * bool(values.null_count))]
    return Slicing(dimension, tuple(names), codes.to_numpy().astype(np.intp), note)


def by_decile(dimension: str, values: np.ndarray) -> Slicing:
    """Slice rows into ten parts of as equal size as ties allow, then missing values: float [n], NaN where missing."""
    present = ~np.isnan(values)
    known = values[present]
    edges = np.unique(np.quantile(known, np.arange(1, PARTS) / PARTS, method="inverted_cdf"))
    codes = np.searchsorted(edges, values)
    used, packed = np.unique(codes[present], return_inverse=True)
    low, high = np.full(used.size, np.inf), np.full(used.size, -np.inf)
    np.minimum.at(low, packed, known)
    np.maximum.at(high, packed, known)
    names = [f"{place}: {a:.4g} to {b:.4g}" for place, (a, b) in enumerate(zip(low, high, strict=True), 1)]
    out = np.full(values.size, len(names), np.intp)
    out[present] = packed
    return Slicing(dimension, (*names, *([MISSING] * (not present.all()))), out)


def by_day(dimension: str, times: np.ndarray, scale: int | None = None) -> Slicing:
    """Slice rows by every day that has some, however many: times int64 [n], of which `scale` are a second.

    Without a scale, numbers as large as seconds to nanoseconds since 1970 are taken for these; of others, each value is
    a day.
    """
    scale, note = _scale(times, scale)
    days, codes = np.unique(_days(times, scale), return_inverse=True)
    names = [str(day) if scale == 0 else _date(day * DAY) for day in days.tolist()]
    return Slicing(dimension, tuple(names), codes, note, ordered=True)


def by_time(dimension: str, times: np.ndarray, scale: int | None = None) -> Slicing:
    """Slice rows by day where there are 2 to 31 days, else into ten equal spans: times and scale as in `by_day`.

    Raises:
        ValueError: All rows have one time.
    """
    first, last = int(times.min()), int(times.max())
    if first == last:
        raise ValueError(f"slices by {dimension}: all rows have one time, {first}")
    per_second, note = _scale(times, scale)
    count = np.unique(_days(times, per_second)).size
    if 2 <= count <= MOST_DAYS:
        return by_day(dimension, times, scale)
    codes = np.minimum((times - first) * PARTS // max(last - first, 1), PARTS - 1)
    ends = [first + (last - first) * part / PARTS for part in range(PARTS + 1)]
    texts = [
        f"{end:,.6g}"
        if per_second == 0
        else _date(end / per_second, hour=last - first < 90 * per_second * DAY)
        for end in ends
    ]
    names = [f"{place}: {texts[place - 1]} to {texts[place]}" for place in range(1, PARTS + 1)]
    note = f"{note} Ten spans of equal length, for there are {count:,} day{'s' if count > 1 else ''}.".strip()
    return Slicing(dimension, tuple(names), codes.astype(np.intp), note, ordered=True)


def by_training_count(dimension: str, counts: np.ndarray, exact: bool) -> Slicing:
    """Slice rows by how often training saw their id: counts int64 [n].

    Where they are not exact, 0 is the count of ids too rare for a vocabulary, too.
    """
    lows = np.array([low for low, _ in COUNT_BANDS])
    names = [name for _, name in COUNT_BANDS]
    if not exact:
        names[0] = "0, or too rare for the vocabulary"
    note = "Impressions of the row's id in training."
    return Slicing(dimension, tuple(names), np.searchsorted(lows, counts, side="right") - 1, note)


def by_novelty(dimension: str, counts: np.ndarray, exact: bool) -> Slicing:
    """Slice rows into those whose id training never saw, and the others: counts as in `by_training_count`."""
    unseen = "unseen in training" if exact else "unseen, or too rare for the vocabulary"
    return Slicing(dimension, (unseen, "known"), (counts > 0).astype(np.intp))


def times_of(name: str, values: pa.Array) -> pa.Array:
    """Return a column of dates, times or integers as timestamps in microseconds, or as int64; `written_times` reads text.

    Raises:
        ValueError: The type is no time, or a text is neither a date with the year first nor a whole number.
    """
    if pt.is_large_string(values.type) or pt.is_string(values.type):
        column = written_times(pl.Series(name, pl.from_arrow(values), dtype=pl.String)).to_arrow()
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pt.is_date(values.type) or pt.is_timestamp(values.type):
        return values.cast(pa.timestamp("us"), safe=False)
    if pt.is_integer(values.type):
        return values.cast(pa.int64())
    raise ValueError(f"{name} is {values.type}: a time is a date, a timestamp or a whole number")


def time_numbers(name: str, values: pa.Array) -> tuple[np.ndarray, int | None]:
    """Return whole numbers [n] of a column of dates, times or integers, and how many are a second.

    Those of times are microseconds since 1970; of integers, which do not say, the second is None.
    """
    if values.null_count:
        raise ValueError(
            f"{name} is missing at row {pc.index(values.is_null(), True).as_py()}: a time is needed"
        )
    times = times_of(name, values)
    return times.cast(pa.int64()).to_numpy(), 10**6 if pt.is_timestamp(times.type) else None


def _days(times: np.ndarray, scale: int) -> np.ndarray:
    return times if scale == 0 else times // (scale * DAY)


def _scale(times: np.ndarray, scale: int | None) -> tuple[int, str]:
    """Return the scale, and a note where it is a guess."""
    if scale is not None:
        return scale, ""
    scale, unit = _unit(float(np.median(times)))
    return scale, f"Times are read as {unit} since 1970 (UTC)." if unit else ""


def _unit(size: float) -> tuple[int, str]:
    """Return units a second and their name for times of about this size, (0, "") where they are just numbers."""
    for least, scale, unit in reversed(UNITS):
        if size >= least:
            return scale, unit
    return 0, ""


def _date(seconds: float, hour: bool = False) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M" if hour else "%Y-%m-%d")
