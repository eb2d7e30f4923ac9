"""Bare open-addressing kernels; `vocabulary.py` validates, allocates and grows.

A key's home slot comes from the high half of mix64 (`reduce_high`); collisions probe the next slot, and every
table keeps an empty one. A slot of `build` holds a position in its low ``bits`` and, above them, a tag of as
many low bits of mix64 as fit: most unequal keys are told apart without a visit to ``keys``.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from .mix cimport mix64, reduce_high

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define RECSYS_PREFETCH(p) __builtin_prefetch(p)
    #else
    #define RECSYS_PREFETCH(p) ((void)0)
    #endif
    #define RECSYS_EMPTY 0xFFFFFFFFU
    """
    const uint32_t EMPTY "RECSYS_EMPTY"
    void prefetch "RECSYS_PREFETCH"(const void* p) noexcept nogil

cdef enum:
    BLOCK = 64  # lookups in flight: enough to hide a cache miss, small enough for L1


def build(const int64_t[::1] keys, int bits, uint32_t[::1] slots):
    """Enter keys [N], N < 2^bits, into ``slots`` (all 2^32 - 1 before, more than N of them).

    Returns the position of the first key seen before, or -1.
    """
    cdef Py_ssize_t i, s, n_slots = slots.shape[0], duplicate = -1
    cdef uint32_t low = (<uint32_t> 1 << bits) - 1, tag
    cdef uint64_t h
    with nogil:
        for i in range(keys.shape[0]):
            h = mix64(<uint64_t> keys[i])
            tag = <uint32_t> h & ~low
            s = <Py_ssize_t> reduce_high(h, <uint64_t> n_slots)
            while slots[s] != EMPTY:
                if (slots[s] ^ tag) <= low and keys[slots[s] & low] == keys[i]:
                    duplicate = i
                    break
                s = s + 1 if s + 1 < n_slots else 0
            if duplicate >= 0:
                break
            slots[s] = tag | <uint32_t> i
    return duplicate


cdef void codes_block(
    const int64_t* keys, int bits, const uint32_t* slots, Py_ssize_t n_slots,
    const int64_t* ids, Py_ssize_t n, int32_t default, int32_t* out,
) noexcept nogil:
    """At most BLOCK lookups in three passes, so that their cache misses overlap."""
    cdef Py_ssize_t[BLOCK] at
    cdef uint32_t[BLOCK] tags
    cdef uint32_t low = (<uint32_t> 1 << bits) - 1, tag, slot
    cdef uint64_t h
    cdef Py_ssize_t k, s
    for k in range(n):
        h = mix64(<uint64_t> ids[k])
        at[k] = <Py_ssize_t> reduce_high(h, <uint64_t> n_slots)
        tags[k] = <uint32_t> h & ~low
        prefetch(slots + at[k])
    for k in range(n):  # to the first slot with this tag
        s = at[k]
        tag = tags[k]
        slot = slots[s]
        while slot != EMPTY and (slot ^ tag) > low:
            s = s + 1 if s + 1 < n_slots else 0
            slot = slots[s]
        at[k] = s
        if slot != EMPTY:
            prefetch(keys + (slot & low))
    for k in range(n):
        s = at[k]
        tag = tags[k]
        slot = slots[s]
        while slot != EMPTY and ((slot ^ tag) > low or keys[slot & low] != ids[k]):
            s = s + 1 if s + 1 < n_slots else 0
            slot = slots[s]
        out[k] = default if slot == EMPTY else <int32_t> (slot & low)


def codes_into(
    const int64_t[::1] keys, int bits, const uint32_t[::1] slots, const int64_t[::1] ids, int32_t default,
    int32_t[::1] out,
):
    """``out[i]`` = position of ``ids[i]`` in keys, or ``default``; ids and out [L]."""
    cdef Py_ssize_t done = 0, n, n_ids = ids.shape[0], n_slots = slots.shape[0]
    cdef const int64_t* keys_ = &keys[0] if keys.shape[0] else NULL  # all slots are empty: never read
    with nogil:
        while done < n_ids:
            n = n_ids - done if n_ids - done < BLOCK else BLOCK
            codes_block(keys_, bits, &slots[0], n_slots, &ids[done], n, default, &out[done])
            done += n


def count_into(
    const int64_t[::1] ids, Py_ssize_t start, int64_t[:, ::1] table, Py_ssize_t used, Py_ssize_t limit
):
    """Count ``ids[start:]`` into ``table`` [slots, 2] of (id, count); a count of 0 marks an empty slot.

    Stops before a new id would be the one after ``limit`` of them (limit < slots).
    Returns (the position it stopped at, the number of ids in the table).
    """
    cdef Py_ssize_t i = start, s, n_slots = table.shape[0], n = ids.shape[0]
    cdef int64_t* cells = &table[0, 0]
    with nogil:
        while i < n:
            if i + BLOCK < n:
                s = <Py_ssize_t> reduce_high(mix64(<uint64_t> ids[i + BLOCK]), <uint64_t> n_slots)
                prefetch(cells + 2 * s)
            s = <Py_ssize_t> reduce_high(mix64(<uint64_t> ids[i]), <uint64_t> n_slots)
            while cells[2 * s + 1] > 0 and cells[2 * s] != ids[i]:
                s = s + 1 if s + 1 < n_slots else 0
            if cells[2 * s + 1] == 0:
                if used == limit:
                    break
                cells[2 * s] = ids[i]
                used += 1
            cells[2 * s + 1] += 1
            i += 1
    return i, used


def move_into(const int64_t[:, ::1] old, int64_t[:, ::1] table):
    """Enter every (id, count) of ``old`` into an empty larger table."""
    cdef Py_ssize_t i, s, n_slots = table.shape[0]
    with nogil:
        for i in range(old.shape[0]):
            if old[i, 1] > 0:
                s = <Py_ssize_t> reduce_high(mix64(<uint64_t> old[i, 0]), <uint64_t> n_slots)
                while table[s, 1] > 0:
                    s = s + 1 if s + 1 < n_slots else 0
                table[s, 0] = old[i, 0]
                table[s, 1] = old[i, 1]


def counts_of(const int64_t[::1] ids, const int64_t[:, ::1] table, int64_t[::1] out):
    """``out[i]`` = count of ``ids[i]``, every one of which is in ``table``; ids and out [U]."""
    cdef Py_ssize_t i, s, n_slots = table.shape[0], n = ids.shape[0]
    cdef const int64_t* cells = &table[0, 0]
    with nogil:
        for i in range(n):
            if i + BLOCK < n:
                s = <Py_ssize_t> reduce_high(mix64(<uint64_t> ids[i + BLOCK]), <uint64_t> n_slots)
                prefetch(cells + 2 * s)
            s = <Py_ssize_t> reduce_high(mix64(<uint64_t> ids[i]), <uint64_t> n_slots)
            while cells[2 * s] != ids[i] or cells[2 * s + 1] == 0:
                s = s + 1 if s + 1 < n_slots else 0
            out[i] = cells[2 * s + 1]
