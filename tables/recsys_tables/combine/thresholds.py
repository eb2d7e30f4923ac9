"""Combinations that learn which rows and columns of a full table are worth their bytes.

Beside `forward` such a module may have what the engine and the training loop look for:

    learning_rates       base rates of its own parameters by name, None that of the dense optimiser, whose decay leaves
                         them alone
    penalty()            a number that is added to the training loss, once a batch
    narrow(vectors, lengths)   masks columns of a field's vectors after pooling, alike for all ids of a sample
"""

from typing import Any

import torch
from torch import Tensor, nn


class _Step(torch.autograd.Function):
    """1[x > 0]; its gradient is a long tail: 2 - 4|x| up to |x| = 0.4, 0.4 up to 1, then 0 (OptEmbed, eq. 7)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        size = ctx.saved_tensors[0].abs()
        return gradients[0] * (2 - 4 * size).clamp(min=0.4) * (size <= 1)


class _Supernet(nn.Module):
    """The base of thresholds by field and by id: it masks columns in training (Lyu et al., CIKM 2022, §3.2 and §3.3)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.learning_rates: dict[str, float | None] = {}

    def narrow(self, vectors: Tensor, lengths: Tensor | None) -> Tensor:
        """Keep in training the first columns only, as many as a width drawn from {0, 4, …, D} for every sample.

        vectors: [B, D], or [L, D] of sequences of `lengths` [B].
        """
        if not self.training:
            return vectors
        dim = vectors.shape[1]
        samples = len(vectors) if lengths is None else len(lengths)
        widths = 4 * torch.randint(dim // 4 + 1, (samples,), device=vectors.device)
        if lengths is not None:
            widths = widths.repeat_interleave(lengths)
        return vectors * (torch.arange(dim, device=vectors.device) < widths[:, None])


class FieldThreshold(_Supernet):
    """e · 1[‖e‖₁ > t], one t for the field; the penalty is alpha · exp(-t)."""

    def __init__(self, alpha: float, threshold_lr: float | None) -> None:
        super().__init__(alpha)
        self.threshold = nn.Parameter(torch.zeros(1))
        self.learning_rates["threshold"] = threshold_lr

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [L, D] -> [L, D]."""
        return _masked(vectors[0], self.threshold)

    def penalty(self) -> Tensor:
        """Return alpha · exp(-t)."""
        return self.alpha * torch.exp(-self.threshold).sum()


class IdThreshold(_Supernet):
    """e · 1[‖e‖₁ > t], t the first column of the id's row in a table of thresholds.

    The penalty is alpha times the mean of exp(-t) over the ids that the last batch looked up. An id that is looked up
    twice counts twice, as it does in the loss: a rare one pays as much for an impression as a frequent one.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__(alpha)
        self._looked_up = torch.zeros(0)

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [L, D] and thresholds [L, 4] -> [L, D]."""
        thresholds = vectors[1][:, 0]
        if self.training:
            self._looked_up = thresholds
        return _masked(vectors[0], thresholds)

    def penalty(self) -> Tensor:
        """Return alpha times the mean of exp(-t), once after a batch."""
        thresholds, self._looked_up = (
            self._looked_up,
            torch.zeros(0),
        )  # the batch's graph is not to outlive it
        return self.alpha * torch.exp(-thresholds).sum() / max(1, len(thresholds))


def _masked(rows: Tensor, thresholds: Tensor) -> Tensor:
    return rows * _Step.apply(rows.abs().sum(dim=1) - thresholds)[:, None]
