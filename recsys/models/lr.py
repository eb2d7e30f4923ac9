"""Logistic regression adds up a weight of each id and number."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import LRConfig


class LR(nn.Module):
    """logit = b + Σ_f mean_d e_f,d + w·x.

    The weight of an id is the mean of its vector, so that a step of the tables' optimiser moves it by the learning rate,
    whatever the width.
    """

    def __init__(self, config: LRConfig, num_dense: int, fields: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.dense = nn.Parameter(torch.zeros(num_dense))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        # one sum of all, in a third of the time of a mean of each field and their sum
        weights = vectors.flatten(1).sum(dim=1) / vectors.shape[2]
        return self.bias + weights + dense @ self.dense
