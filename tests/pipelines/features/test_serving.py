import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from recsys_cython_ext import MISSING_ID, string_ids
from recsys_pipelines.config import FeatureConfig
from recsys_pipelines.features import FeatureFitter, Features, specs_of
from recsys_pipelines.features.convert import typed
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
