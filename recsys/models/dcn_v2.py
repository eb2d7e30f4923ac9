"""DCN-V2 crosses its inputs, layer by layer, beside an MLP."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import DCNv2Config
from recsys.models.layers import concatenated, mlp
from recsys.models.linear import Linear


class DCNv2(nn.Module):
    """Cross layers x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l beside an MLP (Wang et al., WWW 2021, eq. 1, parallel)."""

    def __init__(
        self, config: DCNv2Config, num_dense: int, fields: Sequence[str], embedding_dim: int
    ) -> None:
        super().__init__()
        inputs = num_dense + len(fields) * embedding_dim
        self.crosses = nn.ModuleList(Linear(inputs, inputs) for _ in range(config.cross_layers))
        self.mlp = mlp(inputs, config.hidden, config.dropout)
        self.output = nn.Linear(inputs + config.hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        start = crossed = concatenated(dense, vectors)
        for cross in self.crosses:
            crossed = torch.addcmul(crossed, start, cross(crossed))
        return self.output(torch.cat([crossed, self.mlp(start)], dim=1)).squeeze(1)
