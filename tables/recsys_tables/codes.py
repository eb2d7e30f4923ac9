"""Codes say which rows of shared tables each id reads; a static function holds them, without the ids.

<folder>/codes.json   features and how many of their ids have codes, rows and chunks
<folder>/function/    the static function (`recsys_cython_ext.static_function`)
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from recsys_cython_ext.files import new_folder, text_digest
from recsys_cython_ext.manifest import DamagedFile, Manifest, read_manifest, write_manifest
from recsys_cython_ext.static_function import StaticFunction, feature_keys

FORMAT_VERSION = 1
MANIFEST, FUNCTION = "codes.json", "function"
MAX_VALUES = 2**32  # of a static function: rows ** chunks
_AGAIN = "make the codes again"


class _Saved(Manifest):
    format_version: int
    num_embeddings: Annotated[int, Field(ge=1, lt=2**31)]
    num_chunks: Annotated[int, Field(ge=1, le=32)]
    features: dict[str, Annotated[int, Field(ge=0)]]


class Codes:
    """The rows of `num_chunks` shared tables of `num_embeddings` rows each that an id of a feature reads.

    An id that was given no rows reads some that are always the same, as if it were hashed.

    features: how many ids have codes, by feature.
    """

    def __init__(
        self, function: StaticFunction, num_embeddings: int, num_chunks: int, features: Mapping[str, int]
    ) -> None:
        if num_embeddings**num_chunks != function.shape.num_values:
            raise ValueError(
                f"a static function of {function.shape.num_values} values is none of {num_chunks} chunks of "
                f"{num_embeddings} rows"
            )
        self.function = function
        self.num_embeddings = num_embeddings
        self.num_chunks = num_chunks
        self.features = dict(features)

    @classmethod
    def build(
        cls, ids: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray], num_embeddings: int
    ) -> "Codes":
        """Return the codes that send ``ids[feature][i]`` to ``rows[feature][i]``.

        Args:
            ids: Distinct int64 ids [n], by feature.
            rows: Int64 rows [n, num_chunks] in [0, num_embeddings) of those ids, by feature.
            num_embeddings: Rows of a table; `num_embeddings ** num_chunks` is at most 2^32.

        Raises:
            ValueError: There is no id, one of the above does not hold, or an id is given two codes.
        """
        if not any(map(len, ids.values())):
            raise ValueError("no id is given a code: take a lower minimum count")
        (num_chunks,) = {values.shape[1] for values in rows.values()}
        if num_embeddings**num_chunks > MAX_VALUES:
            raise ValueError(
                f"{num_chunks} chunks of {num_embeddings} rows are more than 2^32 codes: take fewer rows or chunks"
            )
        scale = num_embeddings ** np.arange(num_chunks)
        outside = [
            name
            for name, part in rows.items()
            if part.size and not 0 <= part.min() <= part.max() < num_embeddings
        ]
        if outside:
            raise ValueError(f"feature {outside[0]!r}: a row is outside 0..{num_embeddings - 1}")
        keys = np.concatenate([feature_keys(values, feature) for feature, values in ids.items()])
        values = np.concatenate([rows[feature] @ scale for feature in ids])
        function = StaticFunction.build(keys, values, num_embeddings**num_chunks)
        return cls(function, num_embeddings, num_chunks, {name: len(values) for name, values in ids.items()})

    def rows(self, ids: np.ndarray, feature: str) -> tuple[np.ndarray, ...]:
        """Return the row of each chunk, int64 [L], of int64 ids [L]."""
        values = self.function.lookup(feature_keys(ids, feature))
        chunks = []
        for _ in range(self.num_chunks - 1):
            values, row = np.divmod(values, self.num_embeddings)
            chunks.append(row)
        return (*chunks, values)

    @property
    def nbytes(self) -> int:
        """Return the resident bytes of the static function."""
        return self.function.nbytes

    @cached_property
    def digest(self) -> str:
        """Return sixteen hexadecimal digits of all that rows depend on."""
        contents = [self.function.digest, self.num_embeddings, self.num_chunks, self.features]
        return text_digest(json.dumps(contents, sort_keys=True))

    def save(self, folder: Path) -> None:
        """Write a folder that appears whole. Raises FileExistsError when it exists, CannotWrite on a full disk."""
        with new_folder(folder) as partial:
            self.function.save(partial / FUNCTION)
            saved = _Saved(
                format_version=FORMAT_VERSION,
                num_embeddings=self.num_embeddings,
                num_chunks=self.num_chunks,
                features=self.features,
            )
            write_manifest(saved, partial / MANIFEST)

    @classmethod
    def open(cls, folder: Path) -> "Codes":
        """Map what `save` wrote, after its checksums were compared.

        Raises DamagedFile for a folder that is missing, damaged or none of codes, OtherVersion for one of another version
        of the format or of hashing.
        """
        try:
            saved = read_manifest(folder / MANIFEST, _Saved, {"format_version": FORMAT_VERSION}, _AGAIN)
            function = StaticFunction.open(folder / FUNCTION)
        except FileNotFoundError as error:
            raise DamagedFile(f"{error.filename}: missing, so {folder} holds no codes; {_AGAIN}") from None
        try:
            return cls(function, saved.num_embeddings, saved.num_chunks, saved.features)
        except ValueError as error:
            raise DamagedFile(f"{folder}: damaged: {error}; {_AGAIN}") from None

    def __str__(self) -> str:
        rows = f"{self.num_chunks} × {self.num_embeddings} rows"
        return f"{len(self.function)} ids on {rows}, {self.digest}"

    def __repr__(self) -> str:
        return f"Codes({self})"

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Codes):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)
