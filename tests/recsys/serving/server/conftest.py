"""Two exported versions of one run, which answer differently, and a server in this process."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
testclient = pytest.importorskip("starlette.testclient", reason="starlette or httpx2 is not installed")

from recsys.serving.export import export  # noqa: E402
from recsys.serving.predictor import Predictor  # noqa: E402
from recsys.serving.server.app import make_app  # noqa: E402
from recsys.serving.server.limits import Limits  # noqa: E402
from recsys.serving.server.versions import OneFolder, Versions  # noqa: E402
from recsys.training.run import Run  # noqa: E402

Client = Any  # a starlette.testclient.TestClient
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions of a run, not to be written to."""
    folder = tmp_path_factory.mktemp("exported")
    return {dtype: export(run, folder / dtype, dtype).folder for dtype in ("fp32", "int4")}


@pytest.fixture(scope="session")
def predictors(exported: dict[str, Path]) -> dict[str, Predictor]:
    return {name: Predictor.open(folder) for name, folder in exported.items()}


@pytest.fixture(scope="session")
def rows(log: Path, predictors: dict[str, Predictor]) -> Rows:
    return pq.read_table(log).slice(0, 100).select(predictors["fp32"].transform.columns).to_pylist()


@pytest.fixture
def served(exported: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of its own, which a test may replace."""
    return shutil.copytree(exported["fp32"], tmp_path / "served")


@pytest.fixture
def serve(exported: dict[str, Path]) -> Callable[..., Any]:
    """Start a server in this process: of a folder, with limits and another time to reload."""

    @contextmanager
    def start(
        folder: Path | None = None, reload_seconds: float = 60.0, source: Any = None, **limits: Any
    ) -> Iterator[Client]:
        versions = Versions(source or OneFolder(folder or exported["fp32"]))
        app = make_app(versions, Limits(**limits), reload_seconds)
        with testclient.TestClient(app, raise_server_exceptions=False) as client:
            yield client

    return start


@pytest.fixture
def client(serve: Callable[..., Any]) -> Iterator[Client]:
    with serve() as one:
        yield one
