"""Real servers on a free port of this machine: workers and their metrics, slow bodies, and a stop that answers."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.serving.server.processes import listening

from .conftest import Server, wait_for

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def two_workers(start: Start, exported: dict[str, Path]) -> Iterator[Server]:
    with start(exported["fp32"], "--workers", 2, "--timeout", 1, "--max-body", 100_000) as server:
        wait_for(lambda: server.ask("/readyz")[0] == 200)
        yield server


def begun(server: Server) -> HTTPConnection:
    """A request that waits for the rest of its body."""
    connection = server.connection()
    connection.putrequest("POST", "/predict")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "14")
    connection.endheaders(b'{"item')
    return connection


def finished(connection: HTTPConnection) -> int:
    """The status of a request that was begun, when the rest has been sent."""
    connection.send(b'_id": 1}')
    answer = connection.getresponse()
    assert len(json.loads(answer.read())["predictions"]) == 1
    connection.close()
    return answer.status


def test_metrics_are_of_all_workers(two_workers: Server, rows: Any, predictors: Any) -> None:
    expected = predictors["fp32"].predict(rows)
    for _ in range(30):
        status, headers, body = two_workers.ask("/predict", {"rows": rows})
        assert (status, len(headers["x-model-version"])) == (200, 16)
        np.testing.assert_array_equal(json.loads(body)["predictions"], expected)

    def counted() -> list[float]:
        lines = two_workers.ask("/metrics")[2].decode().splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith("recsys_rows_total{")]

    assert {tuple(counted()) for _ in range(10)} == {(30 * len(rows),)}  # whichever worker is asked


def test_a_body_that_does_not_come_is_not_waited_for(two_workers: Server) -> None:
    connection = begun(two_workers)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["expected"]) == (408, "all of it in 1 seconds")
    connection.close()


def test_so_many_requests_are_taken_at_once(start: Start, exported: dict[str, Path]) -> None:
    with start(exported["fp32"], "--max-in-flight", 1) as server:
        first = begun(server)
        wait_for(lambda: server.ask("/predict", {})[0] == 503)
        assert server.ask("/predict", {})[1]["retry-after"] == "1"
        assert finished(first) == 200
        assert server.ask("/predict", {})[0] == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_body_is_refused_before_it_is_read(two_workers: Server, declared: bool) -> None:
    connection = two_workers.connection()
    connection.putrequest("POST", "/predict")
    connection.putheader("content-type", "application/json")
    if declared:
        connection.putheader("content-length", str(10**12))
        connection.endheaders(b"{")
    else:
        connection.putheader("transfer-encoding", "chunked")
        connection.endheaders(b"1ffff\r\n" + b" " * 0x1FFFF + b"\r\n")  # and no end
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["expected"]) == (413, "at most 100000 bytes")
    connection.close()


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_what_was_accepted_is_answered_before_it_stops(
    start: Start, exported: dict[str, Path], workers: int, number: int
) -> None:
    with start(exported["fp32"], "--workers", workers) as server:
        wait_for(lambda: server.ask("/readyz")[0] == 200)
        connections = [begun(server) for _ in range(4)]
        server.ask("/readyz")  # after those
        os.kill(server.process.pid, number)
        assert [finished(connection) for connection in connections] == [200] * 4
        assert server.process.wait(60) == 0
    answered = [line for line in server.lines if line.get("path") == "/predict"]
    assert [line["status"] for line in answered] == [200] * 4
    assert server.lines[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an exported folder, or a folder of them with --versions: one of the two"),
        (["nothing"], "nothing: cannot be served: nothing: cannot be opened (No such file or directory)"),
        (["--versions", "."], "holds no exported folder; export a run into it"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = [sys.executable, "-P", "-m", "recsys.cli", "serve", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_answers_are_not_held_back() -> None:
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        accepted.close()
        assert accepted.proto == socket.IPPROTO_TCP  # or asyncio leaves Nagle's algorithm on


def test_a_taken_port_is_said_in_a_sentence(two_workers: Server, exported: dict[str, Path]) -> None:
    command = [sys.executable, "-P", "-m", "recsys.cli", "serve", str(exported["fp32"])]
    done = subprocess.run([*command, "--port", str(two_workers.port)], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"127.0.0.1, port {two_workers.port}: cannot be listened on" in done.stderr


def test_workers_end_with_their_parent(start: Start, exported: dict[str, Path]) -> None:
    import psutil

    with start(exported["fp32"], "--workers", 2, "--reload-seconds", 0.1) as server:
        wait_for(lambda: server.ask("/readyz")[0] == 200)
        children = psutil.Process(server.process.pid).children()
        server.process.kill()
        assert psutil.wait_procs(children, timeout=60)[1] == []
