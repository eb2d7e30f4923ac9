"""FNN is an MLP over the fields' vectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.config.models import FNNConfig
from recsys.models.layers import concatenated, mlp


class FNN(nn.Module):
    """logit = MLP(x, e) (Zhang et al., ECIR 2016, eq. 1-4).

    The paper takes the first vectors from a trained FM; here all is trained at once, as in later comparisons.
    """

    def __init__(self, config: FNNConfig, num_dense: int, fields: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.mlp = mlp(num_dense + len(fields) * embedding_dim, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        return self.output(self.mlp(concatenated(dense, vectors))).squeeze(1)
