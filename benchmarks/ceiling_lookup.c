/* What the machine can do. `gather`: every cache line of random rows is touched once, nothing is added up or written.
   `gather_and_write`: also every cache line of the output is written, one row of it after `bag` rows, past the caches or not.
   Compiled by lookup.py with ROW_BYTES, the bytes of a row that are read; rows are STRIDE bytes apart, those of the output
   OUT_BYTES. */
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

static inline uint32_t touch(const char *table, const int64_t *rows, int64_t n, int64_t i, int64_t ahead)
{
    const char *later = table + rows[i + ahead < n ? i + ahead : n - 1] * STRIDE;
    const char *row = table + rows[i] * STRIDE;
    uint32_t sum = 0;
    for (int64_t b = 0; b < ROW_BYTES; b += 64)
        __builtin_prefetch(later + b);
    __builtin_prefetch(later + ROW_BYTES - 1);
    for (int64_t b = 0; b < ROW_BYTES; b += 64)
        sum += *(const uint32_t *)(row + b);
    return sum + *(const uint32_t *)(row + ROW_BYTES - 4);
}

uint32_t gather(const char *table, const int64_t *rows, int64_t n, int64_t ahead)
{
    uint32_t sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += touch(table, rows, n, i, ahead);
    return sum;
}

static inline void write_row(char *out, uint32_t value, int stream)
{
#if defined(__AVX512F__)
    if (stream && OUT_BYTES % 64 == 0) {
        for (int64_t b = 0; b < OUT_BYTES; b += 64)
            _mm512_stream_si512((__m512i *)(out + b), _mm512_set1_epi32((int)value));
        return;
    }
#endif
#if defined(__SSE2__)
    if (stream) {
        for (int64_t b = 0; b < OUT_BYTES; b += 16)
            _mm_stream_si128((__m128i *)(out + b), _mm_set1_epi32((int)value));
        return;
    }
#endif
    for (int64_t b = 0; b < OUT_BYTES; b += 4)
        memcpy(out + b, &value, 4);
}

void gather_and_write(const char *table, const int64_t *rows, int64_t n, int64_t ahead, char *out, int64_t bag, int stream)
{
    uint32_t sum = 0;
    for (int64_t i = 0, end = bag - 1; i < n; i++) {
        sum += touch(table, rows, n, i, ahead);
        if (i == end || i == n - 1) {
            write_row(out, sum, stream);
            out += OUT_BYTES;
            end += bag;
        }
    }
}
