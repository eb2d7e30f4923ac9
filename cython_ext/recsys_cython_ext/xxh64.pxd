"""XXH64 with seed 0, inlined into every kernel (github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define XXH_P1 0x9E3779B185EBCA87ULL
    #define XXH_P2 0xC2B2AE3D27D4EB4FULL
    #define XXH_P3 0x165667B19E3779F9ULL
    #define XXH_P4 0x85EBCA77C2B2AE63ULL
    #define XXH_P5 0x27D4EB2F165667C5ULL
    """
    const uint64_t P1 "XXH_P1"
    const uint64_t P2 "XXH_P2"
    const uint64_t P3 "XXH_P3"
    const uint64_t P4 "XXH_P4"
    const uint64_t P5 "XXH_P5"


cdef inline uint64_t rotl(uint64_t x, int r) noexcept nogil:
    return (x << r) | (x >> (64 - r))


cdef inline uint64_t load64(const uint8_t* p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)  # values in an Arrow buffer are not aligned
    return v


cdef inline uint64_t load32(const uint8_t* p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v


cdef inline uint64_t xxh_round(uint64_t acc, uint64_t lane) noexcept nogil:
    return rotl(acc + lane * P2, 31) * P1


cdef inline uint64_t xxh_merge(uint64_t h, uint64_t acc) noexcept nogil:
    return (h ^ xxh_round(0, acc)) * P1 + P4


cdef inline uint64_t xxh_word(uint64_t h, uint64_t lane) noexcept nogil:
    return rotl(h ^ xxh_round(0, lane), 27) * P1 + P4


cdef inline uint64_t xxh_avalanche(uint64_t h) noexcept nogil:
    h = (h ^ (h >> 33)) * P2
    h = (h ^ (h >> 29)) * P3
    return h ^ (h >> 32)


ctypedef struct Accumulators:
    uint64_t a, b, c, d


cdef inline Accumulators xxh_start() noexcept nogil:
    return Accumulators(P1 + P2, P2, 0, 0 - P1)


cdef inline Accumulators xxh_stripes(Accumulators acc, const uint8_t* p, uint64_t length) noexcept nogil:
    """The four accumulators after all whole 32-byte stripes."""
    cdef uint64_t stripe
    for stripe in range(length // 32):
        acc.a = xxh_round(acc.a, load64(p))
        acc.b = xxh_round(acc.b, load64(p + 8))
        acc.c = xxh_round(acc.c, load64(p + 16))
        acc.d = xxh_round(acc.d, load64(p + 24))
        p += 32
    return acc


cdef inline uint64_t xxh_merged(Accumulators acc) noexcept nogil:
    cdef uint64_t h = rotl(acc.a, 1) + rotl(acc.b, 7) + rotl(acc.c, 12) + rotl(acc.d, 18)
    return xxh_merge(xxh_merge(xxh_merge(xxh_merge(h, acc.a), acc.b), acc.c), acc.d)


cdef inline uint64_t xxh64_bytes(const uint8_t* p, uint64_t length) noexcept nogil:
    """Return the digest of ``length`` bytes."""
    if length == 8:  # the common hashed token: no loops
        return xxh_avalanche(xxh_word(P5 + 8, load64(p)))
    if length < 32:
        return xxh_finish(P5 + length, p, length)
    return xxh_finish(
        xxh_merged(xxh_stripes(xxh_start(), p, length)) + length, p + (length & ~<uint64_t>31), length & 31
    )


cdef inline uint64_t xxh_finish(uint64_t h, const uint8_t* p, uint64_t left) noexcept nogil:
    """The digest after the last, fewer than 32 bytes."""
    while left >= 8:
        h = xxh_word(h, load64(p))
        p += 8
        left -= 8
    if left >= 4:
        h = rotl(h ^ (load32(p) * P1), 23) * P2 + P3
        p += 4
        left -= 4
    while left > 0:
        h = rotl(h ^ (p[0] * P5), 11) * P1
        p += 1
        left -= 1
    return xxh_avalanche(h)
