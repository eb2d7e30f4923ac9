"""Bare kernel that reads bags of rows of several tables in training; `recsys_tables.table_kernel` calls it."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from .hints cimport inlined
from .mix cimport clones_void
from .table_rows cimport BF16, FP16, FP32, Lookup, add_row, common_width, fetch_row, floats

cdef enum:
    ROWS_AHEAD = 96  # asked for ahead of use,
    BAG_AHEAD = 8  # so many of them in one bag

cdef struct Read:
    const uint8_t* weights
    const Lookup* lookups
    int64_t num_lookups, num_bags
    const int64_t* indices  # [n]
    int64_t n
    const int64_t* offsets  # [num_lookups * num_bags + 1]
    const float* factors  # [n], or NULL: ones
    float* out  # [num_bags, stride]
    int64_t stride
    int64_t bad  # position of the first index outside its table; -2 - k for the offsets of bag k; -1: none


cdef inline int64_t bounded(int64_t value, int64_t least, int64_t most) noexcept nogil:
    return least if value < least else most if value > most else value


cdef inlined read_bags(Read* r, int64_t first, int64_t last, const int kind, const int64_t fixed) noexcept nogil:
    """Sum the rows of bags [first, last) of every lookup; `fixed` is the width of them all, or 0."""
    cdef int64_t b, f, k, l, stop, j, i, ahead, width, size = 4 if kind == FP32 else 2
    cdef const Lookup* lookup
    cdef const uint8_t* table
    cdef float* out
    cdef float factor = 1
    ahead = bounded(r.n // (r.num_lookups * r.num_bags), 1, BAG_AHEAD)
    ahead = bounded(ROWS_AHEAD // (r.num_lookups * ahead), 1, ROWS_AHEAD)
    for b in range(first, last):
        for f in range(r.num_lookups):
            lookup = &r.lookups[f]
            width = fixed if fixed else lookup.width
            table = r.weights + lookup.first * size
            k = f * r.num_bags + b
            if b + ahead < last:  # not yet checked: a prefetch of any address is harmless
                l = bounded(r.offsets[k + ahead], 0, r.n)
                stop = bounded(r.offsets[k + ahead + 1], l, bounded(l + BAG_AHEAD, l, r.n))
                for j in range(l, stop):
                    fetch_row(table + <uint64_t> r.indices[j] * <uint64_t> (width * size), width * size)
            l, stop = r.offsets[k], r.offsets[k + 1]
            if l < 0 or stop < l or stop > r.n:
                r.bad = -2 - k
                return
            out = r.out + b * r.stride + lookup.column
            if kind == FP32 and stop == l + 1 and r.factors == NULL:  # what most bags are
                if <uint64_t> r.indices[l] >= <uint64_t> lookup.rows:
                    r.bad = l
                    return
                memcpy(out, table + r.indices[l] * width * size, width * sizeof(float))
                continue
            for i in range(width):
                out[i] = 0
            for j in range(l, stop):
                if j + BAG_AHEAD < stop:
                    fetch_row(table + <uint64_t> r.indices[j + BAG_AHEAD] * <uint64_t> (width * size), width * size)
                if <uint64_t> r.indices[j] >= <uint64_t> lookup.rows:
                    r.bad = j
                    return
                if r.factors != NULL:
                    factor = r.factors[j]
                add_row(out, table + r.indices[j] * width * size, kind, width, factor)


cdef inlined read_of_kind(Read* r, int64_t first, int64_t last, const int kind, int64_t fixed) noexcept nogil:
    if fixed == 8:
        read_bags(r, first, last, kind, 8)
    elif fixed == 16:
        read_bags(r, first, last, kind, 16)
    elif fixed == 32:
        read_bags(r, first, last, kind, 32)
    elif fixed == 64:
        read_bags(r, first, last, kind, 64)
    else:
        read_bags(r, first, last, kind, 0)


cdef clones_void read(Read* r, int64_t first, int64_t last, int kind, int64_t fixed) noexcept nogil:
    if kind == FP32:
        read_of_kind(r, first, last, FP32, fixed)
    elif kind == FP16:
        read_of_kind(r, first, last, FP16, fixed)
    else:
        read_of_kind(r, first, last, BF16, fixed)


def read_into(
    uint64_t weights,
    int kind,
    const int64_t[:, ::1] lookups,
    const int64_t[::1] indices,
    const int64_t[::1] offsets,
    const float[::1] factors,
    float[:, ::1] out,
    int64_t first,
    int64_t last,
):
    """``out[b, columns of f] = sum of factors[l] * table[indices[l]]`` over bag (f, b), first <= b < last.

    weights: the address of the rows; lookups [F, 8] as `Lookup`; bag (f, b) is
    ``offsets[f * B + b] <= l < offsets[f * B + b + 1]``; factors [n] or None. Returns -1, or the position of an index
    outside its table, or -2 - k where the offsets of bag k fall or leave [0, n]. Nothing is read there.
    """
    cdef Read r
    cdef int64_t fixed
    if first == last or not lookups.shape[0]:
        return -1
    r.weights = <const uint8_t*> weights
    r.lookups = <const Lookup*> &lookups[0, 0]
    r.num_lookups = lookups.shape[0]
    r.num_bags = out.shape[0]
    r.indices = &indices[0] if indices.shape[0] else NULL
    r.n = indices.shape[0]
    r.offsets = &offsets[0]
    r.factors = floats(factors)
    r.out = &out[0, 0]
    r.stride = out.shape[1]
    r.bad = -1
    fixed = common_width(lookups)
    with nogil:
        read(&r, first, last, kind, fixed)
    return r.bad
