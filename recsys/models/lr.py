"""Logistic regression."""

import torch
from torch import Tensor, nn

from recsys.config import LRConfig


class LR(nn.Module):
    """logit = b + Σ_f Σ_d e_f,d + w·x: the weight of an id is the sum of its vector's coordinates."""

    def __init__(self, config: LRConfig, num_dense: int, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(num_dense, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """[B, n], [B, F, D] -> logit [B]."""
        return self.bias + vectors.sum(dim=(1, 2)) + self.dense(dense).squeeze(1)
