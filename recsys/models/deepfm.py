"""DeepFM adds an MLP to a factorisation machine."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.config.models import DeepFMConfig
from recsys.models.layers import concatenated, mlp, pairwise_sum


class DeepFM(nn.Module):
    """logit = linear(x, e) + Σ_{f<g} <e_f, e_g> + MLP(x, e) (Guo et al., IJCAI 2017), as in `FM` without width-1 tables."""

    def __init__(
        self, config: DeepFMConfig, num_dense: int, fields: Sequence[str], embedding_dim: int
    ) -> None:
        super().__init__()
        inputs = num_dense + len(fields) * embedding_dim
        self.linear = nn.Linear(inputs, 1)
        self.mlp = mlp(inputs, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1, bias=False)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        x = concatenated(dense, vectors)
        return (self.linear(x) + self.output(self.mlp(x))).squeeze(1) + pairwise_sum(vectors)
