"""IPNN, the inner-product network, is an MLP over vectors and the inner products of their pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.config.models import IPNNConfig
from recsys.models.layers import PairwiseProducts, concatenated, mlp


class IPNN(nn.Module):
    """logit = MLP(x, e, <e_f, e_g> of all pairs g < f) (Qu et al., ICDM 2016, eq. 2-8).

    The paper's first layer is l_1 = ReLU(W_z z + W_p p + b): one linear map of vectors and products. Its W_p is
    of rank one for each unit, to save weights; here it is full.
    """

    def __init__(self, config: IPNNConfig, num_dense: int, fields: Sequence[str], embedding_dim: int) -> None:
        super().__init__()
        self.products = PairwiseProducts(len(fields))
        inputs = num_dense + len(fields) * embedding_dim + len(self.products.places)
        self.mlp = mlp(inputs, config.hidden, config.dropout)
        self.output = nn.Linear(config.hidden[-1], 1)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        """Map [B, n] and [B, F, D] to logits [B]."""
        x = torch.cat([concatenated(dense, vectors), self.products(vectors)], dim=1)
        return self.output(self.mlp(x)).squeeze(1)
