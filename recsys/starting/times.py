"""Which columns are times, in which format, and which of them orders the rows."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from recsys.starting import names
from recsys.starting.label import Ambiguous, named_column
from recsys.starting.sample import Column, Sample
from recsys.starting.text import listed, one_line
from recsys_pipelines.features.times import times

FIRST, LAST = 946_684_800, 2_145_916_800  # seconds: the years 2000 to 2038; a named column may be older
FORMATS = (
    *("%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M%S", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%d.%m.%Y"),
    *("%d.%m.%Y %H:%M", "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y", "%m/%d/%Y %H:%M"),
    "%m/%d/%Y %H:%M:%S",
)
TRIED = 1_000  # values, before all are
NONE = "none"  # the flag's word for no column


@dataclass(frozen=True)
class Times:
    """A column of times. `format` is that of its numbers or text, None of a column of times; `moments` are the values.

    A column of whole numbers that only order rows has no moments.
    """

    column: Column
    format: str | None
    moments: pl.Series | None
    reason: str

    @property
    def parts(self) -> list[str]:
        """Return the parts of the times that differ."""
        if self.moments is None:
            return []
        day = self.moments.dt
        parts = {"hour": day.hour(), "weekday": day.weekday(), "month": day.month()}
        differ = [name for name, values in parts.items() if values.n_unique() > 1]
        return [name for name in differ if name != "month"] or differ

    @property
    def declared(self) -> str | None:
        """Return the format that `data.time` needs: numbers order rows as they are, and so does text of ISO 8601."""
        return None if self.format in (None, "iso", "seconds", "milliseconds") else self.format


def times_of(column: Column) -> Times | None:
    """Return a column as times, None where it holds none."""
    if column.is_list or column.values is None or not len(column.present):
        return None
    if column.is_time:
        return Times(
            column,
            None,
            pl.Series(pl.from_arrow(_read(column.present, "iso"))),
            f"its type is {column.type_name}",
        )
    called = names.is_time(column.name)
    may_be_dates = column.is_text or (called and column.is_whole)
    if may_be_dates and (dates := _with_format(column)) is not None:
        return dates
    if column.is_whole and (since := _since_1970(column, called)) is not None:
        return since
    if called and column.is_whole and not column.is_boolean and column.distinct > 2:
        return Times(column, None, None, "it is called like a time, and its whole numbers order rows")
    return None


def _since_1970(column: Column, called: bool) -> Times | None:
    x = column.numbers
    assert x is not None
    some = called or names.has_word(column.name, names.TIME) or column.name.lower().endswith("_at")
    first = 10**8 if some else np.inf
    for unit, factor in (("seconds", 1), ("milliseconds", 1000)):
        if x.min() >= first * factor and x.max() < LAST * factor:
            whole = pa.array(x.astype(np.int64))
            moments = pl.Series(pl.from_arrow(_read(whole, unit)))
            return Times(column, unit, moments, f"it is called like a time, and holds {unit} since 1970")
    return None


def _with_format(column: Column) -> Times | None:
    texts = column.present if column.is_text else pc.cast(pc.cast(column.present, pa.int64()), pa.string())
    formats = ("iso", *FORMATS) if column.is_text else FORMATS[:3]
    good = [form for form in formats if _read(texts[:TRIED], form) is not None]
    good = [form for form in good if _read(texts, form) is not None]
    if not good:
        return None
    moments = pl.Series(pl.from_arrow(_read(texts, good[0])))
    if not names.has_word(column.name, names.TIME) and not FIRST <= moments.min().timestamp() <= LAST:  # type: ignore[union-attr]
        return None
    if {"%d/%m", "%m/%d"} <= {form[:5] for form in good}:
        return Times(column, "", None, "it holds dates whose days and months cannot be told apart")
    return Times(column, good[0], moments, f"it holds times of the format {good[0]}")


def _read(values: pa.Array, form: str) -> pa.Array | None:
    """Return the times of a format, None where one of the values is none."""
    moments, _ = times(values, form)
    return None if moments.null_count else moments


def choose_time(
    sample: Sample, path: str, name: str | None, times_by_name: dict[str, Times]
) -> tuple[Times | None, str]:
    """Return the column that orders rows, and why: the one that a flag names, or a guess. Raises Ambiguous.

    Guessed are columns without missing values: those called like the time of an event before all others, and of
    several the one with clearly more values.
    """
    if name == NONE and name not in sample.columns:
        return None, "--time none"
    if name is not None:
        named_column(sample, "--time", name)
        moment = times_by_name.get(name)
        if moment is not None and moment.format != "":
            return moment, moment.reason
        raise Ambiguous(
            f"--time {one_line(name)}: {'its values are no times' if moment is None else moment.reason}: write "
            "them as ISO 8601 (2024-05-31 09:30:00) or as seconds since 1970, or take --time none"
        )
    usable = [
        moment for moment in times_by_name.values() if moment.format != "" and moment.column.missing == 0
    ]
    usable = [moment for moment in usable if moment.column.distinct > 2]
    called = [moment for moment in usable if names.is_time(moment.column.name)]
    ranked = sorted(called or usable, key=lambda moment: -moment.column.distinct)
    if len(ranked) > 1 and ranked[1].column.distinct > 0.8 * ranked[0].column.distinct:
        tied = [m.column.name for m in ranked if m.column.distinct > 0.8 * ranked[0].column.distinct]
        raise Ambiguous(
            f"{path}: {listed(tied)} are times of about as many values each: say which orders the rows with --time, "
            f"such as --time {one_line(tied[0])}, or --time none"
        )
    if not ranked:
        return None, "no column holds times and is never missing"
    return ranked[0], ranked[0].reason
