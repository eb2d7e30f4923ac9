import uuid
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from recsys_cython_ext import MISSING_ID, string_ids
from recsys_pipelines.config import DataConfig, FeatureConfig
from recsys_pipelines.features import FeatureFitter, Features, specs_of
from recsys_pipelines.features.convert import typed
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk

CONFIGS = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
    [
        {"kind": "categorical", "names": ["c"], "min_count": 2},
        {"kind": "categorical", "names": ["n"]},
        {"kind": "categorical", "names": ["tags"], "multivalued": True, "weights": "w", "separator": "|"},
        {"kind": "cross", "name": "cn", "columns": ["c", "n"], "encoding": "hash"},
        {"kind": "tokens", "columns": ["text"], "ngrams": 2},
        {"kind": "prefixes", "columns": ["c"], "lengths": [1, 2]},
        {"kind": "date", "column": "t", "parts": ["hour", "weekday", "year"]},
        {"kind": "buckets", "columns": ["x"], "quantiles": 4},
        {"kind": "buckets", "columns": ["y"], "boundaries": [0, 1.5]},
        {"kind": "numeric", "names": ["x"], "transform": "log", "clip": [None, 50]},
        {"kind": "statistic", "columns": ["c"]},
        {"kind": "sequence", "name": "last", "column": "n", "length": 3, "like": "n"},
    ]
)
ROWS = [
    {
        "c": ["aa", "ab", "b", None][k % 4],
        "n": k % 5 if k % 6 else None,
        "tags": ["p|q", "q", "", None][k % 4],
        "w": ["1|2", "0.5", "", None][k % 4],
        "text": ["the cat", "a cat sat", None][k % 3],
        "t": 1_700_000_000 + 3_600 * k if k % 9 else None,
        "x": float(k) if k % 8 else None,
        "y": k / 10,
        "last": [k % 5, 4] if k % 2 else [],
    }
    for k in range(40)
]


@pytest.fixture(scope="module")
def fitted():
    chunk = Chunk(pa.Table.from_pylist(ROWS), np.arange(len(ROWS)), "f")
    specs = specs_of(CONFIGS)
    table = typed(chunk, specs, Quarantine())
    lists = pa.array(
        [[MISSING_ID if v is None else v for v in row["last"]] for row in ROWS], pa.list_(pa.int64())
    )
    table = table.set_column(table.column_names.index("last"), "last", lists)
    table = table.append_column("@label", pa.array([k % 2 for k in range(len(ROWS))], pa.int8()))
    fitter = FeatureFitter(CONFIGS, {"c": True, "n": False, "tags": True})
    fitter.add(table)
    return fitter.fit(), table


def test_a_request_gets_the_numbers_of_its_row_however_it_comes(fitted, tmp_path):
    features, table = fitted
    features.save(tmp_path)
    expected = features.encode(table.drop_columns(["row_id", "@label"]))
    assert expected.column_names == [name for f in features.features for name in f.columns]
    served = Features.load(tmp_path)
    raw = pa.Table.from_pylist(ROWS)
    for rows in (ROWS, raw):
        assert served.transform(rows).equals(expected)
    assert pa.Table.from_batches(
        [served.transform(batch).to_batches()[0] for batch in raw.to_batches()]
    ).equals(expected)
    for k, row in enumerate(ROWS):
        assert served.transform(row).equals(expected.slice(k, 1)), row
    frame = pl.from_arrow(raw)
    assert served.transform(frame).equals(pl.from_arrow(expected))
    lazy = served.transform(frame.lazy())
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect(engine="streaming").equals(pl.from_arrow(expected))
    assert served.transform([]).num_rows == 0


def test_all_kinds_after_loading(fitted, tmp_path):
    features, _ = fitted
    features.save(tmp_path)
    again = Features.load(tmp_path)
    assert [f.to_dict() for f in again.features] == [f.to_dict() for f in features.features]
    assert [f.columns for f in again.features] == [f.columns for f in features.features]
    assert again.configs == features.configs == CONFIGS
    assert again.text == features.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": float("inf")}, r"1 of 2 rows cannot be read: row 1, y: infinite \('inf'\)"),
        ({"w": "1"}, r"row 1, w: not as many weights as tags has elements"),
        ({"c": 1}, r"c: the values do not fit one column"),
        ({"last": ["x"]}, r"last: the values do not fit one column"),
    ],
)
def test_bad_requests_are_named(fitted, change, message):
    with pytest.raises(ValueError, match=message):
        fitted[0].transform([ROWS[1], ROWS[4] | change])


def test_what_is_absent_is_not_guessed(fitted):
    row = {name: value for name, value in ROWS[0].items() if name != "last"}
    with pytest.raises(ValueError, match="row 1 has no 'last': give None"):
        fitted[0].transform([ROWS[1], row])
    with pytest.raises(ValueError, match="request: there is no column 'last'"):
        fitted[0].transform(pa.Table.from_pylist([row]))
    with pytest.raises(TypeError, match="not str"):
        fitted[0].transform("c=1")


def test_a_sequence_is_cut_and_cleaned_as_in_training(fitted):
    features, _ = fitted
    long, clean = ROWS[1] | {"last": [9, 4, None, 3, 2]}, ROWS[1] | {"last": [4, 3, 2]}
    assert features.transform(long).equals(features.transform(clean))
    with pytest.raises(ValueError, match="column 'last' holds text, but integers in training"):
        features.transform(ROWS[1] | {"last": ["4"]})


def test_a_sequence_may_come_as_text_to_be_cut():
    (config,) = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        [{"kind": "sequence", "name": "h", "column": "c", "length": 2, "separator": " ", "encoding": "hash"}]
    )
    features = FeatureFitter([config], {"c": True})
    features.add(pa.table({"h": pa.array([[1]], pa.list_(pa.int64()))}))
    expected = string_ids(pa.array(["b", "c"])).tolist()
    assert features.fit().transform({"h": "a b c"})["h"].to_pylist() == [expected]


def test_text_where_training_had_integers_is_refused(fitted):
    with pytest.raises(ValueError, match="request: column 'n' holds text, but integers in training"):
        fitted[0].transform(ROWS[1] | {"n": "1"})


def test_a_string_that_looks_like_code_is_a_string(fitted):
    row = ROWS[1] | {"c": "__import__('os').system('false')", "text": "{{ 7 * 7 }} !!python/object:os.system"}
    assert fitted[0].transform(row).num_rows == 1


NUMBERS = [2**64 - 1, 7, None, 2**63 + 1]
UUIDS = [uuid.UUID(int=1), None, uuid.UUID(int=2**127), uuid.UUID(int=3)]
TEXTS = ["a", None, "more than twelve bytes", "b"]
OF_ALL_TYPES = {
    "text": pa.array(TEXTS),
    "unsigned": pa.array(NUMBERS, pa.uint64()),
    "uuid": pa.array([None if u is None else u.bytes for u in UUIDS], pa.binary(16)),
    "decimal": pa.array([None if n is None else Decimal(n) for n in NUMBERS], pa.decimal128(20, 0)),
    "words": pa.array([["a", None], None, ["b"], ["a"]]),
    "said": pa.array(["a b", None, "b", "a"]),
}


@pytest.fixture(scope="module")
def of_all_types(tmp_path_factory):
    """Features of a log with each of these types, prepared, and the columns they give."""
    folder = tmp_path_factory.mktemp("types")
    pq.write_table(pa.table({**OF_ALL_TYPES, "label": [0, 1, 0, 1]}), folder / "log.parquet")
    single = [name for name in OF_ALL_TYPES if name not in ("words", "said")]
    configs = TypeAdapter(tuple[FeatureConfig, ...]).validate_python(
        [
            {"kind": "categorical", "names": single, "encoding": "hash"},
            {"kind": "categorical", "names": ["words"], "multivalued": True, "encoding": "hash"},
            {"kind": "tokens", "columns": ["said"], "encoding": "hash"},
        ]
    )
    data = DataConfig(
        source="table",
        path=folder / "log.parquet",
        label={"column": "label"},
        split={"by": "order", "train": 0.5, "validation": 0.25, "test": 0.25},
    )
    features = prepare(data, configs, folder / "out").features()
    features.save(folder / "saved")
    return Features.load(folder / "saved")


def test_ids_of_every_type_come_out_alike_however_they_come(of_all_types):
    assert of_all_types.text["uuid"] == "uuid"
    table = pa.table(OF_ALL_TYPES)
    expected = of_all_types.transform(table)
    texts = string_ids(pa.array([None if u is None else str(u) for u in UUIDS])).tolist()
    assert expected["uuid"].to_pylist() == texts
    bits = [MISSING_ID if n is None else (n + 2**63) % 2**64 - 2**63 for n in NUMBERS]
    assert expected["unsigned"].to_pylist() == expected["decimal"].to_pylist() == bits
    extension = pa.ExtensionArray.from_storage(pa.uuid(), OF_ALL_TYPES["uuid"])
    assert of_all_types.transform(pa.table({**OF_ALL_TYPES, "uuid": extension})).equals(expected)
    rows = [
        {
            "text": t,
            "unsigned": n,
            "uuid": u,
            "decimal": None if n is None else Decimal(n),
            "words": w,
            "said": s,
        }
        for t, n, u, w, s in zip(
            TEXTS, NUMBERS, UUIDS, table["words"].to_pylist(), table["said"].to_pylist(), strict=True
        )
    ]
    assert of_all_types.transform(rows).equals(expected)
    rows = [row | {"uuid": u and str(u)} for row, u in zip(rows, UUIDS, strict=True)]
    for k, row in enumerate(rows):
        assert of_all_types.transform(row).equals(expected.slice(k, 1)), row
    frame = pl.from_arrow(table.cast(table.schema.set(2, pa.field("uuid", pa.binary()))))
    for change in (pl.Categorical, pl.Enum(["a", "b", "more than twelve bytes"])):
        changed = frame.with_columns(
            pl.col("text").cast(change), pl.col("words").cast(pl.List(pl.Categorical))
        )
        assert of_all_types.transform(changed).equals(pl.from_arrow(expected))
        lazy = of_all_types.transform(changed.lazy()).collect(engine="streaming")
        assert lazy.equals(pl.from_arrow(expected))


def test_bytes_that_are_no_uuid_are_named(of_all_types):
    with pytest.raises(ValueError, match="uuid: training had UUIDs, and not all of these bytes are some"):
        of_all_types.transform(pa.table({**OF_ALL_TYPES, "uuid": pa.array([b"short", None, b"", b""])}))


@pytest.mark.parametrize("nan", [float("nan"), np.float32("nan"), np.float64("nan")])
@pytest.mark.parametrize("name", ["text", "uuid", "words", "said"])
def test_nan_where_text_was_trained_is_missing(of_all_types, name, nan):
    table = pa.table(OF_ALL_TYPES)
    nothing = table.set_column(table.column_names.index(name), name, pa.nulls(4, table[name].type))
    expected = of_all_types.transform(nothing)
    rows = nothing.to_pylist()
    assert of_all_types.transform([row | {name: nan} for row in rows]).equals(expected)
    assert of_all_types.transform(rows[0] | {name: nan}).equals(expected.slice(0, 1))
    mixed = [
        row | {name: value} for row, value in zip(rows, [nan, None, table[name][2].as_py(), nan], strict=True)
    ]
    assert of_all_types.transform(mixed)[1:2].equals(expected[1:2])
    for kind in (pa.float64(), pa.float32()):
        floats = pa.array([nan, None, nan, nan], kind)
        frame = nothing.set_column(table.column_names.index(name), name, floats)
        assert of_all_types.transform(frame).equals(expected)
    frame = frame.set_column(table.column_names.index("uuid"), "uuid", pa.nulls(4, pa.binary()))
    if name != "uuid":
        lazy = pl.from_arrow(frame).lazy()
        assert of_all_types.transform(lazy).collect().shape == (4, expected.num_columns)


def test_numbers_where_text_was_trained_are_still_refused(of_all_types):
    floats = pa.array([float("nan"), 1.0, None, None])
    with pytest.raises(ValueError, match="column 'text' holds integers, but text in training"):
        of_all_types.transform(pa.table({**OF_ALL_TYPES, "text": floats}))
