"""The sibling of `EmbeddingEngine` for deep hash embeddings, whose vectors come from no rows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_tables.engine.bags import numpy_on_cpu, pool, split
from recsys_tables.engine.embeddings import Embeddings
from recsys_tables.field import Field


class DeepHashEmbedding(nn.Module):
    """A module that makes vectors of `fields`, each with a `DeepHash` scheme, called and answering as the engine.

    There are no tables: every parameter is dense, the same on all ranks, and trained by the dense optimiser.
    A feature's distinct ids pass its network once a batch; with k hashes they take 16 · k bytes each.

    Raises ValueError as the engine does, and for a scheme that is not a `DeepHash`.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.features = tuple(field.feature for field in fields)
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"features are declared twice: {self.features}")
        for field in fields:
            if field.scheme.tables():
                raise ValueError(f"feature {field.feature!r}: {type(field.scheme).__name__} is not DeepHash")
        self.embedding_dims = [field.scheme.embedding_dim for field in fields]
        self.combines = nn.ModuleList(field.scheme.combine() for field in fields)

    @property
    def parameter_bytes(self) -> int:
        """Return all bytes that are resident in serving."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def vectors_of(self, feature: str, ids: np.ndarray) -> np.ndarray:
        """Return vectors [L, D] of int64 ids [L] of a feature, one by one."""
        device = next(self.parameters()).device
        with torch.no_grad():
            return self._vectors(self.features.index(feature), torch.from_numpy(ids).to(device)).cpu().numpy()

    def forward(self, ids: KeyedJaggedTensor) -> Embeddings:
        """Hash, compute and pool; see the class."""
        bags = split(self.fields, ids)
        vectors = [
            pool(field, bag, self._vectors(position, bag.ids))
            for position, (field, bag) in enumerate(zip(self.fields, bags, strict=True))
        ]
        return Embeddings.of(self.fields, bags, vectors)

    def _vectors(self, position: int, ids: Tensor) -> Tensor:
        """Compute the vectors of single ids, [L, D]."""
        distinct, where = ids.unique(return_inverse=True)
        hashes = torch.as_tensor(self.fields[position].scheme.aux(numpy_on_cpu(distinct)))
        return self.combines[position]([], hashes)[where]
