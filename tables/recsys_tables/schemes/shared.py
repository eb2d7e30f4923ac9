"""Shared: the tables of another feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from recsys_tables.scheme import Lookup, Scheme, Table


@dataclass(frozen=True)
class Shared:
    """e_f(i) = e_g(i): a feature without tables of its own reads those of `of`, the scheme of feature g.

    Both must mean the same by an id, as a history of items and the item do. Only rows are shared: a `combine` with
    parameters has its own for each feature.
    """

    feature: str
    of: Scheme
    grows: ClassVar[str | None] = None  # tables grow by the scheme of their own feature

    @property
    def embedding_dim(self) -> int:
        """The other scheme's."""
        return self.of.embedding_dim

    @property
    def num_ids(self) -> int | None:
        """The other scheme's."""
        return self.of.num_ids

    @property
    def linear(self) -> bool:
        """The other scheme's."""
        return self.of.linear

    def tables(self) -> tuple[Table, ...]:
        """The other scheme's."""
        return self.of.tables()

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The other scheme's."""
        return self.of.rows(ids)

    def aux(self, ids: Any) -> Any:
        """The other scheme's."""
        return self.of.aux(ids)

    def combine(self) -> Any:
        """One like the other scheme's."""
        return self.of.combine()

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """The other scheme's; it must be one that can be served so."""
        return self.of.combine_numpy(vectors, aux)  # type: ignore[attr-defined]
