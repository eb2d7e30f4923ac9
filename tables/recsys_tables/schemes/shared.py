"""Shared: the tables of another feature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from typing_extensions import override

from recsys_tables.scheme import (
    NO_PARAMETERS,
    Lookup,
    Parameters,
    Scheme,
    SchemeBase,
    ServableScheme,
    ServedTable,
    Table,
)


@dataclass(frozen=True)
class Shared(SchemeBase):
    """e_f(i) = e_g(i): a feature without tables of its own reads those of `of`, the scheme of feature g.

    Both must mean the same by an id, as a history of items and the item do. Only rows are shared: a `combine` with
    parameters has its own for each feature. Tables grow by the scheme of their own feature.
    """

    feature: str
    of: Scheme

    @property
    @override
    def owner(self) -> Scheme:
        return self.of

    @property
    def embedding_dim(self) -> int:
        """Return the width of the owner's vectors."""
        return self.of.embedding_dim

    @property
    def num_ids(self) -> int | None:
        """Return the number of the owner's ids."""
        return self.of.num_ids

    @property
    def linear(self) -> bool:
        """Return whether the owner is linear."""
        return self.of.linear

    def tables(self) -> tuple[Table, ...]:
        """Return the owner's tables."""
        return self.of.tables()

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the owner's rows."""
        return self.of.rows(ids)

    @override
    def aux(self, ids: Any) -> Any:
        return self.of.aux(ids)

    def combine(self) -> Any:
        """Return a module like the owner's."""
        return self.of.combine()

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None, **parameters: np.ndarray) -> Any:
        """Do what `combine` does, in NumPy; the owner must be a scheme that can be served."""
        return self._servable.combine_numpy(vectors, aux, **parameters)

    def serve(
        self,
        tables: Mapping[str, ServedTable],
        ids: np.ndarray,
        in_range: Callable[[np.ndarray], np.ndarray],
        parameters: Parameters = NO_PARAMETERS,
    ) -> np.ndarray:
        """Return the owner's vectors, as `ServableScheme.serve` says."""
        return self._servable.serve(tables, ids, in_range, parameters)

    @property
    def _servable(self) -> ServableScheme:
        return cast(ServableScheme, self.of)
