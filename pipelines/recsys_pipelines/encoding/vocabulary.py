"""What holds a vocabulary: a table of its ids (`exact`), or a static function without them (`fingerprint`)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import ValidationError
from typing_extensions import override

from recsys_cython_ext import MISSING_ID, IdTable, StaticFunction, mix64
from recsys_cython_ext.static_function import Shape, static_function_bytes
from recsys_cython_ext.vocabulary import FIRST_CODE, MISSING_CODE, UNKNOWN_CODE, table_bytes

Arrays = Mapping[str, np.ndarray]
SIGN_BIT = np.int64(-(2**63))
EXACT, FINGERPRINT = "exact", "fingerprint"  # the forms, as they are declared
FINGERPRINT_BITS = 8
ONE_IN = 2**FINGERPRINT_BITS  # ids outside a vocabulary of fingerprints, one passes for an id of it


class Vocabulary(Protocol):
    """The position of each id of a vocabulary, in the order of their codes."""

    form: ClassVar[str]

    def __len__(self) -> int:
        """Return the number of ids."""
        ...

    @property
    def nbytes(self) -> int:
        """Return the resident bytes."""
        ...

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Return the position of each id, -1 for one outside. ids: int64 [L]. Returns int32 [L]."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Describe the vocabulary, but for its arrays, as values ready for JSON."""
        ...

    def arrays(self) -> Arrays:
        """Return the state that is saved as arrays."""
        ...


class ExactVocabulary(Vocabulary):
    """Ids in a perfect hash table, 13.7 bytes an id. ids: int64 [V], unique; copied."""

    form = EXACT

    def __init__(self, ids: np.ndarray) -> None:
        self.table = IdTable(ids)
        self.ids = self.table.keys  # the table has its own copy

    @classmethod
    def of_table(cls, table: IdTable) -> "ExactVocabulary":
        """Return the vocabulary of a table that is there, whose arrays may be mapped."""
        vocabulary = cls.__new__(cls)
        vocabulary.table, vocabulary.ids = table, table.keys
        return vocabulary

    def __len__(self) -> int:
        return len(self.ids)

    @property
    @override
    def nbytes(self) -> int:
        return self.table.nbytes

    @override
    def positions(self, ids: np.ndarray) -> np.ndarray:
        return self.table.codes(ids, -1)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {}

    @override
    def arrays(self) -> Arrays:
        return {"ids": self.ids}


class FingerprintVocabulary(Vocabulary):
    """Positions in a static function with fingerprints, 3 to 4.5 bytes an id, which keeps no ids.

    One id outside in `ONE_IN` reads the position of an id inside, always the same.
    """

    form = FINGERPRINT

    def __init__(self, function: StaticFunction) -> None:
        shape = function.shape
        if (shape.num_values, shape.fingerprint_bits) != (max(shape.num_keys, 1), FINGERPRINT_BITS):
            raise ValueError(
                f"a vocabulary of {shape.num_keys} ids has as many values and {FINGERPRINT_BITS} bits of fingerprint, "
                f"got {shape.num_values} values and {shape.fingerprint_bits} bits"
            )
        self.function = function

    @classmethod
    def of(cls, ids: np.ndarray) -> "FingerprintVocabulary":
        """Return the vocabulary of unique ids, int64 [V]."""
        positions, num_values = np.arange(len(ids)), max(len(ids), 1)
        return cls(StaticFunction.build(ids, positions, num_values, fingerprint_bits=FINGERPRINT_BITS))

    def __len__(self) -> int:
        return len(self.function)

    @property
    @override
    def nbytes(self) -> int:
        return self.function.nbytes

    @override
    def positions(self, ids: np.ndarray) -> np.ndarray:
        if not len(self):  # whose one value is no position
            return np.full(len(ids), -1, np.int32)
        return self.function.lookup(ids).astype(np.int32)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"form": self.form, "shape": self.function.shape.model_dump()}

    @override
    def arrays(self) -> Arrays:
        return {"slots": self.function.slots}


def codes_of(ids: np.ndarray, vocabulary: Vocabulary, hash_unknown: bool) -> np.ndarray:
    """Return the codes of 64-bit ids [n]; those outside have code 1, or with `hash_unknown` a hash of their own.

    Codes are int32, and int64 where hashes are among them.
    """
    return codes_of_positions(vocabulary.positions(ids), ids, hash_unknown)


def codes_of_positions(positions: np.ndarray, ids: np.ndarray, hash_unknown: bool) -> np.ndarray:
    """Return the codes of ids whose `positions` in their vocabularies, int32, are known; that array is overwritten."""
    codes = positions
    codes += FIRST_CODE  # of -1 the unknown one
    if hash_unknown:
        codes = codes.astype(np.int64)
        outside = codes == UNKNOWN_CODE
        codes[outside] = mix64(ids[outside]) | SIGN_BIT
    codes[ids == MISSING_ID] = MISSING_CODE
    return codes


def is_unknown(codes: np.ndarray, hash_unknown: bool) -> np.ndarray:
    """Tell which codes stand for ids outside a vocabulary."""
    return codes < 0 if hash_unknown else codes == UNKNOWN_CODE


def vocabulary_of(ids: np.ndarray, form: str) -> Vocabulary:
    """Return the vocabulary of unique ids, int64 [V], in their order."""
    return FingerprintVocabulary.of(ids) if form == FINGERPRINT else ExactVocabulary(ids)


def vocabulary_bytes(num_ids: int, form: str) -> int:
    """Return the resident bytes of a vocabulary of so many ids: of `fingerprint` at least so many, and few more."""
    if form == FINGERPRINT:
        return static_function_bytes(num_ids, max(num_ids, 1), FINGERPRINT_BITS)
    return table_bytes(num_ids)


def restored(entry: Mapping[str, Any], arrays: Arrays) -> Vocabulary:
    """Return the vocabulary that `to_dict` and `arrays` describe. Raises ValueError where they describe none."""
    if entry.keys() == {"form", "shape"} and entry["form"] == FINGERPRINT and arrays.keys() == {"slots"}:
        return FingerprintVocabulary(StaticFunction(_shape(entry["shape"]), _checked(arrays["slots"])))
    if not entry and arrays.keys() == {"ids"}:
        return ExactVocabulary(arrays["ids"])
    raise ValueError(f"{[*entry, *arrays]} describe no vocabulary")


def _shape(values: Any) -> Shape:
    try:
        return Shape.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in ("shape", *first["loc"]))
        raise ValueError(f"{key}: {first['msg']}") from None


def _checked(slots: np.ndarray) -> np.ndarray:
    if slots.dtype != np.uint8 or slots.ndim != 1:
        raise ValueError(f"slots must be uint8 [n], got {slots.dtype} {list(slots.shape)}")
    return slots
