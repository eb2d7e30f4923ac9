"""One process group and one sharded model, whether alone or among many.

Local training is the distributed path with one rank: a gloo group on an in-process store, no port.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingType
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from recsys.config import TrainingConfig
from recsys.models.click import ClickModel

# Torch logs a deprecation of its own tracing at the first sharded lookup.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

HOST_MEMORY = 1 << 40  # the planner assumes 128 GiB unless told; one rank has nothing to plan


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


def default_device() -> torch.device:
    """The first CUDA device if there is one, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def shard(
    model: ClickModel, config: TrainingConfig, device: torch.device
) -> tuple[DistributedModelParallel, CombinedOptimizer]:
    """Shard a model whose engine was built on the meta device, and make its optimisers.

    Tables: fused rowwise Adagrad. The rest: Adam.
    """
    # no weight_decay here: FBGEMM's CPU kernel ignores it for every table that only one feature reads
    table_optimizer = {"lr": config.table_lr, "eps": 1e-8}
    apply_optimizer_in_backward(RowWiseAdagrad, model.engine.collections.parameters(), table_optimizer)
    with _quiet():
        sharders = [EmbeddingBagCollectionSharder()]
        table_wise = ParameterConstraints(sharding_types=[ShardingType.TABLE_WISE.value])
        planner = EmbeddingShardingPlanner(
            topology=Topology(
                world_size=dist.get_world_size(),
                compute_device=device.type,
                ddr_cap=HOST_MEMORY,
                **({} if device.type == "cpu" else {"hbm_cap": torch.cuda.mem_get_info(device)[1]}),
            ),
            # the planner's own choice for one rank is data_parallel, whose dense kernel ignores fused optimisers
            constraints={table.name: table_wise for table in model.engine.tables},
        )
        plan = planner.collective_plan(model, sharders, dist.group.WORLD)  # type: ignore[arg-type]
        sharded = DistributedModelParallel(model, device=device, plan=plan, sharders=sharders)  # type: ignore[arg-type]
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(sharded.named_parameters())),
        lambda params: torch.optim.Adam(
            params, lr=config.dense_lr, weight_decay=config.dense_decay, fused=True
        ),
    )
    return sharded, CombinedOptimizer([sharded.fused_optimizer, dense])


@contextmanager
def _quiet() -> Iterator[None]:
    """Planner and sharder warn of settings that do not concern a caller of this module."""
    logger = logging.getLogger("torchrec")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
