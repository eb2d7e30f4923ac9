"""Path-based: ids share rows, and each passes its row through one of several small networks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_tables.bytes import combine_bytes
from recsys_tables.combine.operations import Served
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import WIDEST, Budget, OptionsTables

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PathBased(Served):
    """e(i) = MLP_{i div m}(T[i mod m]), m = `divisor`, one hidden layer of `hidden_dim` (Shi et al., KDD 2020, §4.1).

    The ⌈num_ids / m⌉ networks are dense parameters on every rank, so nothing may grow: a further id may
    need a further network.
    """

    feature: str
    num_ids: int
    divisor: int
    embedding_dim: int
    hidden_dim: int = 16
    init_bound: float = 0.05
    grows: ClassVar[str | None] = None
    linear = False

    def __post_init__(self) -> None:
        if not 1 <= self.divisor <= self.num_ids:
            raise ValueError(
                f"feature {self.feature!r}: divisor {self.divisor} is outside 1..{self.num_ids}, its number of ids"
            )
        if self.hidden_dim < 1:
            raise ValueError(f"feature {self.feature!r}: hidden_dim {self.hidden_dim} is not at least 1")

    @property
    def num_paths(self) -> int:
        """Return the number of networks."""
        return -(-self.num_ids // self.divisor)

    def tables(self) -> tuple[Table, ...]:
        """Return `divisor` rows."""
        return (Table(f"{self.feature}/remainder", self.divisor, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the remainder's row."""
        return (Lookup(f"{self.feature}/remainder", (ids % self.divisor)[:, None]),)

    @override
    def aux(self, ids: Any) -> Any:
        return (ids // self.divisor)[:, None]  # the path is the quotient

    def combine(self) -> "nn.Module":
        """Return all paths' networks; at first they keep the variance of the rows."""
        from recsys_tables.combine.modules import Paths

        return Paths(self.num_paths, self.embedding_dim, self.hidden_dim)

    def combine_numpy(
        self,
        vectors: Sequence[np.ndarray],
        aux: np.ndarray,
        hidden: np.ndarray,
        hidden_bias: np.ndarray,
        out: np.ndarray,
        out_bias: np.ndarray,
    ) -> np.ndarray:
        """Pass each vector [L, D] through the network of its path, aux [L, 1], as `combine.modules.Paths` does."""
        combined = np.empty_like(vectors[0])
        for path in np.unique(aux):
            mine = aux[:, 0] == path
            inner = np.maximum(vectors[0][mine] @ hidden[path] + hidden_bias[path], 0)
            combined[mine] = inner @ out[path] + out_bias[path]
        return combined


class PathBasedTables(OptionsTables):
    """Codes share rows, and each passes its row through one of several networks; the budget counts both."""

    scheme_class: ClassVar[type[Scheme]] = PathBased
    scheme: Literal["path_based"]
    hidden_dim: int = Field(16, ge=1, le=WIDEST)  # of each of the networks
    budget: Budget

    @override
    def options(self, feature: FeatureSize) -> Iterator[PathBased]:
        # from one network and a row for every id to the number of networks of fewest bytes
        num_ids = feature.codes("path_based")
        network = combine_bytes(self._scheme(feature.name, num_ids, 1)).total
        row = 4 * self.embedding_dim
        for paths in range(1, min(num_ids, math.isqrt(num_ids * row // network) + 1) + 1):
            yield self._scheme(feature.name, num_ids, paths)

    def _scheme(self, name: str, num_ids: int, paths: int) -> PathBased:
        divisor = -(-num_ids // paths)
        return PathBased(name, num_ids, divisor, self.embedding_dim, self.hidden_dim, self.init_bound)
