"""Frequency split: frequent ids own a row each, the tail shares hashed rows."""

from dataclasses import dataclass
from typing import Any, ClassVar

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Table


@dataclass(frozen=True)
class FrequencySplit(ParameterFree):
    """e(i) = T[num_tail + i] for the codes 0 <= i < num_hot of a vocabulary of frequent ids, else T[h(i)], h < num_tail.

    Two regions of one table, hashed rows first: a vocabulary that gains ids appends rows (the plain form of
    the hot and cold tables of CAFE, SIGMOD 2024, with exact counts in place of a sketch).
    """

    feature: str
    num_hot: int
    num_tail: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_hot"
    num_ids = None

    def __post_init__(self) -> None:
        for name, least in (("num_hot", 0), ("num_tail", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"feature {self.feature!r}: {name} {getattr(self, name)} is not at least {least}"
                )

    def tables(self) -> tuple[Table, ...]:
        """One table of num_tail + num_hot rows."""
        rows = self.num_tail + self.num_hot
        return (Table(f"{self.feature}/split", rows, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The code's own row, or one hashed row; without a branch, so that it runs on every device."""
        hashed = hash_rows(ids, lookup_salt(self.feature, 0), self.num_tail)
        hot = (ids >= 0) & (ids < self.num_hot)
        own = ids.clip(0, max(self.num_hot - 1, 0)) + self.num_tail
        return (Lookup(f"{self.feature}/split", (hashed + hot * (own - hashed))[:, None]),)
