"""What Ray refuses is said in a sentence, and its workers run what the driver runs. What starts a cluster is slow."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
from recsys_pipelines.preparation import session as sessions  # noqa: E402
from recsys_pipelines.preparation.session import Program, ray_session, require_same  # noqa: E402


def test_other_sources_are_refused_and_both_are_named() -> None:
    here = sessions.program()
    assert re.fullmatch(r"[0-9a-f]{16}", here.digest)
    require_same(here, Program(here.digest, "/elsewhere"), "node")
    with pytest.raises(
        ValueError, match=rf"workers on node .*: 0123 in /other/recsys, where .* {here.digest} in"
    ):
        require_same(here, Program("0123", "/other/recsys"), "node")
    with pytest.raises(ValueError, match=r"another version of this program: none at all.*--wheel"):
        require_same(here, Program("", ""), "node")


@pytest.mark.parametrize("address", [None, "head:6379"])
def test_workers_wait_as_this_process_does(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    variables = sessions._environment("empty", address, [])["env_vars"]
    assert variables["OMP_WAIT_POLICY"] == "active"
    assert ("PYTHONPATH" in variables) is (address is None), "the paths of this machine are no other's"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert sessions._environment("empty", address, []) == {}, "a submitted job has its own"


@pytest.mark.parametrize(
    ("pages", "address", "wanted"),
    [
        (
            "RPC error\nray.exceptions.AuthenticationError: Unauthenticated: InvalidAuthToken\n",
            "head:6379",
            r"head:6379: .*asks for a token: set RAY_AUTH_MODE=token",
        ),
        (
            "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.10.4\nThis process on "
            "node was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n",
            "head:6379",
            r"head:6379: the cluster has Ray 2\.40\.0 on Python 3\.10\.4, and this program Ray 2\.60\.0 on Python 3",
        ),
        (
            "Pages.\n\n  Could not find any running Ray\n",
            "auto",
            r"auto: no Ray cluster can be joined.*\(Could not",
        ),
        (
            "The current node timed out during startup.",
            None,
            r"Ray did not start on this machine \(The current",
        ),
    ],
)
def test_refusals_are_sentences(
    monkeypatch: pytest.MonkeyPatch, pages: str, address: str | None, wanted: str
) -> None:
    def init(**_: object) -> None:
        raise Exception(pages)

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(sessions, "_require_reachable", lambda _: None)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match=wanted) as caught, ray_session(1, address):
        pass
    assert "\n" not in str(caught.value)


# ---- with Ray


def python(code: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, which is not on its path."""
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | more
    )


WORKERS = """
import json, os, sys, ray
from recsys_pipelines.preparation.session import ray_session

def of_worker():
    import os, sys
    from importlib.util import find_spec
    return os.getcwd(), sys.path, find_spec("recsys").origin

own = sys.argv[1:] == ["own"]
if own:
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=40, log_to_driver=False)
with ray_session(1):
    try:
        print(json.dumps(ray.get(ray.remote(of_worker).remote())))
        from recsys_pipelines.preparation.session import _announce_auto
        _announce_auto()
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_another_version_in_the_current_folder_is_not_what_workers_run(tmp_path: Path) -> None:
    for package in sessions.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('another version')")
    done = python(WORKERS, tmp_path)
    assert done.returncode == 0, done.stderr
    told, private = done.stdout.splitlines()
    folder, path, origin = json.loads(told)
    assert folder == str(tmp_path), "a relative path means what it means to the driver"
    assert str(tmp_path) not in path
    assert Path(origin).parent != tmp_path / "recsys"
    assert re.search(r"--address auto found the Ray at \S+:\d+, which another run has started", private)

    done = python(WORKERS.replace('sys.argv[1:] == ["own"]', "True"), tmp_path)  # as a notebook may have it
    assert done.returncode != 0
    error = done.stderr.strip().splitlines()[-1]
    assert f"in {tmp_path}/recsys, where this process runs" in error


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a cluster that asks for the token in a home."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["start", "--head", "--block", "--num-cpus", "1", "--include-dashboard", "false"]
    command += ["--port", str(port), "--dashboard-agent-listen-port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    started = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"HOME": str(home)},
    )
    assert started.stdout is not None
    try:
        for line in started.stdout:
            if "Ray runtime started" in line:
                break
        yield f"127.0.0.1:{port}", home
    finally:
        processes = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
        for process in processes:
            process.terminate()
        for process in psutil.wait_procs(processes, timeout=20)[1]:
            process.kill()
        started.wait()
        started.stdout.close()


COMMAND = """
import sys, ray
ray.__version__ = sys.argv.pop(1) or ray.__version__
from recsys.cli import main
main()
"""


@pytest.mark.slow
def test_what_a_cluster_asks_for_is_said(head: tuple[str, Path], tmp_path: Path) -> None:
    address, home = head
    pq.write_table(pa.table({"label": [0, 1] * 50, "c": list(range(10)) * 10}), tmp_path / "log.parquet")
    raw = {
        "name": "small",
        "data": {"source": "table", "path": "log.parquet"},
        "features": [{"kind": "categorical", "names": ["c"]}],
        "tables": {"scheme": "full", "embedding_dim": 4},
        "model": {"name": "fm"},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(raw))

    def prepare(address: str, version: str = "", **more: str) -> tuple[int, dict[str, object], str, float]:
        began = time.monotonic()
        command = [
            sys.executable,
            "-P",
            "-W",
            "ignore",
            "-c",
            COMMAND,
            version,
            "prepare",
            "small.yaml",
            "--json",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        done = subprocess.run(
            [*command, "--workers", "1", "--address", address],
            **{"cwd": tmp_path, "capture_output": True, "text": True, "check": False},
            env=environment | {"HOME": str(home)} | more,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr, time.monotonic() - began

    code, found, said, _ = prepare(address)
    assert code == 2
    assert "asks for a token: set RAY_AUTH_MODE=token" in str(found["error"])
    assert len(said.strip().splitlines()) == 1, "none of Ray's own lines"
    token = {"RAY_AUTH_MODE": "token"}
    code, found, _, _ = prepare(address, "2.40.0", **token)
    assert code == 2
    assert re.search(r"the cluster has Ray 2\.\d+\.\d+ on .* this program Ray 2\.40\.0", str(found["error"]))
    code, found, said, _ = prepare("auto", RAY_ADDRESS=address, **token)
    assert code == 0, said
    assert found["rows_in"] == 100
    assert re.search(rf"--address auto: joined the Ray at \S+:{address.rpartition(':')[2]}", said)
