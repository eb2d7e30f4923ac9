"""Splitting a long loop over threads: the kernels release the GIL and parts of an output do not touch.

torch has threads of its own, of OpenMP; how these wait for each other is an environment variable.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import TypeVar

WAITING = "OMP_WAIT_POLICY"
VALUES_PER_THREAD = 2**18  # some 100 microseconds of work, ten times what waking a thread costs

Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_passively() -> None:
    """Let the threads of OpenMP sleep while they wait, unless the user has said how they are to wait.

    By default they spin, and on cores that others use too they take the time of the thread that they wait for. It counts
    for libraries that are loaded later, such as torch's, here and in processes that are started from here.
    """
    os.environ.setdefault(WAITING, "passive")


def waiting_of_workers() -> dict[str, str]:
    """Return the environment that lets the threads of workers on other machines wait as those of this process."""
    return {WAITING: os.environ.get(WAITING, "passive")}


def over_parts(
    work: Callable[[int, int], Result], length: int, threads: int | None, cost: int = 1
) -> list[Result]:
    """Return the results of ``work(start, stop)`` over consecutive parts of [0, length), in order.

    threads: at most so many parts run at once; None: one for each available core. Parts have at least
    `VALUES_PER_THREAD` values, `cost` of them in each of `length`, so short work stays on the calling thread.

    Raises ValueError when threads < 1, and what `work` raises.
    """
    if threads is not None and operator.index(threads) < 1:
        raise ValueError(f"threads must be >= 1, got {threads}")
    parts = min(length, length * cost // VALUES_PER_THREAD)
    if parts > 1:
        parts = min(parts, available_cores() if threads is None else threads)
    if parts <= 1:
        return [work(0, length)]
    ends = [length * part // parts for part in range(1, parts + 1)]
    waiting = [pool().submit(work, start, stop) for start, stop in pairwise(ends)]
    try:
        first = work(0, ends[0])
    finally:
        wait(waiting)  # also after an error: no part goes on writing behind the caller's back
    return [first, *(future.result() for future in waiting)]


@cache
def pool() -> ThreadPoolExecutor:
    """Return the threads that all kernels share; the caller's thread works too.

    Work that is handed over must not wait for more.
    """
    return ThreadPoolExecutor(available_cores(), thread_name_prefix="recsys-kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # threads do not survive a fork
