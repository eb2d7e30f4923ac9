"""A click model is the whole of what is trained: an embedding engine below a network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torchrec.streamable import Pipelineable
from typing_extensions import override

from recsys_tables.engine.batch_rows import BatchRows
from recsys_tables.engine.engine import EmbeddingEngine


@dataclass(frozen=True)
class ClickBatch(Pipelineable):
    """B samples: dense [B, n] float32, rows of the tables, label and weight [B] float32; `size` are no padding."""

    dense: Tensor
    rows: BatchRows
    label: Tensor
    weight: Tensor
    size: int

    @override
    def to(self, device: torch.device, non_blocking: bool = False) -> "ClickBatch":
        if self.dense.device == device:
            return self
        return replace(
            self,
            dense=self.dense.to(device, non_blocking=non_blocking),
            rows=self.rows.to(device, non_blocking),
            label=self.label.to(device, non_blocking=non_blocking),
            weight=self.weight.to(device, non_blocking=non_blocking),
        )

    @override
    def record_stream(self, stream: torch.Stream) -> None:
        for part in (self.dense, self.rows, self.label, self.weight):
            part.record_stream(stream)


class ClickModel(nn.Module):
    """Logit of a click: ids through `engine` to vectors [B, F, D], then `network`.

    Args:
        engine: its pooled fields are the network's F vectors, in their order.
        network: (dense [B, n], vectors [B, F, D], *sequences) -> logit [B].
        histories: fields with `pooling="none"` whose sequences the network reads, in its order.
        decay: what `training.table_decay` shrinks (`recsys.models.decay`); nothing unless given.

    Call: a batch of B samples -> (logit [B], what the decay shrinks [B]), which is 0 in evaluation. TorchRec's
    pipelines trace it, down to collections and networks.
    """

    def __init__(
        self,
        engine: EmbeddingEngine,
        network: nn.Module,
        histories: Sequence[str] = (),
        decay: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.engine = engine
        self.network = network
        self.histories = tuple(histories)
        self.decay = decay

    def forward(self, batch: ClickBatch) -> tuple[Tensor, Tensor]:
        """Return logits [B], and what the decay shrinks [B]."""
        embeddings = self.engine.look_up(batch.rows)
        sequences = [embeddings.sequences[name] for name in self.histories]
        logit = self.network(batch.dense, embeddings.stacked(), *sequences)
        if self.decay is None or not self.training:
            return logit, torch.zeros_like(logit)
        return logit, self.decay(embeddings, batch.rows)


class InBfloat16(nn.Module):
    """A network whose products are in bfloat16, by autocast; its weights and its answer stay float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, dense: Tensor, *inputs: Tensor) -> Tensor:
        """Map what the network takes to its logits [B], float32."""
        with torch.autocast(dense.device.type, torch.bfloat16):
            return self.network(dense, *inputs).float()
