"""Dice is an activation that adapts to the data."""

import torch
from torch import Tensor, nn


class Dice(nn.Module):
    """f(s) = p·s + (1 - p)·α·s, p = σ((s - E[s]) / √(Var[s] + ε)), column by column (Zhou et al., KDD 2018, eq. 3).

    E and Var are those of the batch in training and their running means afterwards; α is trained from 0. A batch of
    fewer than two rows says nothing of its variance: it reads the running moments, and leaves them as they are.
    """

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-8) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.alpha = nn.Parameter(torch.zeros(width))
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width] to [B, width]; the moments are not computed in less than float32."""
        normal = nn.functional.batch_norm(
            x.to(self.mean.dtype),
            self.mean,
            self.variance,
            training=self.training and len(x) > 1,
            momentum=self.momentum,
            eps=self.eps,
        )
        p = torch.sigmoid(normal)
        return x * (self.alpha + (1 - self.alpha) * p).to(x.dtype)
