"""Days and times as people write them, read without guessing: year first, or whole numbers.

    2024-01-08   2024-01-08 23:30   2024-01-08T23:30:00.5-05:00   2024-01-08 23:30:00 UTC   17

A time with a zone is the local time as it is written: 23:30-05:00 on 8 January belongs to 8 January, though it is the 9th
in UTC already, for whoever wrote the log counted its days by these clocks. Month first, day first and weeks are refused:
01/08/2024 is in January or in August, and to take the wrong one turns the order of the days round.
"""

import polars as pl

WRITTEN = (
    r"^(\d{4}-\d{2}-\d{2})"  # the date
    r"(?:[T ](\d{2})(?::?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?)?)?"  # hours, minutes, seconds and their fraction
    r" ?(?:Z|UTC|[+-]\d{2}(?::?\d{2})?)?$"
)
WHOLE = r"^-?\d{1,18}$"
CURE = "write days as 2024-01-31, times as 2024-01-31 23:30:00, or whole numbers"


def written_times(texts: pl.Series) -> pl.Series:
    """Read texts [n] as whole numbers (Int64) where all are such, else as local times (Datetime in microseconds).

    What is missing stays missing.

    Raises:
        ValueError: A text is neither, or of the other kind than most; it is named with its row.
    """
    numbers = texts.str.contains(WHOLE)
    if numbers.all():
        return texts.cast(pl.Int64)
    parts = texts.str.extract_groups(WRITTEN).struct
    date, hour, minute, second, fraction = (parts.field(str(place)) for place in range(1, 6))
    clock = [part.fill_null("00") for part in (hour, minute, second)]
    micro = fraction.fill_null("0").str.pad_end(6, "0").str.slice(0, 6)
    times = pl.DataFrame(
        [
            date.alias("date"),
            *(part.alias(f"clock {place}") for place, part in enumerate(clock)),
            micro.alias("micro"),
        ]
    ).select(
        pl.concat_str("date", "clock 0", "clock 1", "clock 2", "micro", separator=" ").str.to_datetime(
            "%Y-%m-%d %H %M %S %6f", time_unit="us", strict=False
        )
    )
    local = times.to_series().alias(texts.name)
    bad = texts.is_not_null() & local.is_null()
    if bad.any():
        row = int(bad.arg_max() or 0)
        fault = (
            "a number among dates"
            if numbers[row]
            else "neither a date with the year first nor a whole number"
        )
        raise ValueError(f"row {row}: {texts.name} is {texts[row]!r}, {fault}: {CURE}")
    return local
