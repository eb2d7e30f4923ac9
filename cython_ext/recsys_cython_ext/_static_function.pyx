"""Bare kernels of static functions; `static_function.py` validates, allocates and chooses sizes.

A binary fuse layout (Graf and Lemire, "Binary Fuse Filters", JEA 2022): the value of a key is the XOR of its three
slots. They lie in neighbouring segments, so that few more slots than keys are needed, and building touches memory in
order. Four slots to a key would spare 2 to 5 % of the bytes, and cost 12 to 25 % of the lookups a second.

Keys are peeled off: a slot that one key alone has is that key's to choose, and the key is taken from its other slots. A
cell holds the XOR of the hashes and of the values of its keys, so the order of the keys leaves no trace in it.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .hints cimport prefetch
from .mix cimport clones_void, mix64, reduce_high

cdef enum:
    ARITY = 3  # slots of a key
    BLOCK = 128  # lookups whose hashes are computed together: they fit L1

cdef extern from *:
    """
    #define RECSYS_ONE_KEY (1ULL << 56)
    """
    const uint64_t ONE_KEY "RECSYS_ONE_KEY"

ctypedef struct Cell:
    uint64_t hashes  # XOR over the keys that have this slot
    uint64_t word  # their number in the highest byte, and in the others the XOR of their values; at the end, the slot

ctypedef struct Layout:
    uint64_t first_slots  # that the first slot of a key is one of
    uint64_t length  # of a segment, a power of two


cdef inline void slots_of(uint64_t h, Layout layout, uint32_t* at) noexcept nogil:
    """The three slots of a key with hash h, in three neighbouring segments."""
    cdef uint64_t other = h * 0x9E3779B97F4A7C15ULL, mask = layout.length - 1
    cdef uint64_t first = reduce_high(h, layout.first_slots)
    at[0] = <uint32_t> first
    at[1] = <uint32_t> ((first + layout.length) ^ ((other >> 46) & mask))
    at[2] = <uint32_t> ((first + 2 * layout.length) ^ ((other >> 28) & mask))


cdef inline uint64_t number_of_keys(uint64_t word) noexcept nogil:
    return word >> 56


cdef inline uint64_t value_of(uint64_t word) noexcept nogil:
    return word & (ONE_KEY - 1)


cdef inline Layout layout_of(uint64_t num_segments, int segment_bits) noexcept nogil:
    return Layout(num_segments << segment_bits, <uint64_t> 1 << segment_bits)


def build(
    const int64_t[::1] keys, const int64_t[::1] values, int value_bits, int fingerprint_bits, uint64_t seed,
    uint64_t num_segments, int segment_bits, uint64_t[:, ::1] cells, uint32_t[::1] order,
):
    """Leave in ``cells[s, 1]`` slot s of a function from keys to values; both [N], values of value_bits.

    cells [slots, 2] is zeros, order [slots] is scratch; slots: (num_segments + 2) << segment_bits.
    Returns whether it worked; if not, two keys are equal, or another seed or more slots are needed.
    """
    cdef Layout layout = layout_of(num_segments, segment_bits)
    cdef Cell* cell = <Cell*> &cells[0, 0]
    cdef Py_ssize_t peeled
    if not keys.shape[0]:
        return True
    with nogil:
        if not enter(&keys[0], &values[0], keys.shape[0], value_bits, fingerprint_bits, seed, layout, cell):
            with gil:
                return False
        peeled = peel(layout, cell, cells.shape[0], &order[0])
        if peeled == keys.shape[0]:
            assign(layout, cell, &order[0], peeled)
    return peeled == keys.shape[0]


cdef bint enter(
    const int64_t* keys, const int64_t* values, Py_ssize_t n, int value_bits, int fingerprint_bits, uint64_t seed,
    Layout layout, Cell* cells,
) noexcept nogil:
    """Enter every key into its cells; return whether none has more keys than can be counted."""
    cdef Py_ssize_t i
    cdef int k
    cdef uint64_t h, word, uncounted = 0
    cdef uint64_t fingerprints = (<uint64_t> 1 << fingerprint_bits) - 1
    cdef uint32_t[ARITY] at
    cdef Cell* cell
    for i in range(n):
        h = mix64(<uint64_t> keys[i] ^ seed)
        word = <uint64_t> values[i] | ((h & fingerprints) << value_bits)
        slots_of(h, layout, at)
        for k in range(ARITY):
            cell = cells + at[k]
            cell.hashes ^= h
            cell.word = (cell.word ^ word) + ONE_KEY
            uncounted |= number_of_keys(cell.word) == 0
    return not uncounted


cdef Py_ssize_t peel(Layout layout, Cell* cells, Py_ssize_t n_slots, uint32_t* order) noexcept nogil:
    """Take key after key off; order gets the slot that each was alone in. Returns how many keys were taken off.

    ``order`` is also the queue of slots that became those of one key: it is read faster than it is written.
    """
    cdef Py_ssize_t s, end = 0, position = 0, peeled = 0
    cdef int k
    cdef uint32_t slot
    cdef uint64_t value
    cdef uint32_t[ARITY] at
    cdef Cell* cell
    for s in range(n_slots):
        if number_of_keys(cells[s].word) == 1:
            order[end] = <uint32_t> s
            end += 1
    while position < end:
        slot = order[position]
        position += 1
        if number_of_keys(cells[slot].word) != 1:  # its key was taken off through another slot meanwhile
            continue
        value = value_of(cells[slot].word)
        slots_of(cells[slot].hashes, layout, at)
        for k in range(ARITY):
            if at[k] == slot:
                continue
            cell = cells + at[k]
            cell.hashes ^= cells[slot].hashes
            cell.word = (cell.word ^ value) - ONE_KEY
            if number_of_keys(cell.word) == 1:
                order[end] = at[k]
                end += 1
        cells[slot].word = value
        order[peeled] = slot
        peeled += 1
    return peeled


cdef void assign(Layout layout, Cell* cells, const uint32_t* order, Py_ssize_t peeled) noexcept nogil:
    """Choose the slots from the last key to the first, so that the other slots of each are chosen already."""
    cdef Py_ssize_t i
    cdef int k
    cdef uint64_t word
    cdef uint32_t[ARITY] at
    for i in range(peeled - 1, -1, -1):
        slots_of(cells[order[i]].hashes, layout, at)
        word = 0  # its own slot still holds the value
        for k in range(ARITY):
            word ^= cells[at[k]].word
        cells[order[i]].word = word


def pack(const uint64_t[:, ::1] cells, int slot_bits, uint8_t[::1] packed):
    """Write the slots that `build` left, slot_bits each, one after the other; packed is zeros."""
    cdef Py_ssize_t s
    cdef uint64_t start, eight
    with nogil:
        for s in range(cells.shape[0]):
            start = <uint64_t> s * slot_bits
            memcpy(&eight, &packed[start >> 3], 8)
            eight |= cells[s, 1] << (start & 7)
            memcpy(&packed[start >> 3], &eight, 8)


cdef clones_void hash_block(const int64_t* keys, Py_ssize_t n, uint64_t seed, uint64_t* hashes) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        hashes[i] = mix64(<uint64_t> keys[i] ^ seed)


cdef void prefetch_block(
    const uint8_t* packed, int slot_bits, Layout layout, const uint64_t* hashes, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int k
    cdef uint32_t[ARITY] at
    for i in range(n):
        slots_of(hashes[i], layout, at)
        for k in range(ARITY):
            prefetch(packed + ((<uint64_t> at[k] * slot_bits) >> 3))


cdef clones_void words_block(
    const uint8_t* packed, int slot_bits, Layout layout, const uint64_t* hashes, Py_ssize_t n, uint64_t* words
) noexcept nogil:
    """The XOR of the slots of each key."""
    cdef Py_ssize_t i
    cdef int k
    cdef uint64_t start, eight, word, mask = (<uint64_t> 1 << slot_bits) - 1
    cdef uint32_t[ARITY] at
    for i in range(n):
        slots_of(hashes[i], layout, at)
        word = 0
        for k in range(ARITY):
            start = <uint64_t> at[k] * slot_bits
            memcpy(&eight, packed + (start >> 3), 8)
            word ^= eight >> (start & 7)
        words[i] = word & mask


cdef clones_void values_block(
    const uint64_t* words, const uint64_t* hashes, Py_ssize_t n, int value_bits, int fingerprint_bits,
    int64_t num_values, int64_t* out,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t value, mask = (<int64_t> 1 << value_bits) - 1
    cdef uint64_t fingerprints = (<uint64_t> 1 << fingerprint_bits) - 1
    for i in range(n):
        value = <int64_t> words[i] & mask
        value -= num_values & -<int64_t> (value >= num_values)  # of a key outside; half of 2^bits <= num_values
        out[i] = value | -<int64_t> ((words[i] >> value_bits) != (hashes[i] & fingerprints))


def lookup_into(
    const uint8_t[::1] packed, int value_bits, int fingerprint_bits, int64_t num_values, uint64_t seed,
    uint64_t num_segments, int segment_bits, bint large, const int64_t[::1] keys, int64_t[::1] out,
):
    """``out[i]`` = value of ``keys[i]``, or -1 where its fingerprint is another one; keys and out [L].

    packed: (num_segments + 2) << segment_bits slots of value_bits + fingerprint_bits, and 7 bytes more at least.
    ``large`` slots do not lie in the cache of a core: their lines are asked for ahead of time.
    """
    cdef uint64_t[BLOCK] hashes
    cdef uint64_t[BLOCK] words
    cdef Py_ssize_t done = 0, n, n_keys = keys.shape[0]
    cdef Layout layout = layout_of(num_segments, segment_bits)
    with nogil:
        while done < n_keys:
            n = n_keys - done if n_keys - done < BLOCK else BLOCK
            hash_block(&keys[done], n, seed, hashes)
            if large:
                prefetch_block(&packed[0], value_bits + fingerprint_bits, layout, hashes, n)
            words_block(&packed[0], value_bits + fingerprint_bits, layout, hashes, n, words)
            values_block(words, hashes, n, value_bits, fingerprint_bits, num_values, &out[done])
            done += n
