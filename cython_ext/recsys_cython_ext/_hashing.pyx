"""Bare hashing kernels; `hashing.py` validates and allocates. Little-endian machines only."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from .mix cimport clones_void, mix64, reduce_high
from .xxh64 cimport (
    P1, P2, P3, P5, Accumulators, load32, load64, rotl, xxh64_bytes, xxh_avalanche, xxh_finish, xxh_merged, xxh_start,
    xxh_stripes, xxh_word,
)

ctypedef fused offset_t:
    int32_t
    int64_t

cdef enum:
    BLOCK = 64  # strings hashed together
    SHORT = 8  # bytes of the longest string that the block kernels hash
    VIEW = 16  # bytes of an Arrow string view
    INLINE = 12  # bytes of the longest string that lies in the view itself


def xxh64(const uint8_t[::1] data):
    """XXH64 digest of ``data`` as an unsigned Python int."""
    cdef uint64_t digest
    cdef uint8_t nothing = 0
    cdef const uint8_t* start = &data[0] if data.shape[0] else &nothing
    with nogil:
        digest = xxh64_bytes(start, <uint64_t> data.shape[0])
    return digest


cdef class Xxh64:
    """XXH64 of data that come in parts, each but the last a multiple of 32 bytes long."""

    cdef Accumulators acc
    cdef uint64_t length

    def __cinit__(self):
        self.acc = xxh_start()
        self.length = 0

    def add(self, const uint8_t[::1] data):
        """Take the next part, of a multiple of 32 bytes and not empty."""
        with nogil:
            self.acc = xxh_stripes(self.acc, &data[0], <uint64_t> data.shape[0])
        self.length += data.shape[0]

    def finish(self, const uint8_t[::1] data):
        """Take the last part, and return the digest as an unsigned Python int."""
        cdef uint64_t left = data.shape[0], length = self.length + left
        cdef uint8_t nothing = 0
        cdef const uint8_t* p = &data[0] if left else &nothing
        if length < 32:
            return xxh64_bytes(p, length)
        return xxh_finish(
            xxh_merged(xxh_stripes(self.acc, p, left)) + length, p + (left & ~<uint64_t>31), left & 31
        )


def mix64_one(uint64_t z):
    """`mix64` of one unsigned Python int."""
    return mix64(z)


cdef clones_void mix64_loop(const int64_t* ids, Py_ssize_t n, int64_t* out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = <int64_t> mix64(<uint64_t> ids[i])


def mix64_into(const int64_t[::1] ids, int64_t[::1] out):
    """``out[i] = mix64(ids[i])``; both [L]."""
    if ids.shape[0]:
        with nogil:
            mix64_loop(&ids[0], ids.shape[0], &out[0])


cdef clones_void rows_loop(
    const int64_t* ids, Py_ssize_t n, int64_t salt, uint64_t num_embeddings, int64_t* out
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = <int64_t> reduce_high(mix64(<uint64_t> (ids[i] ^ salt)), num_embeddings)


def rows_into(const int64_t[::1] ids, int64_t salt, int64_t num_embeddings, int64_t[::1] out):
    """``out[i]`` = row of ``ids[i]``; both [L]."""
    if ids.shape[0]:
        with nogil:
            rows_loop(&ids[0], ids.shape[0], salt, <uint64_t> num_embeddings, &out[0])


def rows_jagged_into(
    const int64_t[::1] ids, const int64_t[::1] offsets, const int64_t[::1] salts,
    const int64_t[::1] num_embeddings, Py_ssize_t start, Py_ssize_t stop, int64_t[::1] out,
):
    """`rows_into` for the ids of each feature f, ``offsets[f]`` to ``offsets[f + 1]``, that lie in [start, stop).

    ids and out [L]; offsets [F + 1], from 0 to L and never falling; salts and num_embeddings [F].
    """
    cdef Py_ssize_t f, low, high
    with nogil:
        for f in range(salts.shape[0]):
            low = offsets[f] if offsets[f] > start else start
            high = offsets[f + 1] if offsets[f + 1] < stop else stop
            if low < high:
                rows_loop(&ids[low], high - low, salts[f], <uint64_t> num_embeddings[f], &out[low])


cdef inline int64_t digest_id(uint64_t digest, int64_t missing) noexcept nogil:
    """The digest as a signed word; the reserved one is moved aside."""
    return <int64_t> digest + (<int64_t> digest == missing)


cdef clones_void eights_loop(const uint64_t* words, Py_ssize_t n, int64_t missing, int64_t* out) noexcept nogil:
    """Ids of strings of 8 bytes each."""
    cdef Py_ssize_t k
    for k in range(n):
        out[k] = digest_id(xxh_avalanche(xxh_word(P5 + 8, words[k])), missing)


cdef clones_void shorts_loop(
    const uint64_t* words, const uint64_t* lengths, Py_ssize_t n, int64_t missing, int64_t* out
) noexcept nogil:
    """Ids of strings of 0 to 8 bytes without a branch: every step is done, and kept where the length asks for it.

    Bytes of a word beyond its string are ignored, and so is the result of a length beyond 8.
    """
    cdef Py_ssize_t k
    cdef uint64_t h, g, word, length, tail
    for k in range(n):
        word = words[k]
        length = lengths[k]
        h = P5 + length
        g = xxh_word(h, word)
        h = g if length == 8 else h
        g = rotl(h ^ ((word & 0xFFFFFFFFU) * P1), 23) * P2 + P3
        h = g if length & 4 else h
        word = word >> 32 if length & 4 else word
        tail = length & 3
        g = rotl(h ^ ((word & 0xFF) * P5), 11) * P1
        h = g if tail > 0 else h
        g = rotl(h ^ (((word >> 8) & 0xFF) * P5), 11) * P1
        h = g if tail > 1 else h
        g = rotl(h ^ (((word >> 16) & 0xFF) * P5), 11) * P1
        h = g if tail > 2 else h
        out[k] = digest_id(xxh_avalanche(h), missing)


cdef clones_void lengths_loop(
    const offset_t* offsets, Py_ssize_t n, uint64_t* lengths, Py_ssize_t* shorts, Py_ssize_t* eights, bint* falls
) noexcept nogil:
    """Lengths of n strings, how many are short, how many have 8 bytes, and whether any offset falls."""
    cdef Py_ssize_t k, short_ = 0, eight = 0, falling = 0
    for k in range(n):
        lengths[k] = <uint64_t> (<int64_t> offsets[k + 1] - <int64_t> offsets[k])
        short_ += lengths[k] <= SHORT
        eight += lengths[k] == 8
        falling += offsets[k + 1] < offsets[k]  # a difference could wrap
    shorts[0] = short_
    eights[0] = eight
    falls[0] = falling > 0


cdef Py_ssize_t strings_one_by_one(
    const uint8_t* data, int64_t size, const offset_t* offsets, Py_ssize_t n, int64_t missing, int64_t* out
) noexcept nogil:
    """Ids of n strings; the position of the first outside [0, size), or -1."""
    cdef Py_ssize_t i
    cdef int64_t start = offsets[0], stop
    for i in range(n):
        stop = offsets[i + 1]
        if start < 0 or stop < start or stop > size:
            return i
        out[i] = digest_id(xxh64_bytes(data + start, <uint64_t> (stop - start)), missing)
        start = stop
    return -1


cdef Py_ssize_t strings_block(
    const uint8_t* data, int64_t size, const offset_t* offsets, Py_ssize_t n, int64_t missing, int64_t* out
) noexcept nogil:
    """`strings_one_by_one` for n <= BLOCK, faster when most strings are short."""
    cdef uint64_t[BLOCK] words
    cdef uint64_t[BLOCK] lengths
    cdef Py_ssize_t k, shorts, eights
    cdef bint falls
    lengths_loop(offsets, n, lengths, &shorts, &eights, &falls)
    # Eight bytes are read at the start of every string: the last ones of the buffer go the other way.
    if falls or offsets[0] < 0 or <int64_t> offsets[n] > size - SHORT or 2 * shorts < n:
        return strings_one_by_one(data, size, offsets, n, missing, out)
    for k in range(n):
        words[k] = load64(data + offsets[k])
    if eights == n:
        eights_loop(words, n, missing, out)
        return -1
    shorts_loop(words, lengths, n, missing, out)
    if shorts < n:
        for k in range(n):
            if lengths[k] > SHORT:
                out[k] = digest_id(xxh64_bytes(data + offsets[k], lengths[k]), missing)
    return -1


def strings_into(const uint8_t[::1] data, const offset_t[::1] offsets, int64_t missing, int64_t[::1] out):
    """XXH64 of value i = ``data[offsets[i]:offsets[i + 1]]``; data not empty, offsets [L + 1], out [L].

    A digest equal to ``missing`` becomes ``missing + 1``. Returns the position of the first value that
    lies outside ``data`` (a corrupt file; nothing is read there), or -1.
    """
    cdef Py_ssize_t done = 0, n, bad, length = out.shape[0]
    cdef const uint8_t* base = &data[0]
    with nogil:
        while done < length:
            n = length - done if length - done < BLOCK else BLOCK
            bad = strings_block(base, data.shape[0], &offsets[done], n, missing, &out[done])
            if bad >= 0:
                done += bad
                break
            done += n
    return done if done < length else -1


cdef inline bint is_null(const uint8_t* validity, Py_ssize_t position) noexcept nogil:
    return validity != NULL and not (validity[position >> 3] >> (position & 7)) & 1


cdef inline const uint8_t* view_bytes(
    const uint8_t* view, const int64_t* addresses, const int64_t* sizes, Py_ssize_t n_buffers
) noexcept nogil:
    """Where the bytes of an Arrow view lie; NULL when that is outside its buffer."""
    cdef int64_t length = <int32_t> load32(view), buffer, offset
    if length <= INLINE:
        return view + 4 if length >= 0 else NULL
    buffer = <int32_t> load32(view + 8)
    offset = <int32_t> load32(view + 12)
    if buffer < 0 or buffer >= n_buffers or offset < 0 or length > sizes[buffer] - offset:
        return NULL
    return <const uint8_t*> addresses[buffer] + offset


def views_into(
    const uint8_t[::1] views, const int64_t[::1] addresses, const int64_t[::1] sizes,
    const uint8_t[::1] validity, Py_ssize_t offset, int64_t missing, int64_t[::1] out,
):
    """`strings_into` for string views: views [16 L] bytes (arrow.apache.org/docs/format/Columnar.html).

    addresses and sizes, in bytes, are those of the data buffers. validity is a bitmap, used from bit ``offset``,
    or empty: the view of a null may hold anything.
    """
    cdef uint64_t[BLOCK] words
    cdef uint64_t[BLOCK] lengths
    cdef Py_ssize_t done = 0, k, n, shorts, eights, n_buffers = addresses.shape[0], length = out.shape[0], bad = -1
    cdef const uint8_t* view
    cdef const uint8_t* text
    cdef const uint8_t* valid = &validity[0] if validity.shape[0] else NULL
    cdef const int64_t* addresses_ = &addresses[0] if n_buffers else NULL
    cdef const int64_t* sizes_ = &sizes[0] if n_buffers else NULL
    with nogil:
        while done < length and bad < 0:
            n = length - done if length - done < BLOCK else BLOCK
            view = &views[VIEW * done]
            shorts = eights = 0
            for k in range(n):
                lengths[k] = load32(view + VIEW * k)
                words[k] = load64(view + VIEW * k + 4)
                shorts += lengths[k] <= SHORT
                eights += lengths[k] == 8
            if eights == n:
                eights_loop(words, n, missing, &out[done])
            elif shorts:
                shorts_loop(words, lengths, n, missing, &out[done])
            if shorts < n:
                for k in range(n):
                    if lengths[k] > SHORT:
                        text = view_bytes(view + VIEW * k, addresses_, sizes_, n_buffers)
                        if text != NULL:
                            out[done + k] = digest_id(xxh64_bytes(text, lengths[k]), missing)
                        elif not is_null(valid, offset + done + k):
                            bad = done + k
                            break
            done += n
    return bad


cdef void nulls_loop(
    const uint8_t* validity, int64_t offset, Py_ssize_t n, int64_t missing, int64_t* out
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t keep  # all ones for a value, 0 for a null: nulls are too random for a branch
    for i in range(n):
        keep = -<int64_t> ((validity[(offset + i) >> 3] >> ((offset + i) & 7)) & 1)
        out[i] = (out[i] & keep) | (missing & ~keep)


def fill_nulls(const uint8_t[::1] validity, int64_t offset, int64_t missing, int64_t[::1] out):
    """``out[i] = missing`` where bit ``offset + i`` of Arrow's validity bitmap is 0; out [L]."""
    if out.shape[0]:
        with nogil:
            nulls_loop(&validity[0], offset, out.shape[0], missing, &out[0])
