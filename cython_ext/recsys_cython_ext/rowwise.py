"""Row-wise quantised tables: half the bytes, a quarter or an eighth.

A row of int8 or int4 is an fp16 scale, an fp16 bias (the row's minimum) and then the codes; int4 packs two codes
into a byte, the earlier column in the low four bits. A value is ``scale * code + bias``. The arithmetic is that of
FBGEMM's ``FloatToFusedNBitRowwiseQuantizedSBHalf``, which puts the four header bytes last; its inference tables
(``IntNBitTableBatchedEmbeddingBagsCodegen``) put them first, as here.

A row of fp8 is an fp32 scale and then codes in e4m3 (Micikevicius et al., "FP8 formats for deep learning", 2022): a sign,
four bits of exponent (bias 7) and three of mantissa, at most 448, without infinity; 0x7F and 0xFF are NaN. A value is
``scale * E4M3[code]``, and the row's largest absolute value takes the largest code.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

Kind = Literal["fp32", "fp16", "fp8", "int8", "int4"]
HEADER = 4  # bytes of scale and bias, or of fp8's scale

_BITS = {"fp8": 8, "int8": 8, "int4": 4}
LARGEST = 448  # of e4m3
_BLOCK = 1 << 20  # values quantised at a time: temporaries stay small beside the table


def _e4m3_values() -> np.ndarray:
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    size[code & 127 == 127] = np.nan
    return np.where(code < 128, size, -size).astype(np.float32)


E4M3 = _e4m3_values()  # of each of the 256 codes, float32
_MIDDLES = (E4M3[:126] + E4M3[1:127]) / 2  # between neighbours; exact


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """Return the codes, uint8, of finite float32 values: the nearest, of two equally near ones the even, at most ±448."""
    size = np.abs(values)
    code = np.searchsorted(_MIDDLES, size)
    between = _MIDDLES[code.clip(max=125)] == size
    code += between & (code & 1).astype(np.bool_)
    return (code + 128 * np.signbit(values)).astype(np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class QuantisedTable:
    """Row-wise quantised embedding table, read-only by convention; ``data`` may be memory-mapped.

    data: uint8 [N, stride], stride >= 4 + D * bits / 8 (more is padding), C-contiguous; kind: fp8, int8 or
    int4; embedding_dim: D, a multiple of 4. Raises TypeError or ValueError where these do not hold.
    """

    data: np.ndarray
    kind: str
    embedding_dim: int

    def __post_init__(self) -> None:
        if self.kind not in _BITS:
            raise ValueError(f"kind must be fp8, int8 or int4, got {self.kind!r}")
        if not isinstance(self.data, np.ndarray) or self.data.dtype != np.uint8:
            raise TypeError(f"data must be a uint8 array, got {getattr(self.data, 'dtype', type(self.data))}")
        if self.data.ndim != 2 or not self.data.flags.c_contiguous:
            raise ValueError(f"data must be 2-D and C-contiguous, got shape {self.data.shape}")
        if self.embedding_dim < 4 or self.embedding_dim % 4:
            raise ValueError(f"embedding_dim must be a positive multiple of 4, got {self.embedding_dim}")
        if self.data.shape[1] < row_bytes(self.kind, self.embedding_dim):
            raise ValueError(
                f"{self.kind} rows of width {self.embedding_dim} take {row_bytes(self.kind, self.embedding_dim)} "
                f"bytes, data has {self.data.shape[1]}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D) of the table it stands for."""
        return self.data.shape[0], self.embedding_dim

    @property
    def nbytes(self) -> int:
        """Resident bytes, headers included."""
        return self.data.nbytes


def row_bytes(kind: str, embedding_dim: int) -> int:
    """Return the bytes of one fp8, int8 or int4 row, header included."""
    return HEADER + embedding_dim * _BITS[kind] // 8


def quantise(table: np.ndarray, kind: Kind) -> np.ndarray | QuantisedTable:
    """Return ``table`` in fewer bytes: round to nearest, each row by a scale of its own.

    table: float32 [N, D], D a multiple of 4; may be memory-mapped. Returns a new float32 or float16 array
    [N, D] or a `QuantisedTable`.

    Raises TypeError unless float32, and ValueError naming row and column for a value that is not finite or that
    fp16 (of the value itself, of a row's minimum or of its scale) cannot hold.
    """
    if not isinstance(table, np.ndarray) or table.dtype != np.float32:
        raise TypeError(f"table must be a float32 array, got {getattr(table, 'dtype', type(table))}")
    if table.ndim != 2 or table.shape[1] == 0 or table.shape[1] % 4:
        raise ValueError(f"table must be [N, D] with D a positive multiple of 4, got shape {table.shape}")
    if kind not in ("fp32", "fp16", *_BITS):
        raise ValueError(f"kind must be fp32, fp16, fp8, int8 or int4, got {kind!r}")
    n, d = table.shape
    shape, dtype = (n, d), np.dtype(np.float32 if kind == "fp32" else np.float16)
    if kind in _BITS:
        shape, dtype = (n, row_bytes(kind, d)), np.dtype(np.uint8)
    out = np.empty(shape, dtype)
    step = max(1, _BLOCK // d)
    for first in range(0, n, step):
        block = np.asarray(table[first : first + step])
        _refuse(~np.isfinite(block), block, first, "is not finite")
        if kind == "fp8":
            out[first : first + step] = _fp8_block(block)
        elif kind in _BITS:
            out[first : first + step] = _quantise_block(block, _BITS[kind], first)
        else:
            with np.errstate(over="ignore"):
                out[first : first + step] = block
            _refuse(np.isinf(out[first : first + step]), block, first, "does not fit fp16")
    return QuantisedTable(out, kind, d) if kind in _BITS else out


def dequantise(table: np.ndarray | QuantisedTable) -> np.ndarray:
    """Return the float32 [N, D] values that a lookup sees, to the bit.

    Raises TypeError unless ``table`` is a float32 or float16 array or a `QuantisedTable`.
    """
    if isinstance(table, np.ndarray) and table.dtype in (np.float32, np.float16):
        return table.astype(np.float32)
    if not isinstance(table, QuantisedTable):
        raise TypeError(f"need a float32 or float16 array or a QuantisedTable, got {type(table)}")
    header = np.ascontiguousarray(table.data[:, :HEADER])
    codes = table.data[:, HEADER : row_bytes(table.kind, table.embedding_dim)]
    if table.kind == "fp8":
        return header.view(np.float32) * E4M3.take(codes)  # faster than an index
    header = header.view(np.float16).astype(np.float32)
    if table.kind == "int4":
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(table.shape)
    return header[:, :1] * codes.astype(np.float32) + header[:, 1:]


def _fp8_block(block: np.ndarray) -> np.ndarray:
    """Return scale and codes, uint8 [n, 4 + D], of float32 [n, D]."""
    scale = np.abs(block).max(axis=1, keepdims=True) / np.float32(LARGEST)
    scale[scale == 0] = 1
    return np.concatenate([scale.view(np.uint8), to_e4m3(block / scale)], axis=1)


def _quantise_block(block: np.ndarray, bits: int, first: int) -> np.ndarray:
    """Return header and codes, uint8 [n, 4 + D * bits / 8], of float32 [n, D]; ``first`` is its row number in the table."""
    top = np.float32(2**bits - 1)
    low, high = block.min(axis=1, keepdims=True), block.max(axis=1, keepdims=True)
    with np.errstate(over="ignore", divide="ignore"):
        bias = low.astype(np.float16)
        _refuse((block == low) & np.isinf(bias), block, first, "is a minimum that does not fit fp16")
        spread = high - bias.astype(np.float32)
        scale = np.where(spread == 0, np.float32(1), spread / top).astype(np.float16)
        _refuse((block == high) & np.isinf(scale), block, first, "needs a scale that does not fit fp16")
        scale[scale == 0] = 1  # a spread below fp16: every code is 0
    inverse = np.float32(1) / scale.astype(np.float32)
    codes = np.clip(np.rint((block - bias.astype(np.float32)) * inverse), 0, top).astype(np.uint8)
    if bits == 4:
        codes = codes[:, 0::2] | codes[:, 1::2] << 4
    return np.concatenate([scale.view(np.uint8), bias.view(np.uint8), codes], axis=1)


def _refuse(bad: np.ndarray, block: np.ndarray, first: int, why: str) -> None:
    if bad.any():
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        raise ValueError(f"row {first + int(row)}, column {column}: {block[row, column]} {why}")
