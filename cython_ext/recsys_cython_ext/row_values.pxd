"""Values as rows store them, to fp32: by the processor's own instructions (`x86.pxd`), or by plain loops.

Rows of int8 and int4 start with an fp16 scale and an fp16 bias, rows of fp8 with an fp32 scale. Little-endian machines only.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from .hints cimport inlined
from .x86 cimport (
    LEVEL_3, LEVEL_4, bytes8, bytes16, e4m3x8, e4m3x16, halves2, halves8, halves16, nibbles8, nibbles16,
)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline float recsys_as_float(int32_t bits) {
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    """
    float as_float "recsys_as_float"(int32_t bits) noexcept nogil

cdef enum Kind:  # as in lookup.py
    FP32
    FP16
    INT8
    INT4
    FP8

cdef enum:
    CHUNK = 16  # columns converted at a time: a register of AVX-512


cdef inline float from_half(int32_t code) noexcept nogil:
    """An fp16 without a branch: right for subnormals (one exact difference), infinities and NaN, under DAZ too."""
    cdef int32_t sign = (code & 0x8000) << 16, m = code & 0x7FFF
    cdef int32_t is_tiny = (m - 0x400) >> 31, is_special = (0x7BFF - m) >> 31  # 0, or all ones
    cdef int32_t bits = (m << 13) + (112 << 23) + (is_tiny & (1 << 23)) + (is_special & (112 << 23))
    return as_float(bits | sign) - as_float((is_tiny & (113 << 23)) | sign)


cdef inline float from_e4m3(int32_t code) noexcept nogil:
    """An eight-bit float without a branch: right for subnormals (one exact difference) and NaN, under DAZ too."""
    cdef int32_t sign = (code & 0x80) << 24, m = code & 0x7F
    cdef int32_t is_tiny = (m - 8) >> 31, is_nan = -((m + 1) >> 7)  # 0, or all ones
    cdef int32_t bits = (m << 20) + (120 << 23) + (is_tiny & (1 << 23)) + (is_nan & (120 << 23))
    return as_float(bits | sign) - as_float((is_tiny & (121 << 23)) | sign)


cdef inline inlined unpack(const uint8_t* p, const int n, uint32_t* fours) noexcept nogil:
    """Give each of n half bytes, n a multiple of 4, a byte."""
    cdef int i
    cdef uint16_t pair  # rows may begin at any byte
    for i in range(n // 4):
        memcpy(&pair, p + 2 * i, sizeof(pair))
        fours[i] = (pair | <uint32_t> pair << 8) & 0x00FF00FF
        fours[i] = (fours[i] | fours[i] << 4) & 0x0F0F0F0F


cdef inline inlined from_codes(const uint8_t* p, const int kind, const int n, float* out, const int level) noexcept nogil:
    """Convert n values of any kind but FP32, without scale and bias, n <= CHUNK a power of two.

    The kind, n and level are literals after inlining.
    """
    cdef int i
    cdef uint32_t fours[CHUNK]
    if level >= LEVEL_4 and n == 16:
        if kind == FP16:
            halves16(p, out)
        elif kind == INT8:
            bytes16(p, out)
        elif kind == FP8:
            e4m3x16(p, out)
        else:
            nibbles16(p, out)
    elif level >= LEVEL_3 and n >= 8:
        for i in range(0, n, 8):
            if kind == FP16:
                halves8(p + 2 * i, out + i)
            elif kind == INT8:
                bytes8(p + i, out + i)
            elif kind == FP8:
                e4m3x8(p + i, out + i)
            else:
                nibbles8(p + i // 2, out + i)
    elif level >= LEVEL_3 and kind == FP16:
        for i in range(0, n, 2):
            halves2(p + 2 * i, out + i)
    elif kind == FP16:
        for i in range(n):
            out[i] = from_half((<const uint16_t*> p)[i])
    elif kind == INT8:
        for i in range(n):
            out[i] = <float> p[i]
    elif kind == FP8:
        for i in range(n):
            out[i] = from_e4m3(p[i])
    else:
        unpack(p, n, fours)
        for i in range(n):
            out[i] = <float> (<const uint8_t*> fours)[i]
