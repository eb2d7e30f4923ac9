"""What the engine costs beside TorchRec given row numbers, and beside FBGEMM's bare kernel.

python benchmarks/engine.py [--batch 4096] [--features 26] [--threads 1]

One training step of the unified scheme: ids -> vectors [B, F, D], backward, fused rowwise Adagrad. TorchRec's
`DistributedModelParallel` and FBGEMM's table get the row numbers ready made, so the difference is hashing, checks,
grouping and combining. The contenders take turns; the table shows medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from rich.console import Console
from rich.table import Table as Printed
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.optim import RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from recsys_tables import Unified
from recsys_tables.distributed.quiet import quiet
from recsys_tables.distributed.sharding import TableOptimizer, plan_sharding, shard
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field

ROWS, BATCHES = 1_000_000, 8
CPU = torch.device("cpu")


def engine_step(schemes: list[Unified]) -> Callable[[KeyedJaggedTensor], Tensor]:
    engine = EmbeddingEngine([Field(scheme) for scheme in schemes], torch.device("meta"))
    model = shard(engine, TableOptimizer(), CPU, seed=0)
    return lambda ids: model(ids).values()


def torchrec_step(keys: list[str], dim: int, plan: object) -> Callable[[KeyedJaggedTensor], Tensor]:
    config = EmbeddingBagConfig(
        name="unified/shared", num_embeddings=ROWS, embedding_dim=dim, feature_names=keys
    )
    module = nn.ModuleDict({"pooled": EmbeddingBagCollection(tables=[config], device=torch.device("meta"))})
    holder = Holder(module)
    apply_optimizer_in_backward(RowWiseAdagrad, holder.parameters(), {"lr": 0.05, "eps": 1e-8})
    with quiet():
        model = DistributedModelParallel(holder, device=CPU, plan=plan)
    return lambda rows: model(rows).values()


class Holder(nn.Module):
    """Gives the collection the path it has in the engine, so that both can be sharded by one plan."""

    def __init__(self, collections: nn.ModuleDict) -> None:
        super().__init__()
        self.collections = collections

    def forward(self, rows: KeyedJaggedTensor) -> object:
        return self.collections["pooled"](rows)


def fbgemm_step(keys: list[str], dim: int) -> Callable[[KeyedJaggedTensor], Tensor]:
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        feature_table_map=[0] * len(keys),
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.05,
        eps=1e-8,
    )
    tables.init_embedding_weights_uniform(-0.05, 0.05)
    offsets: list[Tensor] = []  # those of the first batch: one id per sample and key, in every batch alike

    def step(rows: KeyedJaggedTensor) -> Tensor:
        if not offsets:
            offsets.append(rows.offsets().long())
        return tables(rows.values(), offsets[0])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--features", type=int, default=26)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    shown = Printed("width", "chunks", "engine, ms", "TorchRec, ms", "FBGEMM, ms", "÷ TorchRec", "÷ FBGEMM")
    for dim, chunk_dim in ((16, 16), (16, 8), (64, 64), (64, 16)):
        shown.add_row(str(dim), str(dim // chunk_dim), *measure(args, dim, chunk_dim))
    shown.title = (
        f"a step of {args.features} features × {args.batch} samples, {ROWS:,} rows, {args.threads} thread(s)"
    )
    Console(width=110).print(shown)


def measure(args: argparse.Namespace, dim: int, chunk_dim: int) -> list[str]:
    """Medians of the three contenders, and the engine's ratios to the others."""
    random = np.random.default_rng(0)
    schemes = [Unified(f"c{i}", ROWS, dim, chunk_dim) for i in range(args.features)]
    keys = [f"c{i}/{j}" for i in range(args.features) for j in range(dim // chunk_dim)]
    ids, rows = [], []
    for _ in range(BATCHES):
        values = (random.zipf(1.2, args.batch * args.features) % 10**7).astype(np.int64)
        ids.append(jagged([scheme.feature for scheme in schemes], values, args.batch))
        parts = values.reshape(args.features, args.batch)
        looked_up = [
            item.rows for scheme, part in zip(schemes, parts, strict=True) for item in scheme.rows(part)
        ]
        rows.append(jagged(keys, np.concatenate(looked_up).reshape(-1), args.batch))
    engine = EmbeddingEngine([Field(scheme) for scheme in schemes], torch.device("meta"))
    plan = plan_sharding(engine, "table_wise", TableOptimizer(), 1, CPU)
    contenders = [
        (engine_step(schemes), ids),
        (torchrec_step(keys, chunk_dim, plan), rows),
        (fbgemm_step(keys, chunk_dim), rows),
    ]
    times: list[list[float]] = [[] for _ in contenders]
    probe = torch.randn(args.batch, args.features * dim) * 1e-3
    for repeat in range(args.repeats):
        for (step, batches), found in zip(contenders, times, strict=True):
            started = time.perf_counter()
            for batch in batches:
                step(fresh(batch)).backward(probe)
            if repeat:  # the first round warms up
                found.append((time.perf_counter() - started) / len(batches) * 1e3)
    ours, torchrec, fbgemm = (statistics.median(found) for found in times)
    return [f"{x:.2f}" for x in (ours, torchrec, fbgemm, ours / torchrec, ours / fbgemm)]


def fresh(batch: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """As a data loader hands it over: TorchRec keeps offsets and sums in the object, and would find them there."""
    return KeyedJaggedTensor(batch.keys(), batch.values(), lengths=batch.lengths())


def jagged(keys: list[str], values: np.ndarray, batch: int) -> KeyedJaggedTensor:
    """One id per sample and key."""
    lengths = torch.ones(len(keys) * batch, dtype=torch.int64)
    return KeyedJaggedTensor.from_lengths_sync(keys, torch.from_numpy(values), lengths)


if __name__ == "__main__":
    main()
