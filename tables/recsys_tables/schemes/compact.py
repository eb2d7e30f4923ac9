"""Compact: what row and column masks leave of a full table, in a table that really is smaller."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator
from typing_extensions import override

from recsys_cython_ext.vocabulary import UNKNOWN_CODE
from recsys_tables.bytes import OptimizerName, row_bytes
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.remap import Remap, remap_bytes
from recsys_tables.scheme import (
    NO_PARAMETERS,
    Lookup,
    Parameters,
    Precision,
    Scheme,
    ServedTable,
    Table,
)
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables
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
        """Return the number of the remap's codes, kept or not."""
        return self.remap.num_ids

    @property
    @override
    def code_map(self) -> Remap:
        return self.remap

    def tables(self) -> tuple[Table, ...]:
        """Return one table of the kept rows and perhaps the default row; one row where none is left."""
        rows = _stored_rows(self.remap.num_kept + (self.pruned == "default"), self.width)
        return (Table(self._table, rows, _stored_width(self.width), self.init_bound),)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the rank of each code; where the vector is to be zero, any row with weight 0."""
        if not isinstance(ids, np.ndarray):
            return self._rows_of_tensor(ids)
        rows = self.remap.rows(ids, f"feature {self.feature!r}")
        has_row = (rows >= 0) & (self.width > 0)
        if self._has_zeros:
            return (Lookup(self._table, (rows * has_row)[:, None], has_row.astype(np.float32)[:, None]),)
        if self.pruned == "default":
            rows[~has_row] = self.remap.num_kept
        return (Lookup(self._table, rows[:, None]),)

    @override
    def combine(self) -> "nn.Module":
        from recsys_tables.combine.modules import Concat, Formula

        return Concat() if _stored_width(self.width) == self.embedding_dim else Formula(self._padded)

    @override
    def combine_numpy(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        (narrow,) = vectors
        if narrow.shape[1] == self.embedding_dim:
            return narrow
        out = np.zeros((len(narrow), self.embedding_dim), narrow.dtype)
        out[:, : narrow.shape[1]] = narrow
        return out

    @override
    def serve(
        self,
        tables: Mapping[str, ServedTable],
        ids: np.ndarray,
        in_range: Callable[[np.ndarray], np.ndarray],
        parameters: Parameters = NO_PARAMETERS,
    ) -> np.ndarray:
        # what `rows` and `combine_numpy` make, without their arrays between: else slower than a full table
        try:
            rows = self.remap.rows(ids)
        except ValueError:  # the remap checks ids as it goes; to ask `in_range` first would be a pass more
            rows = self.remap.rows(in_range(ids))
        if self.width == 0:
            rows[:] = -1
        elif self.pruned == "default":
            rows = np.minimum(rows.view(np.uint64), self.remap.num_kept).view(np.int64)  # of -1 too
        return tables[self._table].padded(rows, self.embedding_dim)

    @property
    def _table(self) -> str:
        return f"{self.feature}/compact"

    @property
    def _has_zeros(self) -> bool:
        return self.width == 0 or (self.pruned == "zero" and self.remap.num_kept < self.num_ids)

    def _padded(self, vectors: Sequence[Any], aux: Any = None) -> Any:
        from torch.nn import functional

        return functional.pad(vectors[0], (0, self.embedding_dim - _stored_width(self.width)))

    def _rows_of_tensor(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the rows of a tensor of ids, on its device; the remap is on the CPU."""
        import torch

        def moved(values: Any) -> Any:
            return None if values is None else torch.from_numpy(values).to(ids.device)

        return tuple(
            Lookup(item.table, moved(item.rows), moved(item.weights)) for item in self.rows(ids.cpu().numpy())
        )


class CompactTables(FixedTables):
    """Every code has a row as wide as `widths` says of its feature, then zeros; a budget is only checked.

    For vocabularies of ids that were chosen (`keep` of a feature): all others share the row of unknown ids, or with
    `unknown: zero` are the zero vector. A feature of width 0 has no table, and is the zero vector for every id.
    """

    scheme_class: ClassVar[type[Scheme]] = Compact
    scheme: Literal["compact"]
    widths: dict[str, int]  # by feature; 0 gives it up
    unknown: Literal["default", "zero"] = "default"  # what ids without a row read: a row they share, or 0

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        for feature, width in self.widths.items():
            if width % 4 or not 0 <= width <= self.embedding_dim:
                raise ValueError(
                    f"widths: feature {feature!r}: width {width} is none of 0, 4, 8, … up to embedding_dim "
                    f"{self.embedding_dim}"
                )
        return self

    @override
    def check(self, features: Collection[str]) -> None:
        if missing := [feature for feature in features if feature not in self.widths]:
            raise ValueError(
                f"tables.widths lacks {', '.join(missing)}: give every feature a width, 0 for no table"
            )
        if unknown := [feature for feature in self.widths if feature not in features]:
            raise ValueError(
                f"tables.widths names {', '.join(unknown)}, but only these features have tables of their own: "
                f"{', '.join(features)}"
            )

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[Compact, ...]:
        return tuple(map(self._scheme, features))

    def _scheme(self, feature: FeatureSize) -> Compact:
        keep = np.ones(feature.codes("compact"), np.bool_)
        if self.unknown == "zero":
            keep[UNKNOWN_CODE] = False
        width = self.widths[feature.name]
        return Compact(feature.name, Remap.of(keep), width, self.embedding_dim, "zero", self.init_bound)


def compact_bytes(num_codes: int, width: int, optimizer: OptimizerName, precision: Precision = "fp32") -> int:
    """Return the bytes that a `Compact` of so many codes, all kept, has resident in training.

    Its table, the optimiser's state and the remap are counted, and the vocabulary is not.
    """
    rows, stored_width = _stored_rows(num_codes, width), _stored_width(width)
    return rows * row_bytes(stored_width, optimizer, precision) + remap_bytes(num_codes)


def _stored_rows(num_rows: int, width: int) -> int:
    """Return the rows that are stored: a field without a table still has one."""
    return max(num_rows, 1) if width else 1


def _stored_width(width: int) -> int:
    return max(width, 4)


def compact_from(
    schemes: Sequence[Full],
    tables: Mapping[str, np.ndarray],
    keep: Mapping[str, np.ndarray],
    widths: Mapping[str, int],
    pruned: Pruned = "zero",
) -> tuple[tuple[Compact, ...], dict[str, np.ndarray]]:
    """Return compact schemes for full tables under masks, and the first values of their tables, float32, by name.

    A default row begins as the mean of the pruned rows.

    Args:
        schemes: of the full tables.
        tables: weights [num_ids, embedding_dim] of the full tables, by name.
        keep: the row masks, bool [num_ids], by feature.
        widths: the columns to keep, from the first on, by feature; 0 gives up the field, as a mask without a row does.
        pruned: what a pruned code reads.

    Raises:
        ValueError: naming the feature whose mask or width is missing, superfluous or does not fit.
    """
    features = [scheme.feature for scheme in schemes]
    for kind, by_feature in (("row mask", keep), ("width", widths)):
        for feature in sorted(set(features) ^ set(by_feature)):
            is_missing = feature in features
            raise ValueError(
                f"feature {feature!r}: {'has no' if is_missing else 'is no full table, but has a'} {kind}"
            )
    compacted = [
        _compact(
            scheme, tables[scheme.tables()[0].name], keep[scheme.feature], widths[scheme.feature], pruned
        )
        for scheme in schemes
    ]
    return (
        tuple(scheme for scheme, _ in compacted),
        {scheme.tables()[0].name: table for scheme, table in compacted},
    )


def _compact(
    full: Full, table: np.ndarray, keep: np.ndarray, width: int, pruned: Pruned
) -> tuple[Compact, np.ndarray]:
    for kind, shape, expected in (
        ("weights", table.shape, (full.num_ids, full.embedding_dim)),
        ("a row mask", keep.shape, (full.num_ids,)),
    ):
        if shape != expected:
            raise ValueError(f"feature {full.feature!r}: {kind} of shape {shape}, and not {expected}")
    is_empty = width == 0 or not (keep.any() or pruned == "default")
    scheme = Compact(
        full.feature,
        Remap.of(keep),
        width,
        full.embedding_dim,
        "zero" if width == 0 else pruned,
        full.init_bound,
    )
    rows = table[keep, : scheme.width]
    if is_empty:
        return scheme, np.zeros((1, scheme.tables()[0].embedding_dim), np.float32)
    if scheme.pruned == "default":
        rest = table[~keep, :width]
        default = rest.mean(axis=0, dtype=np.float64) if len(rest) else np.zeros(width)
        rows = np.concatenate([rows, default[None].astype(np.float32)])
    return scheme, rows
