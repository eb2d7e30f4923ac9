"""The whole of what is trained: an embedding engine below a network."""

from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_tables.engine import EmbeddingEngine


class ClickModel(nn.Module):
    """Logit of a click: ids through `engine` to vectors [B, F, D], then `network`.

    Call: dense [B, n] float32 and ids of B samples -> (logit [B], squared norm of each sample's vectors [B]);
    the second is what `training.table_decay` shrinks.
    """

    def __init__(self, engine: EmbeddingEngine, network: nn.Module) -> None:
        super().__init__()
        self.engine = engine
        self.network = network

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        vectors = self.engine(ids).stacked()
        return self.network(dense, vectors), vectors.square().sum(dim=(1, 2))
