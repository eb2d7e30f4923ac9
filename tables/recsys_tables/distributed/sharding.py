"""Sharding of tables over ranks: the plan, the shards it makes, and the first values of their rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DataParallelWrapper
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from typing_extensions import override

from recsys_cython_ext import lookup_salt
from recsys_cython_ext.torch_hashing import mix64
from recsys_tables.bytes import OptimizerName
from recsys_tables.config import Sharding, TableKernelName
from recsys_tables.distributed.device import memory_of_rank
from recsys_tables.distributed.kernel_tables import KernelTables, check_kernel, fbgemm_modules, kernel_tables
from recsys_tables.distributed.placement import Placement
from recsys_tables.distributed.quiet import quiet
from recsys_tables.engine.engine import EmbeddingEngine, engine_of
from recsys_tables.scheme import Table

_OPTIMIZERS = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}
_INIT_VALUES = 1 << 18  # values initialised at a time, so that their hashes fit beside the table


@dataclass(frozen=True)
class TableOptimizer:
    """The fused optimiser of the tables, applied in the backward pass.

    No weight decay here: FBGEMM's CPU kernel ignores it for every table that only one feature reads.
    """

    name: OptimizerName = "rowwise_adagrad"
    lr: float = 0.05
    eps: float = 1e-8

    def attach(self, module: nn.Module) -> None:
        """Let every table of `module` be updated by this optimiser in its backward."""
        kwargs = {"lr": self.lr} if self.name == "sgd" else {"lr": self.lr, "eps": self.eps}
        apply_optimizer_in_backward(
            _OPTIMIZERS[self.name], engine_of(module).collections.parameters(), kwargs
        )


def plan_sharding(
    module: nn.Module,
    sharding: Sharding,
    optimizer: TableOptimizer,
    world_size: int,
    device: torch.device,
    bag_lengths: Mapping[str, float] | None = None,
    memory_per_rank: int | None = None,
    by_table: Mapping[str, Sharding] | None = None,
) -> ShardingPlan:
    """Plan with TorchRec the tables of the one `EmbeddingEngine` in `module`; this needs no process group.

    Args:
        module: of which the tables may be on the meta device.
        sharding: `auto` leaves the choice to the planner. `column_wise`, and `auto` where it takes columns, need
            an elementwise optimiser: rowwise Adagrad would keep one state per column shard of a row.
            `row_wise` leaves a table whole that has too few rows for every rank.
        optimizer: whose state is counted.
        world_size: the number of ranks.
        device: of every rank.
        bag_lengths: mean ids per sample of a feature, 1 unless given; the planner is told k × that for k rows an id.
        memory_per_rank: bytes; what the machine or its container has, shared among the ranks, unless given.
        by_table: another `sharding` for tables of these names.

    Raises:
        ValueError: the tables do not fit, a name is no table's, or `sharding` does not go with the optimiser.
    """
    engine = engine_of(module)
    by_table = by_table or {}
    _check_shardings(engine, sharding, optimizer, by_table)
    memory = memory_of_rank(device, world_size) if memory_per_rank is None else memory_per_rank
    rows_per_sample = engine.rows_per_sample(bag_lengths or {})
    constraints = {
        table.name: _constraint(
            table,
            _types(by_table.get(table.name, sharding), optimizer, world_size),
            world_size,
            rows_per_sample[table.name],
        )
        for table in engine.tables
    }
    capacity = {"ddr_cap" if device.type == "cpu" else "hbm_cap": memory}
    with quiet(), _state_counted(engine.collections, optimizer):
        topology = Topology(world_size=world_size, compute_device=device.type, **capacity)
        planner = EmbeddingShardingPlanner(topology=topology, constraints=constraints)
        try:
            return planner.plan(module, [_Sharder()])  # type: ignore[list-item]
        except PlannerError as error:
            size = sum(table.parameter_bytes for table in engine.tables)
            raise ValueError(
                f"the tables ({size:,} bytes) cannot be sharded {sharding} over {world_size} ranks of {memory:,} bytes: "
                f"{str(error).strip().splitlines()[0].strip()}"
            ) from None


def _check_shardings(
    engine: EmbeddingEngine,
    sharding: Sharding,
    optimizer: TableOptimizer,
    by_table: Mapping[str, Sharding],
) -> None:
    """Raise ValueError where a name is no table's, or a sharding does not go with the optimiser."""
    if unknown := sorted(set(by_table) - {table.name for table in engine.tables}):
        raise ValueError(
            f"sharding names tables {', '.join(unknown)}; there are {', '.join(t.name for t in engine.tables)}"
        )
    if "column_wise" in (sharding, *by_table.values()) and optimizer.name == "rowwise_adagrad":
        raise ValueError(
            "column_wise sharding needs an elementwise table optimiser: use 'adagrad', 'adam' or 'sgd'"
        )


def shard(
    module: nn.Module,
    optimizer: TableOptimizer,
    device: torch.device,
    seed: int,
    sharding: Sharding = "auto",
    plan: ShardingPlan | None = None,
    data_parallel: DataParallelWrapper | None = None,
    table_kernel: TableKernelName = "recsys",
    **planning: Any,
) -> DistributedModelParallel:
    """Shard `module`, whose engine was built on the meta device, over the ranks of the process group.

    Each rank makes its own shards only; their first values depend on (seed, table, row, column) alone, so they
    are the same on any number of ranks. A `plan` of the caller's own is taken as it is; otherwise
    `planning` goes on to `plan_sharding`. `data_parallel` keeps what is no table alike on all ranks: TorchRec's
    choice, torch's DistributedDataParallel, unless given. `table_kernel` reads and updates rows on a CPU: ours, or
    FBGEMM's, which GPUs have in any case. Sums of the two differ by rounding.

    Raises ValueError for a negative seed, for what FBGEMM lacks where it is to train the tables, and as `plan_sharding`
    does.
    """
    if seed < 0:
        raise ValueError(f"seed {seed} is negative")
    check_kernel(engine_of(module), optimizer.name, device, table_kernel)
    optimizer.attach(module)
    plan = plan or _one_plan(module, sharding, optimizer, device, planning)
    ours = device.type == "cpu" and table_kernel == "recsys"
    with quiet(), kernel_tables() if ours else nullcontext():
        model = DistributedModelParallel(
            module,
            device=device,
            plan=plan,
            sharders=[_Sharder()],  # type: ignore[list-item]
            data_parallel_wrapper=data_parallel,
        )
    for held in fbgemm_modules(engine_of(model)):
        if isinstance(held, KernelTables):
            held.seed = seed
    tables = {table.name: table for table in engine_of(module).tables}
    for piece in local_shards(model):
        table = tables[piece.table]
        _uniform(piece, table.embedding_dim, lookup_salt(piece.table, seed), table.init_bound)
    return model


def _one_plan(
    module: nn.Module,
    sharding: Sharding,
    optimizer: TableOptimizer,
    device: torch.device,
    planning: Mapping[str, Any],
) -> ShardingPlan:
    """Return rank 0's plan, or raise its ValueError, on every rank: machines of unequal memory would plan differently."""
    answer: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            answer = [plan_sharding(module, sharding, optimizer, dist.get_world_size(), device, **planning)]
        except ValueError as error:
            answer = [str(error)]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(answer, src=0, device=device)
    if isinstance(answer[0], str):
        raise ValueError(answer[0])
    return answer[0]


@dataclass(frozen=True)
class TableShard:
    """This rank's part of a table: weights [n, d] from `first_row`, `first_column` on, and its optimiser's state.

    A state is [n] (one number a row) or [n, d]. The tensors are the live ones.
    """

    table: str
    first_row: int
    first_column: int
    weight: Tensor
    states: dict[str, Tensor]


def local_shards(model: DistributedModelParallel) -> list[TableShard]:
    """Return all shards of tables that this rank holds."""
    states: dict[str, dict[str, list[Tensor]]] = {}
    for name, entries in model.fused_optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if hasattr(value, "local_shards"):
                kind = key.rpartition(".")[2]
                states.setdefault(table_of(name) or "", {})[kind] = [s.tensor for s in value.local_shards()]
    shards = []
    for name, value in model.state_dict().items():
        if (table := table_of(name)) is None:
            continue
        for position, piece in enumerate(value.local_shards()):
            first_row, first_column = piece.metadata.shard_offsets
            of_shard = {kind: tensors[position] for kind, tensors in states.get(table, {}).items()}
            shards.append(TableShard(table, first_row, first_column, piece.tensor.detach(), of_shard))
    return shards


def table_of(parameter: str) -> str | None:
    """Return the table of a parameter: `….embedding_bags.c1/full.weight` -> `c1/full`, and None for dense ones."""
    _, marker, rest = parameter.partition("embedding_bags.")
    return rest.removesuffix(".weight") if marker else None


def placements(plan: ShardingPlan) -> list[Placement]:
    """Return every shard of a plan, by rank."""
    shards = []
    for module in plan.plan.values():
        for table, parameter in module.items():  # type: ignore[attr-defined]
            for piece in parameter.sharding_spec.shards:
                (first_row, first_column), (rows, columns) = piece.shard_offsets, piece.shard_sizes
                rank = piece.placement.rank()
                shards.append(
                    Placement(table, parameter.sharding_type, rank, first_row, rows, first_column, columns)
                )
    return sorted(shards, key=lambda p: (p.rank, p.table, p.first_row, p.first_column))


class _Sharder(EmbeddingBagCollectionSharder):
    """The stock sharder, with row_wise on a CPU too, and without data_parallel, which ignores fused optimisers."""

    @override
    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value, ShardingType.COLUMN_WISE.value]


@contextmanager
def _state_counted(collections: nn.Module, optimizer: TableOptimizer) -> Iterator[None]:
    """Let the planner count the optimiser's state also where it is not attached yet."""
    bare = [p for p in collections.parameters() if not hasattr(p, "_optimizer_classes")]
    for parameter in bare:
        parameter._optimizer_classes = [_OPTIMIZERS[optimizer.name]]  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for parameter in bare:
            del parameter._optimizer_classes  # type: ignore[attr-defined]


def _types(sharding: Sharding, optimizer: TableOptimizer, world_size: int) -> list[str]:
    if sharding != "auto":
        return [sharding]
    if world_size == 1:
        return [ShardingType.TABLE_WISE.value]
    whole_rows = [ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value]
    return (
        whole_rows if optimizer.name == "rowwise_adagrad" else [*whole_rows, ShardingType.COLUMN_WISE.value]
    )


def _constraint(
    table: Table, types: Sequence[str], world_size: int, rows_per_sample: list[float]
) -> ParameterConstraints:
    return ParameterConstraints(
        sharding_types=_types_for(table, types, world_size),
        min_partition=_shard_columns(table.embedding_dim, world_size),
        pooling_factors=rows_per_sample,
    )


def _types_for(table: Table, types: Sequence[str], world_size: int) -> list[str]:
    """Leave out sharding by rows where it would leave a rank without rows.

    FBGEMM's CPU backward takes a shard of 0 rows for one more feature of the next table: where the widths
    differ the next table's gradient is read from the wrong columns, and a rank of such shards alone fails.
    """
    first_row_of_the_last_rank = -(-table.num_embeddings // world_size) * (world_size - 1)
    if first_row_of_the_last_rank < table.num_embeddings:
        return list(types)
    return [kind for kind in types if kind != ShardingType.ROW_WISE.value] or [ShardingType.TABLE_WISE.value]


def _shard_columns(embedding_dim: int, world_size: int) -> int:
    """Return the width of column shards, about one a rank: a multiple of 4 that divides the table's, as TorchRec asks."""
    return max(d for d in range(4, max(4, embedding_dim // world_size) + 1, 4) if embedding_dim % d == 0)


def _uniform(piece: TableShard, embedding_dim: int, key: int, bound: float) -> None:
    """Fill with U(±bound): the upper 24 bits of a hash of (key, row, column), wherever the shard begins."""
    rows, columns = piece.weight.shape
    device = piece.weight.device
    column = piece.first_column + torch.arange(columns, device=device)
    step = max(1, _INIT_VALUES // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        row = piece.first_row + torch.arange(start, stop, device=device)
        bits = (mix64((row[:, None] * embedding_dim + column) ^ key) >> 40) & (2**24 - 1)
        piece.weight[start:stop] = (bits.float() * (2 * bound / 2**24)) - bound
