"""Words of bits: where in 64 bytes a byte occurs, and which bits of a word are ones."""

from libc.stdint cimport uint8_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* A word with the bits of those of 64 bytes that are equal to `byte`. */
    static inline uint64_t recsys_bits_of(const uint8_t* text, uint8_t byte) {
        uint64_t word = 0;
        int k;
    #if defined(__SSE2__)  /* any x86-64: compilers do not find movemask, which is three times as fast */
        for (k = 0; k < 64; k += 16) {
            __m128i equal = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i*) (text + k)), _mm_set1_epi8((char) byte));
            word |= (uint64_t) _mm_movemask_epi8(equal) << k;
        }
    #else
        uint8_t flags[64];
        uint64_t eight;
        for (k = 0; k < 64; k++) flags[k] = text[k] == byte;
        for (k = 0; k < 64; k += 8) {  /* the product brings the lowest bits of 8 bytes into its highest byte */
            memcpy(&eight, flags + k, 8);
            word |= ((eight * 0x0102040810204080ULL) >> 56) << k;
        }
    #endif
        return word;
    }

    #if defined(__GNUC__) || defined(__clang__)
    #define recsys_trailing_zeros(word) __builtin_ctzll(word)
    #define recsys_ones(word) __builtin_popcountll(word)
    #else
    static inline int recsys_ones(uint64_t word) {
        int ones = 0;
        for (; word; word &= word - 1) ones++;
        return ones;
    }
    #define recsys_trailing_zeros(word) recsys_ones(((word) & (~(word) + 1)) - 1)
    #endif
    """
    uint64_t bits_of "recsys_bits_of"(const uint8_t* text, uint8_t byte) noexcept nogil
    int trailing_zeros "recsys_trailing_zeros"(uint64_t word) noexcept nogil
    int ones "recsys_ones"(uint64_t word) noexcept nogil
