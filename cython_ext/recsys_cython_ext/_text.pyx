"""Bare scan of delimited text; `text.py` validates. One pass that the compiler turns into SIMD."""

from libc.stdint cimport int64_t, uint8_t

from .mix cimport clones_void

cdef enum:
    CHUNK = 128  # bytes whose 8-bit counts cannot run over


cdef clones_void scan_bytes(const uint8_t* text, Py_ssize_t n, uint8_t special, int64_t* found) noexcept nogil:
    """found: line ends, carriage returns, of these before a line end, blank lines, quotes, `special`, not ASCII."""
    cdef Py_ssize_t i, start = 0, stop
    cdef uint8_t lines, returns, pairs, blank, quotes, specials, high
    while start < n:
        stop = start + CHUNK if start + CHUNK < n else n
        lines = returns = pairs = blank = quotes = specials = high = 0
        for i in range(start, stop):
            lines += text[i] == 10
            returns += text[i] == 13
            quotes += text[i] == 34
            specials += text[i] == special
            high |= text[i]
        for i in range(start, stop if stop < n else n - 1):
            pairs += (text[i] == 13) & (text[i + 1] == 10)
            blank += (text[i] == 10) & (text[i + 1] == 10)
        found[0] += lines
        found[1] += returns
        found[2] += pairs
        found[3] += blank
        found[4] += quotes
        found[5] += specials
        found[6] |= high >> 7
        start = stop


def scan_into(const uint8_t[::1] text, uint8_t special, int64_t[::1] found):
    """Add up what `scan_bytes` finds in ``text`` into ``found`` [7]."""
    if text.shape[0]:
        with nogil:
            scan_bytes(&text[0], text.shape[0], special, &found[0])
