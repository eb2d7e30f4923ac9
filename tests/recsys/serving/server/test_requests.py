"""A server answers as its predictor does, and refuses everything else with one body."""

import json
import time
from typing import Any

import numpy as np
import pytest

from recsys.serving.server import app as app_module

KEYS = {"error", "feature", "row", "value", "expected"}
JSON = {"content-type": "application/json"}


def post(client: Any, body: Any, path: str = "/predict", **headers: str) -> Any:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return client.post(path, content=content, headers=JSON | headers)


def test_rows_are_answered_as_by_the_predictor(client: Any, predictors: Any, rows: Any) -> None:
    expected = predictors["fp32"].predict(rows)
    many = post(client, {"rows": rows})
    assert many.status_code == 200
    np.testing.assert_array_equal(many.json()["predictions"], expected)
    one = post(client, rows[0]).json()["predictions"]
    np.testing.assert_allclose(one, expected[:1], atol=1e-7)
    assert post(client, {"rows": []}).json() == {"predictions": []}


def test_items_are_ranked_as_by_the_predictor(client: Any, predictors: Any, rows: Any) -> None:
    context = {"user_id": rows[0]["user_id"]}
    items = [{name: row[name] for name in ("item_id", "tags")} for row in rows[:9]]
    answer = post(client, {"context": context, "items": items}, "/rank").json()["predictions"]
    np.testing.assert_array_equal(answer, predictors["fp32"].rank(context, items))
    assert post(client, {"context": {}, "items": []}, "/rank").json() == {"predictions": []}


REFUSED: list[tuple[Any, int, dict[str, Any]]] = [
    ({"itme": 1}, 400, {"feature": "itme", "row": 0, "value": 1}),
    ({"rows": [{}, {"item_id": "one"}]}, 400, {"feature": "item_id", "row": 1, "value": "one"}),
    ({"item_id": [1]}, 400, {"feature": "item_id", "row": 0, "value": "[1]"}),
    ({"item_id": {"a": 1}}, 400, {"feature": "item_id", "row": 0}),
    ({"item_id": 1.5}, 400, {"feature": "item_id", "value": 1.5}),
    ({"item_id": 10**40}, 400, {"feature": "item_id", "value": hex(10**40)}),
    ({"tags": 1}, 400, {"feature": "tags", "expected": "a list"}),
    ({"tags": [[1], [2, 3]]}, 400, {"feature": "tags"}),
    ({"x": "1e400"}, 400, {"feature": "x"}),
    ({"user_id": "x" * 999, "itme": "y" * 999}, 400, {"feature": "itme", "value": "y" * 59 + "…"}),
    (b'{"user_id": "\\ud800"}', 400, {"feature": "user_id", "expected": "text"}),
    (b'{"\\ud800": 1}', 400, {"feature": "\ud800"}),
    (b'{"x": NaN}', 400, {"value": "NaN"}),
    (b'{"x": 1, "x": 2}', 400, {"feature": "x", "expected": "each key once"}),
    (b'{"x": ' + b"9" * 5000 + b"}", 400, {"expected": "JSON"}),
    (b'{"x": ' + b"[" * 100_000, 400, {"error": "the body is nested too deeply"}),
    (b"\xff", 400, {"error": "the body is no UTF-8 text: byte 0 cannot be read"}),
    (b"", 400, {"expected": "JSON"}),
    (b"{", 400, {"expected": "JSON"}),
    ([], 400, {"error": "the body is a list"}),
    (None, 400, {"error": "the body is null"}),
    ({"rows": {}}, 400, {"error": "rows is an object"}),
    ({"rows": [1]}, 400, {"error": "a row is a number", "row": 0, "value": 1}),
    ({"rows": [], "more": 1}, 400, {"feature": "more", "value": 1}),
    ({"rows": [{}] * 5}, 413, {"value": 5, "expected": "at most 4 rows"}),
    ({"rows": [{}, {"tags": [1] * 4}]}, 413, {"feature": "tags", "row": 1, "value": 4}),
    ({"user_id": "x" * 5000}, 413, {"expected": "at most 4000 bytes"}),
]


@pytest.mark.parametrize(("body", "status", "about"), REFUSED)
def test_what_is_wrong_is_named(serve: Any, body: Any, status: int, about: dict[str, Any]) -> None:
    small = 10**6 if status == 400 else 4000
    with serve(rows=4, list_length=3, body_bytes=small) as client:
        refused(post(client, body), status, about)


def refused(response: Any, status: int, about: dict[str, Any]) -> None:
    assert response.status_code == status
    body = response.json()
    assert set(body) == KEYS
    assert {name: body[name] for name in about} == about
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "about"),
    [
        ({"context": {}}, {"error": "items is missing"}),
        ({"context": [], "items": []}, {"error": "context is a list"}),
        ({"context": {}, "items": [{}], "user": {}}, {"feature": "user"}),
        ({"context": {"user_id": 1}, "items": [{}, {}]}, {"feature": "user_id", "row": None}),
        ({"context": {}, "items": [{}, {"item_id": "a"}]}, {"feature": "item_id", "row": 1}),
        ({"context": {"a": 1}, "items": [{}]}, {"feature": "a", "row": None}),
    ],
)
def test_what_is_wrong_with_a_ranking_is_named(client: Any, body: Any, about: dict[str, Any]) -> None:
    refused(post(client, body, "/rank"), 400, about)


def test_media_types_paths_and_methods(client: Any) -> None:
    refused(client.post("/predict", content=b"{}"), 415, {"value": ""})
    refused(client.post("/predict", data={"x": "1"}), 415, {"value": "application/x-www-form-urlencoded"})
    refused(post(client, {}, **{"content-encoding": "gzip"}), 415, {"value": "gzip"})
    refused(
        client.post("/rank", content=b"", headers={"content-type": app_module.ARROW}),
        415,
        {"expected": "content-type: application/json"},
    )
    refused(client.get("/predict"), 405, {"value": "GET", "expected": "POST"})
    refused(client.post("/predict/", content=b"{}"), 404, {"value": "/predict/"})
    assert post(client, {}, **{"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


def test_ids_of_requests(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    answer = post(client, {}, **{"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert len(post(client, {}, **{"x-request-id": "a b"}).headers["x-request-id"]) == 32
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    line = next(line for line in lines if line.get("id") == "abc-1")
    assert (line["path"], line["status"], line["rows"]) == ("/predict", 200, 1)
    assert line["version"] == answer.headers["x-model-version"]


def test_values_of_requests_are_not_in_the_log(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    post(client, {"item_id": "secret"})
    assert "secret" not in capsys.readouterr().out


def test_a_full_worker_says_so_and_slow_answers_are_given_up(serve: Any, monkeypatch: Any) -> None:
    with serve(in_flight=0) as client:
        answer = post(client, {})
        refused(answer, 503, {"error": "too many requests at once"})
        assert answer.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
    with serve(seconds=0.05) as client:
        monkeypatch.setattr(app_module.json_body, "rows_of", lambda *_: time.sleep(0.3))
        refused(post(client, {}), 503, {"expected": "0.05 seconds"})


def test_a_fault_of_the_server_is_a_sentence(client: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(app_module.json_body, "rows_of", lambda *_: 1 // 0)
    refused(post(client, {}), 500, {"error": "the server has failed; its log says where"})


def test_metrics_count_what_was_answered(client: Any) -> None:
    def number(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    names = [
        'recsys_requests_total{path="/predict",status="200"}',
        'recsys_unknown_ids_total{feature="item_id"}',
    ]
    names += [
        'recsys_missing_values_total{feature="x"}',
        "recsys_rows_total{",
        'recsys_requests_total{path="other"',
    ]
    before = [number(name) for name in names]
    post(client, {"rows": [{"item_id": 12345}, {"item_id": 1, "x": 1.0}]})
    client.get("/unheard-of")
    assert [now - then for now, then in zip(map(number, names), before, strict=True)] == [1, 1, 1, 2, 1]
    assert number('recsys_request_seconds_count{path="/predict"}') >= 1


def test_a_server_without_a_version_is_alive_and_not_ready(serve: Any, tmp_path: Any) -> None:
    with serve(tmp_path / "nothing") as client:
        assert client.get("/healthz").json() == {"status": "alive"}
        for path in ("/readyz", "/metadata"):
            refused(client.get(path), 503, {"error": "no version is loaded"})
        refused(post(client, {}), 503, {"error": "no version is loaded"})


def test_the_example_of_metadata_is_answered(client: Any, predictors: Any) -> None:
    about = client.get("/metadata").json()
    assert post(client, about["example"]).status_code == 200
    types = {column["name"]: column["type"] for column in about["columns"]}
    assert types == {"item_id": "integer", "user_id": "text", "tags": "list: integer", "x": "number"}
    assert {one["name"] for one in about["features"]} == {
        one.name for one in predictors["fp32"].transform.inputs
    }
    assert about["version"] == client.get("/readyz").headers["x-model-version"]
