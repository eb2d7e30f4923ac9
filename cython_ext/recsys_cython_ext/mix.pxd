"""The splitmix64 finaliser, inlined into every kernel: the one mixing function of the project.

Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    /* A function of type `clones_void` is compiled for plain x86-64, AVX2 and AVX-512, and the dynamic linker
       picks one (GCC manual, "target_clones"): SIMD in a portable wheel. It needs ifunc, so glibc;
       elsewhere there is the one portable build. */
    #if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
    #define RECSYS_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
    #else
    #define RECSYS_CLONES
    #endif
    """
    ctypedef void clones_void "RECSYS_CLONES void"


cdef inline uint64_t mix64(uint64_t z) noexcept nogil:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef inline uint64_t reduce_high(uint64_t h, uint64_t n) noexcept nogil:
    """High half of ``h`` scaled to ``[0, n)``, n < 2^32: no 128-bit product, no modulo."""
    return ((h >> 32) * n) >> 32
