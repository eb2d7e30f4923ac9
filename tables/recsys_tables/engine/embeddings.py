"""The vectors that a batch's ids became: one per feature and sample, and sequences of vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec import JaggedTensor, KeyedTensor

from recsys_tables.engine.bags import Bag
from recsys_tables.field import Field


@dataclass(frozen=True)
class Embeddings:
    """Vectors of a batch of B samples, in the order of the engine's fields.

    dims: D_f of each pooled feature.
    concatenated: their vectors, [B, Σ D_f].
    sequences: a JaggedTensor of values [L, D_f] and lengths [B] per feature with `pooling="none"`.
    """

    dims: dict[str, int]
    concatenated: Tensor
    sequences: dict[str, JaggedTensor]

    @classmethod
    def of(cls, fields: Sequence[Field], bags: Sequence[Bag], vectors: Sequence[Tensor]) -> "Embeddings":
        """Put together the vectors of each field, pooled or not."""
        pooled, sequences, dims = [], {}, {}
        for field, bag, values in zip(fields, bags, vectors, strict=True):
            if field.pooling == "none":
                sequences[field.feature] = JaggedTensor(values, lengths=bag.lengths)
            else:
                pooled.append(values)
                dims[field.feature] = values.shape[1]
        empty = torch.empty(len(bags[0].lengths), 0, device=bags[0].ids.device)
        return cls(dims, torch.cat(pooled, dim=1) if pooled else empty, sequences)

    def __getitem__(self, feature: str) -> Tensor:
        """Return the vectors [B, D_f] of a pooled feature."""
        start = 0
        for name, dim in self.dims.items():
            if name == feature:
                return self.concatenated[:, start : start + dim]
            start += dim
        raise KeyError(f"{feature!r} is none of the pooled features {self.keys()}")

    def keys(self) -> list[str]:
        """Return the pooled features."""
        return list(self.dims)

    def values(self) -> Tensor:
        """Return the concatenated vectors, [B, Σ D_f]."""
        return self.concatenated

    def stacked(self) -> Tensor:
        """Return the vectors as [B, F, D]. Raises ValueError when the features' widths differ."""
        if len(set(self.dims.values())) != 1:
            raise ValueError(f"features of different widths cannot be stacked: {self.dims}; use values()")
        return self.concatenated.view(-1, len(self.dims), next(iter(self.dims.values())))

    def keyed_tensor(self) -> KeyedTensor:
        """Return `values` in TorchRec's form."""
        return KeyedTensor(self.keys(), list(self.dims.values()), self.concatenated)
