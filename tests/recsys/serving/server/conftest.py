"""Two exported versions of one run, which answer differently, and a server in this process."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

NEEDED = ("torch", "onnxscript", "onnxruntime", "starlette", "uvicorn", "prometheus_client", "httpx2")
if any(find_spec(name) is None for name in NEEDED):  # of the extras `export` and `serve`, and of `dev`
    collect_ignore_glob = ["test_*.py"]

Client = Any  # a starlette.testclient.TestClient
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def exported(run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions of a run, not to be written to."""
    from recsys.serving.export import export

    folder = tmp_path_factory.mktemp("exported")
    return {dtype: export(run, folder / dtype, dtype).folder for dtype in ("fp32", "int4")}


@pytest.fixture(scope="session")
def predictors(exported: dict[str, Path]) -> dict[str, Any]:
    from recsys.serving.predictor import Predictor

    return {name: Predictor.open(folder) for name, folder in exported.items()}


@pytest.fixture(scope="session")
def rows(log: Path, predictors: dict[str, Any]) -> Rows:
    return pq.read_table(log).slice(0, 100).select(predictors["fp32"].transform.columns).to_pylist()


@pytest.fixture
def served(exported: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of its own, which a test may replace."""
    return shutil.copytree(exported["fp32"], tmp_path / "served")


@pytest.fixture
def serve(exported: dict[str, Path]) -> Callable[..., Any]:
    """Start a server in this process: of a folder, with limits and another time to reload."""
    from starlette.testclient import TestClient

    from recsys.serving.server.app import make_app
    from recsys.serving.server.limits import Limits
    from recsys.serving.server.versions import OneFolder, Versions

    @contextmanager
    def start(folder: Path | None = None, reload_seconds: float = 60.0, **limits: Any) -> Iterator[Client]:
        versions = Versions(OneFolder(folder or exported["fp32"]))
        app = make_app(versions, Limits(**limits), reload_seconds)
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client

    return start


@pytest.fixture
def client(serve: Callable[..., Any]) -> Iterator[Client]:
    with serve() as one:
        yield one


SECONDS = 60.0  # that a busy machine may take


def wait_for(reached: Callable[[], Any]) -> Any:
    """Return what is reached at last, and is true."""
    until = time.monotonic() + SECONDS
    while not (value := reached()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return value


def replace(served: Path, by: Path) -> None:
    """Put a copy of a version in the place of the served one, as a release does."""
    following, before = served.with_name("following"), served.with_name("before")
    shutil.copytree(by, following)
    served.rename(before)
    following.rename(served)
    shutil.rmtree(before)


class Server:
    """A server in a process of its own, on a free port."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-P", "-m", "recsys.cli", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._log: list[str] = []
        listening = json.loads(self.process.stdout.readline() or "{}")
        assert listening.get("event") == "listening"
        self.host, self.port = urlsplit(listening["url"]).hostname, urlsplit(listening["url"]).port
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._log.append(line)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return [json.loads(line) for line in list(self._log)]

    def connection(self) -> HTTPConnection:
        return HTTPConnection(self.host or "", self.port, timeout=SECONDS)

    def ask(self, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Answer status, headers and body, over a connection of its own."""
        connection = self.connection()
        content = None if body is None else json.dumps(body)
        method = "GET" if body is None else "POST"
        connection.request(method, path, content, {"content-type": "application/json"})
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, read

    def stop(self) -> int:
        """Stop it, and return its exit status."""
        self.process.terminate()
        status = self.process.wait(SECONDS)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    """Start a server in a process of its own, which ends with the block."""

    @contextmanager
    def running(*arguments: object) -> Iterator[Server]:
        server = Server(*arguments)
        try:
            yield server
        finally:
            server.stop()

    return running
