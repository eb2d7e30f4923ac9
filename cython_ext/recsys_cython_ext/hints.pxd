"""What a compiler is told and does not find by itself: what to inline, and which cache lines to ask for ahead of use."""

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define RECSYS_INLINE inline __attribute__((always_inline))
    #define RECSYS_PREFETCH(p) __builtin_prefetch(p)
    #define RECSYS_CLAIM(p) __builtin_prefetch(p, 1)
    #else
    #define RECSYS_INLINE inline
    #define RECSYS_PREFETCH(p) ((void)0)
    #define RECSYS_CLAIM(p) ((void)0)
    #endif
    """
    ctypedef void inlined "RECSYS_INLINE void"  # no type, but Cython has no other place for it
    void prefetch "RECSYS_PREFETCH"(const void* p) noexcept nogil
    void claim "RECSYS_CLAIM"(const void* p) noexcept nogil  # to be written
