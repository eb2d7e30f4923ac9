import datetime
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, arrow_ids
from recsys_pipelines.features.convert import ColumnSpec, typed
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import Chunk, SourceError


def chunk_of(first=100, **columns):
    table = pa.table(columns)
    rows = np.arange(first, first + table.num_rows)
    return Chunk(table, rows, "f.csv", rows + 2)


def convert(column, kind, **options):
    """Converted column, row ids and quarantine."""
    bad = Quarantine()
    table = typed(chunk_of(x=column), {"out": ColumnSpec("x", kind, **options)}, bad)
    assert table.num_rows + bad.count == len(column)
    return table["out"], [row - 100 for row in table["row_id"].to_pylist()], bad


def reasons(bad):
    return [(e.row - 100, e.value, e.reason) for e in bad.examples]


def test_outputs_in_order_and_one_column_twice():
    bad = Quarantine()
    specs = {
        "n": ColumnSpec("i1", "number"),
        "b": ColumnSpec("i1", "squared_log"),
        "c": ColumnSpec("c1", "id"),
    }
    table = typed(chunk_of(c1=["a", None], i1=["7", "1"]), specs, bad)
    assert table.schema == pa.schema(
        [("n", pa.float64()), ("b", pa.int64()), ("c", pa.int64()), ("row_id", pa.int64())]
    )
    assert table["n"].to_pylist() == [7, 1]
    assert table["b"].to_pylist() == [3, 1]
    assert table["c"].to_pylist() == [arrow_ids(pa.array(["a"]))[0], MISSING_ID]
    assert table["row_id"].to_pylist() == [100, 101]


def test_a_row_is_quarantined_once_under_its_first_fault():
    bad = Quarantine()
    specs = {
        "a": ColumnSpec("a", "number"),
        "b": ColumnSpec("b", "label"),
        "a2": ColumnSpec("a", "squared_log"),
    }
    table = typed(chunk_of(a=["1", "x", "y"], b=["2", "3", "1"]), specs, bad)
    assert table.num_rows == 0
    assert [(e.file, e.row, e.line, e.field, e.value) for e in bad.examples] == [
        ("f.csv", 101, 103, "a", "x"),
        ("f.csv", 102, 104, "a", "y"),
        ("f.csv", 100, 102, "b", "2"),
    ]


def test_columns_and_names_are_checked():
    with pytest.raises(SourceError, match=r"f\.csv.*'c10'.*did you mean 'c1'"):
        typed(chunk_of(c1=["a"]), {"x": ColumnSpec("c10", "id")}, Quarantine())
    with pytest.raises(ValueError, match="row_id"):
        typed(chunk_of(c1=["a"]), {"row_id": ColumnSpec("c1", "id")}, Quarantine())


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()]
)
def test_text_ids(kind):
    out, _, bad = convert(pa.array(["123", "é", "", None]).cast(pa.binary()).cast(kind), "id")
    assert out.to_pylist() == [*arrow_ids(pa.array(["123", "é", ""])).tolist(), MISSING_ID]
    assert bad.count == 0


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int64(), pa.float64(), pa.float32()])
def test_integer_ids_are_themselves(kind):
    assert convert(pa.array([7, None, 0], kind), "id")[0].to_pylist() == [7, MISSING_ID, 0]


def test_dictionary_boolean_and_null_ids():
    words = pa.array(["a", None, "a"])
    assert convert(words.dictionary_encode(), "id")[0].equals(convert(words, "id")[0])
    assert convert(pa.array([True, None]), "id")[0].to_pylist() == [1, MISSING_ID]
    assert convert(pa.nulls(2), "id")[0].to_pylist() == [MISSING_ID] * 2


def test_ids_that_do_not_fit():
    _, rows, bad = convert(pa.array([2**63 - 1, 2**63, 2**64 - 1], pa.uint64()), "id")
    assert rows == [0, 2]
    assert [(e.value, "bits of 2^63" in e.reason) for e in bad.examples] == [(str(2**63), True)]
    _, rows, bad = convert(pa.array([MISSING_ID, MISSING_ID + 1]), "id")
    assert rows == [1]
    assert "stands for a missing id" in bad.examples[0].reason
    out, rows, bad = convert(pa.array([Decimal("1.5"), Decimal("7.0"), None, Decimal("-3")]), "id")
    assert (out.to_pylist(), rows) == ([7, MISSING_ID, -3], [1, 2, 3])
    assert reasons(bad) == [(0, "1.5", "not a whole number of 64 bits")]
    out, rows, _ = convert(pa.array([1.5, 2.0**53, 2.0**53 + 2, float("inf"), float("nan")]), "id")
    assert rows == [1, 4]
    assert out.to_pylist() == [2**53, MISSING_ID]
    _, rows, bad = convert(pa.array([b"ok", b"\xff\xfe", None]), "id")
    assert rows == [0, 2]
    assert reasons(bad) == [(1, r"\xff\xfe", "not UTF-8 text")]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime.date(2020, 1, 1)]),
        pa.array([{"a": 1}]),
        pa.array([[1]]),
    ],
)
def test_types_that_are_no_id(column):
    with pytest.raises(SourceError, match=r"f\.csv: column 'x' is .*: .*convert the column"):
        convert(column, "id")


@pytest.mark.parametrize(
    "kind", [pa.uint64(), pa.decimal128(20, 0), pa.decimal128(38, 18), pa.decimal256(50, 4)], ids=str
)
def test_unsigned_ids_are_their_bits(kind):
    values = [2**64 - 1, 0, 2**63 + 1, None, 2**63 - 1]
    column = pa.array(values, pa.uint64()) if kind == pa.uint64() else decimals(values, kind)
    expected = [-1, 0, MISSING_ID + 1, MISSING_ID, 2**63 - 1]
    assert convert(column, "id")[0].to_pylist() == expected
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 5]), column)
    assert convert(lists, "ids")[0].to_pylist() == [expected[:2], expected[2:]]
    out, rows, bad = convert(column, "integer")
    assert (out.to_pylist(), rows) == ([0, 2**63 - 1], [1, 4])
    assert bad.count == 3


def decimals(values, kind):
    return pa.array([None if value is None else Decimal(value) for value in values], kind)


def test_uuids_are_their_text():
    ids = [uuid.UUID(int=7), None, uuid.UUID("6BA7B810-9DAD-11D1-80B4-00C04FD430C8")]
    texts = pa.array([None if one is None else str(one) for one in ids])
    raw = pa.array([None if one is None else one.bytes for one in ids], pa.binary(16))
    for column in (raw, pa.ExtensionArray.from_storage(pa.uuid(), raw), raw.dictionary_encode()):
        assert convert(column, "id")[0].equals(convert(texts, "id")[0])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 3]), raw)
    assert convert(lists, "ids")[0].to_pylist()[1] == convert(texts, "id")[0].to_pylist()[1:]


@pytest.mark.parametrize("value", [pa.string_view(), pa.binary_view()], ids=str)
def test_views_as_polars_writes_them(value):
    texts = pa.array(["a", None, "more than twelve bytes", "a"])
    plain = convert(texts, "id")[0]
    views = texts.cast(pa.binary()).cast(value)
    words = pa.array(["a", "more than twelve bytes"]).cast(pa.binary()).cast(value)
    coded = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 0], pa.uint32()), words)
    lists = pa.ListArray.from_arrays(pa.array([0, 3, 4]), views)
    assert convert(views, "id")[0].equals(plain)
    assert convert(coded, "id")[0].equals(plain)
    assert convert(lists, "ids")[0].to_pylist() == [plain.to_pylist()[:3], plain.to_pylist()[3:]]
    _, rows, bad = convert(views, "number")
    assert (rows, bad.count) == ([1], 3)  # what is bad can be shown


LISTS = [[5, None, 7], None, [], [9]]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view])
def test_lists(kind):
    out, _, bad = convert(pa.array([[1], *LISTS], kind(pa.int64()))[1:], "ids")
    assert out.type == pa.list_(pa.int64())
    assert out.to_pylist() == [[5, MISSING_ID, 7], [], [], [9]]
    assert bad.count == 0
    fixed = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int32(), 2))
    assert convert(fixed, "ids")[0].to_pylist() == [[1, 2], [], [3, MISSING_ID]]
    assert convert(pa.nulls(2), "ids")[0].to_pylist() == [[], []]


def test_lists_of_text_and_split_text_agree():
    a, b = arrow_ids(pa.array(["a", "b c"])).tolist()
    want = [[a, b], [a], [], [a, MISSING_ID, b, MISSING_ID], []]
    text = ["a|b c", "a", "", "a||b c|", None]
    assert convert(pa.array(text), "ids", separator="|")[0].to_pylist() == want
    lists = [["a", "b c"], ["a"], [], ["a", None, "b c", None], None]
    assert convert(pa.array(lists), "ids")[0].to_pylist() == want


def test_one_bad_element_costs_the_row():
    _, rows, bad = convert(pa.array([[1, 2], [2**63], None, [3]], pa.list_(pa.uint64())), "ids")
    assert rows == [0, 2, 3]
    assert reasons(bad)[0][:2] == (1, f"[{2**63}]")
    _, rows, _ = convert(pa.array([[b"a"], [b"b", b"\xff"]]), "ids")
    assert rows == [0]


@pytest.mark.parametrize(
    ("column", "hint"), [(["a b"], "separator"), ([1], "multivalued"), ([[[1]]], "an id must be")]
)
def test_not_a_list(column, hint):
    with pytest.raises(SourceError, match=hint):
        convert(pa.array(column), "ids")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.integers(-(10**6), 10**9)))
def test_squared_log(values):
    want = [MISSING_ID if x is None else int(np.floor(np.log(x) ** 2)) if x > 2 else x for x in values]
    for column in (
        pa.array(values, pa.int64()),
        pa.array([None if x is None else str(x) for x in values], pa.string()),
    ):
        out, _, bad = convert(column, "squared_log")
        assert out.to_pylist() == want
        assert bad.count == 0


def test_squared_log_of_odd_numbers():
    out, rows, bad = convert(pa.array(["2.5", "-1.9", "-1e30", "1e30", "nan", "inf", "abc"]), "squared_log")
    assert rows == [0, 1, 3, 4]
    assert out.to_pylist() == [0, -1, int(np.log(1e30) ** 2), MISSING_ID]
    assert {e.value: e.reason for e in bad.examples} == {
        "-1e30": "outside int64",
        "inf": "infinite",
        "abc": "not a number",
    }


def test_numbers():
    text = [
        "1",
        "-2.5",
        "1e3",
        None,
        "nan",
        "inf",
        "-Infinity",
        "1e999",
        "",
        " 1",
        "1_0",
        "0x1F",
        "ten",
        "+5",
    ]
    out, rows, bad = convert(pa.array(text), "number")
    assert rows == [0, 1, 2, 3, 4, 13]
    assert out.to_pylist() == [1, -2.5, 1000, None, None, 5]
    assert sorted(bad.reasons.items()) == [(("x", "infinite"), 3), (("x", "not a number"), 5)]


@pytest.mark.parametrize(
    ("column", "want"),
    [
        (pa.array([True, None]), [1, None]),
        (pa.array([2**60 + 1, -1]), [float(2**60), -1]),
        (pa.array([0.5, float("nan"), None], pa.float32()), [0.5, None, None]),
        (pa.array([Decimal("1.25")]), [1.25]),
        (pa.nulls(1), [None]),
        (pa.array(["1", "2"]).dictionary_encode(), [1, 2]),
    ],
)
def test_numbers_of_other_types(column, want):
    assert convert(column, "number")[0].to_pylist() == want


def test_a_date_is_no_number():
    with pytest.raises(SourceError, match=r"date32.*numbers are needed"):
        convert(pa.array([datetime.date(2020, 1, 1)]), "number")


@pytest.mark.parametrize("column", [pa.array(["0", "1", "1.0", "2", "-1", "0.5", None, "yes", "nan", "inf"])])
def test_labels(column):
    out, rows, bad = convert(column, "label")
    assert out.type == pa.int8()
    assert out.to_pylist() == [0, 1, 1]
    assert rows == [0, 1, 2]
    assert bad.reasons["x", "label is neither 0 nor 1"] == 3
    assert bad.reasons["x", "missing label"] == 2
    assert bad.reasons["x", "not a number"] == 1
    assert bad.reasons["x", "infinite"] == 1


def test_native_labels_and_threshold():
    assert convert(pa.array([True, False]), "label")[0].to_pylist() == [1, 0]
    assert convert(pa.array([0, 1, 2], pa.int8()), "label")[1] == [0, 1]
    out, rows, _ = convert(pa.array(["3", "3.5", "4", "", "5"]), "label", threshold=3.5)
    assert out.to_pylist() == [0, 1, 1, 1]
    assert rows == [0, 1, 2, 4]


def test_weights():
    out, rows, bad = convert(pa.array(["0", "0.5", "-1", None, "inf", "x"]), "weight")
    assert out.to_pylist() == [0, 0.5]
    assert rows == [0, 1]
    assert bad.count == 4


def test_integers():
    text = ["881250949", "881250949.0", "-1", str(2**63 - 1), str(2**63), "1.5", None, "x", "1e3", "nan"]
    out, rows, bad = convert(pa.array(text), "integer")
    assert out.to_pylist() == [881250949, 881250949, -1, 2**63 - 1, 1000]
    assert rows == [0, 1, 2, 3, 8]
    assert bad.reasons == {("x", "not a whole number within int64"): 4, ("x", "missing"): 1}


def test_times_are_microseconds_whatever_their_unit():
    moment = datetime.datetime(2020, 1, 1, 12)
    for unit in ("s", "ms", "us", "ns"):
        out, _, _ = convert(pa.array([moment], pa.timestamp(unit)), "integer")
        assert out.to_pylist() == [1577880000 * 10**6]
    assert convert(pa.array([moment.date()]), "integer")[0].to_pylist() == [1577836800 * 10**6]


KINDS = ["id", "ids", "squared_log", "number", "label", "weight", "integer"]
VALUES = st.sampled_from(["0", "1", "2", "", "-1", "1e400", "nan", "a|b", "|", str(2**64), "é"]) | st.text(
    max_size=5
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | VALUES, max_size=12), st.permutations(KINDS))
def test_any_text_keeps_rows_in_equal_to_rows_out_and_quarantined(values, kinds):
    bad = Quarantine()
    specs = {kind: ColumnSpec("x", kind, separator="|") for kind in kinds}
    table = typed(chunk_of(x=pa.array(values, pa.string())), specs, bad)
    assert sorted([*table["row_id"].to_pylist(), *(e.row for e in bad.examples)]) == [
        100 + i for i in range(len(values))
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | VALUES, min_size=1, max_size=12), st.sampled_from(KINDS), st.integers(1, 11))
def test_a_value_converts_the_same_whatever_stands_beside_it(values, kind, cut):
    def rows(part):
        table = typed(
            chunk_of(x=pa.array(part, pa.string())), {"y": ColumnSpec("x", kind, separator="|")}, Quarantine()
        )
        return table["y"].to_pylist()

    assert rows(values) == rows(values[:cut]) + rows(values[cut:])
