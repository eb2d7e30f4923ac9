"""Arrow streams are answered as JSON is, and what could become large in memory is refused."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys.serving.server.app import ARROW


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()


def post(client: Any, body: bytes) -> Any:
    return client.post("/predict", content=body, headers={"content-type": ARROW})


def test_a_stream_is_answered_with_one(client: Any, rows: Any, predictors: Any) -> None:
    table = pa.Table.from_pylist(rows)
    answer = post(client, stream(table))
    assert answer.headers["content-type"] == ARROW
    (name,) = (answered := pa.ipc.open_stream(answer.content).read_all()).column_names
    assert name == "prediction"
    np.testing.assert_array_equal(answered[name].to_numpy(), predictors["fp32"].predict(rows))
    empty = pa.ipc.open_stream(post(client, stream(table.slice(0, 0))).content).read_all()
    assert empty.num_rows == 0


@pytest.mark.parametrize(
    ("table", "status", "about"),
    [
        ({"item_id": pa.array(["a"]).dictionary_encode()}, 400, {"feature": "item_id"}),
        ({"tags": pa.array([[[1]]])}, 400, {"feature": "tags"}),
        ({"x": pa.array([{"a": 1}])}, 400, {"feature": "x", "error": "a column of struct<a: int64>"}),
        ({"tags": pa.array([[], [None] * 4], pa.list_(pa.null()))}, 413, {"feature": "tags", "row": 1}),
        ({"x": pa.nulls(10**6)}, 413, {"value": 10**6}),
        ({"item_id": pa.array([1, 2]), "x": pa.array(["1", "one"])}, 400, {"feature": "x", "row": 1}),
        ({"itme": pa.array([1])}, 400, {"feature": "itme"}),
        ({"item_id": pa.array([1], pa.timestamp("ns"))}, 400, {"feature": "item_id"}),
    ],
)
def test_what_is_wrong_is_named(serve: Any, table: Any, status: int, about: dict[str, Any]) -> None:
    with serve(list_length=3) as client:
        answer = post(client, stream(pa.table(table)))
    assert answer.status_code == status
    assert {name: answer.json()[name] for name in about} == about


def test_compressed_and_damaged_streams_are_refused(client: Any) -> None:
    table = pa.table({"x": np.zeros(2000)})
    assert post(client, stream(table)).status_code == 200
    for codec in ("lz4", "zstd"):
        answer = post(client, stream(table, codec))
        assert (answer.status_code, answer.json()["error"]) == (400, "the stream is compressed")
    whole = stream(pa.Table.from_pylist([{"user_id": "u1", "tags": [1, 2]}] * 3))
    random = np.random.default_rng(0)
    for _ in range(150):
        body = bytearray(whole)
        for place in random.integers(0, len(body), 4):
            body[place] = random.integers(0, 256)
        answer = post(client, bytes(body[: random.integers(1, len(body) + 1)]))
        assert answer.status_code in (200, 400, 413), answer.text
        assert answer.status_code == 200 or set(json.loads(answer.text)) >= {"error", "expected"}
    twice = pa.Table.from_arrays([pa.array([1.0])] * 2, names=["x", "x"])
    assert post(client, stream(twice)).json()["error"] == "a column stands twice"
