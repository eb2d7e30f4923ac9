"""What a scheme is: how the ids of one field become rows of physical tables, and rows a vector.

A scheme is a frozen, picklable dataclass with three parts, always in this order:

    tables()    -> the physical tables it needs
    rows(ids)   -> for each lookup: which table, which row numbers, constant weights or none
    combine()   -> the module that turns the looked-up vectors into the field's vector

    ids [L] ──rows──▶ k lookups, each row numbers [L, n] ──tables──▶ k vectors [L, D_j] ──combine──▶ [L, D]

`rows` takes NumPy arrays or torch tensors and imports no torch, so that serving can use it. What `combine`
must know of an id beside its vectors (which path, which slot of a packed row) is `aux(ids)`, small integers
that stay on the rank. What beside these a scheme may have, most have not: `SchemeBase` says so for them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np

from recsys_tables.codes import Codes
from recsys_tables.collisions import CollisionRate
from recsys_tables.remap import Remap

if TYPE_CHECKING:
    from torch import nn

Array = TypeVar("Array")  # np.ndarray or torch.Tensor, int64
Precision = Literal["fp32", "fp16", "bf16"]  # of the weights of tables; their optimiser's state is fp32

WEIGHT_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "bf16": 2}
MAX_ROWS = 2**31  # row numbers are the high half of a 64-bit product: `recsys_cython_ext.hash_rows`


@dataclass(frozen=True)
class Table:
    """A physical table [num_embeddings, embedding_dim], initialised uniformly in ±init_bound.

    `decays` says that training may shrink its rows, also those that no batch touches; it may not where 0 means something
    else than nothing. Features that name the same table share it; their declarations must then be equal.
    The `precision` of its weights is no scheme's to choose: `unique_tables` sets it for all tables of a model.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    init_bound: float
    decays: bool = True
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if "." in self.name or not self.name:
            raise ValueError(f"table name {self.name!r}: a name must be non-empty and hold no '.'")
        if not 1 <= self.num_embeddings < MAX_ROWS:
            raise ValueError(
                f"table {self.name!r}: num_embeddings {self.num_embeddings} is outside 1..2^31-1; "
                "give the field more budget, or fewer rows"
            )
        if self.embedding_dim < 4 or self.embedding_dim % 4:
            nearest = max(4, -(-self.embedding_dim // 4) * 4)
            raise ValueError(
                f"table {self.name!r}: embedding_dim {self.embedding_dim} is not a positive multiple of 4, "
                f"which FBGEMM's kernels need; use {nearest}"
            )

    @property
    def parameter_bytes(self) -> int:
        """Return the bytes of the weights."""
        return WEIGHT_BYTES[self.precision] * self.num_embeddings * self.embedding_dim


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
    """The interface every scheme implements; the module describes it.

    `grows` names the one field that may become larger without moving the rows of known ids, None where
    there is no such field: a checkpoint is read into tables that have grown so.
    """

    grows: ClassVar[str | None]

    @property
    def feature(self) -> str:
        """Return the field's name."""
        ...

    @property
    def embedding_dim(self) -> int:
        """Return D, the width of the field's vector."""
        ...

    @property
    def num_ids(self) -> int | None:
        """Return the number of ids, which must be 0..num_ids-1; None where any 64-bit id will do."""
        ...

    @property
    def linear(self) -> bool:
        """Return whether `combine` commutes with summing a bag."""
        ...

    @property
    def owner(self) -> "Scheme":
        """Return the scheme whose tables this one reads: itself, but where it has none of its own."""
        ...

    @property
    def code_map(self) -> Remap | Codes | None:
        """Return what leads from ids to rows and must be resident beside the tables, if there is anything."""
        ...

    def tables(self) -> tuple[Table, ...]:
        """Return the physical tables."""
        ...

    def rows(self, ids: Array) -> tuple[Lookup, ...]:
        """Return the lookups of int64 ids [L]; for an empty array, just their structure."""
        ...

    def aux(self, ids: Array) -> Array | None:
        """Return small integers [L, a] of each id for `combine`, or None."""
        ...

    def combine(self) -> "nn.Module":
        """Return a module: list of looked-up vectors [L, D_j] (and aux [L, a], if any) -> [L, D]."""
        ...

    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate | None:
        """Return how often the field's distinct `ids` [n], with `impressions` [n] of each, share rows with others.

        None stands for rows that are shared by arithmetic, or in parts: their collisions can only be observed.
        """
        ...


class SchemeBase:
    """What most schemes answer alike: those that hash, own tables, and need nothing but rows to make a vector."""

    grows: ClassVar[str | None] = None

    @property
    def owner(self) -> Any:
        """Return the scheme whose tables this one reads: itself."""
        return self

    @property
    def code_map(self) -> Remap | Codes | None:
        """Return what must be resident beside the tables: nothing."""
        return None

    def aux(self, ids: Any) -> Any:
        """Return what `combine` must know of ids beside their vectors: nothing."""
        return None

    def expected_collisions(self, ids: np.ndarray, impressions: np.ndarray) -> CollisionRate | None:
        """Return None: collisions can only be observed."""
        return None


class ServedTable(Protocol):
    """A trained table as it is served; `recsys_tables.serving.quantise.StoredTable` is one."""

    def pooled(self, rows: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Return Σ over n of weights · rows, float32 [L, D], for int64 rows [L, n] and weights [L, n]."""
        ...

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Return rows, float32 [L, width], for int64 rows [L]: zeros for a row -1, and in columns beyond D."""
        ...


Parameters = Mapping[str, np.ndarray]  # of a `combine`, by their names there
NO_PARAMETERS: Parameters = MappingProxyType({})


class ServableScheme(Scheme, Protocol):
    """A scheme whose `combine` has a NumPy form for serving."""

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None, **parameters: np.ndarray) -> Any:
        """Do what `combine` with these parameters does, in NumPy."""
        ...

    def serve(
        self,
        tables: Mapping[str, ServedTable],
        ids: np.ndarray,
        in_range: Callable[[np.ndarray], np.ndarray],
        parameters: Parameters = NO_PARAMETERS,
    ) -> np.ndarray:
        """Return vectors, float32 [L, D], of int64 ids [L] from served tables by name.

        in_range: replaces ids outside the scheme's space, or raises ValueError for them, as the field declares.
        parameters: of the field's `combine`, where it has some.
        """
        ...


class LearnerScheme(Scheme, Protocol):
    """A scheme of full tables that is trained to choose rows and widths of smaller ones by."""

    def learned(
        self, table: np.ndarray, combine: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return what training has left of a table: effective weights, scores of rows, and the widest useful width.

        Args:
            table: the first physical table, [n, D].
            combine: parameters and buffers of `combine`, and further physical tables, by their own names.

        Returns:
            Weights [n, D] as the module gives them in evaluation, the score of each row [n], above 0 where the row is
            worth keeping, and a width.
        """
        ...


def stack_columns(columns: Sequence[Any]) -> Any:
    """Stack k arrays (or tensors) [L] to one [L, k]."""
    if isinstance(columns[0], np.ndarray):
        return np.stack(columns, axis=1)
    import torch  # the columns are tensors, so it is loaded already

    return torch.stack(list(columns), dim=1)


def describe(scheme: Scheme) -> dict[str, Any]:
    """Return the class and every field of a scheme, JSON-able: what a checkpoint remembers."""
    values = {f.name: getattr(scheme, f.name) for f in fields(scheme)}  # type: ignore[arg-type]
    return {"scheme": type(scheme).__name__} | {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return a field's value as JSON gives it back.

    A scheme whose tables another reads is described under its own feature, and only named here.
    """
    if isinstance(value, Remap | Codes):
        return str(value)  # with its digest
    if is_dataclass(value):
        return value.feature  # type: ignore[union-attr]
    return list(value) if isinstance(value, tuple) else value


def difference(saved: Mapping[str, Any], scheme: Scheme) -> str | None:
    """Say what keeps the tables of a `describe`d scheme from being read into `scheme`; None if nothing does.

    Only the field named by `scheme.grows` may differ, and only by having become larger.
    """
    current = describe(scheme)
    for name in [*current, *(saved.keys() - current.keys())]:
        was, now = saved.get(name), current.get(name)
        if was != now and not (name == scheme.grows and was is not None and was < now):
            return f"feature {scheme.feature!r}: {name} was {was!r}, and is {now!r} here"
    return None


def unique_tables(schemes: Sequence[Scheme], precision: Precision = "fp32") -> tuple[Table, ...]:
    """Return the physical tables of all schemes, each once, in order of first use, with weights of a `precision`.

    Raises ValueError when two features declare one table differently.
    """
    declared: dict[str, tuple[Table, str]] = {}
    for scheme in schemes:
        for table in scheme.tables():
            first, feature = declared.setdefault(table.name, (table, scheme.feature))
            if first != table:
                raise ValueError(
                    f"table {table.name!r} is declared as {first} by feature {feature!r} "
                    f"and as {table} by feature {scheme.feature!r}"
                )
    return tuple(replace(table, precision=precision) for table, _ in declared.values())
