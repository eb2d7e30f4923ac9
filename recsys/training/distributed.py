"""There is one process group and one sharded model, whether a process is alone or among many.

Local training is the distributed path with one rank: a gloo group on an in-process store, no port.
"""

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DataParallelWrapper
from torchrec.distributed.types import ShardingEnv
from typing_extensions import override

from recsys.config import ExperimentConfig
from recsys.models.click import ClickModel
from recsys_cython_ext.files import lock_of, locked
from recsys_tables.distributed.agreement import agree
from recsys_tables.distributed.sharding import TableOptimizer, placements, shard, table_of

Result = TypeVar("Result")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of its settings

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
)  # gloo's


@contextmanager
def process_group() -> Iterator[None]:
    """Use the process group that exists, or make a group of one rank for as long as the block runs.

    Raises ValueError as `require_one_process` does.
    """
    if dist.is_initialized():
        yield
        return
    require_one_process()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    hook = sys.excepthook  # torch puts one of its own before it, at every start
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook


def keep_memory() -> None:
    """Let this process keep what a step frees for the next one, up to half a GiB.

    Otherwise glibc gives it back, and at every step the system clears thousands of pages anew: 5 to 10 % of a training.
    """
    if _of_glibc(
        "mallopt", _MMAP_THRESHOLD, 32 * 2**20
    ):  # the most that it takes; what is larger is mapped by itself
        _of_glibc("mallopt", _TRIM_THRESHOLD, 512 * 2**20)


def give_memory_back() -> None:
    """Return to the system what has been freed: a process that waits for its next training would keep gigabytes.

    Only glibc has the means; elsewhere what Python no longer needs is freed, and no more.
    """
    gc.collect()
    _of_glibc("malloc_trim", 0)


def _of_glibc(function: str, *arguments: int) -> int:
    """Return what a function of glibc's heap returns, 0 where there is none."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), function):
        return int(getattr(libc, function)(*arguments))
    return 0


def require_one_process() -> None:
    """Raise ValueError where a launcher has started several processes, each of which would do all of the work."""
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ValueError(
            f"WORLD_SIZE is {processes}: torchrun, or a launcher like it, has started several processes, and each would "
            f"do all of the work. Start one, and let it start the others with `recsys train --workers {processes}`; in "
            "Python, call torch.distributed.init_process_group first"
        )


def shard_model(
    model: ClickModel,
    config: ExperimentConfig,
    device: torch.device,
    bag_lengths: Mapping[str, float] | None = None,
) -> DistributedModelParallel:
    """Shard a model whose engine was built on the meta device, as `job.sharding` asks.

    `bag_lengths` are mean ids per sample of features, 1 where a feature is not named. Raises ValueError as
    `recsys_tables.distributed.sharding.shard` does, and when a rank would hold no part of any table.
    """
    job, training = config.job.sharding, config.training
    sharded = shard(
        model,
        TableOptimizer(training.table_optimizer, lr=training.table_lr),
        device,
        training.seed,
        job.default,
        data_parallel=_Alike(),
        table_kernel=config.job.table_kernel,
        bag_lengths=bag_lengths,
        memory_per_rank=job.memory_per_rank,
        by_table=job.tables,
    )
    holders = {placement.rank for placement in placements(sharded.plan)}
    if len(holders) < dist.get_world_size():
        raise ValueError(
            f"{dist.get_world_size()} workers, but the tables can be split over {len(holders)} only: take "
            f"{len(holders)} workers, or let job.sharding split them by rows"
        )
    return sharded


class _Alike(DataParallelWrapper):
    """A dense part that begins alike on all ranks, and that `average` keeps so, not DistributedDataParallel.

    That one lays its messages out anew after its first step, and with more than two ranks the order of a sum depends on
    where a number lies in its message: a run that goes on would be another. Nor could a first batch be left out.
    """

    @override
    def wrap(self, dmp: DistributedModelParallel, env: ShardingEnv, device: torch.device) -> None:
        dmp.module = dmp.module.to(device)  # with rank 0's values of what is no table
        for values in dense_tensors(dmp).values():
            dist.broadcast(values, src=0)


def dense_tensors(model: DistributedModelParallel) -> dict[str, Tensor]:
    """Return the parameters and buffers of a model that all ranks hold; the tensors are the live ones."""
    return {name: value.detach() for name, value in model.state_dict().items() if table_of(name) is None}


def average(tensors: Sequence[Tensor]) -> None:
    """Put the mean over all ranks in the place of each float tensor, which ranks have in the same order; one message."""
    if dist.get_world_size() == 1 or not tensors:
        return
    message = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(message)
    message /= dist.get_world_size()
    for tensor, mean in zip(tensors, message.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Raise ConnectionError, in plain words, where the block finds that another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in _LOST):
            raise
        raise ConnectionError(
            f"rank {dist.get_rank()}: another rank has ended or does not answer; its own output says why. The same "
            "command goes on from the newest checkpoint"
        ) from error


def gathered(value: Any) -> list[Any]:
    """Return the value of every rank, by rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_rank_0(work: Callable[[], Result]) -> Result:
    """Do `work` on rank 0 and return its result on every rank; where it fails, all of them fail."""
    result: list[Any] = [agree(lambda: work() if dist.get_rank() == 0 else None)]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(result, src=0)
    return result[0]


@contextmanager
def kept_by_rank_0(target: Path, seconds: float, refusal: str) -> Iterator[None]:
    """Keep other jobs off a file or folder while the block runs; rank 0 sees to it.

    Raises ValueError(refusal) where another job holds it for so many seconds.
    """
    with ExitStack() as stack:

        def lock() -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(lock_of(target), seconds))
            except TimeoutError:
                raise ValueError(refusal) from None

        on_rank_0(lock)
        yield
        dist.barrier()


def peak_memory(device: torch.device) -> int:
    """Return the largest number of bytes so far: of the process on a CPU, of what PyTorch allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
