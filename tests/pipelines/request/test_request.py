"""A request's transform gives the numbers of `Features.transform`, and refuses what that refuses."""

import datetime as dt
import math
import re
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from recsys_cython_ext import MISSING_ID
from recsys_pipelines.config import FeatureConfig
from recsys_pipelines.features import FeatureFitter, Features, specs_of
from recsys_pipelines.features.convert import typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.request.frames import FrameTransform
from recsys_pipelines.request.transform import BadRequest, Encoded, RequestTransform
from recsys_pipelines.request.write import write_request
from recsys_pipelines.sources.base import Chunk

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
    [
        {"kind": "categorical", "names": ["c"], "min_count": 2},
        {"kind": "categorical", "names": ["n"]},
        {"kind": "categorical", "name": "small", "column": "n", "form": "fingerprint"},
        {"kind": "categorical", "name": "tail", "column": "n", "unknown": "hash", "min_count": 7},
        {"kind": "categorical", "name": "hashed", "column": "c", "encoding": "hash"},
        {"kind": "categorical", "name": "bucket", "column": "x", "buckets": "squared_log"},
        {"kind": "categorical", "names": ["key"]},
        {"kind": "categorical", "names": ["tags"], "multivalued": True, "weights": "w", "separator": "|"},
        {"kind": "categorical", "names": ["list"], "multivalued": True, "pooling": "mean"},
        {"kind": "cross", "name": "cn", "columns": ["c", "n"], "encoding": "hash"},
        {"kind": "tokens", "columns": ["text"], "ngrams": 3, "max_tokens": 3},
        {"kind": "tokens", "name": "cased", "column": "text", "lowercase": False},
        {"kind": "prefixes", "columns": ["c"], "lengths": [1, 2]},
        {"kind": "date", "column": "t", "parts": ["hour", "weekday", "weekend", "day", "month", "year"]},
        {"kind": "date", "column": "ms", "format": "milliseconds", "parts": ["hour"]},
        {"kind": "date", "column": "iso", "format": "iso", "parts": ["hour", "day"]},
        {"kind": "date", "column": "p", "format": "%d/%m/%Y %H:%M", "parts": ["hour", "year"]},
        {"kind": "buckets", "columns": ["x"], "quantiles": 4},
        {"kind": "buckets", "columns": ["y"], "boundaries": [0, 1.5]},
        {"kind": "numeric", "names": ["x"], "transform": "log", "clip": [None, 50]},
        {"kind": "numeric", "names": ["y"], "transform": "squared_log", "standardise": False},
        {"kind": "statistic", "columns": ["c"]},
        {"kind": "sequence", "name": "last", "column": "n", "length": 3, "like": "n"},
    ]
)
KEYS = [uuid.UUID(int=k) for k in range(3)]
ROWS = [
    {
        "c": ["aa", "ab", "b", None][k % 4],
        "n": k % 5 if k % 6 else None,
        "key": KEYS[k % 3],
        "tags": ["p|q", "q", "", None][k % 4],
        "w": ["1|2", "0.5", "", None][k % 4],
        "list": [[1, 2], [], None, [2, None]][k % 4],
        "text": ["the cat", "A cat sat", None][k % 3],
        "t": 1_700_000_000 + 3_600 * k if k % 9 else None,
        "ms": 1_700_000_000_000 + k,
        "iso": "2017-11-07 09:30:38",
        "p": "07/11/2017 09:30",
        "x": float(k) if k % 8 else None,
        "y": k / 10,
        "last": [k % 5, 4] if k % 2 else [],
    }
    for k in range(40)
]


@pytest.fixture(scope="module")
def fitted() -> Features:
    chunk = Chunk(pa.Table.from_pylist(ROWS), np.arange(len(ROWS)), "f")
    table = typed(chunk, specs_of(CONFIGS), Quarantine())
    lists = pa.array([row["last"] for row in ROWS], pa.list_(pa.int64()))
    table = table.set_column(table.column_names.index("last"), "last", lists)
    table = table.append_column("@label", pa.array([k % 2 for k in range(len(ROWS))], pa.int8()))
    text = {"c": True, "n": False, "tags": True, "list": False, "key": "uuid"}
    fitter = FeatureFitter(CONFIGS, text)  # type: ignore[arg-type]
    fitter.add(table)
    return fitter.fit()


@pytest.fixture(scope="module")
def request_of(fitted: Features, tmp_path_factory: pytest.TempPathFactory) -> RequestTransform:
    folder = tmp_path_factory.mktemp("request")
    write_request(fitted, folder)
    return RequestTransform(folder)


def same(request: RequestTransform, features: Features, rows: list[dict[str, Any]]) -> None:
    encoded, expected = request.encode(rows), features.transform(rows)
    dense = np.array([expected[name].to_pylist() for name in features.numeric_columns], np.float32)
    np.testing.assert_array_equal(encoded.dense, dense.T.reshape(encoded.dense.shape))
    for feature in features.categorical:
        column = expected[feature.name].combine_chunks()
        if feature.name in encoded.singles:
            assert encoded.ids[encoded.singles.index(feature.name)].tolist() == column.to_pylist(), (
                feature.name
            )
            continue
        bags = encoded.bags[feature.name]
        lists = pa.types.is_list(column.type)
        values = column.flatten() if lists else column
        assert bags.values.tolist() == values.to_pylist(), feature.name
        offsets = column.offsets.to_pylist() if lists else list(range(len(rows) + 1))
        assert bags.offsets.tolist() == offsets, feature.name
        if feature.weighted:
            weights = expected[f"{feature.name}:weights"].combine_chunks().flatten()
            assert bags.weights is not None
            assert bags.weights.tolist() == weights.to_pylist()


def test_rows_of_training(request_of: RequestTransform, fitted: Features) -> None:
    same(request_of, fitted, ROWS)
    same(request_of, fitted, [])
    for row in ROWS:
        same(request_of, fitted, [row])


whole = st.integers(-(2**63), 2**64 + 1)
numbers = st.one_of(
    st.floats(),
    whole.filter(lambda number: number < 2**64),  # more than Arrow takes
    st.booleans(),
    st.decimals(),
    st.from_regex(r"[+-]?[0-9]{0,3}\.?[0-9]{0,20}([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(["inf", "-Infinity", "NaN", " 1", "1_0", "0x1", "", "+-1"]),
)
names = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=6)
ids = st.one_of(st.integers(-2, 6), whole, st.floats(), st.booleans(), st.decimals(places=1), names)
moments = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "c": st.one_of(names, st.sampled_from(["aa", "ab", "b"]), st.binary(max_size=3), st.integers(0, 3)),
    "n": ids,
    "key": st.one_of(st.sampled_from(KEYS), st.sampled_from([k.bytes for k in KEYS]), st.just(str(KEYS[0]))),
    "tags": st.one_of(names, st.sampled_from(["p|q", "|", "q||p"])),
    "w": st.sampled_from(["1|2", "1", "", "1||2", "inf", "1e39", "x", "-0.5|3"]),
    "list": st.lists(st.one_of(st.none(), st.integers(-3, 2**63 - 1)), max_size=4),
    "text": st.one_of(names, st.sampled_from(["ΟΔΟΣ ΣΑΣ", "İstanbul ½ ² a_b", "the  cat the cat"])),
    "t": st.one_of(st.integers(-(2**44), 2**44), st.floats(0, 2e9), st.integers(0, 2**33).map(str), moments),
    "ms": st.integers(-(2**44), 2**44),
    "iso": st.one_of(
        moments.map(str),
        moments.map(lambda moment: moment.isoformat()[:-3]),
        st.dates(dt.date(1, 1, 1)).map(str),
        st.sampled_from(
            ["2017-02-29", "2017-11-07T09:30Z", "2017-11-07 09:30:38.5 +01:00", "2017-11-07 24:00"]
        ),
        st.sampled_from(["2017-11-07 09:30:38-0930", "2017-11-07T09:30:38,123456789+1", "20171107", "x"]),
    ),
    "p": st.one_of(
        moments.map(lambda m: m.strftime("%d/%m/%Y %H:%M")), st.sampled_from(["7/11/2017 09:30", ""])
    ),
    "x": numbers,
    "y": numbers,
    "last": st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=5),
}
rows = st.fixed_dictionaries(
    {name: st.one_of(st.none(), values, st.just(ROWS[1][name])) for name, values in COLUMNS.items()}
)


@settings(max_examples=400)
@given(column=st.sampled_from(sorted(COLUMNS)), data=st.data())
def test_one_column_at_a_time(
    request_of: RequestTransform, fitted: Features, column: str, data: st.DataObject
) -> None:
    row = ROWS[1] | {column: data.draw(COLUMNS[column])}
    try:
        fitted.transform(row)
    except ValueError:
        with pytest.raises(BadRequest):
            request_of.encode([row])
    else:
        same(request_of, fitted, [row])


@settings(max_examples=100)
@given(row=rows)
def test_all_columns_at_once(request_of: RequestTransform, fitted: Features, row: dict[str, Any]) -> None:
    try:
        fitted.transform(row)
    except ValueError:
        with pytest.raises(BadRequest):
            request_of.encode([row])
    else:
        same(request_of, fitted, [row])


def test_what_is_absent_is_missing_and_counted(request_of: RequestTransform, fitted: Features) -> None:
    row = {"n": 3, "c": "never seen", "x": math.nan}
    nothing = dict.fromkeys(request_of.columns) | row
    encoded = request_of.encode([row])
    assert encoded.ids[encoded.singles.index("n")].tolist() == fitted.transform(nothing)["n"].to_pylist()
    assert encoded.missing["x"] == encoded.missing["text_tokens"] == encoded.missing["y"] == 1
    assert encoded.unknown == {"c": 1, "c_prefixes": 2, "c:statistic": 1}
    assert "n" not in encoded.missing


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"q": 1}, r"row 1, q: no feature reads this column \(1\); expected one of c, iso, key"),
        (
            {"n": "a"},
            r"row 1, n: text, and training had integers, which have other ids \('a'\); expected an integer",
        ),
        ({"c": 1}, r"row 1, c: a number, and training had text.* \(1\); expected text"),
        ({"c": ["a"]}, r"row 1, c: list where text is needed"),
        ({"list": 3}, r"row 1, list: int where many values are declared \(3\); expected a list"),
        ({"x": "1,5"}, r"row 1, x: not a number \('1,5'\); expected a number"),
        ({"y": math.inf}, r"row 1, y: infinite \(inf\); expected a number"),
        ({"c": "\ud800"}, r"row 1, c: half a surrogate pair"),
        ({"key": b"short"}, r"row 1, key: not the 16 bytes of a UUID"),
        ({"n": Decimal("1.5")}, r"row 1, n: not a whole number of 64 bits"),
        ({"n": MISSING_ID}, r"row 1, n: -2\^63 stands for a missing id"),
    ],
)
def test_bad_values_are_named(request_of: RequestTransform, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        request_of.encode([ROWS[0], row])


def assert_equal(found: Encoded, expected: Encoded) -> None:
    np.testing.assert_array_equal(found.dense, expected.dense, strict=True)
    np.testing.assert_array_equal(found.ids, expected.ids, strict=True)
    assert list(found.bags) == list(expected.bags)
    for name, bags in expected.bags.items():
        other = found.bags[name]
        for a, b in ((other.values, bags.values), (other.offsets, bags.offsets)):
            np.testing.assert_array_equal(a, b, strict=True, err_msg=name)
        assert (other.weights is None) == (bags.weights is None)
        np.testing.assert_array_equal(other.weights, bags.weights)  # type: ignore[arg-type]
        assert (other.missing, other.unknown) == (bags.missing, bags.unknown), name
    assert (found.rows, found.missing, found.unknown) == (expected.rows, expected.missing, expected.unknown)


@pytest.fixture(scope="module")
def frames(fitted: Features, request_of: RequestTransform) -> FrameTransform:
    return FrameTransform(fitted, request_of)


def test_frames_are_encoded_as_dicts(frames: FrameTransform, request_of: RequestTransform) -> None:
    table = pa.Table.from_pylist(ROWS)
    expected = request_of.encode(ROWS)
    for frame in (table, table.to_batches()[0], pl.DataFrame(table.drop_columns("key"))):
        if isinstance(frame, pl.DataFrame):  # which has no UUIDs
            frame = frame.with_columns(key=pl.Series([row["key"].bytes for row in ROWS]))
        assert_equal(frames.encode(frame), expected)
    assert_equal(frames.encode(table.slice(3, 9)), request_of.encode(ROWS[3:12]))
    assert_equal(frames.encode(table.slice(0, 0)), request_of.encode([]))
    assert_equal(frames.encode(table.select(["n"])), request_of.encode([{"n": row["n"]} for row in ROWS]))
    dictionary = table.set_column(0, "c", table["c"].dictionary_encode())
    assert_equal(frames.encode(dictionary), expected)
    nothing = pa.table({"list": pa.nulls(2, pa.float64()), "x": pa.nulls(2, pa.list_(pa.int64()))})
    assert_equal(frames.encode(nothing), request_of.encode([{}, {}]))


def beyond_its_end() -> pa.Array:
    """Return text of which an offset lies behind its bytes."""
    offsets = pa.py_buffer(np.array([0, 2**30, 2], np.int32))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ab")])


def test_frames_that_can_be_read_become_no_dicts(
    frames: FrameTransform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(RequestTransform, "encode")
    assert frames.encode(pa.Table.from_pylist(ROWS)).rows == len(ROWS)


@settings(max_examples=400)
@given(column=st.sampled_from(sorted(COLUMNS)), data=st.data())
def test_any_column_of_a_frame(
    frames: FrameTransform, request_of: RequestTransform, column: str, data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.one_of(st.none(), COLUMNS[column]), min_size=1, max_size=3))
    try:
        table = pa.table({"y": pa.array([0.5] * len(values)), column: pa.array(values)})
    except (pa.ArrowException, OverflowError, TypeError):
        return  # values that are no column
    try:
        expected = request_of.encode(table.to_pylist())
    except BadRequest as error:
        with pytest.raises(BadRequest, match=f"^{re.escape(str(error))}$"):
            frames.encode(table)
    else:
        assert_equal(frames.encode(table), expected)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            pa.table({"q": [7, 8]}),
            r"row 0, q: no feature reads this column \(7\); expected one of c, iso, key",
        ),
        (
            pa.table({"c": ["a", "b"], "n": ["1", "2"]}),
            r"row 0, n: text, and training had integers.* \('1'\)",
        ),
        (pa.table({"c": pa.array([None, 1])}), r"row 1, c: a number, and training had text"),
        (pl.DataFrame({"c": ["a", "b"], "x": ["1", "1,5"]}), r"row 1, x: not a number \('1,5'\)"),
        (pl.DataFrame({"x": [None, [1.5]]}), r"row 1, x: list where a number is needed \(\[1\.5\]\)"),
        (pa.table({"t": pa.array([dt.time(1)])}), r"row 0, t: time where .* is needed"),
        (
            pa.table([[1], [2]], names=["n", "n"]),
            r"row 0, n: two columns are called this \(2\); expected one",
        ),
        (
            pa.table({"c": pa.array([b"a", b"\xff"]).view(pa.string())}),
            r"row 1, c: .*Invalid UTF8.*; expected a sound column of string",
        ),
        (pa.table({"q": beyond_its_end()}), r"row 0, q: .*; expected a sound column of string"),
        (pa.table({"t": pa.array([2**62], pa.timestamp("s")), "x": ["a"]}), "x: not a number"),
    ],
)
def test_frames_that_cannot_be_read(frames: FrameTransform, frame: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frames.encode(frame)


def test_other_frames_are_refused(frames: FrameTransform) -> None:
    with pytest.raises(TypeError, match=r"or a polars DataFrame, not polars\.lazyframe\.frame\.LazyFrame"):
        frames.encode(pl.LazyFrame({"n": [1]}))


def test_no_arrow_polars_or_torch_is_imported() -> None:
    code = (
        "import sys, recsys_pipelines.request.transform\n"
        "print([name for name in ('pyarrow', 'polars', 'torch', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folders_of_other_versions_and_damage_are_refused(fitted: Features, tmp_path: Path) -> None:
    write_request(fitted, tmp_path)
    file = tmp_path / "request.json"
    file.write_text(file.read_text().replace('"last": 3', '"last": 4'))
    with pytest.raises(ValueError, match=r"request\.json"):
        RequestTransform(tmp_path)
