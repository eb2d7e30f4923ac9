"""Coded: one table for all fields, and codes that say which of its rows an id reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from recsys_cython_ext.static_function import feature_keys
from recsys_tables.codes import Codes
from recsys_tables.combine.operations import ParameterFree
from recsys_tables.scheme import NO_PARAMETERS, Lookup, Parameters, Scheme, ServedTable, Table
from recsys_tables.schemes.allocation import FeatureSize
from recsys_tables.schemes.declared import FixedTables


@dataclass(frozen=True)
class Coded(ParameterFree):
    """e_f(i) = concat over c of T_c[codes_c(f, i)]: as `Unified`, but the rows are learned instead of hashed.

    `codes` hold the rows of ids that were seen when they were made, such as the nearest of the centroids of trained rows
    (`recsys.compression.codes`; with several chunks, a product quantisation: Jégou et al., PAMI 2011). Nearly every other
    64-bit id reads one row that is for all of them. Every feature shares the tables and the codes.
    """

    feature: str
    codes: Codes
    embedding_dim: int
    table: str = "coded"
    init_bound: float = 0.05
    num_ids = None

    def __post_init__(self) -> None:
        if self.embedding_dim % self.codes.num_chunks:
            raise ValueError(
                f"feature {self.feature!r}: embedding_dim {self.embedding_dim} is not a whole number of vectors for the "
                f"{self.codes.num_chunks} chunks of its codes"
            )
        if self.feature not in self.codes.features:
            raise ValueError(
                f"feature {self.feature!r}: the codes are of {', '.join(self.codes.features)}: make them again, of the "
                "features of this experiment"
            )

    @property
    @override
    def code_map(self) -> Codes:
        return self.codes

    def tables(self) -> tuple[Table, ...]:
        """Return a shared table for each chunk."""
        width = self.embedding_dim // self.codes.num_chunks
        rows = self.codes.num_rows
        return tuple(Table(name, rows, width, self.init_bound) for name in self._tables)

    def rows(self, ids: Any) -> tuple[Lookup, ...]:
        """Return the row of each chunk. Raises ValueError for ids on an accelerator, which has no static functions."""
        if isinstance(ids, np.ndarray):
            chunks: Sequence[Any] = self.codes.rows(ids, self.feature)
        else:
            chunks = self._rows_of_tensor(ids)
        return tuple(Lookup(name, rows[:, None]) for name, rows in zip(self._tables, chunks, strict=True))

    @override
    def serve(
        self,
        tables: Mapping[str, ServedTable],
        ids: np.ndarray,
        in_range: Callable[[np.ndarray], np.ndarray],
        parameters: Parameters = NO_PARAMETERS,
    ) -> np.ndarray:
        # any id is in range, and a row that is read alone needs no sum
        width = self.embedding_dim // self.codes.num_chunks
        chunks = zip(self._tables, self.codes.rows(ids, self.feature), strict=True)
        vectors = [tables[name].padded(rows, width) for name, rows in chunks]
        return vectors[0] if len(vectors) == 1 else self.combine_numpy(vectors)

    @classmethod
    @override
    def rows_of_fields(cls, schemes: Sequence["Coded"], ids: np.ndarray) -> np.ndarray:
        codes = schemes[0].codes
        if any(scheme.codes is not codes for scheme in schemes):
            return super().rows_of_fields(schemes, ids)
        keys = [feature_keys(of_field, scheme.feature) for scheme, of_field in zip(schemes, ids, strict=True)]
        chunks = np.stack(codes.rows_of_keys(np.concatenate(keys)))
        return chunks.reshape(len(chunks), *ids.shape).swapaxes(0, 1).reshape(-1, ids.shape[1])

    @property
    def _tables(self) -> tuple[str, ...]:
        if self.codes.num_chunks == 1:
            return (f"{self.table}/shared",)
        return tuple(f"{self.table}/chunk_{number}" for number in range(self.codes.num_chunks))

    def _rows_of_tensor(self, ids: Any) -> list[Any]:
        import torch

        if ids.device.type != "cpu":
            raise ValueError(
                f"feature {self.feature!r}: its ids are on {ids.device}, but codes are looked up on a CPU: make rows where "
                "the batch is made (`EmbeddingEngine.rows`), and move those"
            )
        return [torch.from_numpy(rows) for rows in self.codes.rows(ids.numpy(), self.feature)]


class CodedTables(FixedTables):
    """All features share tables, and the folder `codes` says which rows an id reads; a budget is only checked.

    `recsys compress` makes codes. Their digest is part of an experiment's, and their place is not.
    """

    scheme_class: ClassVar[type[Scheme]] = Coded
    scheme: Literal["coded"]
    codes: Path  # folder that `recsys compress` has made

    @override
    def schemes(self, features: Sequence[FeatureSize]) -> tuple[Coded, ...]:
        codes = Codes.open(self.codes)
        return tuple(
            Coded(feature.name, codes, self.embedding_dim, init_bound=self.init_bound) for feature in features
        )

    @override
    def digest_of_files(self) -> str:
        return Codes.open(self.codes).digest
