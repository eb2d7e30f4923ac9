"""Bare kernels that deal the gradients of a batch to partitions of the rows, and update each row once by their sum.

`recsys_tables.table_kernel` allocates and splits the work over threads. A row's gradients are added in the order of the
batch, whatever the number of threads. Inner loops are plain, for the compiler to vectorise; common widths are literals.
"""

from libc.math cimport sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .hints cimport claim, inlined
from .mix cimport clones_void, mix64
from .table_rows cimport BF16, FP16, FP32, Lookup, claim_row, common_width, fetch_row, floats, widen

cdef enum Rule:  # of updates, as in table_kernel.py
    SGD
    ROWWISE_ADAGRAD
    ADAGRAD
    ADAM

cdef enum:
    BYTES_AHEAD = 3072  # of rows, and of gradients, asked for ahead of use

cdef struct Entry:  # one gradient of a row
    uint32_t row  # among all rows
    uint32_t at  # where the gradient begins
    uint32_t lookup
    float factor

cdef struct Term:
    uint32_t at
    float factor

cdef struct Update:
    uint8_t* weights
    int rule
    const Lookup* lookups
    const float* gradient
    float* first_state
    float* second_state
    float* counts
    const float* corrections  # [2, num_corrections]: 1 - beta1^t, and the root of 1 - beta2^t
    int64_t num_corrections
    float lr, eps, beta2, less1, less2  # of Adam: beta2, 1 - beta1 and 1 - beta2
    uint64_t seed

cdef union Chances:
    uint64_t hashes[16]
    uint16_t chances[64]

cdef struct Scratch:  # of one partition of at most `room` entries
    uint32_t* slots  # [2^bits >= 2 room]: 1 + the number of a row, found by its hash
    uint32_t* number  # [room]: of an entry's row, among the distinct ones
    uint32_t* end  # [room]: of a row's terms
    uint32_t* row  # [room]
    uint32_t* lookup  # [room]
    Term* terms  # [room]
    float* values  # [2, widest]



cdef inline int partition_of(uint32_t row) noexcept nogil:
    """One of 64: a constant, so that nothing depends on the number of threads."""
    return (row * <uint32_t> 0x9E3779B1) >> 26


cdef inlined narrow(
    const float* values, uint16_t* p, const int kind, const int64_t width, uint64_t key
) noexcept nogil:
    """fp32 to fp16 or bf16, up or down by chance: 16 random bits a number are a hash of `key` and its group of four.

    What they cannot hold becomes their largest number. Little-endian machines only.
    """
    cdef int64_t i, c, part
    cdef Chances random
    cdef uint32_t bits, m, tiny, code
    cdef float size
    for c in range(0, width, 64):
        part = 64 if width - c > 64 else width - c
        for i in range(part >> 2):
            random.hashes[i] = mix64(key + <uint64_t> ((c >> 2) + i) * 0x9E3779B97F4A7C15ULL)
        for i in range(part):
            memcpy(&bits, &values[c + i], 4)
            m = bits & 0x7FFFFFFF
            if kind == BF16:
                code = (m + (random.chances[i] if m < 0x7F7F0000 else 0)) >> 16
            else:
                memcpy(&size, &m, 4)
                size = size * <float> (1 << 24) + <float> (random.chances[i] >> 3) * <float> (1.0 / 8192)
                # below its normal numbers fp16 has even steps of 2^-24
                tiny = <uint32_t> <int32_t> (size if m < (113 << 23) else 0)
                code = tiny if m < (113 << 23) else (m + (random.chances[i] & 0x1FFF) - (112 << 23)) >> 13
                code = code if code < 0x7C00 else 0x7BFF
            code = code if m <= 0x7F800000 else 0x7FFF  # not a number
            p[c + i] = <uint16_t> (code | bits >> 31 << 15)


cdef inlined group(const Entry* entries, int64_t n, Scratch* s, int64_t* distinct) noexcept nogil:
    """Number the distinct rows of a partition in the order of the batch, and sort their terms by them, stably."""
    cdef int64_t i, size = 4
    cdef uint32_t total = 0, found = 0, place, shift = 30, row
    while size < 2 * n:
        size *= 2
        shift -= 1
    memset(s.slots, 0, size * sizeof(uint32_t))
    for i in range(n):
        row = entries[i].row
        place = (row * <uint32_t> 0x85EBCA6B) >> shift
        while s.slots[place] and s.row[s.slots[place] - 1] != row:
            place = (place + 1) & <uint32_t> (size - 1)
        if not s.slots[place]:
            s.row[found] = row
            s.lookup[found] = entries[i].lookup
            s.end[found] = 0
            found += 1
            s.slots[place] = found
        s.number[i] = s.slots[place] - 1
        s.end[s.number[i]] += 1
    for i in range(found):
        total += s.end[i]
        s.end[i] = total - s.end[i]
    for i in range(n):
        place = s.end[s.number[i]]
        s.end[s.number[i]] = place + 1
        s.terms[place].at = entries[i].at
        s.terms[place].factor = entries[i].factor
    distinct[0] = found


cdef inlined moved(
    Update* u, float* values, const float* gradient, int64_t at, int64_t row, const int64_t width
) noexcept nogil:
    """Move a row's `values` by its `gradient`; its elementwise states begin at `at`."""
    cdef int64_t i, c, t
    cdef float lanes[16]
    cdef float step, first, root
    cdef float* m
    cdef float* v
    if u.rule == SGD or u.rule == ROWWISE_ADAGRAD:
        step = u.lr
        if u.rule == ROWWISE_ADAGRAD:
            for i in range(16):
                lanes[i] = 0
            for c in range(0, width - 15, 16):
                for i in range(16):
                    lanes[i] += gradient[c + i] * gradient[c + i]
            for i in range(width & 15):
                lanes[i] += gradient[width - (width & 15) + i] * gradient[width - (width & 15) + i]
            for i in range(8):
                lanes[i] += lanes[i + 8]
            for i in range(4):
                lanes[i] += lanes[i + 4]
            u.first_state[row] += ((lanes[0] + lanes[2]) + (lanes[1] + lanes[3])) / <float> width
            step = u.lr / (sqrtf(u.first_state[row]) + u.eps)
        for i in range(width):
            values[i] -= step * gradient[i]
        return
    m = u.first_state + at
    if u.rule == ADAGRAD:
        for i in range(width):
            m[i] += gradient[i] * gradient[i]
            values[i] -= u.lr * gradient[i] / (sqrtf(m[i]) + u.eps)
        return
    v = u.second_state + at
    u.counts[row] += 1
    t = <int64_t> u.counts[row] if u.counts[row] < u.num_corrections else u.num_corrections
    t -= 1
    first = u.lr / u.corrections[t]
    root = u.corrections[u.num_corrections + t]
    for i in range(width):
        m[i] += u.less1 * (gradient[i] - m[i])
        v[i] = u.beta2 * v[i] + u.less2 * (gradient[i] * gradient[i])
        values[i] -= first * (m[i] / (sqrtf(v[i]) / root + u.eps))


cdef inlined claim_ahead(Update* u, Scratch* s, int64_t d, const int64_t size, const int64_t fixed) noexcept nogil:
    cdef const Lookup* lookup = &u.lookups[s.lookup[d]]
    cdef int64_t width = fixed if fixed else lookup.width, at = lookup.first + (s.row[d] - lookup.state) * width
    claim_row(u.weights + at * size, width * size)
    if u.rule == ROWWISE_ADAGRAD:
        claim(u.first_state + s.row[d])
    elif u.rule >= ADAGRAD:
        claim_row(<const uint8_t*> (u.first_state + at), 4 * width)
        if u.rule == ADAM:
            claim_row(<const uint8_t*> (u.second_state + at), 4 * width)
            claim(u.counts + s.row[d])


cdef inlined update_partition(
    Update* u, const Entry* entries, int64_t n, Scratch* s, const int kind, const int64_t fixed
) noexcept nogil:
    """Update every row of a partition once, by the sum of its gradients; `fixed` is the width of all rows, or 0."""
    cdef int64_t distinct, d, i, at, width, ahead, j = 0, claimed = 0, size = 4 if kind == FP32 else 2
    cdef float few[64]
    cdef float* sums = s.values
    cdef float* values
    cdef const float* gradient
    cdef const Lookup* lookup
    if fixed:
        sums = few
    group(entries, n, s, &distinct)
    for d in range(distinct):
        lookup = &u.lookups[s.lookup[d]]
        width = fixed if fixed else lookup.width
        ahead = 4 if width > BYTES_AHEAD // 16 else BYTES_AHEAD // (4 * width)
        while claimed < distinct and claimed <= d + ahead:
            claim_ahead(u, s, claimed, size, fixed)
            claimed += 1
        for i in range(width):
            sums[i] = 0
        while j < s.end[d]:
            if j + ahead < n:
                fetch_row(<const uint8_t*> (u.gradient + s.terms[j + ahead].at), 4 * width)
            gradient = u.gradient + s.terms[j].at
            for i in range(width):
                sums[i] += s.terms[j].factor * gradient[i]
            j += 1
        at = lookup.first + (s.row[d] - lookup.state) * width
        if kind == FP32:
            moved(u, <float*> u.weights + at, sums, at, s.row[d], width)
        else:
            values = s.values + width
            widen(<const uint16_t*> u.weights + at, kind, width, values)
            moved(u, values, sums, at, s.row[d], width)
            narrow(
                values, <uint16_t*> u.weights + at, kind, width,
                mix64(lookup.salt ^ u.seed)
                + <uint64_t> (lookup.start + (s.row[d] - lookup.state) * lookup.quads) * 0x9E3779B97F4A7C15ULL,
            )


cdef inlined update_of_kind(
    Update* u, const Entry* entries, int64_t n, Scratch* s, const int kind, int64_t fixed
) noexcept nogil:
    if fixed == 8:
        update_partition(u, entries, n, s, kind, 8)
    elif fixed == 16:
        update_partition(u, entries, n, s, kind, 16)
    elif fixed == 32:
        update_partition(u, entries, n, s, kind, 32)
    elif fixed == 64:
        update_partition(u, entries, n, s, kind, 64)
    else:
        update_partition(u, entries, n, s, kind, 0)


cdef clones_void update_rows(
    Update* u, const Entry* entries, int64_t n, Scratch* s, int kind, int64_t fixed
) noexcept nogil:
    if kind == FP32:
        update_of_kind(u, entries, n, s, FP32, fixed)
    elif kind == FP16:
        update_of_kind(u, entries, n, s, FP16, fixed)
    else:
        update_of_kind(u, entries, n, s, BF16, fixed)


def count(
    const int64_t[:, ::1] lookups, const int64_t[::1] indices, const int64_t[::1] offsets,
    int64_t num_bags, int64_t first, int64_t last, int64_t[::1] counts,
):
    """Add to counts [64] how many indices of bags [first, last), of all F * B, belong to rows of each partition."""
    cdef int64_t f = first // num_bags, b = first % num_bags, k, l
    with nogil:
        for k in range(first, last):
            for l in range(offsets[k], offsets[k + 1]):
                counts[partition_of(<uint32_t> (lookups[f, 4] + indices[l]))] += 1
            b += 1
            if b == num_bags:
                f, b = f + 1, 0


def deal(
    const int64_t[:, ::1] lookups, const int64_t[::1] indices, const int64_t[::1] offsets, const float[::1] factors,
    int64_t num_bags, int64_t stride, int64_t first, int64_t last, int64_t[::1] places, uint32_t[:, ::1] entries,
):
    """Write the entries of bags [first, last) from each partition's place on; places [64] move on, entries [n, 4].

    stride: of the gradient [B, stride]. Bags that were read have indices and offsets that are right.
    """
    cdef Entry* to = <Entry*> &entries[0, 0]
    cdef Entry entry
    cdef int64_t f = first // num_bags, b = first % num_bags, k, l, p
    cdef const float* weights = floats(factors)
    with nogil:
        for k in range(first, last):
            entry.lookup = <uint32_t> f
            entry.at = <uint32_t> (b * stride + lookups[f, 3])
            for l in range(offsets[k], offsets[k + 1]):
                entry.row = <uint32_t> (lookups[f, 4] + indices[l])
                entry.factor = 1 if weights == NULL else weights[l]
                p = partition_of(entry.row)
                to[places[p]] = entry
                places[p] += 1
            b += 1
            if b == num_bags:
                f, b = f + 1, 0


def update(
    uint64_t weights, int kind, int rule, const int64_t[:, ::1] lookups, const float[:, ::1] gradient,
    float[::1] first_state, float[::1] second_state, float[::1] counts, const float[:, ::1] corrections,
    float lr, float eps, double beta1, double beta2, uint64_t seed,
    const uint32_t[:, ::1] entries, const int64_t[::1] starts, int64_t first, int64_t last,
):
    """Update the rows of partitions [first, last), each once, by the sum of its gradients; entries from starts [65] on.

    States that a rule does not have are None. Raises MemoryError.
    """
    cdef Update u
    cdef Scratch s
    cdef int64_t p, n, room = 0, widest = 0, slots = 4, fixed = common_width(lookups)
    cdef const Entry* of
    for p in range(lookups.shape[0]):
        widest = max(widest, lookups[p, 2])
    for p in range(first, last):
        room = max(room, starts[p + 1] - starts[p])
    if not room:
        return
    while slots < 2 * room:
        slots *= 2
    u.weights = <uint8_t*> weights
    u.rule = rule
    u.lookups = <const Lookup*> &lookups[0, 0]
    u.gradient = &gradient[0, 0]
    u.first_state = <float*> floats(first_state)
    u.second_state = <float*> floats(second_state)
    u.counts = <float*> floats(counts)
    u.corrections = NULL if corrections is None else &corrections[0, 0]
    u.num_corrections = 0 if corrections is None else corrections.shape[1]
    u.lr, u.eps, u.seed = lr, eps, seed
    u.beta2, u.less1, u.less2 = <float> beta2, <float> (1 - beta1), <float> (1 - beta2)
    of = <const Entry*> &entries[0, 0]
    s.slots = <uint32_t*> malloc(4 * slots + (4 * 4 + sizeof(Term)) * room + 8 * widest)
    if s.slots == NULL:
        raise MemoryError(f"no memory to sort the gradients of {room:,} rows")
    s.terms = <Term*> (s.slots + slots)
    s.number = <uint32_t*> (s.terms + room)
    s.end = s.number + room
    s.row = s.end + room
    s.lookup = s.row + room
    s.values = <float*> (s.lookup + room)
    with nogil:
        for p in range(first, last):
            n = starts[p + 1] - starts[p]
            if n:
                update_rows(&u, of + starts[p], n, &s, kind, fixed)
    free(s.slots)
