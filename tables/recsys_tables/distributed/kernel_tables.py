"""TorchRec's fused tables on a CPU with our kernel in the place of FBGEMM's forward and backward.

TorchRec makes its fused tables of FBGEMM's module, which holds weights and states, and all that plans, shards, saves and
schedules goes on reading them there. Only what is done with a batch is ours.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen
from torch import Tensor
from torchrec.distributed import batched_embedding_kernel
from typing_extensions import override

from recsys_cython_ext import lookup_salt
from recsys_cython_ext.hashing import mix64
from recsys_cython_ext.lookup import empty_huge
from recsys_tables.bytes import OptimizerName
from recsys_tables.config import TableKernelName
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.scheme import Precision
from recsys_tables.table_kernel import HeldTable, RowStates, TableKernel, UpdateRule

_RULES: dict[EmbOptimType, OptimizerName] = {
    EmbOptimType.EXACT_SGD: "sgd",
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: "rowwise_adagrad",
    EmbOptimType.EXACT_ADAGRAD: "adagrad",
    EmbOptimType.ADAM: "adam",
}
_PRECISIONS: dict[torch.dtype, Precision] = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}


class KernelTables(SplitTableBatchedEmbeddingBagsCodegen):
    """FBGEMM's tables on a CPU, read and updated by `TableKernel`, with as many threads as torch has.

    Adam, which FBGEMM has for GPUs only, is among its optimisers: two moments of each number, and for each row the count
    of its updates, which its bias correction goes by. TorchRec's optimiser and checkpoints see all three by name.
    `seed` is of the rounding of fp16 and bf16 rows, beside the number of the batch (`iter_cpu`).

    Raises ValueError for what the kernel does not do, and what FBGEMM's constructor raises.
    """

    def __init__(
        self,
        *args: Any,
        optimizer: EmbOptimType = EmbOptimType.EXACT_SGD,
        pooling_mode: PoolingMode = PoolingMode.SUM,
        weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        if optimizer not in _RULES or pooling_mode != PoolingMode.SUM or weight_decay:
            raise ValueError(
                f"the table kernel has no {optimizer} with pooling {pooling_mode.name} and weight decay {weight_decay}: "
                "set job.table_kernel to fbgemm"
            )
        self.seed = 0
        self._outputs = _Outputs()
        self._rule = _RULES[optimizer]
        # of FBGEMM's optimisers SGD is the one without states, and it takes Adam's settings too
        super().__init__(
            *args, optimizer=EmbOptimType.EXACT_SGD if self._rule == "adam" else optimizer, **settings
        )
        self._betas = settings.get("beta1", 0.9), settings.get("beta2", 0.999)
        self._eps = settings.get("eps", 1e-8)
        if self._rule == "adam":
            numbers = self.weights_host.numel()
            for name, size in (
                ("exp_avg", numbers),
                ("exp_avg_sq", numbers),
                ("row_counter", self.total_hash_size),
            ):
                self.register_buffer(name, torch.zeros(size), persistent=False)
        for values in (self.weights_host, *self._state_tensors()):
            size = values.numel()
            values.data = values.new_empty(0)  # first, so that there are never two
            values.data = _zeros(size, values.dtype)
        self._kernel = TableKernel(
            self._held_tables(settings.get("embedding_shard_info")),
            self.feature_table_map,
            _PRECISIONS[self.weights_host.dtype],
        )

    @override
    def get_optimizer_state(self) -> list[dict[str, Tensor]]:
        """Return the states of each table by name, as FBGEMM does for its optimisers; views of the live ones."""
        if self._rule != "adam":
            return super().get_optimizer_state()
        by_table, number, row = [], 0, 0
        for rows, width, *_ in self.embedding_specs:
            numbers = slice(number, number + rows * width)
            moments = {
                name: getattr(self, name)[numbers].view(rows, width) for name in ("exp_avg", "exp_avg_sq")
            }
            by_table.append(moments | {"row_counter": self.row_counter[row : row + rows]})
            number, row = numbers.stop, row + rows
        return by_table

    @override
    def forward(
        self,
        indices: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        """Sum the rows of bags, fp32 [B, width]; the backward pass updates them, and has no gradient for weights.

        Raises ValueError as `TableKernel.read` does, and for arguments of FBGEMM's that the kernel has not.
        """
        if (given := [name for name, value in others.items() if value is not None]) or (
            per_sample_weights is not None and per_sample_weights.requires_grad
        ):
            what = ", ".join(given) or "gradients of per_sample_weights"
            raise ValueError(f"the table kernel has no {what}: set job.table_kernel to fbgemm")
        factors = None if per_sample_weights is None else per_sample_weights.float().contiguous().numpy()
        batch = indices.contiguous().numpy(), offsets.contiguous().numpy(), factors
        return _Bags.apply(self.weights_host, self, batch)

    def read(self, batch: "Batch") -> Tensor:
        """Return the sums of the rows of bags, [B, width]."""
        indices, offsets, factors = batch
        out = self._outputs.empty((len(offsets) - 1) // len(self.feature_table_map), self._kernel.width)
        self._kernel.read(self._address, indices, offsets, factors, out, torch.get_num_threads())
        return torch.from_numpy(out)

    def update(self, batch: "Batch", gradient: Tensor) -> None:
        """Move the rows of a batch that was read."""
        batch_number = int(self.iter_cpu)
        self.iter_cpu.fill_(batch_number + 1)
        rule = UpdateRule(self._rule, self.get_learning_rate(), self._eps, *self._betas)
        seed = int(mix64(mix64(np.array([self.seed])) ^ batch_number).view(np.uint64)[0])
        states = RowStates(*(values.detach().numpy() for values in self._state_tensors()))
        numbers = gradient.float().contiguous().numpy()
        self._kernel.update(self._address, states, rule, seed, *batch, numbers, torch.get_num_threads())

    @property
    def _address(self) -> int:
        return self.weights_host.data_ptr()

    def _state_tensors(self) -> tuple[Tensor, ...]:
        if self._rule == "adam":
            return self.exp_avg, self.exp_avg_sq, self.row_counter
        return () if self._rule == "sgd" else (self.momentum1_host,)

    def _held_tables(self, shards: Sequence[tuple[int, int, int, int]] | None) -> list[HeldTable]:
        """Return the tables; a shard is (rows and width of the whole table, first row, first column)."""
        specs = [spec[:2] for spec in self.embedding_specs]
        names = self.table_names or [f"table {t}" for t in range(len(specs))]
        shards = shards or [(rows, width, 0, 0) for rows, width in specs]
        return [
            HeldTable(name, rows, width, lookup_salt(name, 0), whole_width, first_row, first_column)
            for name, (rows, width), (_, whole_width, first_row, first_column) in zip(
                names, specs, shards, strict=True
            )
        ]


Batch = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # indices, offsets, factors


class _Outputs:
    """Arrays that are used again once nothing holds them: the system's pages of a fresh one cost more than reading rows."""

    def __init__(self) -> None:
        self._arrays: list[
            tuple[np.ndarray, weakref.ref[np.ndarray]]
        ] = []  # flat, and what was last handed out of it

    def empty(self, rows: int, width: int) -> np.ndarray:
        """Return an uninitialised float32 array [rows, width], in use for as long as it, or a tensor of it, is held."""
        size = rows * width
        used = [(array, user) for array, user in self._arrays if user() is not None]
        free = [array for array, user in self._arrays if user() is None and array.size >= size]
        array = free[0] if free else empty_huge((size,))
        out = array[:size].reshape(rows, width)
        self._arrays = [*used, (array, weakref.ref(out))]
        return out


class _Bags(torch.autograd.Function):
    """What is differentiated: FBGEMM's weights stand for all rows, and have no gradient, for they are moved at once."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, tables: KernelTables, batch: Batch) -> Tensor:
        ctx.tables, ctx.batch = tables, batch
        return tables.read(batch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.tables.update(ctx.batch, gradient)
        return None, None, None


def check_kernel(
    engine: EmbeddingEngine, optimizer: OptimizerName, device: torch.device, table_kernel: TableKernelName
) -> None:
    """Raise ValueError where FBGEMM would train the tables, and lacks what they ask for."""
    if device.type == "cpu" and table_kernel == "recsys":
        return
    if any(table.precision == "bf16" for table in engine.tables):
        raise ValueError(
            "FBGEMM trains no tables in bf16: use the kernel 'recsys' (job.table_kernel), which is for CPUs, or fp16"
        )
    if optimizer == "adam" and device.type == "cpu":
        raise ValueError(
            "FBGEMM has no fused Adam for tables on a CPU: use the kernel 'recsys' (job.table_kernel), or "
            "'rowwise_adagrad', 'adagrad' or 'sgd'"
        )


@contextmanager
def kernel_tables() -> Iterator[None]:
    """Let TorchRec make its fused tables of `KernelTables` while the block runs; it has no hook for that."""
    with patch.object(batched_embedding_kernel, "SplitTableBatchedEmbeddingBagsCodegen", KernelTables):
        yield


def fbgemm_modules(engine: EmbeddingEngine) -> list[SplitTableBatchedEmbeddingBagsCodegen]:
    """Return the modules that hold the fused tables of a sharded engine; TorchRec keeps them out of `modules()`."""
    return [
        module
        for collection in engine.collections.values()
        for lookup in getattr(collection, "_lookups", ())  # of a sharded one
        for module in lookup.modules()
        if isinstance(module, SplitTableBatchedEmbeddingBagsCodegen)
    ]


def _zeros(size: int, dtype: torch.dtype) -> Tensor:
    """Return zeros [size] on huge pages: random rows miss the TLB less."""
    memory = torch.from_numpy(empty_huge((size * dtype.itemsize,), np.uint8))
    return memory.view(dtype).zero_()
