"""Bare kernels that add floats into an integer for each exponent; `sums.py` validates and allocates.

Integers only, so that neither rounding mode nor flushing of subnormals has a say. Little-endian machines only.
"""

from libc.stdint cimport int64_t, uint64_t

from .mix cimport clones_void

cdef enum:
    HALF = 26  # bits of the low half of a mantissa


cdef inline void add_mantissa(int64_t* pair, int64_t mantissa) noexcept nogil:
    pair[0] += mantissa >> HALF  # rounds down
    pair[1] += mantissa & ((1 << HALF) - 1)


cdef clones_void largest(const uint64_t* bits, Py_ssize_t n, uint64_t* found) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint64_t magnitude, most = 0
    for i in range(n):
        magnitude = bits[i] & 0x7FFFFFFFFFFFFFFFULL  # orders as the absolute values do
        most = magnitude if magnitude > most else most
    found[0] = most


def largest_magnitude(const uint64_t[::1] bits):
    """Bits of the largest absolute value of floats given by their bits [L]; NaN is above infinity."""
    cdef uint64_t found = 0
    if bits.shape[0]:
        with nogil:
            largest(&bits[0], bits.shape[0], &found)
    return found


def add_into(const uint64_t[::1] bits, int64_t[:, ::1] state):
    """Add finite floats, given by their bits [L], to ``state`` [2048, 2]; see `sums.ExactSum`."""
    cdef Py_ssize_t i, n = bits.shape[0], exponent
    cdef int64_t* pairs = &state[0, 0]
    cdef int64_t mantissa, sign
    with nogil:
        for i in range(n):
            exponent = <Py_ssize_t> (bits[i] >> 52) & 2047
            mantissa = <int64_t> ((bits[i] & 0xFFFFFFFFFFFFFULL) | (<uint64_t> (exponent > 0) << 52))
            sign = -<int64_t> (bits[i] >> 63)  # all ones or 0: signs would mispredict a branch
            add_mantissa(pairs + 2 * exponent, (mantissa ^ sign) - sign)


def add_squares_into(const uint64_t[::1] bits, int64_t[:, ::1] state):
    """Add the squares of floats of at most 2^500, given by their bits [L], to ``state`` [2048, 2].

    With e the exponent field, a square is an integer of 106 bits times 2^(2 e - 2150): two rows take its halves,
    unless bits are lost below the last, 2^-1074.
    """
    cdef Py_ssize_t i, n = bits.shape[0], exponent, row
    cdef int64_t* pairs = &state[0, 0]
    cdef uint64_t mantissa, a, b, cross, low, high
    with nogil:
        for i in range(n):
            exponent = <Py_ssize_t> (bits[i] >> 52) & 2047
            mantissa = (bits[i] & 0xFFFFFFFFFFFFFULL) | (<uint64_t> (exponent > 0) << 52)
            a = mantissa >> HALF
            b = mantissa & ((1 << HALF) - 1)
            cross = a * b  # mantissa^2 = a^2 2^52 + cross 2^27 + b^2
            low = b * b + ((cross & 0x1FFFFFF) << 27)  # below 2^53
            high = a * a + (cross >> 25)  # below 2^54
            row = 2 * exponent - 1075  # whose unit is 2^(row - 1075)
            if row > 0:
                add_mantissa(pairs + 2 * row, <int64_t> low)
                add_mantissa(pairs + 2 * (row + 52), <int64_t> high)
            elif row > -106:
                high += low >> 52
                low &= 0xFFFFFFFFFFFFFULL
                if row > -52:
                    add_mantissa(pairs + 2, <int64_t> (low >> (1 - row)))
                    add_mantissa(pairs + 2 * (row + 52), <int64_t> high)
                else:
                    add_mantissa(pairs + 2, <int64_t> (high >> (-51 - row)))
