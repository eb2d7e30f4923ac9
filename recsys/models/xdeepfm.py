"""xDeepFM adds a compressed interaction network to an MLP and a linear term."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import XDeepFMConfig
from recsys.models.layers import concatenated, mlp
from recsys.models.linear import Linear


class CIN(nn.Module):
    """Compressed interaction network (Lian et al., KDD 2018, eq. 6-8).

    X^k_h = Σ_{i,j} W^k_{h,ij} · (X^{k-1}_i ⊙ X^0_j), X^0 = the fields' vectors; each X^k_h is summed over its width.
    No activation in between: the paper's own comparison finds the identity best. [B, F, D] -> [B, Σ_k H_k].
    """

    def __init__(self, num_fields: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(before * num_fields, after, bias=False)
            for before, after in itertools.pairwise([num_fields, *sizes])
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors [B, F, D] to [B, Σ_k H_k]."""
        first = x = vectors.transpose(1, 2)  # [B, D, F]: all pairs of a coordinate pass one matrix product
        pooled = []
        for layer in self.layers:
            x = layer((x[:, :, :, None] * first[:, :, None, :]).flatten(2))  # [B, D, H]
            pooled.append(x.sum(dim=1))
        return torch.cat(pooled, dim=1)


class XDeepFM(nn.Module):
    """logit = linear(x, e) + w · CIN(e) + MLP(x, e) (Lian et al., KDD 2018, eq. 9)."""

    def __init__(
        self, config: XDeepFMConfig, num_dense: int, fields: Sequence[str], embedding_dim: int
    ) -> None:
        super().__init__()
        inputs = num_dense + len(fields) * embedding_dim
        self.linear = nn.Linear(inputs, 1)
        self.cin = CIN(len(fields), config.cin)
        self.mlp = mlp(inputs, config.hidden, config.dropout)
        self.output = nn.Linear(sum(config.cin) + config.hidden[-1], 1, bias=False)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        x = concatenated(dense, vectors)
        deep = torch.cat([self.cin(vectors), self.mlp(x)], dim=1)
        return (self.linear(x) + self.output(deep)).squeeze(1)
