"""FinalMLP fuses two MLPs, each of which looks at some of the inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import FinalMLPConfig
from recsys.models.layers import concatenated, mlp
from recsys.models.linear import Linear


class FeatureGate(nn.Module):
    """h = 2σ(MLP(context)) ⊙ x (Mao et al., AAAI 2023, eq. 5-6): which inputs a stream looks at.

    The context is the vectors of `features`, or a trained constant where there are none.
    """

    def __init__(
        self, inputs: int, features: Sequence[int], hidden: Sequence[int], embedding_dim: int
    ) -> None:
        super().__init__()
        self.features = list(features)
        self.constant = None if features else nn.Parameter(torch.zeros(1, embedding_dim))
        hidden = [max(1, len(features)) * embedding_dim, *hidden]
        self.mlp = mlp(hidden[0], hidden[1:])
        self.gate = Linear(hidden[-1], inputs)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n + F·D] and vectors [B, F, D] to [B, n + F·D]."""
        context = vectors[:, self.features].flatten(1) if self.constant is None else self.constant
        return 2 * torch.sigmoid(self.gate(self.mlp(context))) * x


class BilinearFusion(nn.Module):
    """b + w_1·o_1 + w_2·o_2 + Σ_j o_1jᵀ W_j o_2j over `heads` equal parts of both (eq. 10-13). -> [B]."""

    def __init__(self, first: int, second: int, heads: int) -> None:
        super().__init__()
        self.linear = nn.Linear(first + second, 1)
        self.bilinear = nn.Parameter(torch.empty(heads, first // heads, second // heads))
        nn.init.xavier_normal_(self.bilinear)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map [B, first] and [B, second] to [B]."""
        heads = len(self.bilinear)
        a, b = (x.unflatten(1, (heads, -1)).transpose(0, 1) for x in (first, second))  # [heads, B, part]
        products = (torch.bmm(a, self.bilinear) * b).sum(dim=(0, 2))
        return self.linear(torch.cat([first, second], dim=1)).squeeze(1) + products


class FinalMLP(nn.Module):
    """Two MLPs, each behind a feature gate of its own, fused bilinearly (Mao et al., AAAI 2023, eq. 4-13)."""

    def __init__(
        self, config: FinalMLPConfig, num_dense: int, fields: Sequence[str], embedding_dim: int
    ) -> None:
        super().__init__()
        inputs = num_dense + len(fields) * embedding_dim
        self.first_gate, self.second_gate = (
            FeatureGate(inputs, [fields.index(name) for name in names], config.gate_hidden, embedding_dim)
            for names in (config.first_gate, config.second_gate)
        )
        self.first = mlp(inputs, config.hidden, config.dropout)
        self.second = mlp(inputs, config.second_hidden, config.dropout)
        self.fusion = BilinearFusion(config.hidden[-1], config.second_hidden[-1], config.heads)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        x = concatenated(dense, vectors)
        return self.fusion(self.first(self.first_gate(x, vectors)), self.second(self.second_gate(x, vectors)))
