"""AutoInt lets fields attend to each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import AutoIntConfig
from recsys.models.layers import concatenated, mlp
from recsys.models.linear import Linear


class InteractingLayer(nn.Module):
    """Self-attention of the fields, head by head (Song et al., CIKM 2019, eq. 5-8).

    α_{m,k} = softmax_k <W_Q e_m, W_K e_k>, unscaled as in the paper; ẽ_m = Σ_k α_{m,k} W_V e_k, heads side by side;
    out_m = ReLU(ẽ_m + W_R e_m), where W_R is the residual. [B, F, D] -> [B, F, heads · head_dim].
    """

    def __init__(self, inputs: int, config: AutoIntConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        width = config.heads * config.head_dim
        self.query, self.key, self.value = (Linear(inputs, width, bias=False) for _ in range(3))
        self.residual = Linear(inputs, width, bias=False) if config.residual else None

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, F, D] to [B, F, heads · head_dim]."""
        query, key, value = (
            project(vectors).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, F, head_dim]
            for project in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=1.0)
        out = attended.transpose(1, 2).flatten(2)
        return torch.relu(out if self.residual is None else out + self.residual(vectors))


class AutoInt(nn.Module):
    """logit = w · (the fields after the interacting layers) + b (Song et al., CIKM 2019, eq. 4-9).

    Where `hidden` is given, MLP(x, e) is added, which is AutoInt+. A number x is a field x · v with a trained vector v
    (eq. 4).
    """

    def __init__(
        self, config: AutoIntConfig, num_dense: int, fields: Sequence[str], embedding_dim: int
    ) -> None:
        super().__init__()
        self.dense = nn.Parameter(nn.init.normal_(torch.empty(num_dense, embedding_dim), std=0.05))
        width = config.heads * config.head_dim
        self.layers = nn.Sequential(
            *(InteractingLayer(width if layer else embedding_dim, config) for layer in range(config.layers))
        )
        inputs = num_dense + len(fields) * embedding_dim
        self.mlp = mlp(inputs, config.hidden, config.dropout) if config.hidden else None
        attended = (num_dense + len(fields)) * width
        self.output = nn.Linear(attended + (config.hidden[-1] if config.hidden else 0), 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        out = self.layers(torch.cat([dense[:, :, None] * self.dense, vectors], dim=1)).flatten(1)
        if self.mlp is not None:
            out = torch.cat([out, self.mlp(concatenated(dense, vectors))], dim=1)
        return self.output(out).squeeze(1)
