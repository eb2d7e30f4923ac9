/* What the machine can do: every cache line of random rows is touched once, nothing is added up or written.
   Compiled by lookup.py with ROW_BYTES, the bytes of a row that are read; rows are STRIDE bytes apart. */
#include <stdint.h>

uint64_t gather(const char *table, const int64_t *rows, int64_t n, int64_t ahead)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const char *later = table + rows[i + ahead < n ? i + ahead : n - 1] * STRIDE;
        const char *row = table + rows[i] * STRIDE;
        for (int64_t b = 0; b < ROW_BYTES; b += 64)
            __builtin_prefetch(later + b);
        __builtin_prefetch(later + ROW_BYTES - 1);
        for (int64_t b = 0; b < ROW_BYTES; b += 64)
            sum += *(const uint32_t *)(row + b);
        sum += *(const uint32_t *)(row + ROW_BYTES - 4);
    }
    return sum;
}
