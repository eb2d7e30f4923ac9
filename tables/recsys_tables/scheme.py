"""What a scheme is: how the ids of one field become rows of physical tables, and rows a vector.

A scheme is a frozen, picklable dataclass with three parts, always in this order:

    tables()    -> the physical tables it needs
    rows(ids)   -> for each lookup: which table, which row numbers, constant weights or none
    combine()   -> the module that turns the looked-up vectors into the field's vector

    ids [L] ──rows──▶ k lookups, each row numbers [L, n] ──tables──▶ k vectors [L, D_j] ──combine──▶ [L, D]

`rows` takes NumPy arrays or torch tensors and imports no torch, so that serving can use it. What `combine`
must know of an id beside its vectors (which path, which slot of a packed row) is `aux(ids)`, small integers
that stay on the rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from recsys_tables.remap import Remap

if TYPE_CHECKING:
    from torch import nn

Array = TypeVar("Array")  # np.ndarray or torch.Tensor, int64

MAX_ROWS = 2**31  # row numbers are the high half of a 64-bit product (DESIGN: hashing)


@dataclass(frozen=True)
class Table:
    """A physical table [num_embeddings, embedding_dim], initialised uniformly in ±init_bound.

    `decays`: may training shrink its rows, also those that no batch touches? Not where 0 means something else than
    nothing. Features that name the same table share it; their declarations must then be equal.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    init_bound: float
    decays: bool = True

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
    """Rows [L, n] of one table, summed over n for each of the L ids.

    `weights` [L, n] float32 multiply the rows first. They are constants of the id, such as a random sign;
    what is learned belongs in `combine` or in a table, for no gradient flows through TorchRec's weights.
    """

    table: str
    rows: Any
    weights: Any = None


class Scheme(Protocol):
    """The interface every scheme implements; see the module's docstring.

    `grows` names the one field that may become larger without moving the rows of known ids, None where
    there is no such field: a checkpoint is read into tables that have grown so.
    """

    grows: ClassVar[str | None]

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

    def aux(self, ids: Array) -> Array | None:
        """Small integers [L, a] of each id for `combine`, or None."""
        ...

    def combine(self) -> "nn.Module":
        """Return a module: list of looked-up vectors [L, D_j] (and aux [L, a], if any) -> [L, D]."""
        ...


class ServableScheme(Scheme, Protocol):
    """A scheme whose `combine` has no parameters, and so a NumPy form for serving."""

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """Do what `combine` does, in NumPy."""
        ...


class LearnerScheme(Scheme, Protocol):
    """A scheme of full tables that is trained to choose rows and widths of smaller ones by."""

    def learned(
        self, table: np.ndarray, combine: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """What training has left, from the first physical table [n, D], and the parameters and buffers of `combine` and
        further physical tables by their own names: effective weights [n, D], the score of each row [n], above 0 where
        it is worth keeping, and the widest useful width.
        """
        ...


def stack_columns(columns: Sequence[Any]) -> Any:
    """k arrays (or tensors) [L] -> one [L, k]."""
    if isinstance(columns[0], np.ndarray):
        return np.stack(columns, axis=1)
    import torch  # the columns are tensors, so it is loaded already

    return torch.stack(list(columns), dim=1)


def describe(scheme: Scheme) -> dict[str, Any]:
    """The class and every field of a scheme, JSON-able: what a checkpoint remembers."""
    values = {f.name: getattr(scheme, f.name) for f in fields(scheme)}  # type: ignore[arg-type]
    return {"scheme": type(scheme).__name__} | {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """As JSON gives it back; a scheme that another reads is described under its own feature, and only named here."""
    if isinstance(value, Remap):
        return str(value)  # with its digest
    if is_dataclass(value):
        return value.feature  # type: ignore[union-attr]
    return list(value) if isinstance(value, tuple) else value


def difference(saved: Mapping[str, Any], scheme: Scheme) -> str | None:
    """What keeps the tables of a `describe`d scheme from being read into `scheme`; None if nothing does.

    Only the field named by `scheme.grows` may differ, and only by having become larger.
    """
    mine = describe(scheme)
    for name in [*mine, *(saved.keys() - mine.keys())]:
        was, now = saved.get(name), mine.get(name)
        if was != now and not (name == scheme.grows and was is not None and was < now):
            return f"feature {scheme.feature!r}: {name} was {was!r}, and is {now!r} here"
    return None


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
