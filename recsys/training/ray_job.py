"""Training on Ray runs `train.train` on every worker, and starts it again from its checkpoints when one is lost.

Every node must see the prepared set and the runs' folder under the same paths (a shared file system). Ray keeps no
checkpoint and no position of data: both are `train`'s own. A lost worker ends the whole group, for the others wait for
it; the driver then starts a new one, so that each start looks first whether the workers can be placed.
"""

import logging
import math
import shutil
import socket
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from recsys.config import ExperimentConfig
from recsys.training.loop import Watch
from recsys.training.run import Run, is_finished, run_folder
from recsys.training.teacher import one_by_one, taught
from recsys.training.train import ray_folder, train
from recsys_pipelines.batches.order import check_ranks
from recsys_pipelines.preparation.prepared import Prepared
from recsys_pipelines.preparation.session import (
    Program,
    connected,
    last_line,
    program,
    ray_session,
    require_same,
)
from recsys_tables.distributed.agreement import OtherRankFailed, agree

PLACEMENT_SECONDS = 10  # what a cluster gets to free CPUs of work that has just ended
PROGRESS_SECONDS = 0.5  # between two messages on progress
NODE_LOST = "Ray has ended this job, for the node that it was started from is lost; the same command goes on"

Message = tuple[str, Any]  # a method of `Watch` and its arguments, or "failure" and an exception


class WorkersLost(ValueError):
    """Workers were lost more often than was allowed."""


@dataclass(frozen=True)
class Workers:
    """How many processes train, with what, and where.

    cpus: CPUs of each, as Ray counts them; on two cores two whole ones would leave nothing to prepare data with.
    address: of a Ray cluster; None starts Ray on this machine for as long as the job runs.
    wheel: the package for workers that have another version of it, or none.
    max_failures: how often a job is started again after workers were lost.
    """

    count: int
    cpus: float = 0.5
    address: str | None = None
    wheel: str | Path | None = None
    max_failures: int = 3

    def __post_init__(self) -> None:
        check_ranks(0, self.count)
        if not self.cpus > 0:
            raise ValueError(f"CPUs per worker must be above 0, got {self.cpus:g}")
        if self.wheel is not None and not zipfile.is_zipfile(self.wheel):
            raise ValueError(f"{self.wheel}: not a wheel; build one with `python -m build --wheel`")

    @property
    def resources(self) -> dict[str, float]:
        """Return what one worker needs; a GPU, where the cluster has one for each. Needs `session`."""
        gpus = ray.cluster_resources().get("GPU", 0) >= self.count
        return {"CPU": self.cpus} | ({"GPU": 1} if gpus else {})


@contextmanager
def session(workers: Workers) -> Iterator[None]:
    """Use Ray as it is, or start it for as long as the block runs, with room for the workers.

    Raises ValueError when no cluster answers at the address, when this node of it is lost, and as `require_room`.
    """
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # Ray tells of dead workers on standard output
        if not ray.is_initialized():
            modules = stack.enter_context(_unpacked(workers.wheel))
            cpus = math.ceil(workers.count * workers.cpus)
            stack.enter_context(connected(cpus, workers.address, modules))
        stack.enter_context(ray_session(0))
        for name in ("ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
        require_room(workers)
        try:
            yield
        except RayActorError as error:  # of the queue of messages, which is on this node
            raise ValueError(NODE_LOST) from error


def require_room(workers: Workers) -> None:
    """Raise ValueError, saying what is missing, unless all workers can be placed now. Needs `session`.

    Ray itself would wait for ever.
    """
    try:
        missing = _missing(workers)
    except Exception as error:  # Ray has no other class for a node that was lost meanwhile
        raise ValueError(NODE_LOST) from error
    if missing:
        raise ValueError(
            f"{workers.count} workers with {workers.cpus:g} CPUs each cannot be placed: they need {missing}. Wait for "
            "the jobs that hold them, start nodes, or ask for fewer --workers or --cpus-per-worker"
        )


def _missing(workers: Workers) -> str:
    """Return what the workers need and the cluster has, empty where all of them can be placed."""
    resources = workers.resources
    group = ray.util.placement_group([resources] * workers.count)
    placed = group.wait(PLACEMENT_SECONDS)
    ray.util.remove_placement_group(group)
    if placed:
        return ""
    time.sleep(1)  # until it is known what the attempt itself has freed
    has, free = ray.cluster_resources(), ray.available_resources()
    return " and ".join(
        f"{workers.count * amount:g} {name}s ({has.get(name, 0):g} in the cluster, {free.get(name, 0):g} of them free)"
        for name, amount in resources.items()
    )


def train_on_ray(
    config: ExperimentConfig,
    prepared: Prepared,
    runs: str | Path,
    workers: Workers,
    watch: Watch | None = None,
    profile: bool = False,
) -> Run:
    """Train as `train.train` does, on every worker. Needs `session`.

    The same call goes on with a job whose driver was lost. A teacher's runs are jobs like this one, and their predictions
    are made in this process. Raises what `train.train` raises on a worker, ValueError when a worker does not see the
    folders or not all workers can be placed (again), WorkersLost after `max_failures` new starts.
    """
    watch = watch or Watch()
    runs = Path(runs).resolve()
    prepared = Prepared(
        prepared.path.resolve(), prepared.manifest
    )  # for workers: without features loaded here

    def train_teacher(experiment: ExperimentConfig, its_rows: Prepared, its_watch: Watch) -> Run:
        return train_on_ray(experiment, its_rows, runs, workers, its_watch)

    config = taught(config, prepared, runs, one_by_one(train_teacher), watch)
    folder = run_folder(config, prepared, runs)
    if is_finished(folder):
        return train(config, prepared, runs, watch, profile)  # which clears what else a lost driver left
    work = {"config": config, "prepared": prepared, "runs": runs, "profile": profile, "program": program()}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    for failures in range(workers.max_failures + 1):
        require_room(workers)
        queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        try:
            with _ray_folder(folder) as shared:
                trainer = _trainer(work | {"queue": queue, "shared": shared}, workers, shared)
                lost = _run(trainer, queue, watch)
        finally:
            queue.shutdown()
        if lost is None:
            return Run.open(folder)
        if failures < workers.max_failures:
            watch.warn(
                f"{lost}; starting all workers again from the last checkpoint ({failures + 1} of "
                f"{workers.max_failures} times)"
            )
    raise WorkersLost(
        f"{lost}; given up after {workers.max_failures} new starts: the same command goes on from the last checkpoint"
    )


def _trainer(work: dict[str, Any], workers: Workers, shared: Path) -> TorchTrainer:
    resources = workers.resources
    gpu = "GPU" in resources
    return TorchTrainer(
        _train_on_worker,
        train_loop_config=work,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.count, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name=shared.name,
            storage_path=str(shared.parent),
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]  # mypy sees V1's
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )


def _run(trainer: TorchTrainer, queue: Queue, watch: Watch) -> str | None:
    """Train to the end, pass on rank 0's messages, and return how workers were lost, None when they were not."""
    error: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as raised:
            error.append(raised)

    # in a thread of its own, `fit` leaves Ctrl-C to Python
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    failures: list[Exception] = []
    while True:
        ended = not thread.is_alive()
        for kind, content in _messages(queue):
            if kind == "failure":
                failures.append(content)
            else:
                getattr(watch, kind)(*content)
        if ended:
            break
    if not error:
        return None
    failures.sort(key=lambda failure: isinstance(failure, OtherRankFailed))  # the rank's own error says more
    if failures:
        raise failures[0] from error[0]
    if not isinstance(error[0], ray.train.TrainingFailedError):
        raise error[0]
    return f"workers were lost ({last_line(error[0])})"


def _messages(queue: Queue) -> Iterator[Message]:
    """Yield the messages that have come, waiting a little for the first."""
    try:
        yield queue.get(timeout=PROGRESS_SECONDS)
        while True:
            yield queue.get_nowait()
    except Empty:
        return


def _train_on_worker(work: dict[str, Any]) -> None:
    """Train on one of the workers, in the process group that Ray has made."""
    queue: Queue = work["queue"]
    try:
        agree(lambda: _require_alike(work["program"], work["shared"], work["prepared"].path))
        train(work["config"], work["prepared"], work["runs"], _watch_of_driver(queue), work["profile"])
    except Exception as error:
        # where another worker is gone, PyTorch raises one of these, or Ray has ended the process group meanwhile
        lost = isinstance(error, (RuntimeError, ConnectionError)) and not isinstance(
            error, torch.OutOfMemoryError
        )
        gone = lost or not dist.is_initialized()
        if not gone:
            queue.put(("failure", error))  # a mistake, which to begin again would not mend
        raise


def _require_alike(driver: Program, *folders: Path) -> None:
    """Raise ValueError where this worker runs other sources than the driver, or does not see its folders."""
    require_same(driver, program(), socket.gethostname())
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: the worker on {socket.gethostname()} does not see this folder; prepared data and runs must "
                "be on a file system that all nodes share, under the same path: give one with --prepared and --runs"
            )


def _watch_of_driver(queue: Queue) -> Watch:
    """Return a watch that passes rank 0's messages to the driver, and every rank's reports to Ray."""
    if ray.train.get_context().get_world_rank() > 0:
        return Watch(report=ray.train.report)
    last_sent, latest = time.monotonic(), ("", 0, 0, "")

    def progress(*now: Any) -> None:
        nonlocal last_sent, latest
        latest = now
        if time.monotonic() - last_sent > PROGRESS_SECONDS:
            last_sent = time.monotonic()
            queue.put(("progress", now))

    def report(entry: dict[str, Any]) -> None:
        queue.put(("progress", latest))
        queue.put(("report", (entry,)))
        ray.train.report(entry)

    return Watch(report, progress, lambda text: queue.put(("warn", (text,))))


@contextmanager
def _ray_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for Ray beside the run's, of a name that no other start had; nothing in it outlives the block."""
    shared = ray_folder(folder) / uuid.uuid4().hex
    try:
        shared.mkdir(parents=True)
        yield shared
    finally:
        shutil.rmtree(shared.parent, ignore_errors=True)


@contextmanager
def _unpacked(wheel: str | Path | None) -> Iterator[list[Path]]:
    """Unpack the packages of a wheel into a folder for as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        if wheel is not None:
            zipfile.ZipFile(wheel).extractall(folder)
        yield [path for path in Path(folder).iterdir() if path.suffix != ".dist-info"]
