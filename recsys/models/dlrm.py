"""DLRM reads the dot products of all pairs of fields."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import DLRMConfig
from recsys.models.layers import PairwiseProducts, mlp


class DLRM(nn.Module):
    """Bottom MLP of x -> [D]; dot products of all pairs of it and the fields; top MLP (Naumov et al., 2019)."""

    def __init__(self, config: DLRMConfig, num_dense: int, fields: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.bottom = mlp(num_dense, [*config.bottom, embedding_dim]) if num_dense else None
        count = len(fields) + (num_dense > 0)
        self.products = PairwiseProducts(count)
        self.top = mlp(
            len(self.products.places) + embedding_dim * (num_dense > 0), config.hidden, config.dropout
        )
        self.output = nn.Linear(config.hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        first = [] if self.bottom is None else [self.bottom(dense)]
        stacked = torch.cat([*(x[:, None] for x in first), vectors], dim=1)
        return self.output(self.top(torch.cat([*first, self.products(stacked)], dim=1))).squeeze(1)
