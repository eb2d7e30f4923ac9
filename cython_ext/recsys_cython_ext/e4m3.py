"""Eight-bit floats: e4m3 (Micikevicius et al., "FP8 formats for deep learning", 2022), without infinity, at most 448.

A code is a sign, four bits of exponent (bias 7) and three of mantissa; 0x7F and 0xFF are NaN.
"""

import numpy as np

LARGEST = 448


def _values() -> np.ndarray:
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    size[code & 127 == 127] = np.nan
    return np.where(code < 128, size, -size).astype(np.float32)


E4M3 = _values()  # of each of the 256 codes, float32
_MIDDLES = (E4M3[:126] + E4M3[1:127]) / 2  # between neighbours; exact


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """Return the codes, uint8, of finite float32 values: the nearest, of two equally near ones the even, at most ±448."""
    size = np.abs(values)
    code = np.searchsorted(_MIDDLES, size)
    between = _MIDDLES[code.clip(max=125)] == size
    code += between & (code & 1).astype(np.bool_)
    return (code + 128 * np.signbit(values)).astype(np.uint8)
