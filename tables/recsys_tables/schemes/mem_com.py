"""MEmCom: hashed rows, told apart by one trained number per id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from typing_extensions import override

from recsys_cython_ext import hash_rows, lookup_salt
from recsys_tables.bytes import OptimizerName
from recsys_tables.combine.operations import Formula, pick_slot
from recsys_tables.scheme import Lookup, Scheme, Table
from recsys_tables.schemes.allocation import Builder, FeatureSize, rows_by_feature
from recsys_tables.schemes.declared import AllocatedTables


@dataclass(frozen=True)
class MEmCom(Formula):
    """e(i) = (1 + S[i]) · T[h(i)] (Pansare et al., MLSys 2022, "multi-embedding compression").

    The multipliers are stored less 1, so that zeros start every id as its hashed row, with a full table's
    variance. They are packed four to a row of S, the least width there is; the slot is i mod 4.
    Not linear: S and T are multiplied before a bag is summed.
    """

    feature: str
    num_ids: int
    num_embeddings: int
    embedding_dim: int
    init_bound: float = 0.05
    grows: ClassVar[str | None] = "num_ids"

    def tables(self) -> tuple[Table, ...]:
        """Return the shared rows, and ⌈num_ids / 4⌉ rows of multipliers."""
        return (
            Table(f"{self.feature}/hashed", self.num_embeddings, self.embedding_dim, self.init_bound),
            Table(f"{self.feature}/multipliers", -(-self.num_ids // 4), 4, 0.0),
        )

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the hashed row, and the row that holds the id's multiplier."""
        return (
            Lookup(
                f"{self.feature}/hashed",
                hash_rows(ids, lookup_salt(self.feature, 0), self.num_embeddings)[:, None],
            ),
            Lookup(f"{self.feature}/multipliers", (ids // 4)[:, None]),
        )

    @override
    def aux(self, ids: Any) -> Any:
        return (ids % 4)[:, None]  # the slot of the multiplier in its row

    @override
    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        shared, multipliers = vectors
        return (1 + pick_slot(multipliers, aux, 1)) * shared


class MEmComTables(AllocatedTables):
    """Hashed rows, dealt by `allocation`, are multiplied by one number for every code of the vocabulary."""

    scheme_class: ClassVar[type[Scheme]] = MEmCom
    scheme: Literal["mem_com"]

    @override
    def builder(self, features: Sequence[FeatureSize], optimizer: OptimizerName) -> Builder:
        codes = [feature.codes("mem_com") for feature in features]
        rows = rows_by_feature(codes, self.allocation)
        return lambda share: tuple(map(self._scheme, features, codes, rows(share)))

    def _scheme(self, feature: FeatureSize, num_ids: int, num_rows: int) -> MEmCom:
        return MEmCom(feature.name, num_ids, num_rows, self.embedding_dim, self.init_bound)
