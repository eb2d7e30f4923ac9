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

from recsys_cython_ext import mix64
from recsys_cython_ext.files import new_folder, text_digest
from recsys_cython_ext.manifest import DamagedFile, Manifest, read_manifest, write_manifest
from recsys_cython_ext.static_function import StaticFunction, feature_keys

FORMAT_VERSION = 2
MANIFEST, FUNCTION = "codes.json", "function"
UNKNOWN_BITS = 2  # of a key's fingerprint, which tells most ids without codes from those with some
_FINGERPRINT = np.int64(0x5851F42D4C957F2D)  # what its hash begins with, as that of its slots does not
MAX_VALUES = 2 ** (32 - UNKNOWN_BITS)  # of rows ** chunks, for a static function has values of 32 bits
_AGAIN = "make the codes again"


class _Saved(Manifest):
    format_version: int
    num_embeddings: Annotated[int, Field(ge=1, lt=2**31)]
    num_chunks: Annotated[int, Field(ge=1, le=32)]
    features: dict[str, Annotated[int, Field(ge=0)]]


def num_values(num_embeddings: int, num_chunks: int) -> int:
    """Return the values that a static function of codes has: a fingerprint of `UNKNOWN_BITS` above the bits of a code."""
    return 1 << (_code_bits(num_embeddings, num_chunks) + UNKNOWN_BITS)


def _code_bits(num_embeddings: int, num_chunks: int) -> int:
    return (num_embeddings**num_chunks - 1).bit_length()


def _fingerprints(keys: np.ndarray) -> np.ndarray:
    """Return `UNKNOWN_BITS` bits of every key, int64 [L], which depend on another hash than its slots do."""
    return mix64(keys ^ _FINGERPRINT) & ((1 << UNKNOWN_BITS) - 1)


class Codes:
    """The rows of `num_chunks` shared tables that an id of a feature reads.

    Codes name the first `num_embeddings` rows of each table. An id that has no code reads the last one, which is for all
    of them, except one in 4 to 8: that reads rows of others, always the same.

    features: how many ids have codes, by feature.
    """

    def __init__(
        self, function: StaticFunction, num_embeddings: int, num_chunks: int, features: Mapping[str, int]
    ) -> None:
        if num_values(num_embeddings, num_chunks) != function.shape.num_values:
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
            num_embeddings: Rows of a table that codes name; `num_embeddings ** num_chunks` is at most 2^30.

        Raises:
            ValueError: There is no id, one of the above does not hold, or an id is given two codes.
        """
        if not any(map(len, ids.values())):
            raise ValueError("no id is given a code: take a lower minimum count")
        (num_chunks,) = {values.shape[1] for values in rows.values()}
        if num_embeddings**num_chunks > MAX_VALUES:
            raise ValueError(
                f"{num_chunks} chunks of {num_embeddings} rows are more than 2^30 codes: take fewer rows or chunks"
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
        values |= _fingerprints(keys) << _code_bits(num_embeddings, num_chunks)
        function = StaticFunction.build(keys, values, num_values(num_embeddings, num_chunks))
        return cls(function, num_embeddings, num_chunks, {name: len(values) for name, values in ids.items()})

    def rows(self, ids: np.ndarray, feature: str) -> tuple[np.ndarray, ...]:
        """Return the row of each chunk, int64 [L], of int64 ids [L]."""
        return self.rows_of_keys(feature_keys(ids, feature))

    def rows_of_keys(self, keys: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the row of each chunk, int64 [L], of keys [L], which `feature_keys` makes of the ids of features."""
        bits = _code_bits(self.num_embeddings, self.num_chunks)
        values = self.function.lookup(keys)
        outside = values >> bits != _fingerprints(keys)
        values &= (1 << bits) - 1
        outside |= values >= self.num_embeddings**self.num_chunks
        chunks = []
        for _ in range(self.num_chunks):
            row = values
            if self.num_chunks > 1:
                values, row = np.divmod(values, self.num_embeddings)
            row[outside] = self.num_embeddings
            chunks.append(row)
        return tuple(chunks)

    @property
    def num_rows(self) -> int:
        """Return the rows of a table: those that codes name, and the one of ids without codes."""
        return self.num_embeddings + 1

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
