"""Bare kernels of hash tables over 64-bit ids; `vocabulary.py` validates, allocates and grows.

Lookups take a perfect hash by hashing and displacing (Belazzougui, Botelho and Dietzfelbinger, "Hash, displace, and
compress", ESA 2009): keys fall into small buckets, and a byte per bucket, its *pilot*, sends all keys of the bucket
to slots of their own. A lookup is three loads and one comparison, with no probing and so no branch to mispredict:
pilot, slot (a position), key. Counting, which inserts, probes linearly (Knuth 6.4, algorithm L).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from .mix cimport clones_void, mix64, reduce_high

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
    BLOCK = 128  # lookups in flight: enough to hide a cache miss, small enough for L1
    AHEAD = 64  # prefetch distance where slots are not computed by the block
    LARGEST = 32  # keys in a bucket; with two a bucket on average, 1 in 10^26 exceeds it


cdef inline uint64_t slot_of(uint64_t h, uint64_t pilot, uint64_t n_slots) noexcept nogil:
    """Slot of a key with hash h. The bucket used up the high bits of h; the product brings the others there."""
    return reduce_high((h ^ (pilot * 0x9E3779B97F4A7C15ULL)) * 0xD6E8FEB86659FD93ULL, n_slots)


cdef bint place(
    const uint64_t* hashes, const int32_t* positions, int n, uint64_t pilot, uint32_t* slots, uint64_t n_slots
) noexcept nogil:
    """Put n positions into their slots under this pilot, or none of them if two meet or a slot is taken."""
    cdef int k = 0
    cdef uint64_t s
    while k < n:
        s = slot_of(hashes[k], pilot, n_slots)
        if slots[s] != EMPTY:
            break
        slots[s] = <uint32_t> positions[k]
        k += 1
    if k == n:
        return True
    while k > 0:
        k -= 1
        slots[slot_of(hashes[k], pilot, n_slots)] = EMPTY
    return False


def build(
    const int64_t[::1] keys, uint64_t seed, uint32_t[::1] slots, uint8_t[::1] pilots, int32_t[::1] ends,
    int32_t[::1] members, int32_t[::1] order,
):
    """Find pilots [buckets] and slots, at least as many as keys [N], for unique keys; N > 0.

    ends [buckets], members [N] and order [buckets] are scratch. Largest buckets come first, while slots are free.
    Returns whether it worked; if not, two keys are equal or another seed is needed.
    """
    cdef Py_ssize_t i, b, k, n_keys = keys.shape[0], n_buckets = pilots.shape[0], n_slots = slots.shape[0]
    cdef Py_ssize_t[LARGEST + 2] first
    cdef uint64_t[LARGEST] hashes
    cdef uint64_t pilot
    cdef Py_ssize_t size, start
    with nogil:
        for i in range(n_slots):
            slots[i] = EMPTY
        for b in range(n_buckets):
            ends[b] = 0
        for i in range(n_keys):
            ends[<Py_ssize_t> reduce_high(mix64(<uint64_t> keys[i] ^ seed), <uint64_t> n_buckets)] += 1
        for k in range(LARGEST + 2):
            first[k] = 0
        for b in range(n_buckets):
            if ends[b] > LARGEST:
                with gil:
                    return False
            first[LARGEST - ends[b] + 1] += 1
        for k in range(LARGEST + 1):
            first[k + 1] += first[k]
        start = 0
        for b in range(n_buckets):  # buckets by falling size; ends[b] becomes the start of bucket b
            size = ends[b]
            order[first[LARGEST - size]] = <int32_t> b
            first[LARGEST - size] += 1
            ends[b] = <int32_t> start
            start += size
        for i in range(n_keys):  # ... and here its end
            b = <Py_ssize_t> reduce_high(mix64(<uint64_t> keys[i] ^ seed), <uint64_t> n_buckets)
            members[ends[b]] = <int32_t> i
            ends[b] += 1
        for i in range(n_buckets):
            b = order[i]
            start = ends[b - 1] if b > 0 else 0
            size = ends[b] - start
            pilots[b] = 0
            if size == 0:
                continue
            for k in range(size):
                hashes[k] = mix64(<uint64_t> keys[members[start + k]] ^ seed)
            pilot = 0
            while pilot < 256 and not place(
                hashes, &members[start], <int> size, pilot, &slots[0], <uint64_t> n_slots
            ):
                pilot += 1
            if pilot == 256:
                with gil:
                    return False
            pilots[b] = <uint8_t> pilot
        for i in range(n_slots):  # any position will do: the key there is compared
            if slots[i] == EMPTY:
                slots[i] = 0
    return True


cdef clones_void hash_block(
    const int64_t* ids, Py_ssize_t n, uint64_t seed, uint64_t n_buckets, uint64_t* hashes, uint32_t* buckets
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        hashes[k] = mix64(<uint64_t> ids[k] ^ seed)
        buckets[k] = <uint32_t> reduce_high(hashes[k], n_buckets)


cdef clones_void slots_block(
    const uint64_t* hashes, const uint8_t* pilots, Py_ssize_t n, uint64_t n_slots, uint32_t* at
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        at[k] = <uint32_t> slot_of(hashes[k], pilots[k], n_slots)


cdef clones_void positions_block(
    const uint32_t* slots, const uint32_t* at, Py_ssize_t n, uint32_t* positions
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        positions[k] = slots[at[k]]


cdef clones_void compare_block(
    const int64_t* keys, const uint32_t* positions, const int64_t* ids, Py_ssize_t n, int32_t default, int32_t* out
) noexcept nogil:
    cdef Py_ssize_t k
    cdef int32_t known  # all ones or 0: a mix of known and unknown ids would mispredict a branch
    for k in range(n):
        known = -<int32_t> (keys[positions[k]] == ids[k])
        out[k] = (<int32_t> positions[k] & known) | (default & ~known)


cdef void codes_block(
    const int64_t* keys, uint64_t seed, const uint32_t* slots, Py_ssize_t n_slots, const uint8_t* pilots,
    Py_ssize_t n_buckets, bint large, const int64_t* ids, Py_ssize_t n, int32_t default, int32_t* out,
) noexcept nogil:
    """At most BLOCK lookups, load by load, so that their cache misses overlap."""
    cdef uint64_t[BLOCK] hashes
    cdef uint32_t[BLOCK] at
    cdef uint32_t[BLOCK] positions
    cdef uint8_t[BLOCK] found
    cdef Py_ssize_t k
    hash_block(ids, n, seed, <uint64_t> n_buckets, hashes, at)
    if large:
        for k in range(n):
            prefetch(pilots + at[k])
    for k in range(n):
        found[k] = pilots[at[k]]
    slots_block(hashes, found, n, <uint64_t> n_slots, at)
    if large:
        for k in range(n):
            prefetch(slots + at[k])
    positions_block(slots, at, n, positions)
    if large:
        for k in range(n):
            prefetch(keys + positions[k])
    compare_block(keys, positions, ids, n, default, out)


def codes_into(
    const int64_t[::1] keys, uint64_t seed, const uint32_t[::1] slots, const uint8_t[::1] pilots, bint large,
    const int64_t[::1] ids, int32_t default, int32_t[::1] out,
):
    """``out[i]`` = position of ``ids[i]`` in keys, or ``default``; ids and out [L], keys not empty.

    ``large`` tables do not lie in the cache of a core: their lines are asked for ahead of time.
    """
    cdef Py_ssize_t done = 0, n, n_ids = ids.shape[0]
    with nogil:
        while done < n_ids:
            n = n_ids - done if n_ids - done < BLOCK else BLOCK
            codes_block(
                &keys[0], seed, &slots[0], slots.shape[0], &pilots[0], pilots.shape[0], large, &ids[done], n,
                default, &out[done],
            )
            done += n


def codes_of_tables(const uint64_t[:, ::1] tables, const int64_t[:, ::1] ids, int32_t default, int32_t[:, ::1] out):
    """``out[f, i]`` = position of ``ids[f, i]`` in the keys of table f, or ``default``; ids and out [F, L].

    tables [F, 8], the caller's arrays: addresses of keys, slots and pilots, the lengths of these three, seed, and whether
    it is large.
    """
    cdef Py_ssize_t f, i, done, n, n_ids = ids.shape[1]
    cdef const uint64_t* of
    with nogil:
        for f in range(ids.shape[0]):
            of = &tables[f, 0]
            done = 0
            while done < n_ids:
                n = n_ids - done if n_ids - done < BLOCK else BLOCK
                if of[3]:
                    codes_block(
                        <const int64_t*> of[0], of[6], <const uint32_t*> of[1], <Py_ssize_t> of[4],
                        <const uint8_t*> of[2], <Py_ssize_t> of[5], of[7] != 0, &ids[f, done], n, default, &out[f, done],
                    )
                else:  # no keys, which no perfect hash has
                    for i in range(done, done + n):
                        out[f, i] = default
                done += n


cdef clones_void home_block(const int64_t* ids, Py_ssize_t n, uint64_t n_slots, uint32_t* homes) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        homes[k] = <uint32_t> reduce_high(mix64(<uint64_t> ids[k]), n_slots)


def count_into(
    const int64_t[::1] ids, const int64_t[::1] counts, Py_ssize_t start, int64_t[:, ::1] table, Py_ssize_t used,
    Py_ssize_t limit,
):
    """Count ``ids[start:]`` into ``table`` [slots, 2] of (id, count); a count of 0 marks an empty slot.

    ids: not empty; counts: of each id, or empty: once each. Stops before a new id would be the one after ``limit``
    of them (limit < slots < 2^32). Returns (the position it stopped at, the number of ids in the table).
    """
    cdef Py_ssize_t i = start, k, s, now, then, n_slots = table.shape[0], n = ids.shape[0]
    cdef int64_t* cells = &table[0, 0]
    cdef uint32_t[2][BLOCK] homes  # of this block of ids, and of the next, whose cells are asked for meanwhile
    cdef int turn = 0
    cdef int64_t id_, once = 1
    cdef const int64_t* times = &counts[0] if counts.shape[0] else &once
    cdef Py_ssize_t step = 1 if counts.shape[0] else 0
    with nogil:
        now = n - i if n - i < BLOCK else BLOCK
        home_block(&ids[0] + i, now, <uint64_t> n_slots, homes[0])
        while now:
            then = n - i - now if n - i - now < BLOCK else BLOCK
            home_block(&ids[0] + i + now, then, <uint64_t> n_slots, homes[1 - turn])
            for k in range(now):
                if k < then:
                    prefetch(cells + 2 * <Py_ssize_t> homes[1 - turn][k])
                id_ = ids[i]
                s = <Py_ssize_t> homes[turn][k]
                while cells[2 * s + 1] > 0 and cells[2 * s] != id_:
                    s = s + 1 if s + 1 < n_slots else 0
                if cells[2 * s + 1] == 0:
                    if used == limit:
                        then = 0
                        break
                    cells[2 * s] = id_
                    used += 1
                cells[2 * s + 1] += times[i * step]
                i += 1
            now = then
            turn = 1 - turn
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
            if i + AHEAD < n:
                s = <Py_ssize_t> reduce_high(mix64(<uint64_t> ids[i + AHEAD]), <uint64_t> n_slots)
                prefetch(cells + 2 * s)
            s = <Py_ssize_t> reduce_high(mix64(<uint64_t> ids[i]), <uint64_t> n_slots)
            while cells[2 * s] != ids[i] or cells[2 * s + 1] == 0:
                s = s + 1 if s + 1 < n_slots else 0
            out[i] = cells[2 * s + 1]
