"""Rows of the tables of a training, fp32, fp16 or bf16: what the kernels that read and that update them share."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define RECSYS_ALWAYS __attribute__((always_inline))
    #define RECSYS_FETCH(p) __builtin_prefetch(p, 0, 3)
    #define RECSYS_CLAIM(p) __builtin_prefetch(p, 1, 3)
    #else
    #define RECSYS_ALWAYS
    #define RECSYS_FETCH(p) ((void)0)
    #define RECSYS_CLAIM(p) ((void)0)
    #endif
    """
    ctypedef void always "RECSYS_ALWAYS void"  # no type, but Cython has no other place for it
    void fetch "RECSYS_FETCH"(const void* p) noexcept nogil
    void claim "RECSYS_CLAIM"(const void* p) noexcept nogil

cdef enum Kind:  # of rows, as in table_kernel.py
    FP32
    FP16
    BF16

# An entry of `lookups`, one for each lookup of the batch; offsets are in numbers, not bytes.
cdef struct Lookup:
    int64_t first  # where the table's rows begin in the weights, and in states of the same shape
    int64_t rows  # of the table
    int64_t width
    int64_t column  # the first in the output
    int64_t state  # where the table's rows begin among all rows, and in states of one number a row
    uint64_t salt  # of the rounding of rows: by table and seed,
    int64_t quads  # and by the place in the whole table, in groups of four columns: of one row,
    int64_t start  # and of the first row here


cdef inline always widen(const uint16_t* p, const int kind, const int64_t width, float* out) noexcept nogil:
    """fp16 or bf16 to fp32, by integers and one product: right for subnormals and infinities."""
    cdef int64_t i
    cdef uint32_t bits, m
    cdef float tiny, value
    for i in range(width):
        if kind == BF16:
            bits = <uint32_t> p[i] << 16
            memcpy(&out[i], &bits, 4)
        else:
            m = p[i] & 0x7FFF
            tiny = <float> <int32_t> m * <float> (1.0 / (1 << 24))
            bits = (m << 13) + (112 << 23) + ((112 << 23) if m >= 0x7C00 else 0)
            memcpy(&value, &bits, 4)
            value = tiny if m < 0x400 else value
            out[i] = -value if p[i] & 0x8000 else value


cdef inline always add_row(
    float* acc, const uint8_t* row, const int kind, const int64_t width, float factor
) noexcept nogil:
    cdef int64_t i, c, part
    cdef float values[64]
    if kind == FP32:
        for i in range(width):
            acc[i] += factor * (<const float*> row)[i]
        return
    for c in range(0, width, 64):
        part = 64 if width - c > 64 else width - c
        widen(<const uint16_t*> row + c, kind, part, values)
        for i in range(part):
            acc[c + i] += factor * values[i]


cdef inline always fetch_row(const uint8_t* row, const int64_t n_bytes) noexcept nogil:
    cdef int64_t i
    for i in range(0, n_bytes, 64):
        fetch(row + i)


cdef inline always claim_row(const uint8_t* row, const int64_t n_bytes) noexcept nogil:
    cdef int64_t i
    for i in range(0, n_bytes, 64):
        claim(row + i)


cdef inline int64_t common_width(const int64_t[:, ::1] lookups) noexcept:
    cdef Py_ssize_t f
    for f in range(1, lookups.shape[0]):
        if lookups[f, 2] != lookups[0, 2]:
            return 0
    return lookups[0, 2]


cdef inline const float* floats(const float[::1] values) noexcept:
    return NULL if values is None or not values.shape[0] else &values[0]
