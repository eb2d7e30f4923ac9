import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, arrow_ids, hash_rows, lookup_salt, string_ids
from recsys_pipelines import expressions
from recsys_pipelines.expressions import (
    ARROW_TYPES,
    arrow_id_expr,
    arrow_row_expr,
    id_expr,
    register_arrow_functions,
    row_expr,
)

INT64 = st.sampled_from([0, -1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 1 - 2**63]) | st.integers(
    1 - 2**63, 2**63 - 1
)
TEXTS = st.lists(st.none() | st.text(max_size=40), max_size=40)
ENGINES = ["in-memory", "streaming"]


def oracle_id(value):
    if value is None or isinstance(value, int):
        return MISSING_ID if value is None else value
    text = value.encode() if isinstance(value, str) else value
    return (xxhash.xxh64_intdigest(text) ^ 2**63) - 2**63


def oracle_ids(values):
    return [oracle_id(value) for value in values]


def oracle_rows(values, feature, lookup, n):
    array = pa.array(oracle_ids(values), pa.int64()).to_numpy()
    return hash_rows(array, lookup_salt(feature, lookup), n).tolist()


# Polars


@pytest.mark.parametrize("engine", ENGINES)
@given(
    st.one_of(st.tuples(st.just(pl.String), TEXTS), st.tuples(st.just(pl.Int64), st.lists(st.none() | INT64)))
)
def test_expressions_agree_with_the_oracle(engine, typed):
    kind, values = typed
    query = pl.LazyFrame({"a": pl.Series(values, dtype=kind)}).select(
        id=id_expr("a"), row=row_expr(pl.col("a"), "user", 2, 1000)
    )
    assert query.collect_schema() == {"id": pl.Int64, "row": pl.Int64}
    frame = query.collect(engine=engine)
    assert frame["id"].to_list() == oracle_ids(values)
    assert frame["row"].to_list() == oracle_rows(values, "user", 2, 1000)


def test_rows_of_the_golden_file():
    path = Path(__file__).parents[1] / "cython_ext" / "golden_rows.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    frame = pl.DataFrame({"a": list(golden["string_ids"])})
    assert frame.select(id_expr("a"))["a"].to_list() == list(golden["string_ids"].values())
    for id_, feature, j, n, row in golden["rows"][::17]:
        if id_ != MISSING_ID:
            assert pl.select(row_expr(pl.lit(id_, pl.Int64), feature, j, n)).item() == row


def test_every_type_of_polars_with_ids():
    texts = pl.Series(["b", None, "a", "b", "more than twelve bytes"])
    expected = oracle_ids(texts.to_list())
    categories = ["a", "more than twelve bytes", "b"]
    for kind in (pl.String, pl.Categorical, pl.Enum(categories), pl.Binary):
        assert texts.cast(kind).to_frame("a").select(id_expr("a"))["a"].to_list() == expected
    for kind in (pl.Int8, pl.UInt16, pl.Int32, pl.UInt64):
        series = pl.Series([3, None], dtype=kind)
        assert series.to_frame("a").select(id_expr("a"))["a"].to_list() == [3, MISSING_ID]
    large = pl.Series([2**64 - 1, None, 2**63 + 1], dtype=pl.UInt64)
    for series in (large, large.cast(pl.Decimal(20, 0)), large.cast(pl.Decimal(38, 10))):
        assert series.to_frame("a").select(id_expr("a"))["a"].to_list() == [-1, MISSING_ID, MISSING_ID + 1]
    assert pl.DataFrame({"a": [True, None]}).select(id_expr("a"))["a"].to_list() == [1, MISSING_ID]
    assert pl.DataFrame({"a": [None]}).select(id_expr("a"))["a"].to_list() == [MISSING_ID]


def test_it_streams_in_slices():
    values = [f"{n:05}" if n % 7 else None for n in range(50_000)]
    query = (
        pl.LazyFrame({"a": values, "keep": range(50_000)})
        .filter(pl.col("keep") % 3 == 0)
        .select(id_expr("a"))
    )
    expected = oracle_ids(values[::3])
    assert query.slice(17, 9000).collect(engine="streaming")["a"].to_list() == expected[17:9017]
    assert query.collect(engine="streaming")["a"].to_list() == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", [id_expr, lambda column: row_expr(column, "f", 0, 10)], ids=["id", "row"])
@pytest.mark.parametrize(
    ("series", "error", "message"),
    [
        (pl.Series([1.0]), TypeError, "double"),
        (pl.Series([[1]]), TypeError, "list"),
        (
            pl.Series([0, None, 2**63], dtype=pl.UInt64),
            ValueError,
            r"9223372036854775808 at position \d is reserved",
        ),
        (pl.Series([0, -(2**63)]), ValueError, r"position \d is reserved"),
    ],
)
def test_columns_without_ids(engine, make, series, error, message):
    with pytest.raises(error, match=message):
        series.to_frame("a").lazy().select(make("a")).collect(engine=engine)


@pytest.mark.parametrize(
    ("lookup", "n", "message"), [(-1, 10, "lookup"), (0, 0, "num_embeddings"), (0, 2**31, "num_embeddings")]
)
def test_bad_arguments_fail_where_the_expression_is_made(lookup, n, message):
    with pytest.raises(ValueError, match=message):
        row_expr("a", "f", lookup, n)
    with pytest.raises(ValueError, match=message):
        arrow_row_expr("a", pa.string(), "f", lookup, n)


# Arrow


@given(TEXTS)
def test_arrow_agrees_with_the_oracle(values):
    array = pa.array(values, pa.string())
    table = pa.table({"a": pa.chunked_array([array, array[3:]])})
    columns = {
        "id": arrow_id_expr("a", array.type),
        "row": arrow_row_expr("a", array.type, "user", 1, 77),
    }
    found = ds.dataset(table).to_table(columns=columns)
    assert found["id"].to_pylist() == oracle_ids(values + values[3:])
    assert found["row"].to_pylist() == oracle_rows(values + values[3:], "user", 1, 77)
    assert found["id"].type == pa.int64()


@pytest.mark.parametrize("kind", ARROW_TYPES, ids=str)
def test_dataset_projections(kind):
    values = [True, None, False] if pa.types.is_boolean(kind) else [7, None, 9]
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        text = ["a", None, "more than twelve bytes"]
        values = text if "string" in str(kind) else [None if v is None else v.encode() for v in text]
    array = pa.array(values, kind)
    columns = {"id": arrow_id_expr("a", kind), "row": arrow_row_expr("a", kind, "user", 2, 1000)}
    table = ds.dataset(pa.table({"a": array})).to_table(columns=columns)
    assert table["id"].to_pylist() == arrow_ids(array).tolist()
    assert table["row"].to_pylist() == hash_rows(arrow_ids(array), lookup_salt("user", 2), 1000).tolist()


def test_functions_of_scalars():
    register_arrow_functions()
    register_arrow_functions()
    expected = string_ids(pa.array(["a"]))
    assert pc.call_function("recsys_ids[string]", [pa.scalar("a")]).as_py() == expected[0]
    row = pc.call_function("recsys_rows[string]", [pa.scalar("a"), pa.scalar(5), pa.scalar(100)])
    assert row.as_py() == hash_rows(expected, 5, 100)[0]


def test_arrow_errors():
    table = ds.dataset(pa.table({"a": pa.array([1, 2**63], pa.uint64())}))
    with pytest.raises(ValueError, match="position 1 is reserved"):
        table.to_table(columns={"id": arrow_id_expr("a", pa.uint64())})
    with pytest.raises(TypeError, match="got double"):
        arrow_id_expr("a", pa.float64())


def test_neither_torch_nor_tables_are_imported():
    code = f"import sys, {expressions.__name__}; assert not {{'torch', 'recsys_tables'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)
