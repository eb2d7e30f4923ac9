"""Bare kernels of rank statistics under many weightings; `ranks.py` validates, sorts and allocates.

Weights are bytes laid out [U, W], W replicates of a unit side by side: one gather brings those of a whole group of
replicates, and the sums of the group are vectors. Integers only, so that no order of rows rounds.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define RECSYS_INLINE inline __attribute__((always_inline))
    #define RECSYS_PREFETCH(p) __builtin_prefetch(p)
    #else
    #define RECSYS_INLINE inline
    #define RECSYS_PREFETCH(p) ((void)0)
    #endif

    /* product > stop ? product * u : u, without the branch that compilers make of it: half are mispredicted. */
    #if defined(__SSE2__)
    #include <emmintrin.h>
    static RECSYS_INLINE double recsys_next_product(double product, double stop, double u) {
        __m128d more = _mm_cmpgt_sd(_mm_set_sd(product), _mm_set_sd(stop));
        return _mm_cvtsd_f64(_mm_or_pd(_mm_and_pd(more, _mm_set_sd(product * u)), _mm_andnot_pd(more, _mm_set_sd(u))));
    }
    #else
    static RECSYS_INLINE double recsys_next_product(double product, double stop, double u) {
        return product > stop ? product * u : u;
    }
    #endif
    """
    ctypedef void inlined "RECSYS_INLINE void"
    void prefetch "RECSYS_PREFETCH"(const void* p) noexcept nogil
    double next_product "recsys_next_product"(double product, double stop, double u) noexcept nogil

from .mix cimport clones_void

cdef enum:
    WIDE = 64  # replicates of a pass: a cache line of weights
    NARROW = 16  # of a pass over what is left; W is a multiple of it
    AHEAD = 24  # rows whose weights are asked for ahead of use: best of 8 to 64

cdef struct Job:
    const uint8_t* weights  # [U, W], from the pass's first replicate on
    Py_ssize_t width
    const int32_t* codes  # [n]
    Py_ssize_t n
    const int32_t* ends  # [S, 3]
    Py_ssize_t segments
    uint64_t* wins
    uint64_t* positives
    uint64_t* negatives


cdef inlined add_rows(const Job* job, Py_ssize_t first, Py_ssize_t last, uint32_t* sums, const int lanes) noexcept nogil:
    """Add the weights of rows first to last - 1 to ``sums``."""
    cdef Py_ssize_t i
    cdef int b
    cdef const uint8_t* weights
    for i in range(first, last):
        if i + AHEAD < job.n:
            prefetch(job.weights + job.codes[i + AHEAD] * job.width)
        weights = job.weights + job.codes[i] * job.width
        for b in range(lanes):
            sums[b] += weights[b]


cdef inlined rank(const Job* job, const int lanes) noexcept nogil:
    cdef Py_ssize_t s, first = 0
    cdef int b
    cdef const int32_t* ends
    cdef uint32_t up[WIDE]
    cdef uint32_t before[WIDE]
    cdef uint32_t below[WIDE]
    cdef uint64_t wins[WIDE]
    cdef uint64_t positives[WIDE]
    for b in range(lanes):
        below[b] = 0
        wins[b] = 0
        positives[b] = 0
    for s in range(job.segments):
        ends = job.ends + 3 * s
        for b in range(lanes):
            up[b] = 0
            before[b] = below[b]
        add_rows(job, first, ends[0], up, lanes)
        add_rows(job, ends[0], ends[1], below, lanes)
        for b in range(lanes):
            wins[b] += <uint64_t> up[b] * (before[b] + below[b])
            positives[b] += up[b]
        add_rows(job, ends[1], ends[2], below, lanes)
        first = ends[2]
    for b in range(lanes):
        job.wins[b] = wins[b]
        job.positives[b] = positives[b]
        job.negatives[b] = below[b]


cdef clones_void rank_wide(const Job* job) noexcept nogil:
    rank(job, WIDE)


cdef clones_void rank_narrow(const Job* job) noexcept nogil:
    rank(job, NARROW)


def wins_into(
    const uint8_t[:, ::1] weights, const int32_t[::1] codes, const int32_t[:, ::1] ends,
    uint64_t[::1] wins, uint64_t[::1] positives, uint64_t[::1] negatives,
):
    """Twice the weight of pairs won by the positive, and the weights of both classes, of W replicates.

    codes [n]: units of the rows by rising score. ends [S, 3]: segment s is positives up to ends[s, 0], negatives of
    equal score up to ends[s, 1], and higher negatives up to ends[s, 2], where the next begins; positives without
    equal negatives may have different scores. n times the largest weight is below 2^31; codes are valid.
    """
    cdef Py_ssize_t first = 0
    cdef Job job
    if not codes.shape[0] or not weights.shape[1]:
        return
    job.width = weights.shape[1]
    job.codes = &codes[0]
    job.n = codes.shape[0]
    job.ends = &ends[0, 0]
    job.segments = ends.shape[0]
    with nogil:
        while first < job.width:
            job.weights = &weights[0, first]
            job.wins = &wins[first]
            job.positives = &positives[first]
            job.negatives = &negatives[first]
            if first + WIDE <= job.width:
                rank_wide(&job)
                first += WIDE
            else:
                rank_narrow(&job)
                first += NARROW


def poisson_into(
    const double[::1] uniforms, double stop, double product, uint8_t count, uint8_t[::1] out, Py_ssize_t start
):
    """Poisson numbers of rate -log(stop) into ``out`` from ``start`` on, by products of uniforms (Knuth 1969).

    product, count: of the number begun by earlier uniforms, at first 1 and 0. Returns how many uniforms were used,
    where the next number goes, and the state of the one begun. Numbers of 256 or more wrap around: 1e-507 of them
    at rate 1.
    """
    cdef Py_ssize_t used = 0, n = uniforms.shape[0], at = start, size = out.shape[0]
    cdef uint64_t drawn = count
    cdef bint more
    with nogil:
        while used < n and at < size:
            product = next_product(product, stop, uniforms[used])
            used += 1
            more = product > stop
            out[at] = <uint8_t> drawn
            at += not more
            drawn = (drawn + 1) & -<uint64_t> more
    return used, at, product, <uint8_t> drawn


def transpose_into(const uint8_t[:, ::1] source, uint8_t[:, :] out):
    """[B, U] to [U, >= B]: 16 by 256 values at a time, which stay in L1."""
    cdef Py_ssize_t b, u, top, left, rows = source.shape[0], columns = source.shape[1]
    with nogil:
        for left in range(0, columns, 256):
            for top in range(0, rows, 16):
                for u in range(left, min(left + 256, columns)):
                    for b in range(top, min(top + 16, rows)):
                        out[u, b] = source[b, u]
