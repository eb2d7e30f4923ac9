"""Deep hash: no rows at all, a network computes an id's vector from many hashes of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from typing_extensions import override

from recsys_cython_ext import hash_rows_jagged, lookup_salt
from recsys_tables.scheme import Lookup, SchemeBase, Table

if TYPE_CHECKING:
    from torch import nn

HASH_VALUES = 2**23  # of a hash: what float32 still tells apart after scaling to -1..1


@dataclass(frozen=True)
class DeepHash(SchemeBase):
    """e(i) = MLP(x_1(i), …, x_k(i)), x_j a hash of i scaled to U(-1, 1) or N(0, 1) (DHE, Kang et al., KDD 2021, §4).

    It has no tables, so it is used with `recsys_tables.engine.deep_hash.DeepHashEmbedding` in place of the engine.
    """

    feature: str
    embedding_dim: int
    num_hashes: int = 1024
    hidden_dims: tuple[int, ...] = (128, 128)
    encoding: Literal["uniform", "normal"] = "uniform"
    init_bound: float = 0.05
    num_ids = None
    linear = False

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "num_hashes"):
            if getattr(self, name) < 1:
                raise ValueError(f"feature {self.feature!r}: {name} {getattr(self, name)} is not at least 1")
        if not self.hidden_dims or min(self.hidden_dims) < 1:
            raise ValueError(
                f"feature {self.feature!r}: hidden_dims {self.hidden_dims} are not one or more numbers of at least 1"
            )
        if self.encoding not in ("uniform", "normal"):
            raise ValueError(
                f"feature {self.feature!r}: encoding {self.encoding!r} is neither 'uniform' nor 'normal'"
            )

    def tables(self) -> tuple[Table, ...]:
        """Return no table."""
        return ()

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return no lookup."""
        return ()

    @override
    def aux(self, ids: Any) -> Any:
        # k hashes [L, k], each below `HASH_VALUES`
        k, length = self.num_hashes, len(ids)
        tiled = np.tile(ids, k) if isinstance(ids, np.ndarray) else ids.tile(k)
        salts = [lookup_salt(self.feature, j) for j in range(k)]
        offsets = range(0, k * length + 1, length) if length else [0] * (k + 1)
        return hash_rows_jagged(tiled, offsets, salts, [HASH_VALUES] * k).reshape(k, length).T

    def combine(self) -> "nn.Module":
        """Return the network."""
        from recsys_tables.combine.modules import HashNetwork

        return HashNetwork(
            (self.num_hashes, *self.hidden_dims, self.embedding_dim),
            HASH_VALUES,
            self.encoding,
            self.init_bound,
        )
