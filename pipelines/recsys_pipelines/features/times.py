"""Times of any spelling: numbers since 1970, text of a pattern, ISO 8601, and columns of times and dates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from typing_extensions import override

from recsys_pipelines.features.convert import (
    ColumnSpec,
    Converted,
    OneColumn,
    Problem,
    one_array,
    text_or_plain,
    whole_numbers,
)

LATEST = 2**43  # in milliseconds the year 2248
UNITS = {"seconds": "s", "milliseconds": "ms"}
PLAIN = r"^\d{4}-\d{2}-\d{2} (?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d$"
ISO = (
    r"^(?<day>\d{4}-\d{2}-\d{2})(?:[T ](?<minute>[01]\d:[0-5]\d|2[0-3]:[0-5]\d)(?::(?<second>[0-5]\d)"
    r"(?:[.,](?<fraction>\d{1,9}))?)?\s?(?<zone>Z|z|[+-]\d{2}(?::?[0-5]\d)?)?)?$"
)


def times(raw: pa.Array, format: str) -> Converted:
    """Read times of a `format` (`config.DateConfig`): timestamps (UTC) of any unit, null where missing or none."""
    plain, problems = text_or_plain(raw)
    if pt.is_timestamp(plain.type) or pt.is_date(plain.type):
        return pc.cast(plain, pa.timestamp("us"), safe=False), problems
    if format in UNITS:
        numbers, more = whole_numbers(plain)
        far = pc.or_(pc.greater(numbers, LATEST), pc.less(numbers, -LATEST))
        outside = np.asarray(pc.fill_null(far, False))
        inside = pc.if_else(pa.array(outside), pa.scalar(None, pa.int64()), numbers)
        time = pc.cast(inside, pa.timestamp(UNITS[format]))
        return time, [*problems, *more, Problem(outside, f"not {format} since 1970")]
    text = plain
    if not pt.is_string(plain.type):
        numbers, more = whole_numbers(plain)
        text, problems = pc.cast(numbers, pa.string()), [*problems, *more]
    if format == "iso":
        time = iso_times(text)
        bad = np.asarray(pc.and_(text.is_valid(), time.is_null()))
        return time, [*problems, Problem(bad, "not a time such as 2017-11-07 09:30:38")]
    time = pc.strptime(text, format=format, unit="s", error_is_null=True)
    same = pc.fill_null(pc.equal(pc.strftime(time, format=format), text), False)
    bad = np.asarray(pc.and_not(text.is_valid(), same))  # strptime alone takes 7 digits for 8
    return pc.if_else(pa.array(bad), pa.scalar(None, time.type), time), [
        *problems,
        Problem(bad, f"not a time of the format {format}"),
    ]


def iso_times(text: pa.Array) -> pa.Array:
    """Read ISO 8601 as timestamps in microseconds (UTC), null where a text is none.

    A day, or a day and a time (after T or a blank) to the minute, the second or a fraction of one, whose digits beyond
    microseconds are cut; then perhaps Z or an offset such as +01:00. Without one it is UTC.
    """
    texts = pl.Series(pl.from_arrow(text), dtype=pl.String)
    plain = texts.str.contains(PLAIN)
    if plain.fill_null(True).all():  # five times as fast
        return _local(texts).cast(pl.Datetime("us")).to_arrow().cast(pa.timestamp("us"))
    pieces = texts.str.extract_groups(ISO).struct
    minute, second = pieces.field("minute").fill_null("00:00"), pieces.field("second").fill_null("00")
    micro = pieces.field("fraction").fill_null("0").str.pad_end(6, "0").str.head(6)
    moment = _local(pieces.field("day") + " " + minute + ":" + second)
    zone = pieces.field("zone").str.replace(r"(?i)^z$", "+00").str.replace_all(":", "").str.pad_end(5, "0")
    offset = (zone.str.slice(1, 2).cast(pl.Int64) * 60 + zone.str.slice(3, 2).cast(pl.Int64)).fill_null(0)
    sign = pl.Series(np.where(zone.str.starts_with("-").fill_null(False).to_numpy(), -1, 1))
    micros = moment.cast(pl.Int64) + micro.cast(pl.Int64) - sign * offset * 60_000_000
    return pc.cast(one_array(micros.to_arrow()), pa.timestamp("us"))


def _local(texts: pl.Series) -> pl.Series:
    """Read texts of the form PLAIN, null where there is no such day."""
    return texts.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us")


@dataclass(frozen=True)
class Time(OneColumn):
    """The time that orders rows, int64 [B]. None may be missing.

    Without a `format` numbers stay as they are, and times, dates and texts of ISO 8601 become microseconds since 1970:
    a column of both has no order, so there numbers are bad. With one all become microseconds.
    """

    format: str | None = None

    @override
    def convert(self, columns: Sequence[pa.Array]) -> Converted:
        plain, problems = text_or_plain(columns[0])
        if self.format is not None:
            time, more = times(plain, self.format)
            micros = _micros(time)
            return micros, [*problems, *more, Problem(np.asarray(micros.is_null()), "missing")]
        if not pt.is_string(plain.type):
            return ColumnSpec(self.column, "integer").convert(columns)
        numbers, more = ColumnSpec(self.column, "integer").convert([plain])
        if numbers.null_count == plain.null_count:
            return numbers, [*problems, *more]
        moments = _micros(iso_times(plain))
        if moments.null_count == len(moments):
            reason = (
                "neither a whole number nor a time such as 2017-11-07 09:30:38; give other times a format"
            )
            worded = [p if p.reason == "missing" else Problem(p.bad, reason) for p in more]
            return numbers, [*problems, *worded]
        bad = np.asarray(pc.and_(plain.is_valid(), moments.is_null()))
        missing = Problem(np.asarray(plain.is_null()), "missing")
        return moments, [
            *problems,
            Problem(bad, "not a time such as 2017-11-07 09:30:38, as others are"),
            missing,
        ]


def _micros(time: pa.Array) -> pa.Array:
    return pc.cast(time, pa.timestamp("us"), safe=False).cast(pa.int64())
