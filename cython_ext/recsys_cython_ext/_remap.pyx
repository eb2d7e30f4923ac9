"""Bare kernel of a bitmap with ranks; `recsys_tables.remap` validates and allocates.

The row of a code is the number of kept codes below it: those before its block of 256, those of the block before its
word, and the bits below it there. The first two share a 64-bit number a block, so that all is 1.25 bits a code (after
Vigna, "Broadword implementation of rank/select queries", WEA 2008, whose blocks of 512 take as much).
"""

from libc.stdint cimport int64_t, uint64_t

from .mix cimport clones_void

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define RECSYS_ONES(word) __builtin_popcountll(word)
    #else
    static inline int RECSYS_ONES(unsigned long long word) {
        int n = 0;
        for (; word; word &= word - 1) n++;
        return n;
    }
    #endif
    """
    int ones "RECSYS_ONES"(uint64_t word) noexcept nogil


cdef clones_void rows_of(
    const uint64_t* words, const uint64_t* ranks, uint64_t n_ids, const int64_t* ids, int64_t* out, int64_t n,
    int64_t* bad
) noexcept nogil:
    """Without a branch on the bits, which no machine could predict."""
    cdef int64_t i
    cdef uint64_t id, word, rank
    for i in range(n):
        id = <uint64_t> ids[i]
        if id >= n_ids:
            bad[0] = i
            return
        word = words[id >> 6]
        rank = ranks[id >> 8]
        rank = (rank >> 32) + ((rank >> (id >> 3 & 24)) & 255) + ones(word & ((<uint64_t> 1 << (id & 63)) - 1))
        out[i] = <int64_t> rank | (<int64_t> (word >> (id & 63) & 1) - 1)


def rows_into(
    const uint64_t[::1] words, const uint64_t[::1] ranks, int64_t n_ids, const int64_t[::1] ids, int64_t[::1] out
):
    """``out[i]`` = the row of ids[i], -1 where its bit is not set.

    words: a bit for each of n_ids ids, lowest first, in whole blocks of 4. ranks: of each block the bits set before it,
    times 2^32, and in byte j those in its words before word j. ids and out [L]. Returns -1, or the position of the first id outside 0..n_ids - 1, where it stopped.
    """
    cdef int64_t bad = -1
    if ids.shape[0] == 0:
        return -1
    if n_ids == 0:
        return 0
    with nogil:
        rows_of(&words[0], &ranks[0], <uint64_t> n_ids, &ids[0], &out[0], ids.shape[0], &bad)
    return bad
