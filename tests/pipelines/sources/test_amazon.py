import gzip
import json

import pyarrow as pa
import pytest

from recsys_pipelines.config import CategoricalConfig, DataConfig
from recsys_pipelines.preparation.prepare import prepare
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources import SourceError, open_source
from recsys_pipelines.sources.amazon import Amazon

OLD = {
    **{
        "reviewerID": "A2SUAM1J3GNN3B",
        "asin": "0000013714",
        "reviewerName": "J. McDonald",
        "helpful": [2, 3],
    },
    **{"reviewText": 'He "loves" é\n', "overall": 5.0, "summary": "!", "unixReviewTime": 1252800000},
}
NEW = {
    **{
        "rating": 4.5,
        "title": "x",
        "text": "<br />",
        "images": [{"a": 1}],
        "asin": "B1",
        "parent_asin": "B088SZDGXG",
    },
    **{"user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "timestamp": 1588687728923, "verified_purchase": True},
}


def write(path, *lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def read(path, columns=Amazon.columns):
    bad = Quarantine()
    chunks = list(open_source(DataConfig(source="amazon", path=path)).chunks(columns, bad))
    return pa.concat_tables(c.table for c in chunks), chunks, bad


@pytest.mark.parametrize(
    ("review", "row"),
    [
        (OLD, ("A2SUAM1J3GNN3B", "0000013714", 5.0, 1252800000000)),
        (NEW, ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B088SZDGXG", 4.5, 1588687728923)),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz"])
def test_both_versions(tmp_path, review, row, name):
    table, _, bad = read(write(tmp_path / name, review, review))
    assert table.to_pylist() == [dict(zip(Amazon.columns, row, strict=True))] * 2
    assert bad.count == 0


def test_missing_fields(tmp_path):
    table, _, bad = read(write(tmp_path / "a.jsonl", {"reviewerID": None, "asin": "", "overall": 3}))
    assert table.to_pylist() == [{"user_id": None, "item_id": None, "rating": 3.0, "timestamp": None}]
    assert bad.count == 0


def test_broken_lines(tmp_path):
    lines = [
        "",
        json.dumps(NEW)[:-5],
        "{'reviewerID': 'A'}",
        "[" * 100_000,
        json.dumps(NEW) * 2,
        "[1]",
        '{"a": 1}',
        NEW | {"user_id": 3},
        NEW | {"parent_asin": "\ud800"},
        NEW | {"rating": "5"},
        NEW | {"rating": float("nan")},
        NEW | {"rating": True},
        '{"user_id": "a", "rating": 1e999}',
        '{"user_id": "a", "rating": 1' + "0" * 4000 + "}",
        NEW | {"timestamp": 1.5},
        OLD | {"unixReviewTime": 2**50},
        OLD | {"unixReviewTime": "09 13, 2009"},
    ]
    path = write(tmp_path / "a.jsonl", NEW, *lines, OLD)
    table, (chunk,), bad = read(path)
    assert table.num_rows == 2
    assert chunk.lines.tolist() == [1, len(lines) + 2]
    assert chunk.rows.tolist() == [0, len(lines) + 1]
    assert [(e.line, e.row) for e in bad.examples] == [(k + 2, k + 1) for k in range(len(lines))]
    assert [(e.field, e.reason) for e in bad.examples] == [
        (None, "blank line"),
        *[(None, "not JSON")] * 4,
        (None, "not a JSON object"),
        (None, "neither reviewerID nor user_id"),
        ("user_id", "not text"),
        ("parent_asin", "not text"),
        *[("rating", "not a number")] * 5,
        ("timestamp", "not a time"),
        *[("unixReviewTime", "not a time")] * 2,
    ]
    # A broken field that nobody asked for costs no row.
    assert read(path, ["user_id"])[0].num_rows == 2 + len(lines) - 8
    bad.write(tmp_path)


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", *[NEW | {"timestamp": k} if k % 7 else "bad" for k in range(50)])
    want = read(path)
    monkeypatch.setattr("recsys_pipelines.sources.blocks.BLOCK", 100)
    table, _, bad = read(path)
    assert table.combine_chunks().equals(want[0].combine_chunks())
    assert bad.examples == want[2].examples


def test_prepared(tmp_path):
    lines = [NEW | {"rating": k % 5 + 1, "timestamp": k, "user_id": f"u{k % 7}"} for k in range(100)]
    data = DataConfig(
        source="amazon",
        path=write(tmp_path / "a.jsonl", *lines),
        label={"column": "rating", "threshold": 4},
        user="user_id",
        time="timestamp",
        split={"by": "time"},
    )
    features = [CategoricalConfig(kind="categorical", names=("user_id", "item_id"))]
    manifest = prepare(data, features, tmp_path / "out").manifest
    assert manifest.rows_out == 100
    assert manifest.row_counts_by_split["train"] == {"rows": 80, "positives": 32}


def test_errors(tmp_path):
    with pytest.raises(SourceError, match="is empty"):
        read(write(tmp_path / "a.jsonl"))
    with pytest.raises(SourceError, match=r"'stars'.*it has user_id, item_id, rating, timestamp"):
        read(write(tmp_path / "b.jsonl", NEW), ["stars"])
    path = write(tmp_path / "c.json.gz", *[NEW | {"title": str(k)} for k in range(9999)])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SourceError, match=r"c\.json\.gz: this is not a complete"):
        read(path)
