/* Plain C loops, what benchmarks/hashing.py calls the ceiling. Compiled when it runs; no part of the package. */

#include <stdint.h>
#include <string.h>

static inline uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

static inline uint64_t reduce_high(uint64_t h, uint64_t n) { return ((h >> 32) * n) >> 32; }

void rows(const int64_t *ids, int64_t n, int64_t salt, int64_t num_embeddings, int64_t *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = (int64_t)reduce_high(mix64((uint64_t)(ids[i] ^ salt)), (uint64_t)num_embeddings);
}

#define P1 0x9E3779B185EBCA87ULL
#define P2 0xC2B2AE3D27D4EB4FULL
#define P3 0x165667B19E3779F9ULL
#define P4 0x85EBCA77C2B2AE63ULL
#define P5 0x27D4EB2F165667C5ULL

static inline uint64_t rotl(uint64_t x, int r) { return (x << r) | (x >> (64 - r)); }

/* XXH64 of at most 31 bytes, as the specification writes it. */
static inline uint64_t xxh64_short(const uint8_t *p, uint64_t length) {
    uint64_t h = P5 + length, word;
    uint32_t half;
    for (; length >= 8; length -= 8, p += 8) {
        memcpy(&word, p, 8);
        h = rotl(h ^ (rotl(word * P2, 31) * P1), 27) * P1 + P4;
    }
    if (length >= 4) {
        memcpy(&half, p, 4);
        h = rotl(h ^ (half * P1), 23) * P2 + P3;
        length -= 4, p += 4;
    }
    for (; length > 0; length--, p++) h = rotl(h ^ (*p * P5), 11) * P1;
    h = (h ^ (h >> 33)) * P2;
    h = (h ^ (h >> 29)) * P3;
    return h ^ (h >> 32);
}

void strings(const uint8_t *data, const int32_t *offsets, int64_t n, int64_t *out) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t length = (uint64_t)(offsets[i + 1] - offsets[i]);
        const uint8_t *p = data + offsets[i];
        out[i] = (int64_t)(length == 8 ? xxh64_short(p, 8) : xxh64_short(p, length));
    }
}

/* Open addressing with linear probing: table of (key, code), code -1 where a slot is empty. */
typedef struct { int64_t key, code; } slot;

void enter(const int64_t *keys, int64_t n, slot *table, int64_t n_slots) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t s = reduce_high(mix64((uint64_t)keys[i]), (uint64_t)n_slots);
        while (table[s].code >= 0) s = s + 1 < (uint64_t)n_slots ? s + 1 : 0;
        table[s].key = keys[i], table[s].code = i;
    }
}

void codes(const slot *table, int64_t n_slots, const int64_t *ids, int64_t n, int32_t *out) {
    for (int64_t i = 0; i < n; i++) {
        uint64_t s = reduce_high(mix64((uint64_t)ids[i]), (uint64_t)n_slots);
        while (table[s].code >= 0 && table[s].key != ids[i]) s = s + 1 < (uint64_t)n_slots ? s + 1 : 0;
        out[i] = (int32_t)table[s].code;
    }
}
