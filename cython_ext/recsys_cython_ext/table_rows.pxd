"""Rows of the tables of a training, fp32, fp16 or bf16: what the kernels that read and that update them share."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .hints cimport claim, inlined, prefetch
from .row_values cimport from_half

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


cdef inline inlined widen(const uint16_t* p, const int kind, const int64_t width, float* out) noexcept nogil:
    """fp16 or bf16 to fp32."""
    cdef int64_t i
    cdef uint32_t bits
    for i in range(width):
        if kind == BF16:
            bits = <uint32_t> p[i] << 16
            memcpy(&out[i], &bits, 4)
        else:
            out[i] = from_half(p[i])


cdef inline inlined add_row(
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


cdef inline inlined fetch_row(const uint8_t* row, const int64_t n_bytes) noexcept nogil:
    cdef int64_t i
    for i in range(0, n_bytes, 64):
        prefetch(row + i)


cdef inline inlined claim_row(const uint8_t* row, const int64_t n_bytes) noexcept nogil:
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
