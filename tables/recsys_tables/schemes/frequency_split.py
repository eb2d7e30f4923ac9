"""Frequency split: frequent ids own a row each, the tail shares hashed rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.bytes import OptimizerName
from recsys_tables.collisions import CollisionRate, row_shared
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize, rows_by_feature
from recsys_tables.schemes.declared import AllocatedTables


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
        """Return one table of num_tail + num_hot rows."""
        rows = self.num_tail + self.num_hot
        return (Table(f"{self.feature}/split", rows, self.embedding_dim, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the code's own row, or one hashed row; without a branch, so that it runs on every device."""
        hashed = hash_rows(ids, lookup_salt(self.feature, 0), self.num_tail)
        is_hot = (ids >= 0) & (ids < self.num_hot)
        row_of_code = ids.clip(0, max(self.num_hot - 1, 0)) + self.num_tail
        return (Lookup(f"{self.feature}/split", (hashed + is_hot * (row_of_code - hashed))[:, None]),)

    @override
    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate:
        in_tail = (ids < 0) | (ids >= self.num_hot)
        share = float(impressions[in_tail].sum() / max(impressions.sum(), 1))
        rate = share * row_shared(int(in_tail.sum()) - 1, self.num_tail)
        return CollisionRate(rate, rate)


class FrequencySplitTables(AllocatedTables):
    """Ids of the vocabulary have a row each, and those outside it share hashed rows, dealt by `allocation`.

    Features are declared with `unknown: hash`, so that ids outside the vocabulary keep their identity.
    """

    scheme_class: ClassVar[type[Scheme]] = FrequencySplit
    scheme: Literal["frequency_split"]

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        hot = [feature.open_codes("frequency_split") for feature in features]
        tails = [feature.full_codes - num_hot for feature, num_hot in zip(features, hot, strict=True)]
        rows = rows_by_feature(tails, self.allocation)
        return lambda share: tuple(map(self._scheme, features, hot, rows(share)))

    def _scheme(self, feature: FeatureSize, num_hot: int, num_tail: int) -> FrequencySplit:
        return FrequencySplit(feature.name, num_hot, num_tail, self.embedding_dim, self.init_bound)
