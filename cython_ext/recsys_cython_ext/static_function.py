"""Static functions: a small value for each of many 64-bit keys, without the keys.

<folder>/manifest.json   versions, sizes and the checksum of the slots
<folder>/slots.bin       the slots, packed, little-endian; mapped on opening
"""

from __future__ import annotations

import math
import operator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

import recsys_cython_ext._hashing as _hashing  # this form spares mypy a stub
import recsys_cython_ext._static_function as _static_function
from recsys_cython_ext.arguments import as_int64, output
from recsys_cython_ext.files import digest, file_digest, new_folder
from recsys_cython_ext.hashing import HASH_VERSION, lookup_salt
from recsys_cython_ext.manifest import DamagedFile, Manifest, read_manifest, write_manifest
from recsys_cython_ext.threads import over_parts

FORMAT_VERSION = 1
_MANIFEST, _SLOTS = "manifest.json", "slots.bin"
_AGAIN = "build the static function again"
_SEEDS = 100
_ARITY = 3  # slots of a key, as in the kernel
_LARGEST_SEGMENT = 18  # bits: the kernel has so many of a hash for each slot
_CACHE_BYTES = 2**23  # slots above this are looked up with prefetches
_READ_AHEAD = 7  # bytes after the last slot that the kernel reads with it


class Shape(Manifest):
    """What the slots of a static function do not say themselves."""

    num_keys: Annotated[int, Field(ge=0, lt=2**31)]
    num_values: Annotated[int, Field(ge=1, le=2**32)]
    fingerprint_bits: Literal[0, 8]
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    num_segments: Annotated[int, Field(ge=1, lt=2**32)]
    segment_bits: Annotated[int, Field(ge=1, le=_LARGEST_SEGMENT)]

    @property
    def value_bits(self) -> int:
        """Return the bits of a value, 1 at least."""
        return max(1, (self.num_values - 1).bit_length())

    @property
    def slot_bits(self) -> int:
        """Return the bits of a slot: of a value and of its fingerprint."""
        return self.value_bits + self.fingerprint_bits

    @property
    def num_slots(self) -> int:
        """Return the number of slots, in whole segments."""
        return (self.num_segments + _ARITY - 1) << self.segment_bits

    @property
    def nbytes(self) -> int:
        """Return the bytes of the packed slots."""
        return (self.num_slots * self.slot_bits + 7) // 8 + _READ_AHEAD


def static_function_bytes(num_keys: int, num_values: int, fingerprint_bits: int = 0) -> int:
    """Return the bytes of the slots of a `StaticFunction` of so many keys, if its first seed works.

    It nearly always does for many keys. A few hundred often need another one, and then a few slots more.
    """
    return _shape(num_keys, num_values, fingerprint_bits, attempt=0).nbytes


class _Saved(Manifest):
    format_version: int
    hash_version: int
    shape: Shape
    slots_xxh64: str


class StaticFunction:
    """A value in [0, num_values) for each of N keys, in 1.13 to 1.3 slots a key, without the keys.

    A slot has the bits of ``num_values - 1`` and those of a fingerprint, if there is one; see `_static_function.pyx`.
    A key outside reads some value in [0, num_values), always the same. With a fingerprint of 8 bits it reads -1,
    except one in 256 that passes for a key inside. Fewer than 3,000 keys take up to 2 slots a key, and 6 at least.

    One function serves all features: see `feature_keys`.
    """

    def __init__(self, shape: Shape, slots: np.ndarray) -> None:
        if slots.nbytes != shape.nbytes or shape.num_slots >= 2**32:
            raise ValueError(
                f"{shape.num_slots} slots of {shape.slot_bits} bits are not in {slots.nbytes} bytes"
            )
        self.shape = shape
        self._slots = slots

    @classmethod
    def build(
        cls, keys: np.ndarray, values: np.ndarray, num_values: int, *, fingerprint_bits: int = 0
    ) -> StaticFunction:
        """Return the function that has ``values[i]`` at ``keys[i]``; its bytes do not depend on the keys' order.

        It takes 25 bytes a key while it runs, and 50 where keys are repeated.

        Args:
            keys: int64 [N], N < 2^31; a repeated key must have one value.
            values: int64 [N], in [0, num_values).
            num_values: In [1, 2^32].
            fingerprint_bits: 8 to tell keys outside, all but one in 256; or 0.

        Raises:
            TypeError: Keys or values are no int64 array.
            ValueError: One of the above does not hold; a key with two values is named, with two of its positions.
        """
        keys, values = as_int64(keys, "keys"), as_int64(values, "values")
        num_values = operator.index(num_values)
        if not 1 <= num_values <= 2**32:
            raise ValueError(f"num_values must be in [1, 2^32], got {num_values}")
        if fingerprint_bits not in (0, 8):
            raise ValueError(f"fingerprint_bits must be 0 or 8, got {fingerprint_bits}")
        if len(keys) != len(values) or len(keys) >= 2**31:
            raise ValueError(f"a value a key is needed, and < 2^31 keys, got {len(keys)} and {len(values)}")
        for position in np.flatnonzero((values < 0) | (values >= num_values))[:1]:
            raise ValueError(f"value {values[position]} at position {position} must be in [0, {num_values})")
        return cls._built(keys, values, num_values, fingerprint_bits)

    @classmethod
    def _built(
        cls, keys: np.ndarray, values: np.ndarray, num_values: int, fingerprint_bits: int
    ) -> StaticFunction:
        for attempt in range(_SEEDS):
            shape = _shape(len(keys), num_values, fingerprint_bits, attempt)
            if (slots := _slots(shape, keys, values)) is not None:
                return cls(shape, slots)
            if attempt == 0:
                unique = _unique(keys, values)
                if len(unique) < len(keys):
                    return cls._built(keys[unique], values[unique], num_values, fingerprint_bits)
        raise RuntimeError(f"no static function of {len(keys)} keys with {_SEEDS} seeds")

    def __len__(self) -> int:
        return self.shape.num_keys

    @property
    def nbytes(self) -> int:
        """Return the bytes of the slots, all that it takes in memory and, but for its manifest, on disk."""
        return self._slots.nbytes

    @cached_property
    def digest(self) -> str:
        """Return sixteen hexadecimal digits of all that values depend on."""
        return digest(self.shape.model_dump_json().encode() + self._slots.tobytes())

    @property
    def slots(self) -> np.ndarray:
        """Return the packed slots, uint8 [nbytes]: with the shape, all that the function is made of."""
        return self._slots

    def lookup(
        self, keys: np.ndarray, out: np.ndarray | None = None, *, threads: int | None = None
    ) -> np.ndarray:
        """Return the value of each key; for a key outside, see above.

        keys: int64 [L]. Returns int64 [L]: ``out`` where it is given (a fresh array costs page faults), in memory of
        its own. threads: as in `hashing.hash_rows`. Raises TypeError when keys or out are no int64 array, ValueError
        when keys are not 1-D or out does not fit them.
        """
        keys = as_int64(keys, "keys")
        out = output(out, np.int64, len(keys), keys)
        shape = self.shape
        large = self.nbytes > _CACHE_BYTES

        def part(start: int, stop: int) -> None:
            _static_function.lookup_into(
                self._slots,
                shape.value_bits,
                shape.fingerprint_bits,
                shape.num_values,
                shape.seed,
                shape.num_segments,
                shape.segment_bits,
                large,
                keys[start:stop],
                out[start:stop],
            )

        over_parts(part, len(keys), threads)
        return out

    def save(self, folder: Path) -> None:
        """Write a folder that appears whole. Raises FileExistsError when it exists, CannotWrite on a full disk."""
        with new_folder(folder) as partial:
            self._slots.tofile(partial / _SLOTS)
            saved = _Saved(
                format_version=FORMAT_VERSION,
                hash_version=HASH_VERSION,
                shape=self.shape,
                slots_xxh64=file_digest(partial / _SLOTS),
            )
            write_manifest(saved, partial / _MANIFEST)

    @classmethod
    def open(cls, folder: Path) -> StaticFunction:
        """Map what `save` wrote, read-only, after its checksum was compared.

        Raises FileNotFoundError without a manifest, OtherVersion for one of another version of the format or of
        hashing, and DamagedFile for anything else that `save` does not write.
        """
        versions = {"format_version": FORMAT_VERSION, "hash_version": HASH_VERSION}
        saved = read_manifest(folder / _MANIFEST, _Saved, versions, _AGAIN)
        file = folder / _SLOTS
        try:
            size = file.stat().st_size
            if size != saved.shape.nbytes:
                raise DamagedFile(f"{file}: damaged: {size} bytes instead of {saved.shape.nbytes}; {_AGAIN}")
            if file_digest(file) != saved.slots_xxh64:
                raise DamagedFile(f"{file}: damaged: its checksum is wrong; {_AGAIN}")
            return cls(saved.shape, np.memmap(file, np.uint8, "r").view(np.ndarray))
        except FileNotFoundError:
            raise DamagedFile(f"{file}: missing; {_AGAIN}") from None


def feature_keys(ids: np.ndarray, feature: str, *, threads: int | None = None) -> np.ndarray:
    """Return keys of a feature's ids, ``mix64(id ^ lookup_salt(feature, 0))``, so that features share one function.

    ids: int64 [L]. Returns int64 [L]. threads: as in `hashing.hash_rows`. Raises as `hashing.hash_rows` does.
    """
    ids = as_int64(ids)
    keys = np.empty_like(ids)
    salt = np.int64(lookup_salt(feature, 0))

    def part(start: int, stop: int) -> None:
        np.bitwise_xor(ids[start:stop], salt, out=keys[start:stop])
        _hashing.mix64_into(keys[start:stop], keys[start:stop])

    over_parts(part, len(ids), threads)
    return keys


def _shape(num_keys: int, num_values: int, fingerprint_bits: int, attempt: int) -> Shape:
    """Return sizes that work at about every second attempt for few keys, and nearly always for many; tried out."""
    log = math.log(max(num_keys, 2))
    segment_bits = min(max(math.floor(log / math.log(2.91) - 0.4), 1), _LARGEST_SEGMENT)
    num_slots = num_keys * max(1.13, 0.9 + 3 / log)
    num_segments = max(math.ceil(num_slots / 2**segment_bits) - (_ARITY - 1), 1)
    return Shape(
        num_keys=num_keys,
        num_values=num_values,
        fingerprint_bits=8 if fingerprint_bits else 0,
        seed=_hashing.mix64_one(attempt),  # 0 at first
        num_segments=num_segments + attempt * (1 + num_segments // 100),
        segment_bits=segment_bits,
    )


def _slots(shape: Shape, keys: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """Return packed slots, or None where two keys are equal, or another seed or more slots are needed."""
    cells, order = np.zeros((shape.num_slots, 2), np.uint64), np.empty(shape.num_slots, np.uint32)
    bits = shape.value_bits, shape.fingerprint_bits
    if not _static_function.build(
        keys, values, *bits, shape.seed, shape.num_segments, shape.segment_bits, cells, order
    ):
        return None
    slots = np.zeros(shape.nbytes, np.uint8)
    _static_function.pack(cells, shape.slot_bits, slots)
    return slots


def _unique(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a position of each key, by rising key. Raises ValueError naming a key that has two values."""
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    for place in repeats[values[order[repeats]] != values[order[repeats + 1]]][:1]:
        first, second = order[place : place + 2]
        raise ValueError(
            f"key {keys[first]} has the values {values[first]} at position {first} "
            f"and {values[second]} at position {second}"
        )
    return np.delete(order, repeats + 1)
