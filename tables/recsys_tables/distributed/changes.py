"""Digests of rows, 8 bytes each, that show which rows of a shard changed since a full checkpoint."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys_cython_ext.hashing import mix64
from recsys_tables.distributed.pieces import Piece, Place

_ROWS = 1 << 14  # digested at a time: they stay in the cache
_ROW_NUMBER = 8  # bytes, beside a changed row


class Baseline:
    """The digests of every row as the last full checkpoint had it; `name` is that checkpoint's, None before the first."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._saved: dict[Place, np.ndarray] = {}
        self._latest: dict[Place, np.ndarray] = {}

    def changed_rows(self, pieces: Sequence[Piece]) -> dict[Place, Tensor]:
        """Return the numbers [m] of changed rows of each shard of which writing them takes less than writing it all.

        Weights and optimiser's states are digested together, in 64 bits: that a change stays unseen has a chance of
        about 2^-64 a row.
        """
        shards: dict[Place, list[Piece]] = {}
        for piece in pieces:
            if not piece.name.startswith("dense/"):
                shards.setdefault(piece.place, []).append(piece)
        self._latest = {
            place: _digests([piece.values for piece in of_shard]) for place, of_shard in shards.items()
        }
        if self.name is None:
            return {}
        changed = {}
        for place, of_shard in shards.items():
            before = self._saved.get(place)
            if before is None or len(before) != len(self._latest[place]):
                continue
            rows = np.flatnonzero(self._latest[place] != before)
            row_bytes = sum(piece.values[:1].nbytes for piece in of_shard)
            if len(rows) * (row_bytes + _ROW_NUMBER * len(of_shard)) < len(before) * row_bytes:
                changed[place] = torch.from_numpy(rows)
        return changed

    def remember(self, name: str) -> None:
        """Take the rows that were digested last for those of the full checkpoint `name`."""
        self.name, self._saved = name, self._latest


def _digests(tensors: Sequence[Tensor]) -> np.ndarray:
    """Return one number for each row of tensors [n] or [n, d], of four or two bytes a number: int64 [n].

    Widths are multiples of 4, so that rows of two bytes a number are whole words too.
    """
    words = [tensor.cpu().view(torch.int32).numpy().reshape(len(tensor), -1) for tensor in tensors]
    out = np.empty(len(words[0]), np.int64)
    for start in range(0, len(out), _ROWS):
        digest = np.zeros(min(_ROWS, len(out) - start), np.int64)
        for array in words:
            for column in array[start : start + _ROWS].T:
                digest = mix64(digest ^ column)
        out[start : start + _ROWS] = digest
    return out
