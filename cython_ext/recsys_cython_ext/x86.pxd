"""Levels of x86-64: what a kernel may use of the processor it runs on, and what compilers do not find by themselves.

A function of type `v3` or `v4` is compiled for x86-64-v3 (AVX2, F16C) or x86-64-v4 (AVX-512), and may be called where
`supported_level` says so. What it inlines is told its level as a literal. It needs glibc and GCC; elsewhere there is
level PORTABLE only, and the others are empty.
"""

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #define RECSYS_PORTABLE 0
    #define RECSYS_LEVEL_3 1
    #define RECSYS_LEVEL_4 2
    #if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
    #include <immintrin.h>
    #define RECSYS_HIGHEST RECSYS_LEVEL_4
    #define RECSYS_V3 __attribute__((target("arch=x86-64-v3")))
    #define RECSYS_V4 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))

    static int recsys_supported_level(void) {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("x86-64-v4")) return RECSYS_LEVEL_4;
        return __builtin_cpu_supports("x86-64-v3") ? RECSYS_LEVEL_3 : RECSYS_PORTABLE;
    }

    /* fp16 to fp32; exact, whatever the state says about subnormals (Intel's manual, VCVTPH2PS) */
    static inline RECSYS_V3 void recsys_halves2(const void* from, float* to) {
        int both;
        memcpy(&both, from, 4);
        _mm_storel_pi((__m64*) to, _mm_cvtph_ps(_mm_cvtsi32_si128(both)));
    }
    static inline RECSYS_V3 void recsys_halves8(const void* from, float* to) {
        _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*) from)));
    }
    static inline RECSYS_V4 void recsys_halves16(const void* from, float* to) {
        _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*) from)));
    }

    /* bytes to fp32, and half bytes, the lower four bits of each first */
    static inline RECSYS_V3 void recsys_bytes8(const void* from, float* to) {
        _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*) from))));
    }
    static inline RECSYS_V4 void recsys_bytes16(const void* from, float* to) {
        _mm512_storeu_ps(to, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*) from))));
    }
    static inline RECSYS_V3 __m128i recsys_unpacked(__m128i bytes) {
        const __m128i low = _mm_set1_epi8(15);
        return _mm_unpacklo_epi8(_mm_and_si128(bytes, low), _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
    }
    static inline RECSYS_V3 void recsys_nibbles8(const void* from, float* to) {
        __m128i bytes = recsys_unpacked(_mm_loadu_si32(from));
        _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
    }
    static inline RECSYS_V4 void recsys_nibbles16(const void* from, float* to) {
        __m128i bytes = recsys_unpacked(_mm_loadl_epi64((const __m128i*) from));
        _mm512_storeu_ps(to, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
    }

    /* e4m3 to fp32: its bits make an fp16 that is 2^-8 of it, subnormals too, and all ones are made a NaN */
    static inline RECSYS_V3 void recsys_e4m3x8(const void* from, float* to) {
        __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i*) from));
        __m128i size = _mm_and_si128(code, _mm_set1_epi16(0x7F));
        __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(size, _mm_set1_epi16(0x7F)), _mm_set1_epi16(0x7E00));
        __m128i sign = _mm_slli_epi16(_mm_srli_epi16(code, 7), 15);
        __m128i half = _mm_or_si128(_mm_or_si128(sign, nan), _mm_slli_epi16(size, 7));
        _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256)));
    }
    static inline RECSYS_V4 void recsys_e4m3x16(const void* from, float* to) {
        __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*) from));
        __m256i size = _mm256_and_si256(code, _mm256_set1_epi16(0x7F));
        __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7F)), _mm256_set1_epi16(0x7E00));
        __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(code, 7), 15);
        __m256i half = _mm256_or_si256(_mm256_or_si256(sign, nan), _mm256_slli_epi16(size, 7));
        _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256)));
    }

    /* stores past the cache: what is overwritten is not read before */
    static inline RECSYS_V3 void recsys_stream8(float* to, const float* from) {
        _mm256_stream_ps(to, _mm256_loadu_ps(from));
    }
    static inline RECSYS_V4 void recsys_stream16(float* to, const float* from) {
        _mm512_stream_ps(to, _mm512_loadu_ps(from));
    }
    #define recsys_fence() _mm_sfence()
    #else
    #define RECSYS_HIGHEST RECSYS_PORTABLE
    #define RECSYS_V3
    #define RECSYS_V4
    #define recsys_supported_level() RECSYS_PORTABLE
    #define recsys_halves2(from, to) ((void) 0)
    #define recsys_halves8(from, to) ((void) 0)
    #define recsys_halves16(from, to) ((void) 0)
    #define recsys_bytes8(from, to) ((void) 0)
    #define recsys_bytes16(from, to) ((void) 0)
    #define recsys_nibbles8(from, to) ((void) 0)
    #define recsys_nibbles16(from, to) ((void) 0)
    #define recsys_e4m3x8(from, to) ((void) 0)
    #define recsys_e4m3x16(from, to) ((void) 0)
    #define recsys_stream8(to, from) ((void) 0)
    #define recsys_stream16(to, from) ((void) 0)
    #define recsys_fence() ((void) 0)
    #endif
    """
    enum:
        PORTABLE "RECSYS_PORTABLE"
        LEVEL_3 "RECSYS_LEVEL_3"
        LEVEL_4 "RECSYS_LEVEL_4"
        HIGHEST "RECSYS_HIGHEST"  # that this build has
    ctypedef void v3 "RECSYS_V3 void"
    ctypedef void v4 "RECSYS_V4 void"
    int supported_level "recsys_supported_level"() noexcept nogil
    # Level 3; `to` of a stream is aligned to what is stored.
    void halves2 "recsys_halves2"(const void* source, float* to) noexcept nogil
    void halves8 "recsys_halves8"(const void* source, float* to) noexcept nogil
    void bytes8 "recsys_bytes8"(const void* source, float* to) noexcept nogil
    void nibbles8 "recsys_nibbles8"(const void* source, float* to) noexcept nogil
    void e4m3x8 "recsys_e4m3x8"(const void* source, float* to) noexcept nogil
    void stream8 "recsys_stream8"(float* to, const float* source) noexcept nogil
    # Level 4
    void halves16 "recsys_halves16"(const void* source, float* to) noexcept nogil
    void bytes16 "recsys_bytes16"(const void* source, float* to) noexcept nogil
    void nibbles16 "recsys_nibbles16"(const void* source, float* to) noexcept nogil
    void e4m3x16 "recsys_e4m3x16"(const void* source, float* to) noexcept nogil
    void stream16 "recsys_stream16"(float* to, const float* source) noexcept nogil
    # Any level: what was streamed is seen by others from here on.
    void fence "recsys_fence"() noexcept nogil
