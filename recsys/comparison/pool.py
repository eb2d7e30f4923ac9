"""The processes that train the runs of a comparison, several at once."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from recsys.config import ExperimentConfig
from recsys.training.distributed import give_memory_back
from recsys.training.loop import Watch
from recsys.training.run import Run
from recsys.training.train import train
from recsys_cython_ext.progress import Progress
from recsys_cython_ext.threads import wait_passively
from recsys_pipelines.preparation.prepared import Prepared


def training_pool(configs: Sequence[ExperimentConfig], jobs: int | None) -> ProcessPoolExecutor:
    """Make a pool of `jobs` processes, or of as many as the cores have room for."""
    # spawned, not forked: a forked torch or Arrow thread pool can hang
    context = multiprocessing.get_context("spawn")
    _silence_tracker()
    wait_passively()
    return ProcessPoolExecutor(jobs_at_once(configs, jobs), mp_context=context, initializer=_end_with_parent)


def jobs_at_once(configs: Sequence[ExperimentConfig], jobs: int | None) -> int:
    """Return how many trainings run at a time: `jobs`, or as many as the cores have room for."""
    threads = max(config.training.num_threads for config in configs)
    return jobs or max(1, (os.cpu_count() or 1) // threads)


def trained_in(
    pool: Executor, runs: Path
) -> Callable[[Sequence[ExperimentConfig], Prepared, Watch], list[Run]]:
    """Return what trains runs below a folder, several at once, or opens those that are finished."""

    def train_runs(configs: Sequence[ExperimentConfig], prepared: Prepared, watch: Watch) -> list[Run]:
        futures = [pool.submit(train_in_worker, config, prepared.path, runs) for config in configs]
        return [Run.open(path) for path in collect("runs of teachers", futures, watch.progress)]

    return train_runs


def train_in_worker(config: ExperimentConfig, prepared: Path, runs: Path) -> Path:
    """Train one run; the folder is all that goes back to the parent."""
    path = train(config, Prepared.open(prepared), runs).path
    give_memory_back()
    return path


def _silence_tracker() -> None:
    """Let the process that clears up after a killed pool do so without a warning; it has this process's options."""
    option = "ignore:resource_tracker:UserWarning"
    if option not in sys.warnoptions:
        sys.warnoptions.append(option)


def _end_with_parent() -> None:
    """End this worker with its parent, which cannot end its workers when it is killed; they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def collect(stage: str, futures: Sequence[Any], progress: Progress) -> list[Any]:
    """Return results in the order of submission; the first failure cancels what has not begun."""
    try:
        for finished, future in enumerate(as_completed(futures)):
            future.result()
            progress(stage, finished + 1, len(futures))
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]
