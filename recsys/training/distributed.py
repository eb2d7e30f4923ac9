"""One process group and one sharded model, whether alone or among many.

Local training is the distributed path with one rank: a gloo group on an in-process store, no port.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from recsys.config import TrainingConfig
from recsys.models.click import ClickModel
from recsys_tables.sharding import TableOptimizer, shard


@contextmanager
def process_group() -> Iterator[None]:
    """The process group that exists, or a group of one rank for as long as the block runs."""
    if dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def require_one_rank() -> None:
    """Raise ValueError in a group of several: every rank would train on every row."""
    if dist.get_world_size() > 1:
        raise ValueError(
            f"the trainer runs on one rank, not {dist.get_world_size()}; shard a model of your own with "
            "recsys_tables.sharding.shard"
        )


def default_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def shard_model(
    model: ClickModel, config: TrainingConfig, device: torch.device
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Shard a model whose engine was built on the meta device, and make its optimisers.

    Tables: fused rowwise Adagrad. The rest: Adam.
    """
    sharded = shard(model, TableOptimizer(lr=config.table_lr), device, config.seed)
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda params: torch.optim.Adam(
            params, lr=config.dense_lr, weight_decay=config.dense_decay, fused=True
        ),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])
