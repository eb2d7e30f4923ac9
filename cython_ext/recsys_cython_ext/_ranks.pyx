"""Bare kernels of rank statistics under many weightings; `ranks.py` validates, sorts and allocates.

Weights are bytes laid out [U, W], W replicates of a unit side by side: one gather brings those of a whole group of
replicates, and the sums of the group are vectors. Integers only, so that no order of rows rounds.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from .hints cimport inlined, prefetch
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


cdef enum:
    STEPS = 12  # thresholds of `poisson_into`


cdef clones_void count_steps(const uint32_t* words, const uint32_t* thresholds, uint8_t* out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef int k
    cdef uint32_t count
    cdef uint32_t at[STEPS]
    for k in range(STEPS):
        at[k] = thresholds[k]
    for i in range(n):
        count = 0
        for k in range(STEPS):
            count += words[i] >= at[k]
        out[i] = <uint8_t> count


def poisson_into(const uint32_t[::1] words, const uint32_t[::1] thresholds, uint8_t[::1] out):
    """Into out [n] how many of 12 thresholds each of words [>= n] reaches: its place in a distribution function."""
    if out.shape[0]:
        with nogil:
            count_steps(&words[0], &thresholds[0], &out[0], out.shape[0])


def transpose_into(const uint8_t[:, ::1] source, uint8_t[:, :] out):
    """[B, U] to [U, >= B]: 16 by 256 values at a time, which stay in L1."""
    cdef Py_ssize_t b, u, top, left, rows = source.shape[0], columns = source.shape[1]
    with nogil:
        for left in range(0, columns, 256):
            for top in range(0, rows, 16):
                for u in range(left, min(left + 256, columns)):
                    for b in range(top, min(top + 16, rows)):
                        out[u, b] = source[b, u]
