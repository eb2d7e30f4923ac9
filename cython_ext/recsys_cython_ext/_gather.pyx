"""Bare kernels that gather rows out of many Arrow arrays; `gather.py` validates and allocates.

Shard s holds rows [starts[s], starts[s + 1]) of every column c, from an address on that may lie in a mapped file. A
batch asks for P lists of B positions (of itself, and perhaps of donors); column c is read at list pick[c].
Every value is a cache line of its own, asked for ahead of its use; addresses of positions are valid.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy

from .hints cimport prefetch

cdef enum:
    AHEAD = 64  # prefetch distance in rows
    BLOCK = 128  # rows of the dense matrix written at a time: they stay in L1 while columns are added

cdef struct Rows:  # where the rows of a batch are
    const int32_t* shard
    const int64_t* row
    int64_t n


def split_into(
    const int64_t[::1] starts, const int64_t[:, ::1] positions, int32_t[:, ::1] shard, int64_t[:, ::1] row
):
    """(shard, row) of each position [P, B]; all lie in [0, starts[-1]), starts [S + 1] rise from 0."""
    cdef Py_ssize_t p, b
    cdef int64_t position
    cdef int32_t low, high, middle, s = 0, n_shards = <int32_t> (starts.shape[0] - 1)
    with nogil:
        for p in range(positions.shape[0]):
            for b in range(positions.shape[1]):
                position = positions[p, b]
                if position < starts[s] or position >= starts[s + 1]:  # neighbours mostly share a shard
                    low, high = 0, n_shards
                    while high - low > 1:
                        middle = (low + high) // 2
                        if starts[middle] <= position:
                            low = middle
                        else:
                            high = middle
                    s = low
                shard[p, b] = s
                row[p, b] = position - starts[s]


cdef int64_t lengths_of(
    const int64_t* offsets, const int64_t* limits, Rows at, int32_t* out, int64_t* total
) noexcept nogil:
    """Lengths of bags, and their sum; returns the first b whose offsets fall or leave the values, or -1."""
    cdef int64_t b, s
    cdef const int32_t* ends
    total[0] = 0
    for b in range(at.n):
        s = at.shard[b]
        ends = <const int32_t*> offsets[s] + at.row[b]
        if ends[0] < 0 or ends[1] < ends[0] or ends[1] > limits[s]:
            return b
        out[b] = ends[1] - ends[0]
        total[0] += out[b]
    return -1


def lengths_into(
    const int64_t[:, ::1] offsets, const int64_t[:, ::1] limits, const int32_t[:, ::1] shard,
    const int64_t[:, ::1] row, const int32_t[::1] pick, int32_t[:, ::1] out, int64_t[::1] totals,
):
    """Lengths [C, B] of the rows' bags, and their sums [C].

    offsets [C, S]: addresses of int32 [rows + 1], 0 where a column holds single values; limits [C, S]: lengths of
    the values that the offsets point into. Returns -1, or c * B + b of the first corrupt bag.
    """
    cdef Py_ssize_t c, b
    cdef int64_t bad = -1, n = out.shape[1]
    cdef Rows at
    if not n or not out.shape[0]:
        return -1
    at.n = n
    with nogil:
        for c in range(out.shape[0]):
            at.shard = &shard[pick[c], 0]
            at.row = &row[pick[c], 0]
            if offsets[c, 0]:
                bad = lengths_of(&offsets[c, 0], &limits[c, 0], at, &out[c, 0], &totals[c])
                if bad >= 0:
                    bad += c * n
                    break
            else:
                for b in range(n):
                    out[c, b] = 1
                totals[c] = n
    return bad


cdef void ids_of(const int64_t* values, bint wide, Rows at, int64_t* out) noexcept nogil:
    cdef int64_t b
    if wide:
        for b in range(at.n):
            if b + AHEAD < at.n:
                prefetch(<const int64_t*> values[at.shard[b + AHEAD]] + at.row[b + AHEAD])
            out[b] = (<const int64_t*> values[at.shard[b]])[at.row[b]]
    else:
        for b in range(at.n):
            if b + AHEAD < at.n:
                prefetch(<const int32_t*> values[at.shard[b + AHEAD]] + at.row[b + AHEAD])
            out[b] = (<const int32_t*> values[at.shard[b]])[at.row[b]]


cdef void bags_of(
    const int64_t* values, const int64_t* offsets, bint wide, Rows at, int64_t* out
) noexcept nogil:
    cdef int64_t b, s, l
    cdef const int32_t* ends
    for b in range(at.n):
        s = at.shard[b]
        ends = <const int32_t*> offsets[s] + at.row[b]
        if wide:
            for l in range(ends[0], ends[1]):
                out[l - ends[0]] = (<const int64_t*> values[s])[l]
        else:
            for l in range(ends[0], ends[1]):
                out[l - ends[0]] = (<const int32_t*> values[s])[l]
        out += ends[1] - ends[0]


def ids_into(
    const int64_t[:, ::1] values, const int64_t[:, ::1] offsets, const uint8_t[::1] wide,
    const int32_t[:, ::1] shard, const int64_t[:, ::1] row, const int32_t[::1] pick,
    const int64_t[::1] totals, int64_t[::1] out,
):
    """Values [L] of the rows, column after column: totals[c] of them, as `lengths_into` found.

    values [C, S]: addresses of int64 where wide[c], else of int32; offsets [C, S] as there.
    """
    cdef Py_ssize_t c
    cdef int64_t start = 0
    cdef Rows at
    if not out.shape[0]:
        return
    at.n = shard.shape[1]
    with nogil:
        for c in range(values.shape[0]):
            if totals[c] == 0:
                continue
            at.shard = &shard[pick[c], 0]
            at.row = &row[pick[c], 0]
            if offsets[c, 0]:
                bags_of(&values[c, 0], &offsets[c, 0], wide[c], at, &out[start])
            else:
                ids_of(&values[c, 0], wide[c], at, &out[start])
            start += totals[c]


def floats_into(
    const int64_t[::1] values, const int64_t[::1] offsets, const int32_t[::1] shard, const int64_t[::1] row,
    float[::1] out,
):
    """Values [L] of the rows' bags of one column of float32 lists, whose lengths `lengths_into` checked."""
    cdef int64_t b, s, start = 0
    cdef const int32_t* ends
    if not out.shape[0]:
        return
    with nogil:
        for b in range(shard.shape[0]):
            s = shard[b]
            ends = <const int32_t*> offsets[s] + row[b]
            memcpy(&out[start], <const float*> values[s] + ends[0], (ends[1] - ends[0]) * sizeof(float))
            start += ends[1] - ends[0]


def matrix_into(
    const int64_t[:, ::1] values, const int32_t[:, ::1] shard, const int64_t[:, ::1] row,
    const int32_t[::1] pick, float[:, ::1] out,
):
    """Values [B, C] of columns of float32; values [C, S]: their addresses."""
    cdef Py_ssize_t c, b, first = 0, last, n = out.shape[0]
    cdef const int32_t* at
    cdef const int64_t* place
    cdef const int64_t* address
    if not n:
        return
    with nogil:
        while first < n:
            last = first + BLOCK if first + BLOCK < n else n
            for c in range(out.shape[1]):
                at, place, address = &shard[pick[c], 0], &row[pick[c], 0], &values[c, 0]
                for b in range(first, last):
                    if b + AHEAD < n:
                        prefetch(<const float*> address[at[b + AHEAD]] + place[b + AHEAD])
                    out[b, c] = (<const float*> address[at[b]])[place[b]]
            first = last
