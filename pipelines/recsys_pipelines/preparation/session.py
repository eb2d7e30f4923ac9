"""Ray for as long as a block runs: started on this machine or joined at an address, and found to run this program.

Workers import what their node has installed. Ray would put the current folder before that, where another version may
lie: it is kept off their path, and every node's sources are compared with this process's.
"""

import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import ray
import ray.data
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from recsys_cython_ext.threads import waiting_of_workers

PACKAGES = ("recsys_cython_ext", "recsys_tables", "recsys_pipelines", "recsys")
RETRIES = 3  # of a task whose worker was lost, or was ended for want of memory
CONNECT_SECONDS = 5
GCS_SECONDS = 3  # that Ray goes on trying a cluster which answers, but not as it should
PROBE_SECONDS = 120  # for a node to start a worker
PRIVATE = "recsys_private"  # a resource: of a Ray that ends with the run that started it
LOGGERS = ("ray", "ray.data", "ray._private.authentication.authentication_token_setup")


class Program(NamedTuple):
    """The sources of this program on some machine: their digest and where they lie; empty where they lack."""

    digest: str
    folder: str

    def __str__(self) -> str:
        return f"{self.digest} in {self.folder}" if self.digest else "none at all"


@contextmanager
def ray_session(workers: int, address: str | None = None) -> Iterator[None]:
    """Use Ray as it is, or as `connected` starts or joins it, for as long as the block runs.

    Raises ValueError when the cluster has fewer CPUs than `workers`, when Ray loses workers or nodes for good, and as
    `connected` and `require_same_program` do.
    """
    if not ray.is_initialized():
        with connected(workers, address), ray_session(workers, address):
            yield
        return
    try:
        cpus = ray.cluster_resources().get("CPU", 0)
        if cpus < workers:
            raise ValueError(
                f"the cluster has {cpus:g} CPUs, and {workers} workers were asked for: start nodes, or ask for fewer"
            )
        require_same_program()
        _silence()
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # progress is ours to show
        context.execution_options.preserve_order = True
        yield
    except RayTaskError:  # a defect of ours, whose traceback is wanted
        raise
    except RayError as error:
        raise ValueError(
            f"Ray has lost workers or a node ({last_line(error)}); what was finished is kept, and the same command goes on"
        ) from error


@contextmanager
def connected(cpus: int, address: str | None, modules: Sequence[Path] = ()) -> Iterator[None]:
    """Start Ray on this machine with so many CPUs, whatever else runs here, or join the cluster at `address`.

    modules: folders of packages that workers import instead of what is installed.

    Raises ValueError when Ray does not start in time, and naming the address where no cluster answers, it asks for a
    token, has another version of Ray, or where `auto` finds the Ray of another run.
    """
    where: dict[str, Any] = {"address": address}
    if address is None:
        where = {"address": "local", "num_cpus": cpus, "include_dashboard": False, "resources": {PRIVATE: 1}}
        where["_system_config"] = {"task_oom_retries": RETRIES}
    else:
        _require_reachable(address)
    _silence()
    with tempfile.TemporaryDirectory() as empty:
        try:
            with _patient(address), _without_stderr(address):
                ray.init(
                    runtime_env=_environment(empty, address, modules),
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **where,
                )
        except Exception as error:  # of any class: Ray's own, RuntimeError, ConnectionError, Exception itself
            ray.shutdown()
            raise ValueError(_refusal(error, address)) from error
        try:
            if address == "auto":
                _announce_auto()
            yield
        finally:
            ray.shutdown()


def program() -> Program:
    """Return the sources that this process runs."""
    return Program(*_reader()())


def require_same_program() -> None:
    """Raise ValueError naming both unless every node's workers run the sources that this process runs."""
    here = program()
    read = ray.remote(num_cpus=0, max_retries=0)(_reader())
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    answers = {
        node: read.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        for node in nodes
    }
    for node, answer in answers.items():
        try:
            program_of_node = Program(*ray.get(answer, timeout=PROBE_SECONDS))
        except GetTimeoutError:
            raise ValueError(
                f"Ray has started no worker on {nodes[node]} in {PROBE_SECONDS} seconds: wait for what runs there, or "
                "ask for fewer workers"
            ) from None
        except RayError as error:
            raise ValueError(f"Ray cannot start workers on {nodes[node]} ({last_line(error)})") from error
        require_same(here, program_of_node, nodes[node])


def require_same(here: Program, on_host: Program, host: str) -> None:
    """Raise ValueError naming both where the workers on `host` have other sources than the driver."""
    if here.digest != on_host.digest:
        raise ValueError(
            f"workers on {host} would run another version of this program: {on_host}, where this process runs {here}; "
            "install the same one on all nodes, or give it to the workers with `recsys train --wheel`"
        )


def last_line(error: BaseException) -> str:
    """Return the last line of Ray's pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _reader() -> Callable[[], tuple[str, str]]:
    """Return what reads a machine's `Program`. Pickled by value, it runs where none of this is installed."""
    packages = PACKAGES

    def read() -> tuple[str, str]:
        import hashlib
        from importlib.util import find_spec
        from pathlib import Path

        digest, folder = hashlib.sha256(), Path()
        for name in packages:
            spec = find_spec(name)
            if spec is None or not spec.submodule_search_locations:
                return "", ""
            folder = Path(next(iter(spec.submodule_search_locations)))
            for file in sorted(folder.rglob("*.py")):
                digest.update(f"{name}/{file.relative_to(folder).as_posix()}\n".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()[:16], str(folder)

    return read


def _environment(empty: str, address: str | None, modules: Sequence[Path]) -> dict[str, Any]:
    """Return what workers import, and where they begin.

    An empty working directory stands in the place that Ray would give to the current folder; in which workers are all
    the same, so that relative paths mean what they mean here. Modules are unpacked: of a wheel, pip would install
    all dependencies anew on every node. A job that was submitted has an environment of its own.
    """
    environment: dict[str, Any] = {"py_modules": [str(path) for path in modules]} if modules else {}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return environment
    variables = waiting_of_workers()
    if address is None and not modules:
        variables["PYTHONPATH"] = os.pathsep.join(_roots())
    hook = _go_to(os.getcwd())
    return environment | {"working_dir": empty, "worker_process_setup_hook": hook, "env_vars": variables}


def _roots() -> list[str]:
    """Return the folders that this process imports the program from, then those of PYTHONPATH."""
    specs = [find_spec(name) for name in PACKAGES]
    folders = [Path(p) for spec in specs if spec for p in spec.submodule_search_locations or ()]
    roots = [str(folder.parent) for folder in folders if folder.parent.name != "site-packages"]
    return [*dict.fromkeys(roots), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _go_to(folder: str) -> Callable[[], None]:
    """Return what moves a worker to `folder`, where its node has it."""

    def go() -> None:
        import os

        if os.path.isdir(folder):
            os.chdir(folder)

    return go


def _require_reachable(address: str) -> None:
    """Raise ValueError when nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():  # "auto", or a name that only Ray can look up
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"{address}: no Ray cluster can be reached there ({error}): start one, or correct the address"
        ) from None


def _announce_auto() -> None:
    """Say which Ray `auto` has joined. Raises ValueError for that of another run, which would end with it."""
    address = ray.get_runtime_context().gcs_address
    if PRIVATE in ray.cluster_resources():
        raise ValueError(
            f"--address auto found the Ray at {address}, which another run has started for itself and which ends with it: "
            "leave --address out, or start a cluster with `ray start --head` and give its address"
        )
    print(f"--address auto: joined the Ray at {address}", file=sys.stderr)


def _refusal(error: BaseException, address: str | None) -> str:
    """Say in a sentence why Ray could not be started or joined, and what cures it."""
    pages, cause = "", error
    while cause is not None:
        pages += f"{type(cause).__name__}: {cause}\n"
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    if "AuthenticationError" in pages or "Unauthenticated" in pages:
        where = "~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
            return f"{address}: the Ray cluster there has another token than {where} gives here: copy the cluster's"
        return (
            f"{address}: the Ray cluster there asks for a token: set RAY_AUTH_MODE=token in the environment of this "
            f"command, which then takes the cluster's token from {where}; or start the cluster with RAY_AUTH_MODE=disabled"
        )
    if "Version mismatch" in pages:
        versions = re.findall(r"(Ray|Python): (\S+)", pages)
        cluster, here = (" on ".join(" ".join(pair) for pair in versions[at : at + 2]) for at in (0, 2))
        return f"{address}: the cluster has {cluster}, and this program {here}: make them the same"
    if address is None:
        return (
            f"Ray did not start on this machine ({last_line(error)}): free processors and memory, and give the same "
            "command again"
        )
    return f"{address}: no Ray cluster can be joined there ({last_line(error)}): start one, or correct the address"


def _silence() -> None:
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _patient(address: str | None) -> Iterator[None]:
    """Let Ray try a cluster for a few seconds only; it has no argument for that."""
    key = "RAY_gcs_server_port_wait_time_s"
    if address is None or key in os.environ:
        yield
        return
    os.environ[key] = str(GCS_SECONDS)
    try:
        yield
    finally:
        del os.environ[key]


@contextmanager
def _without_stderr(address: str | None) -> Iterator[None]:
    """Drop what the C++ of Ray writes to standard error while a cluster is joined: the exception says it too."""
    if address is None:  # the processes that are started here keep their standard error
        yield
        return
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
