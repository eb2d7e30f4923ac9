"""The way from the codes of a vocabulary to the rows of those that were kept: a bitmap with ranks, 1.25 bits a code."""

from typing import Any

import numpy as np

import recsys_cython_ext._remap as _remap  # this form spares mypy a stub
from recsys_cython_ext import files

_BLOCK = 256  # codes that share a number of `_ranks`
_BLOCK_BYTES = 8 * (_BLOCK // 64 + 1)  # of their words and that number


class Remap:
    """A frozen map from codes to rows: the number of kept codes below a code, or -1 where it was pruned.

    words: uint64 [4 · ⌈num_ids / 256⌉], bit i % 64 of word i // 64 tells whether code i is kept; may be mapped, and is
    not copied. `_remap.pyx` says what the ranks beside it are.

    Raises TypeError or ValueError where `words` are not of that form, or a bit is set beyond the last code.
    """

    def __init__(self, words: np.ndarray, num_ids: int) -> None:
        if not isinstance(words, np.ndarray) or words.dtype != np.uint64:
            raise TypeError(f"words must be a uint64 array, got {getattr(words, 'dtype', type(words))}")
        if not 0 <= num_ids < 2**31 or words.shape != (_words(num_ids),):
            raise ValueError(
                f"{num_ids} codes (fewer than 2^31) take {_words(num_ids)} words, got shape {words.shape}"
            )
        self.num_ids = num_ids
        self.words = np.ascontiguousarray(words).view()
        self.words.flags.writeable = False
        by_word = np.bitwise_count(self.words).astype(np.uint64).reshape(-1, 4)
        by_block = by_word.sum(axis=1)
        shifts = np.array([0, 8, 16, 24], np.uint64)
        within = ((by_word.cumsum(axis=1) - by_word) << shifts).sum(axis=1)
        self._ranks = (by_block.cumsum() - by_block) << np.uint64(32) | within
        self.num_kept = int(by_block.sum())
        beyond = self.keep(np.arange(num_ids, 64 * len(words)))
        if beyond.any():
            raise ValueError(
                f"code {num_ids + int(beyond.argmax())} is kept, beyond the {num_ids} codes there are"
            )

    @classmethod
    def of(cls, keep: np.ndarray) -> "Remap":
        """Make a remap of bool [num_ids], True for codes that are kept. Raises TypeError for another array."""
        if not isinstance(keep, np.ndarray) or keep.dtype != np.bool_ or keep.ndim != 1:
            shape = getattr(keep, "shape", ())
            raise TypeError(
                f"keep must be a bool array [N], got {getattr(keep, 'dtype', type(keep))} {shape}"
            )
        words = np.zeros(_words(len(keep)), np.uint64)
        words.view(np.uint8)[: -(-len(keep) // 8)] = np.packbits(keep, bitorder="little")
        return cls(words, len(keep))

    def rows(self, ids: np.ndarray, name: str = "remap") -> np.ndarray:
        """Return the rows, int64 [L], of int64 codes [L], -1 for those that were pruned.

        Raises ValueError, beginning with `name`, that names position and value of a code outside 0..num_ids-1.
        """
        ids = np.ascontiguousarray(ids)
        out = np.empty(len(ids), np.int64)
        bad = _remap.rows_into(self.words, self._ranks, self.num_ids, ids, out)
        if bad >= 0:
            raise ValueError(
                f"{name}: id {int(ids[bad])} at position {bad} is outside the {self.num_ids} codes of its remap; "
                "encode it with the vocabulary the remap was made for"
            )
        return out

    def keep(self, ids: np.ndarray) -> np.ndarray:
        """Return which of the codes [L] are kept, bool [L]; they are not checked."""
        bits = self.words[ids >> 6] >> (ids & 63).astype(np.uint64)
        return (bits & np.uint64(1)).astype(np.bool_)

    @property
    def nbytes(self) -> int:
        """Return the resident bytes of bitmap and ranks."""
        return remap_bytes(self.num_ids)

    def __len__(self) -> int:
        return self.num_ids

    def __str__(self) -> str:
        digest = files.digest(self.words.tobytes())
        return f"{self.num_kept} of {self.num_ids} codes, {digest}"

    def __repr__(self) -> str:
        return f"Remap({self})"

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Remap):
            return NotImplemented
        return self.num_ids == other.num_ids and np.array_equal(self.words, other.words)

    def __hash__(self) -> int:
        return hash((self.num_ids, self.num_kept))

    def __reduce__(self) -> tuple[Any, ...]:
        return Remap, (np.array(self.words), self.num_ids)


def remap_bytes(num_ids: int) -> int:
    """Return the resident bytes of a remap of so many codes: a bitmap, and a rank for each of its blocks."""
    return -(-num_ids // _BLOCK) * _BLOCK_BYTES


def _words(num_ids: int) -> int:
    return -(-num_ids // _BLOCK) * (_BLOCK // 64)
