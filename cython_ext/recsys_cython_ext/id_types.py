"""Types of columns that ids are made of, and those that stand for others: UUIDs for text, decimals for integers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

OFFSETS = {
    pa.string(): np.int32,
    pa.binary(): np.int32,
    pa.large_string(): np.int64,
    pa.large_binary(): np.int64,
}
VIEWS = (pa.string_view(), pa.binary_view())
UUID_BYTES = 16
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DASHES = (8, 13, 18, 23)  # places in the canonical text, 8-4-4-4-12 digits
_TEXT_BYTES = 2 * UUID_BYTES + len(_DASHES)
_DIGITS = np.setdiff1d(np.arange(_TEXT_BYTES), _DASHES)


def has_ids(kind: pa.DataType) -> bool:
    """Tell whether `arrow_ids` takes columns of this type; a dictionary counts as its values."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    if pt.is_decimal(kind):
        return bool(kind.scale >= 0)
    return any(test(kind) for test in (pt.is_integer, pt.is_boolean, pt.is_null, is_textlike, is_uuid))


def is_textlike(kind: pa.DataType) -> bool:
    """Tell whether values of this type are strings or bytes of any length; a dictionary counts as its values."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return kind in OFFSETS or kind in VIEWS


def is_uuid(kind: pa.DataType) -> bool:
    """Tell whether values of this type are UUIDs: Arrow's extension, or 16 bytes of a fixed size, as it stores them."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name == "arrow.uuid"
    return pt.is_fixed_size_binary(kind) and kind.byte_width == UUID_BYTES


def uuid_text(array: pa.Array) -> pa.StringArray:
    """Write UUIDs [L] as their canonical text [L], in lower case with dashes; a null stays null."""
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    text = np.full((len(storage), _TEXT_BYTES), ord("-"), np.uint8)
    data = storage.buffers()[1]
    if data is not None and len(storage):
        start = UUID_BYTES * storage.offset
        values = np.frombuffer(data, np.uint8)[start : start + UUID_BYTES * len(storage)]
        nibbles = np.stack([values >> 4, values & 15], axis=1).reshape(len(storage), -1)
        text[:, _DIGITS] = _HEX[nibbles]
    fixed = pa.Array.from_buffers(pa.binary(_TEXT_BYTES), len(storage), [None, pa.py_buffer(text)])
    whole = pc.cast(pc.cast(fixed, pa.binary()), pa.string())
    return pc.if_else(storage.is_valid(), whole, pa.scalar(None, pa.string()))


def decimal_words(array: pa.Array, below: int = 2**64) -> tuple[np.ndarray, np.ndarray]:
    """Read whole decimals [L] as 64-bit words: int64 [L], and a mask [L] of the values that are no such word.

    A word is a whole number of [-2^63, below) by its bits, so that those of [2^63, 2^64) are negative here.
    A null is no word, and no value either: its word is 0, its mask False.
    """
    unit = 10**array.type.scale
    limbs = _limbs(array)
    low, there = limbs[:, 0], np.asarray(array.is_valid())
    small = there & (limbs[:, 1:] == (low >> 63)[:, None]).all(axis=1)  # within int64, before the division
    words, rest = np.divmod(low, unit) if unit < 2**63 else (np.zeros_like(low), low)
    lost = there & (rest != 0)
    for place in np.flatnonzero(there & ~small).tolist():  # Arrow's own division of wide decimals is wrong
        number, left = divmod(int.from_bytes(limbs[place].tobytes(), "little", signed=True), unit)
        lost[place] = left != 0 or not -(2**63) <= number < below
        words[place] = 0 if lost[place] else (number + 2**63) % 2**64 - 2**63
    return np.where(there & ~lost, words, 0), lost


def _limbs(array: pa.Array) -> np.ndarray:
    """Return the integers that decimals [L] are stored as, in int64 limbs [L, n], the lowest 64 bits first."""
    if array.type.bit_width < 64:
        array = pc.cast(array, pa.decimal128(array.type.precision, array.type.scale))
    limbs = array.type.bit_width // 64
    data = np.frombuffer(array.buffers()[1] or b"", np.int64).copy()
    return data.reshape(-1, limbs)[array.offset : array.offset + len(array)]
