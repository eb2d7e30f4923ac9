"""Combinations that learn what to mask of a full table: soft thresholds, magnitudes, widths and scales.

See `thresholds` for what they may have beside `forward`. Buffers are float32, for ranks to average.
"""

import math

import torch
from torch import Tensor, nn

FOLLOW_EVERY = 10  # batches between moves of a running quantile
FOLLOW_SHARE = 0.25  # of the way to the batch's quantile, each move


class SoftThreshold(nn.Module):
    """sign(e) · relu(|e| - σ(s)), s: [count], one for all columns or one for each (PEP); see `schemes.Pep`."""

    def __init__(self, count: int, init: float, decay: float, threshold_lr: float | None) -> None:
        super().__init__()
        self.decay = decay
        self.threshold = nn.Parameter(torch.full((count,), init))
        self.learning_rates = {"threshold": threshold_lr}

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [L, D] -> [L, D]."""
        rows = vectors[0]
        return rows.sign() * (rows.abs() - self.threshold.sigmoid()).relu()

    def penalty(self) -> Tensor:
        """Return the decay of s."""
        return self.decay / 2 * self.threshold.square().sum()


class MagnitudeThreshold(nn.Module):
    """e · 1[|e| > t], with the gradient of e alone; t follows a quantile in training (DeepLight).

    After every FOLLOW_EVERY batches t moves towards the quantile of the magnitudes of this batch, by FOLLOW_SHARE of the
    way, so that no single batch decides. See `schemes.DeepLight`.
    """

    steps: Tensor
    threshold: Tensor

    def __init__(self, sparsity: float, damping: float) -> None:
        super().__init__()
        self.sparsity, self.damping = sparsity, damping
        self.register_buffer("steps", torch.zeros(1))  # batches in training so far
        self.register_buffer("threshold", torch.zeros(1))

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [L, D] -> [L, D]."""
        rows = vectors[0]
        if self.training:
            self._follow(rows.detach().abs().flatten())
        masked = rows * (rows.abs() > self.threshold)
        return rows + (masked - rows).detach()

    def _follow(self, magnitudes: Tensor) -> None:
        self.steps += 1
        steps = int(self.steps)
        if steps % FOLLOW_EVERY or not len(magnitudes):  # a rank may have no row
            return
        share = self.sparsity * (1 - self.damping ** (steps / 100))
        quantile = magnitudes.kthvalue(max(1, math.ceil(share * len(magnitudes)))).values
        self.threshold.lerp_(quantile, FOLLOW_SHARE)


class WidthChoice(nn.Module):
    """Σ_d p_d · (the first d columns of e), p a softmax of `choice` with Gumbel noise in training (AutoDim).

    See `schemes.AutoDim`.
    """

    steps: Tensor

    def __init__(self, embedding_dim: int, alpha: float, annealing: float, choice_lr: float | None) -> None:
        super().__init__()
        self.alpha, self.annealing = alpha, annealing
        self.choice = nn.Parameter(torch.zeros(embedding_dim // 4 + 1))  # of widths 0, 4, …
        self.learning_rates = {"choice": choice_lr}
        self.register_buffer("steps", torch.zeros(1))  # batches in training so far

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Combine vectors [L, D] -> [L, D]."""
        if self.training:
            self.steps += 1
            temperature = (1 - self.annealing * self.steps).clamp(min=0.01)
            shares = nn.functional.gumbel_softmax(self.choice, temperature)  # type: ignore[arg-type]
        else:
            shares = self.choice.softmax(0)
        within = (
            shares[1:].flip(0).cumsum(0).flip(0)
        )  # of each four columns: the shares of widths they lie in
        if not self.training:
            # of equal ones the widest
            chosen = (self.choice == self.choice.max()).nonzero().max()
            within = within * (torch.arange(len(within), device=within.device) < chosen)
        return vectors[0] * within.repeat_interleave(4)

    def penalty(self) -> Tensor:
        """Return alpha times the expected width's share of the whole."""
        widths = torch.linspace(0, 1, len(self.choice), device=self.choice.device)
        return self.alpha * (self.choice.softmax(0) * widths).sum()


class GroupScales(nn.Module):
    """α[g] ⊙ e, α: [groups, D], in evaluation without scales of less than `cut` (AutoSrh); see `schemes.AutoSrh`."""

    def __init__(
        self, groups: int, embedding_dim: int, l1: float, cut: float, scale_lr: float | None
    ) -> None:
        super().__init__()
        self.l1, self.cut = l1, cut
        self.scales = nn.Parameter(torch.ones(groups, embedding_dim))
        self.learning_rates = {"scales": scale_lr}

    def forward(self, vectors: list[Tensor], groups: Tensor) -> Tensor:
        """Combine vectors [L, D] and groups [L, 1] -> [L, D]."""
        scales: Tensor = self.scales
        if not self.training:
            scales = scales * (scales.abs() >= self.cut)
        return vectors[0] * scales[groups[:, 0]]

    def penalty(self) -> Tensor:
        """Return l1 · Σ|α|."""
        return self.l1 * self.scales.abs().sum()
