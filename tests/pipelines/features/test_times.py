"""Times of any spelling order rows: ISO 8601 as text, patterns, numbers; what is none goes to quarantine."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from recsys_pipelines.config import CategoricalConfig, DataConfig, FeatureConfig, TimeConfig
from recsys_pipelines.features import specs_of
from recsys_pipelines.features.times import Time, iso_times
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.shards import read_shard

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


@given(
    st.lists(
        st.tuples(
            st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
            st.none() | st.integers(-14 * 60, 14 * 60),
            st.sampled_from([" ", "T"]),
        ),
        min_size=1,
    )
)
def test_reads_what_python_writes(moments: list[tuple[datetime, int | None, str]]) -> None:
    aware = [m.replace(tzinfo=UTC if o is None else timezone(timedelta(minutes=o))) for m, o, _ in moments]
    texts = [(a if o is not None else m).isoformat(s) for a, (m, o, s) in zip(aware, moments, strict=True)]
    assert iso_times(pa.array(texts)).cast(pa.int64()).to_pylist() == [micros(a) for a in aware]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2017-11-07", datetime(2017, 11, 7, tzinfo=UTC)),
        ("2017-11-07 09:30", datetime(2017, 11, 7, 9, 30, tzinfo=UTC)),
        ("2017-11-07T09:30:38Z", datetime(2017, 11, 7, 9, 30, 38, tzinfo=UTC)),
        ("2017-11-07 09:30:38,5", datetime(2017, 11, 7, 9, 30, 38, 500_000, tzinfo=UTC)),
        ("2017-11-07 09:30:38.123456789", datetime(2017, 11, 7, 9, 30, 38, 123_456, tzinfo=UTC)),
        ("2017-11-07T09:30:38+0130", datetime(2017, 11, 7, 8, 0, 38, tzinfo=UTC)),
        ("2017-11-07T09:30:38 -03", datetime(2017, 11, 7, 12, 30, 38, tzinfo=UTC)),
        ("1969-12-31 23:59:59.5", datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)),
        *(
            (bad, None)
            for bad in ("2017-02-30", "2017-11-07 24:00:00", "2017-11-7", "20171107", "17-11-07", "")
        ),
        *(
            (bad, None)
            for bad in ("2017-13-01 00:00:00", "2017-11-07 09:30:60", "2017-11-07 09:30:38 CET", "x")
        ),
    ],
)
def test_spellings(text: str, expected: datetime | None) -> None:
    for others in ([], ["2017-11-07 09:30:38"], ["2017-11-07T09:30:38Z"]):  # beside which it stands
        found = iso_times(pa.array([text, *others])).cast(pa.int64()).to_pylist()[0]
        assert found == (None if expected is None else micros(expected))


def bad_rows(spec: Time, values: list[Any]) -> dict[int, str]:
    output, problems = spec.convert([pa.array(values)])
    told: dict[int, str] = {}
    for problem in problems:
        for row in np.flatnonzero(problem.bad).tolist():
            told.setdefault(row, problem.reason)
    assert sorted(told) == np.flatnonzero(np.asarray(output.is_null())).tolist()
    return told


def test_what_is_no_time_is_named() -> None:
    assert bad_rows(Time("t"), ["2017-11-07 09:30:38", "5", None, "x"]) == {
        1: "not a time such as 2017-11-07 09:30:38, as others are",
        2: "missing",
        3: "not a time such as 2017-11-07 09:30:38, as others are",
    }
    assert bad_rows(Time("t"), ["5", "07/11/2017", None]) == {
        1: "neither a whole number nor a time such as 2017-11-07 09:30:38; give other times a format",
        2: "missing",
    }
    assert bad_rows(Time("t", "%d/%m/%Y %H:%M"), ["07/11/2017 09:30", "31/02/2017 00:00"]) == {
        1: "not a time of the format %d/%m/%Y %H:%M"
    }
    assert bad_rows(Time("t", "iso"), ["2017-11-07", "5"]) == {1: "not a time such as 2017-11-07 09:30:38"}
    assert bad_rows(Time("t"), [5, 7]) == bad_rows(Time("t", "%Y%m%d"), [20171107]) == {}


@pytest.mark.parametrize(
    ("time", "form"),
    [
        ("t", "%Y-%m-%d %H:%M:%S"),
        ("t", "%Y-%m-%dT%H:%M:%S+00:00"),
        ({"column": "t", "format": "%d/%m/%Y %H:%M:%S"}, "%d/%m/%Y %H:%M:%S"),
        ({"column": "t", "format": "seconds"}, "%s"),
    ],
)
def test_a_log_of_text_is_cut_in_the_order_of_its_times(time: Any, form: str, tmp_path: Path) -> None:
    n = 200
    moments = [
        EPOCH + timedelta(days=17_000, hours=7 * k) for k in np.random.default_rng(0).permutation(n).tolist()
    ]
    texts = [str(int(m.timestamp())) if form == "%s" else m.strftime(form) for m in moments]
    texts[3] = "yesterday"
    lines = ["label,c,t", *(f"{k % 2},c{k % 5},{text}" for k, text in enumerate(texts))]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    raw = {"source": "table", "path": tmp_path / "log.csv", "time": time, "split": {"by": "time"}}
    data = DataConfig.model_validate(raw)
    assert data.time_column == "t"
    features = [CategoricalConfig(kind="categorical", names=("c",))]
    prepared = prepare(data, features, tmp_path / "prepared")
    assert prepared.manifest.row_counts == {
        "rows_in": n,
        "rows_added": 0,
        "rows_out": n - 1,
        "quarantined": 1,
    }
    assert "yesterday" in next((prepared.path / "quarantine").glob("*.csv")).read_text()
    expected = sorted(micros(m) for k, m in enumerate(moments) if k != 3)
    found = [
        value
        for split in ("train", "validation", "test")
        for value in sorted(read_shard(next((prepared.path / split).glob("*.arrow")))["@time"].to_pylist())
    ]
    assert found == expected


def test_dates_read_iso_too() -> None:
    (config,) = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        [{"kind": "date", "column": "t", "parts": ["hour", "year"], "format": "iso"}]
    )
    text = pa.array(["2017-11-07T09:30:38Z"])
    found = {name: spec.convert([text])[0].to_pylist() for name, spec in specs_of([config]).items()}
    assert found == {"t_hour": [9], "t_year": [2017]}


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="format"):
        TimeConfig(column="t", format="dd/mm/yyyy")
