"""Bare gather-and-pool kernel; `lookup.py` validates, allocates and splits bags over threads.

The inner loops are plain, of constant length, for the compiler to vectorise: see the flags in setup.py. They are compiled
for each level of `x86.pxd`, and one is chosen when the module is imported.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from .hints cimport inlined, prefetch
from .row_values cimport CHUNK, FP8, FP16, FP32, INT4, INT8, from_codes
from .x86 cimport HIGHEST, LEVEL_3, LEVEL_4, PORTABLE, fence, stream8, stream16, supported_level, v3, v4

cdef enum:
    LINES_AHEAD = 160  # cache lines asked for ahead of use, 10 KiB of L1: the best of 64 to 256
    BLOCK = 64  # columns summed at a time

cdef struct Job:
    const uint8_t* table  # [n_table, stride]
    uint64_t stride, n_table
    const int64_t* rows  # [n_rows]
    int64_t n_rows
    const int64_t* offsets  # [bags + 1], or NULL: bags of one
    const float* weights  # [n_rows], or NULL: ones
    float* out  # [bags, out_dim]
    int64_t dim, out_dim  # columns of the table, and of out
    int64_t first, last  # the bags to pool
    int kind
    bint padded, stream
    int64_t bad  # position of the first row or weight refused; -2 - b for the offsets of bag b; -1: none


cdef float ZEROS[BLOCK]  # as bytes, a row of zeros in every kind


cdef inlined add_row(
    float* acc, const uint8_t* row, const uint8_t* p, const int kind, const int width, float weight, const int level
) noexcept nogil:
    """``acc += weight * columns``, ``width`` of them, stored from ``p`` on."""
    cdef int i, k, c, n = CHUNK if width > CHUNK else width
    cdef uint16_t header[2]  # rows may begin at any byte
    cdef float line[2]  # scale, bias
    cdef float values[CHUNK]
    if kind == FP8:
        memcpy(line, row, sizeof(float))
    elif kind == INT8 or kind == INT4:
        memcpy(header, row, sizeof(header))
        from_codes(<const uint8_t*> header, FP16, 2, line, level)
    for k in range(width // n):
        c = k * n
        if kind == FP32:
            for i in range(n):
                acc[c + i] += weight * (<const float*> p)[c + i]
        elif kind == FP16:
            from_codes(p + 2 * c, kind, n, values, level)
            for i in range(n):
                acc[c + i] += weight * values[i]
        elif kind == FP8:
            from_codes(p + c, kind, n, values, level)
            for i in range(n):
                acc[c + i] += weight * (line[0] * values[i])
        else:
            from_codes(p + (c if kind == INT8 else c // 2), kind, n, values, level)
            for i in range(n):
                acc[c + i] += weight * (line[0] * values[i] + line[1])


cdef inlined write(float* out, const float* sums, const int width, bint stream, const int level) noexcept nogil:
    cdef int i
    if stream and level >= LEVEL_4 and width >= 16:
        for i in range(0, width, 16):
            stream16(out + i, sums + i)
    elif stream and level >= LEVEL_3 and width >= 16:
        for i in range(0, width, 8):
            stream8(out + i, sums + i)
    else:
        memcpy(out, sums, width * sizeof(float))


cdef inlined sweep(
    Job* job, int64_t column, const int kind, const int width, const bint padded, const int level
) noexcept nogil:
    """Columns [column, column + width) of every bag; kind, width, padded and level are literals after inlining.

    Padded: a row -1 is one of zeros, and zeros follow the last column of the table.
    """
    cdef int bits = 32 if kind == FP32 else 16 if kind == FP16 else 4 if kind == INT4 else 8
    cdef int n_bytes = width * bits // 8, ahead = LINES_AHEAD // ((n_bytes + 63) // 64), i
    cdef uint64_t start = (4 if kind >= INT8 else 0) + <uint64_t> column * bits // 8
    cdef int64_t b, l = job.first, n_rows = job.n_rows, stop, later
    cdef uint64_t stride = job.stride, n_table = job.n_table + padded, number, kept
    cdef const uint8_t* table = job.table
    cdef const uint8_t* row
    cdef const int64_t* rows = job.rows
    cdef const int64_t* offsets = job.offsets
    cdef const float* weights = job.weights
    cdef float* out = job.out + job.first * job.out_dim + column
    cdef float weight = 1
    cdef float acc[BLOCK]
    cdef bint stream = job.stream
    # Rows that do not begin and end with a cache line reach into one more.
    cdef bint straddles = (<uint64_t> table | stride | start | <uint64_t> n_bytes) & 63 != 0
    if offsets != NULL:
        l = offsets[job.first]
        if l < 0 or l > n_rows:
            job.bad = -2 - job.first
            return
    for b in range(job.first, job.last):
        stop = b + 1 if offsets == NULL else offsets[b + 1]
        if stop < l or stop > n_rows:
            job.bad = -2 - b
            return
        for i in range(width):
            acc[i] = 0
        while l < stop:
            later = l + ahead if l + ahead < n_rows else n_rows - 1
            # Not yet checked: the address may lie outside the table, and a prefetch of any address is harmless.
            row = table + <uint64_t> rows[later] * stride
            if kind >= INT8:
                prefetch(row)
            for i in range(0, n_bytes, 64):
                prefetch(row + start + i)
            if straddles:
                prefetch(row + start + n_bytes - 1)
            if weights != NULL:
                weight = weights[l]
            number = <uint64_t> rows[l]
            if number + padded >= n_table or weight != weight:
                job.bad = l
                return
            row = table + number * stride
            if padded:  # by a mask, for no machine could predict a jump
                kept = <uint64_t> (number == <uint64_t> -1) - 1
                row = <const uint8_t*> (<uint64_t> row & kept | <uint64_t> ZEROS & ~kept)
                add_row(acc, row, row + (start & kept), kind, width, weight, level)
            else:
                add_row(acc, row, row + start, kind, width, weight, level)
            l += 1
        write(out, acc, width, stream, level)
        if padded and column + width == job.dim:
            memset(out + width, 0, (job.out_dim - job.dim) * sizeof(float))
        out += job.out_dim


cdef inlined sweeps(Job* job, const int kind, const bint padded, const int level) noexcept nogil:
    """All columns, in blocks of a constant width."""
    cdef int64_t column = 0, left
    while column < job.dim and job.bad == -1:
        left = job.dim - column
        if left >= 64:
            sweep(job, column, kind, 64, padded, level)
            column += 64
        elif left >= 32:
            sweep(job, column, kind, 32, padded, level)
            column += 32
        elif left >= 16:
            sweep(job, column, kind, 16, padded, level)
            column += 16
        elif left >= 8:
            sweep(job, column, kind, 8, padded, level)
            column += 8
        else:
            sweep(job, column, kind, 4, padded, level)
            column += 4
    if job.stream:
        fence()


cdef inlined sweeps_of(Job* job, const bint padded, const int level) noexcept nogil:
    if job.kind == FP32:
        sweeps(job, FP32, padded, level)
    elif job.kind == FP16:
        sweeps(job, FP16, padded, level)
    elif job.kind == INT8:
        sweeps(job, INT8, padded, level)
    elif job.kind == INT4:
        sweeps(job, INT4, padded, level)
    else:
        sweeps(job, FP8, padded, level)


cdef inlined pool_at(Job* job, const int level) noexcept nogil:
    if level > HIGHEST:
        return
    if job.padded:
        sweeps_of(job, True, level)
    else:
        sweeps_of(job, False, level)


cdef void pool_portable(Job* job) noexcept nogil:
    pool_at(job, PORTABLE)


cdef v3 pool_v3(Job* job) noexcept nogil:
    pool_at(job, LEVEL_3)


cdef v4 pool_v4(Job* job) noexcept nogil:
    pool_at(job, LEVEL_4)


cdef int level_in_use = supported_level()


cdef inline void pool(Job* job) noexcept nogil:
    if level_in_use == LEVEL_4:
        pool_v4(job)
    elif level_in_use == LEVEL_3:
        pool_v3(job)
    else:
        pool_portable(job)


def use_level(int level):
    """Choose among what the processor can do: 0 portable, 1 AVX2, 2 AVX-512. Returns the level that is then in use."""
    global level_in_use
    level_in_use = min(level, supported_level())
    return level_in_use


def pool_into(
    const uint8_t[:, ::1] table,
    int kind,
    const int64_t[::1] rows,
    const int64_t[::1] offsets,
    const float[::1] weights,
    float[:, ::1] out,
    int64_t first,
    int64_t last,
    bint stream,
    int64_t dim,
    bint padded,
):
    """``out[b] = sum of weights[l] * table[rows[l]]`` over ``offsets[b] <= l < offsets[b + 1]``, first <= b < last.

    table: the bytes of its rows [N, stride]; rows [L]; offsets [B + 1] or None; weights [L] or None; out [B, D],
    D % 4 == 0; stream needs ``out`` on a multiple of 64 bytes and D % 16 == 0. dim: columns of the table, D unless
    padded; then a row -1 is one of zeros, and zeros follow the dim columns. Returns -1, or the position of a row outside
    [0, N) or of a weight NaN, or -2 - b where the offsets of bag b fall or leave [0, L]. Nothing is read there.
    """
    cdef Job job
    if first == last:
        return -1
    job.table = NULL
    job.rows = NULL
    job.offsets = NULL
    job.weights = NULL
    if table.shape[0]:
        job.table = &table[0, 0]
    if rows.shape[0]:
        job.rows = &rows[0]
    if offsets is not None:
        job.offsets = &offsets[0]
    if weights is not None and weights.shape[0]:
        job.weights = &weights[0]
    job.stride = <uint64_t> table.shape[1]
    job.n_table = <uint64_t> table.shape[0]
    job.n_rows = rows.shape[0]
    job.out = &out[0, 0]
    job.dim = dim
    job.out_dim = out.shape[1]
    job.first = first
    job.last = last
    job.kind = kind
    job.padded = padded
    job.stream = stream
    job.bad = -1
    with nogil:
        pool(&job)
    return job.bad


def gather_into(const uint64_t[:, ::1] tables, const int64_t[:, ::1] rows, float[:, ::1] out):
    """Copy row ``rows[t, b]`` of table t into columns of ``out[b]``; rows [T, B], out [B, width].

    tables [T, 6], the caller's arrays: the address of the rows, their bytes, their number, the kind, the columns, and the
    first column of out. Returns the first t of which a row is outside its table, and else -1.
    """
    cdef Job job
    cdef Py_ssize_t t
    cdef const uint64_t* of
    job.offsets = NULL
    job.weights = NULL
    job.n_rows = job.last = rows.shape[1]
    job.first = 0
    job.out_dim = out.shape[1]
    job.padded = job.stream = False
    job.bad = -1
    if not job.n_rows:
        return -1
    with nogil:
        for t in range(tables.shape[0]):
            of = &tables[t, 0]
            job.table = <const uint8_t*> of[0]
            job.stride = of[1]
            job.n_table = of[2]
            job.dim = <int64_t> of[4]
            job.rows = &rows[t, 0]
            job.out = &out[0, 0] + of[5]
            job.kind = <int> of[3]
            pool(&job)
            if job.bad != -1:
                break
    return -1 if job.bad == -1 else t
