"""Genomes are evaluated on Ray: every worker holds the supernet, and takes the next genome when it is done with one."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import ray
from ray.util import ActorPool

from recsys.compression.evolution import Evaluate
from recsys.compression.space import Genome
from recsys.compression.supernet import Supernet
from recsys_pipelines.preparation.session import ray_session


@contextmanager
def ray_evaluator(supernet: Supernet, workers: int, address: str | None = None) -> Iterator[Evaluate]:
    """Evaluate genomes in their order, `workers` at once, on this machine or the cluster at `address`.

    A cluster must see the folders of runs and of prepared data. Raises ValueError as `ray_session` does.
    """
    with redirect_stdout(sys.stderr), ray_session(workers, address):
        shared = ray.put(supernet.recipe)
        worker = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(_Worker)
        pool = ActorPool([worker.remote(shared) for _ in range(workers)])
        yield partial(_evaluate, pool)


def _evaluate(pool: ActorPool, genomes: Sequence[Genome]) -> Iterator[float]:
    return pool.map(lambda actor, genome: actor.quality.remote(genome), list(genomes))


class _Worker:
    """A supernet in a process of its own."""

    def __init__(self, recipe: tuple[Any, ...]) -> None:
        self._supernet = Supernet(*recipe)

    def quality(self, genome: Genome) -> float:
        return self._supernet.quality(genome)
