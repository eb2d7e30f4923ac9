"""Bare hashing kernels; `hashing.py` validates and allocates. Little-endian machines only."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .mix cimport mix64, reduce_high

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

ctypedef fused offset_t:
    int32_t
    int64_t


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


cdef uint64_t xxh_stripes(const uint8_t* p, uint64_t length) noexcept nogil:
    """The four accumulators over all whole 32-byte stripes, merged; length >= 32."""
    cdef uint64_t a = P1 + P2, b = P2, c = 0, d = 0 - P1, h, stripe
    for stripe in range(length // 32):
        a = xxh_round(a, load64(p))
        b = xxh_round(b, load64(p + 8))
        c = xxh_round(c, load64(p + 16))
        d = xxh_round(d, load64(p + 24))
        p += 32
    h = rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18)
    return xxh_merge(xxh_merge(xxh_merge(xxh_merge(h, a), b), c), d)


cdef inline uint64_t xxh64_bytes(const uint8_t* p, uint64_t length) noexcept nogil:
    """XXH64 with seed 0 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md)."""
    cdef uint64_t h
    cdef uint64_t left = length
    if length == 8:  # the common hashed token: no loops
        return xxh_avalanche(xxh_word(P5 + 8, load64(p)))
    if length >= 32:
        h = xxh_stripes(p, length) + length
        p += length & ~<uint64_t>31
        left = length & 31
    else:
        h = P5 + length
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


def xxh64(bytes data):
    """XXH64 digest of ``data`` as an unsigned Python int."""
    return xxh64_bytes(<const uint8_t*> data, <uint64_t> len(data))


def mix64_one(uint64_t z):
    """`mix64` of one unsigned Python int."""
    return mix64(z)


def mix64_into(const int64_t[::1] ids, int64_t[::1] out):
    """``out[i] = mix64(ids[i])``; both [L]."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(ids.shape[0]):
            out[i] = <int64_t> mix64(<uint64_t> ids[i])


def rows_into(const int64_t[::1] ids, int64_t salt, int64_t num_embeddings, int64_t[::1] out):
    """``out[i]`` = row of ``ids[i]``; both [L]."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(ids.shape[0]):
            out[i] = <int64_t> reduce_high(mix64(<uint64_t> (ids[i] ^ salt)), <uint64_t> num_embeddings)


def strings_into(const uint8_t[::1] data, const offset_t[::1] offsets, int64_t missing, int64_t[::1] out):
    """XXH64 of value i = ``data[offsets[i]:offsets[i + 1]]``; offsets [L + 1], out [L].

    A digest equal to ``missing`` becomes ``missing + 1``. Returns the position of the first value that
    lies outside ``data`` (a corrupt file; nothing is read there), or -1.
    """
    cdef Py_ssize_t i, bad = -1
    cdef int64_t start, stop, digest, size = data.shape[0]
    cdef const uint8_t* base = &data[0]
    with nogil:
        start = offsets[0]
        for i in range(out.shape[0]):
            stop = offsets[i + 1]
            if start < 0 or stop < start or stop > size:
                bad = i
                break
            digest = <int64_t> xxh64_bytes(base + start, <uint64_t> (stop - start))
            out[i] = digest + (digest == missing)
            start = stop
    return bad


def fill_nulls(const uint8_t[::1] validity, int64_t offset, int64_t missing, int64_t[::1] out):
    """``out[i] = missing`` where bit ``offset + i`` of Arrow's validity bitmap is 0; out [L]."""
    cdef Py_ssize_t i
    cdef int64_t bit
    with nogil:
        for i in range(out.shape[0]):
            bit = offset + i
            if not (validity[bit >> 3] >> (bit & 7)) & 1:
                out[i] = missing
