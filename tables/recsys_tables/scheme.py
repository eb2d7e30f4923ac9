"""What a scheme is: how the ids of one field become rows of physical tables, and rows a vector.

A scheme is a frozen, picklable dataclass with three parts, always in this order:

    tables()    -> the physical tables it needs
    rows(ids)   -> for each lookup: which table, which row numbers
    combine()   -> the module that turns the looked-up vectors into the field's vector

    ids [L] ──rows──▶ k lookups, each row numbers [L, n] ──tables──▶ k vectors [L, D_j] ──combine──▶ [L, D]

`rows` takes NumPy arrays or torch tensors and imports no torch, so that serving can use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import nn

Array = TypeVar("Array")  # np.ndarray or torch.Tensor, int64

MAX_ROWS = 2**31  # row numbers are the high half of a 64-bit product (DESIGN: hashing)


@dataclass(frozen=True)
class Table:
    """A physical table [num_embeddings, embedding_dim], initialised uniformly in ±init_bound.

    Features that name the same table share it; their declarations must then be equal.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    init_bound: float

    def __post_init__(self) -> None:
        if "." in self.name or not self.name:
            raise ValueError(f"table name {self.name!r}: a name must be non-empty and hold no '.'")
        if not 1 <= self.num_embeddings < MAX_ROWS:
            raise ValueError(
                f"table {self.name!r}: num_embeddings {self.num_embeddings} is outside 1..2^31-1; "
                "give the field more budget, or fewer rows"
            )
        if self.embedding_dim < 4 or self.embedding_dim % 4:
            wanted = max(4, -(-self.embedding_dim // 4) * 4)
            raise ValueError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} is not a positive multiple of 4, "
                f"which FBGEMM's kernels need; use {wanted}"
            )

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the fp32 weights."""
        return 4 * self.num_embeddings * self.embedding_dim


@dataclass(frozen=True)
class Lookup:
    """Rows [L, n] of one table, summed over n for each of the L ids."""

    table: str
    rows: Any


class Scheme(Protocol):
    """The interface every scheme implements; see the module's docstring."""

    @property
    def feature(self) -> str:
        """The field."""
        ...

    @property
    def embedding_dim(self) -> int:
        """D, the width of the field's vector."""
        ...

    @property
    def num_ids(self) -> int | None:
        """Ids must be 0..num_ids-1; None where any 64-bit id will do."""
        ...

    @property
    def linear(self) -> bool:
        """Does `combine` commute with summing a bag?"""
        ...

    def tables(self) -> tuple[Table, ...]:
        """Return the physical tables."""
        ...

    def rows(self, ids: Array) -> tuple[Lookup, ...]:
        """Return the lookups of int64 ids [L]; for an empty array, just their structure."""
        ...

    def combine(self) -> "nn.Module":
        """Return a module: list of looked-up vectors [..., D_j] -> [..., D]."""
        ...

    def combine_numpy(self, vectors: Sequence[Any]) -> Any:
        """Do what `combine` does, in NumPy, for serving."""
        ...


def check_ids(scheme: Scheme, ids: Any) -> None:
    """Raise ValueError naming feature, position and value if an id is outside the scheme's id space.

    Without this check FBGEMM would rewrite the row to 0 in silence.
    """
    if scheme.num_ids is None or len(ids) == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low >= 0 and high < scheme.num_ids:
        return
    bad = (ids < 0) | (ids >= scheme.num_ids)
    position = int(bad.nonzero()[0][0]) if isinstance(bad.nonzero(), tuple) else int(bad.nonzero()[0, 0])
    raise ValueError(
        f"feature {scheme.feature!r}: id {int(ids[position])} at position {position} is outside "
        f"0..{scheme.num_ids - 1}, the ids of its {type(scheme).__name__} scheme; "
        "encode it with the vocabulary the table was built for"
    )


def unique_tables(schemes: Sequence[Scheme]) -> tuple[Table, ...]:
    """Physical tables of all schemes, each once, in order of first use.

    Raises ValueError when two features declare one table differently.
    """
    found: dict[str, tuple[Table, str]] = {}
    for scheme in schemes:
        for table in scheme.tables():
            known, owner = found.setdefault(table.name, (table, scheme.feature))
            if known != table:
                raise ValueError(
                    f"table {table.name!r} is declared as {known} by feature {owner!r} "
                    f"and as {table} by feature {scheme.feature!r}"
                )
    return tuple(table for table, _ in found.values())
