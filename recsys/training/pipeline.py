"""A step of training is TorchRec's pipeline around the loss, its decay, and losses that are no number."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from typing_extensions import override

from recsys.models.click import ClickBatch
from recsys.training.clock import StepClock
from recsys.training.optimizers import Optimizer
from recsys_tables.engine.engine import engine_of


class Pipeline(TrainPipelineSparseDist[ClickBatch, None]):
    """A pipeline that overlaps the copying and the exchange of ids of the next batches with the computing of this one.

    `loss` is that of the whole batch, over all ranks, after `progress`. Before a batch whose loss is not finite would
    change anything, `on_nonfinite` is called on every rank: it raises, or the batch is left out.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: Optimizer,
        device: torch.device,
        table_decay: float,
        clock: StepClock,
        on_nonfinite: Callable[[float], None],
    ) -> None:
        super().__init__(model, optimizer, device, custom_model_fwd=self._losses)  # type: ignore[arg-type]
        self.loss = 0.0
        self._click_model, self._updates = model, optimizer
        self._table_decay = table_decay
        self._clock = clock
        self._on_nonfinite = on_nonfinite
        combines: Iterable[Any] = engine_of(model).combiner.combines
        self._penalties = [combine.penalty for combine in combines if hasattr(combine, "penalty")]
        self._cross_entropy = nn.BCEWithLogitsLoss(reduction="none")

    def _losses(self, batch: ClickBatch | None) -> tuple[Tensor, None]:
        assert batch is not None
        self._clock.begin()
        logit, decayed = self._click_model(batch)
        loss = (self._cross_entropy(logit, batch.label) * batch.weight).sum()
        self._clock.forward_done()
        shared = loss.detach().clone()
        if (ranks := dist.get_world_size()) > 1:
            dist.all_reduce(shared)
        self.loss = float(shared) / ranks
        if self._table_decay:
            loss = loss + self._table_decay / 2 * (decayed * batch.weight).sum()
        for penalty in self._penalties:
            loss = loss + penalty()  # on every rank: ranks average
        return loss[None], None

    @override
    def _backward(self, losses: Tensor) -> None:
        self._clock.begin()
        if math.isfinite(self.loss):
            super()._backward(losses)
        else:  # without a gradient the optimisers find nothing to do
            self._on_nonfinite(self.loss)
            self._updates.leave_out()
        self._clock.tables_done()

    @override
    def _optimizer_step(self) -> None:
        super()._optimizer_step()
        self._clock.dense_done()
