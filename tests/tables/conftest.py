"""Ranks for tests: gloo processes forked from one that has imported torch, so that a set of them starts in no time.

A test calls `run_ranks(__file__, "function", folder)`; in a process of its own, the file's function is then given
`folder` and `in_ranks`, and starts as many ranks as it wants, as often as it wants.
"""

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

RunRanks = Callable[[str, str, Path], str]


@pytest.fixture
def group() -> Iterator[None]:
    """Be the one rank of a process group, on an in-process store."""
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def run_ranks() -> RunRanks:
    """Run a function of a test file beside pytest, with its ranks, and return what it printed."""

    def run(file: str, function: str, folder: Path) -> str:
        command = [sys.executable, "-P", __file__, file, function, str(folder)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=600)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.wait()
        assert process.returncode == 0, output
        return output

    return run


def in_ranks(world_size: int, work: Callable[..., None], *args: Any, check: bool = True) -> list[int]:
    """Run `work(rank, *args)` in so many ranks of one group; when one fails, the others are ended.

    Returns their exit codes, negative for a signal; with `check`, every one must be 0.
    """
    store = os.path.join(tempfile.gettempdir(), f"ranks-{os.getpid()}-{time.monotonic_ns()}")
    running = {_fork(rank, world_size, store, work, args): rank for rank in range(world_size)}
    codes = [0] * world_size
    while running:
        pid, status = os.wait()
        codes[running.pop(pid)] = code = os.waitstatus_to_exitcode(status)
        if code:
            for other in running:
                os.kill(other, signal.SIGKILL)
    Path(store).unlink(missing_ok=True)
    if check and any(codes):
        raise RuntimeError(f"the ranks of {work.__name__} ended with {codes}")
    return codes


def _fork(rank: int, world_size: int, store: str, work: Callable[..., None], args: tuple[Any, ...]) -> int:
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        import torch.distributed as dist

        dist.init_process_group(
            "gloo",
            rank=rank,
            world_size=world_size,
            store=dist.FileStore(store, world_size),
            timeout=timedelta(seconds=120),
        )
        work(rank, *args)
        dist.barrier()  # gloo: a rank that leaves early breaks the others' last collective
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # a thread pool would not survive the fork
    runpy.run_path(sys.argv[1])[sys.argv[2]](Path(sys.argv[3]), in_ranks)
