"""The runs of a comparison are trained as tasks on Ray, on this machine or a cluster that sees the same folders."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, redirect_stdout
from typing import Any

import ray
from typing_extensions import override

from recsys_pipelines.preparation.session import RETRIES, ray_session


@contextmanager
def ray_pool(jobs: int, address: str | None = None) -> Iterator[Executor]:
    """Yield a pool of tasks of one CPU each, which are done again where a worker is lost.

    There must be `jobs` CPUs, and as many tasks run at once as there are. Raises as `ray_session` does.
    """
    with redirect_stdout(sys.stderr), ray_session(jobs, address):
        yield _RayPool()


class _RayPool(Executor):
    """An executor whose calls are tasks of one CPU each."""

    @override
    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
        return task.remote(*args, **kwargs).future()
