"""Mixed dimension without a projection: a field is as wide as its popularity deserves, and zeros follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from recsys_tables.combine.operations import Formula
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables
from recsys_tables.schemes.masked import LearnedTable
from recsys_tables.schemes.mixed_dimension import popularity_dims


@dataclass(frozen=True)
class Mde(Formula):
    """e(i) = [T[i], 0], T: [num_ids, width], the width by `popularity_dims` (MDE, Ginart et al., ISIT 2021, algorithm 2).

    It masks nothing that it has learned: the width follows from the number of ids, and ids are ranked by frequency.
    `MixedDimension` is the paper's own form, which projects narrow rows and cannot end as a compact table.
    """

    feature: str
    num_ids: int
    width: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"
    linear = True

    def tables(self) -> tuple[Table, ...]:
        """Return one table of num_ids narrow rows."""
        return (Table(f"{self.feature}/full", self.num_ids, self.width, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the codes as rows."""
        return (Lookup(f"{self.feature}/full", ids[:, None]),)

    @override
    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        missing = self.embedding_dim - self.width
        if isinstance(vectors[0], np.ndarray):
            return np.pad(vectors[0], ((0, 0), (0, missing)))
        from torch.nn import functional  # the vectors are tensors, so it is loaded already

        return functional.pad(vectors[0], (0, missing))

    def learned(self, table: np.ndarray, combine: Mapping[str, np.ndarray]) -> LearnedTable:
        """Return what training has left: everything.

        Code c scores 1 / (1 + c), which falls as counts do under Zipf's law.
        """
        return self.combine_numpy([table]), 1 / (1 + np.arange(len(table))), self.width


class MdeTables(FixedTables):
    """Every id has a row, narrower the more ids its feature has (width ~ ids^-alpha), then zeros. No mask is learned.

    The feature of fewest ids has the full width.
    """

    scheme_class: ClassVar[type[Scheme]] = Mde
    scheme: Literal["mde"]
    alpha: float = Field(0.3, ge=0, le=1)  # 0 makes all features equally wide

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[Mde, ...]:
        codes = {feature.name: feature.codes("mde") for feature in features}
        widths = popularity_dims(codes, self.embedding_dim, self.alpha)
        return tuple(
            Mde(name, num_ids, widths[name], self.embedding_dim, self.init_bound)
            for name, num_ids in codes.items()
        )
