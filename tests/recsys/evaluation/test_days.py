"""Days as people write them: year first or a whole number, at the place where they were written."""

import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation.days import written_times

FORMS = ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S.%f"]
ZONES = ["", "Z", "+00:00", "-0500", "+14", " UTC", "-11:30"]


@settings(max_examples=80, deadline=None)
@given(
    time=st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31)),
    form=st.sampled_from(FORMS),
    zone=st.sampled_from(ZONES),
)
def test_the_local_time_is_taken_as_it_is_written(time: datetime.datetime, form: str, zone: str) -> None:
    text = f"{time.year:04}" + time.strftime(form)[len(time.strftime("%Y")) :]
    expected = datetime.datetime.strptime(text, form)
    found = written_times(pl.Series("day", [text + (zone if "%H" in form else ""), None, "2024-01-08"]))
    assert found.to_list() == [expected, None, datetime.datetime(2024, 1, 8)]


def test_whole_numbers_stay_whole_numbers() -> None:
    assert written_times(pl.Series(["1", None, "-2", "007", "20240108"])).to_list() == [
        1,
        None,
        -2,
        7,
        20240108,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "01/08/2024",  # whichever month it is
        "13/08/2024",
        "2024/01/08",
        "08.01.2024",
        "8 Jan 2024",
        "2024-W01",
        "2024-1-8",
        "2024-02-30",
        "2024-01-08 25:00",
        "2024-01-08 10:00 PM",
        "2024-01-08T10:00:00 Europe/Zurich",
        "1.5",
        "NA",
        "17043",
    ],
)
def test_anything_else_is_refused_by_its_value(text: str) -> None:
    with pytest.raises(ValueError, match="write days as 2024-01-31") as caught:
        written_times(pl.Series("day", ["2024-01-08", None, text]))
    assert f"row 2: day is {text!r}, " in str(caught.value)
