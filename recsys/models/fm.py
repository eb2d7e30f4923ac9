"""A factorisation machine sums the dot products of all pairs of fields."""

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.config.models import FMConfig
from recsys.models.layers import pairwise_sum


class FM(nn.Module):
    """logit = linear(x, e) + Σ_{f<g} <e_f, e_g> (Rendle, ICDM 2010).

    The first-order term reads the same vectors through one weight per field and coordinate, so that a
    scheme's bytes are all there is: no second, width-1 table.
    """

    def __init__(self, config: FMConfig, num_dense: int, fields: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_dense + len(fields) * embedding_dim, 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        # one part after the other, so that vectors need not be copied beside the numbers
        of_dense, of_vectors = self.linear.weight[0].tensor_split([dense.shape[1]])
        linear = dense @ of_dense + vectors.flatten(1) @ of_vectors + self.linear.bias
        return linear + pairwise_sum(vectors)
