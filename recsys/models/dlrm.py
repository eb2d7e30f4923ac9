"""DLRM."""

import torch
from torch import Tensor, nn

from recsys.config import DLRMConfig
from recsys.models.layers import mlp


class DLRM(nn.Module):
    """Bottom MLP of x -> [D]; dot products of all pairs of it and the fields; top MLP (Naumov et al., 2019)."""

    def __init__(self, config: DLRMConfig, num_dense: int, num_fields: int, embedding_dim: int) -> None:
        super().__init__()
        self.bottom = mlp(num_dense, [*config.bottom, embedding_dim]) if num_dense else None
        count = num_fields + (num_dense > 0)
        if count < 2:
            raise ValueError(
                "dlrm has no pair to multiply: it needs a second categorical or a numeric feature"
            )
        self.pairs: Tensor
        self.register_buffer("pairs", torch.tril_indices(count, count, offset=-1), persistent=False)
        self.top = mlp(
            count * (count - 1) // 2 + embedding_dim * (num_dense > 0), config.hidden, config.dropout
        )
        self.output = nn.Linear(config.hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """[B, n], [B, F, D] -> logit [B]."""
        first = [] if self.bottom is None else [self.bottom(dense)]
        stacked = torch.cat([*(x[:, None] for x in first), vectors], dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.output(self.top(torch.cat([*first, products], dim=1))).squeeze(1)
