"""Compact: what row and column masks leave of a full table, in a table that really is smaller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recsys_tables.combine.operations import ParameterFree
from recsys_tables.remap import Remap
from recsys_tables.scheme import Lookup, Table
from recsys_tables.schemes.full import Full

if TYPE_CHECKING:
    from torch import nn

Pruned = Literal["zero", "default"]


@dataclass(frozen=True)
class Compact(ParameterFree):
    """e(i) = [T[r(i)], 0] for codes that `remap` keeps, T: [kept, width], zeros up to embedding_dim.

    A pruned code is the zero vector, which nothing trains, or (`pruned` is "default") one last row of T that all of
    them train. With width 0, and where no row is left, every code is the zero vector: the table is one row that is
    looked up with weight 0, since a field without a table is none that TorchRec could shard. This is the table that
    the masks of OptEmbed (Lyu et al., CIKM 2022) stand for.
    """

    feature: str
    remap: Remap
    width: int
    embedding_dim: int
    pruned: Pruned = "zero"
    init_bound: float = 0.05

    def __post_init__(self) -> None:
        where = f"feature {self.feature!r}"
        if self.width % 4 or not 0 <= self.width <= self.embedding_dim:
            raise ValueError(
                f"{where}: width {self.width} is none of 0, 4, 8, … up to embedding_dim {self.embedding_dim}"
            )
        if self.pruned not in ("zero", "default"):
            raise ValueError(f"{where}: pruned {self.pruned!r} is neither 'zero' nor 'default'")
        if self.pruned == "default" and self.width == 0:
            raise ValueError(f"{where}: width 0 leaves no default row; take pruned 'zero'")

    @property
    def num_ids(self) -> int:
        """The remap's codes, kept or not."""
        return self.remap.num_ids

    @property
    def remap_bytes(self) -> int:
        """Resident bytes of the remap."""
        return self.remap.nbytes

    def tables(self) -> tuple[Table, ...]:
        """One table of the kept rows and perhaps the default row; one row where none is left."""
        rows = self.remap.num_kept + (self.pruned == "default") if self.width else 0
        return (Table(f"{self.feature}/compact", max(rows, 1), self._stored_width, self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """The rank of the code; where zeros are wanted, any row with weight 0."""
        if not isinstance(ids, np.ndarray):
            return self._rows_of_tensor(ids)
        name = f"{self.feature}/compact"
        rows = self.remap.rows(ids, f"feature {self.feature!r}")
        kept = (rows >= 0) & (self.width > 0)
        if self._has_zeros:
            return (Lookup(name, (rows * kept)[:, None], kept.astype(np.float32)[:, None]),)
        if self.pruned == "default":
            rows[~kept] = self.remap.num_kept
        return (Lookup(name, rows[:, None]),)

    def combine(self) -> "nn.Module":
        """Zeros up to embedding_dim."""
        from recsys_tables.combine import modules as combine_torch

        full = self._stored_width == self.embedding_dim
        return combine_torch.Concat() if full else combine_torch.Formula(self._padded)

    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        """Do the same in NumPy."""
        (found,) = vectors
        if found.shape[1] == self.embedding_dim:
            return found
        out = np.zeros((len(found), self.embedding_dim), found.dtype)
        out[:, : found.shape[1]] = found
        return out

    @property
    def _stored_width(self) -> int:
        return max(self.width, 4)

    @property
    def _has_zeros(self) -> bool:
        return self.width == 0 or (self.pruned == "zero" and self.remap.num_kept < self.num_ids)

    def _padded(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        from torch.nn import functional

        return functional.pad(vectors[0], (0, self.embedding_dim - self._stored_width))

    def _rows_of_tensor(self, ids: Any) -> tuple[Lookup, ...]:
        """The remap is on the CPU."""
        import torch

        def moved(values: Any) -> Any:
            return None if values is None else torch.from_numpy(values).to(ids.device)

        return tuple(
            Lookup(item.table, moved(item.rows), moved(item.weights)) for item in self.rows(ids.cpu().numpy())
        )


def compact_from(
    schemes: Sequence[Full],
    tables: Mapping[str, np.ndarray],
    keep: Mapping[str, np.ndarray],
    widths: Mapping[str, int],
    pruned: Pruned = "zero",
) -> tuple[tuple[Compact, ...], dict[str, np.ndarray]]:
    """Compact schemes for full tables under masks, and the first values of their tables, float32, by name.

    tables: weights [num_ids, embedding_dim] of the full tables, by name. keep: bool [num_ids] by feature, the row
    mask. widths: by feature, the columns to keep, from the first on; 0 gives up the field, as a mask without a row
    does. A default row begins as the mean of the pruned rows.

    Raises ValueError naming the feature whose mask or width is missing, superfluous or does not fit.
    """
    features = [scheme.feature for scheme in schemes]
    for what, given in (("row mask", keep), ("width", widths)):
        for feature in sorted(set(features) ^ set(given)):
            is_missing = feature in features
            raise ValueError(
                f"feature {feature!r}: {'has no' if is_missing else 'is no full table, but has a'} {what}"
            )
    found = [
        _compact(
            scheme, tables[scheme.tables()[0].name], keep[scheme.feature], widths[scheme.feature], pruned
        )
        for scheme in schemes
    ]
    return tuple(scheme for scheme, _ in found), {scheme.tables()[0].name: table for scheme, table in found}


def _compact(
    full: Full, table: np.ndarray, keep: np.ndarray, width: int, pruned: Pruned
) -> tuple[Compact, np.ndarray]:
    for what, got, wanted in (
        ("weights", table.shape, (full.num_ids, full.embedding_dim)),
        ("a row mask", keep.shape, (full.num_ids,)),
    ):
        if got != wanted:
            raise ValueError(f"feature {full.feature!r}: {what} of shape {got}, and not {wanted}")
    gone = width == 0 or not (keep.any() or pruned == "default")
    scheme = Compact(
        full.feature,
        Remap.of(keep),
        width,
        full.embedding_dim,
        "zero" if width == 0 else pruned,
        full.init_bound,
    )
    rows = table[keep, : scheme.width]
    if gone:
        return scheme, np.zeros((1, scheme.tables()[0].embedding_dim), np.float32)
    if scheme.pruned == "default":
        rest = table[~keep, :width]
        default = rest.mean(axis=0, dtype=np.float64) if len(rest) else np.zeros(width)
        rows = np.concatenate([rows, default[None].astype(np.float32)])
    return scheme, rows
