"""Bare kernels over delimited text; `text.py` validates and allocates. Little-endian machines only.

Loops over bytes are written so that the compiler turns them into SIMD.
"""

from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .bits cimport bits_of, ones, trailing_zeros
from .mix cimport clones_void

cdef enum:
    CHUNK = 128  # bytes whose 8-bit counts cannot run over
    PIECE = 64  # bytes whose separators fit a word
    ROWS = 64  # lines that are split together, as many as a word of validity has bits
    SPARE = 16  # bytes that are copied at a time, so written behind a value
    DIGITS = 15  # any number of so many digits is a float64

    PARSED = 0  # states of `numbers_into`
    NULL_VALUE = 1
    UNPARSED = 2


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


LINES_AT_ONCE, ENDS_SPARE, VALUES_SPARE = ROWS, PIECE, SPARE  # for those who allocate


cdef struct Reader:
    const uint8_t* text
    Py_ssize_t n
    uint8_t delimiter
    Py_ssize_t width
    Py_ssize_t at  # start of the next line
    Py_ssize_t lines  # read so far
    Py_ssize_t rows  # of these with `width` fields


cdef clones_void count_bytes(const uint8_t* text, Py_ssize_t n, uint8_t byte, Py_ssize_t* found) noexcept nogil:
    cdef Py_ssize_t i, start = 0, stop
    cdef uint8_t count
    while start < n:
        stop = start + CHUNK if start + CHUNK < n else n
        count = 0
        for i in range(start, stop):
            count += text[i] == byte
        found[0] += count
        start = stop


cdef clones_void index_lines(Reader* reader, int32_t* ends, uint8_t* good, int32_t* found) noexcept nogil:
    """Find up to ROWS good lines: field c of row r lies between ``ends[r, c]`` and ``ends[r, c + 1]``, both excluded.

    ends: [ROWS, width + 1], and PIECE more. good: by line; found: by bad line.
    """
    cdef const uint8_t* text = reader.text
    cdef Py_ssize_t n = reader.n, width = reader.width, base = reader.at, left, p, fields = 0
    cdef Py_ssize_t last = reader.rows + ROWS
    cdef uint8_t[PIECE] tail
    cdef uint64_t delimiters, line_ends, line_end, inside
    cdef int32_t* to
    ends[0] = <int32_t> (base - 1)
    while base < n or reader.at < n:
        left = n - base
        if left >= PIECE:
            delimiters = bits_of(text + base, reader.delimiter)
            line_ends = bits_of(text + base, 10)
        else:
            memset(tail, 0, PIECE)
            memcpy(tail, text + base, left)
            delimiters = bits_of(tail, reader.delimiter) & ((1ULL << left) - 1)  # it may be the byte 0
            line_ends = bits_of(tail, 10)
            if text[n - 1] != 10:
                line_ends |= 1ULL << left  # the last line lacks its end
        while True:
            line_end = line_ends & (~line_ends + 1)  # the lowest bit; none: all delimiters left are inside the line
            inside = delimiters & (line_end - 1)
            to = ends + (fields if fields < width else width)  # too many: what is written does not count
            fields += ones(inside)
            while inside:
                to += 1
                to[0] = <int32_t> (base + trailing_zeros(inside))
                inside &= inside - 1
            if line_end == 0:
                break
            fields += 1
            p = base + trailing_zeros(line_end)
            good[reader.lines] = fields == width
            if fields == width:
                ends[width] = <int32_t> (p - (0 < p and p < n and text[p - 1] == 13))
                ends += width + 1
                reader.rows += 1
            else:
                found[reader.lines - reader.rows] = <int32_t> fields
            reader.lines += 1
            reader.at = p + 1
            if reader.rows == last:
                return
            ends[0] = <int32_t> p
            fields = 0
            delimiters &= ~(line_end | (line_end - 1))
            line_ends &= line_ends - 1
        base += PIECE


cdef int64_t bytes_of_column(const int32_t* ends, Py_ssize_t stride, Py_ssize_t rows) noexcept nogil:
    cdef int64_t size = 0
    cdef Py_ssize_t r
    for r in range(rows):
        size += ends[r * stride + 1] - ends[r * stride] - 1
    return size


cdef int64_t copy_column(
    const Reader* reader, const int32_t* ends, Py_ssize_t rows, uint8_t* values, int32_t* offsets, uint64_t* valid
) noexcept nogil:
    """Copy one field of each row to ``values[offsets[0]:]``; ends: from the one before the field on.

    Returns how many of them are empty.
    """
    cdef const uint8_t* text = reader.text
    cdef Py_ssize_t n = reader.n - SPARE, stride = reader.width + 1, r, start, size, nulls = 0, to = offsets[0]
    cdef uint64_t word = 0
    for r in range(rows):
        start = ends[0] + 1
        size = ends[1] - start
        ends += stride
        if size <= SPARE and start <= n:
            memcpy(values + to, text + start, SPARE)  # a copy of fixed size is two instructions
        else:
            memcpy(values + to, text + start, size)
        to += size
        offsets[r + 1] = <int32_t> to
        word |= <uint64_t> (size > 0) << r
        nulls += size == 0
    valid[0] = word
    return nulls


def count_of(const uint8_t[::1] text, uint8_t byte):
    """How many bytes of ``text`` are ``byte``."""
    cdef Py_ssize_t found = 0
    if text.shape[0]:
        with nogil:
            count_bytes(&text[0], text.shape[0], byte, &found)
    return found


def split_into(
    const uint8_t[::1] text, uint8_t delimiter, Py_ssize_t width, int64_t[::1] progress, int32_t[::1] ends,
    const int64_t[::1] columns, const uint64_t[:, ::1] addresses, const int64_t[::1] room, int64_t[::1] sizes,
    int64_t[::1] nulls, uint8_t[::1] good, int32_t[::1] found,
):
    """Copy the wanted fields of good lines, from where ``progress`` [3] says: next line's start, lines, good ones.

    text: not empty; ends: scratch [ROWS * (width + 1) + PIECE]; columns [C]; addresses [C, 3]: of offsets
    (int32 [lines + 1], the first of them 0), validity (uint64 [ceil(lines / 64)]) and values (of ``room`` [C] bytes,
    and SPARE more); nulls [C]: empty fields so far; good [lines], found [lines]: see `index_lines`.

    Stops before up to ROWS lines for which a column has no room. Sets sizes [C] to the bytes of each column, these
    lines included. Returns how many good lines that is, or 0 when all is done.
    """
    cdef Reader reader = Reader(&text[0], text.shape[0], delimiter, width, progress[0], progress[1], progress[2])
    cdef Py_ssize_t done = reader.rows, rows, c, n_columns = columns.shape[0]
    cdef int32_t* offsets
    cdef bint fits = True
    with nogil:
        while reader.at < reader.n:
            index_lines(&reader, &ends[0], &good[0], &found[0])
            rows = reader.rows - done
            for c in range(n_columns):
                offsets = <int32_t*> <size_t> addresses[c, 0]
                sizes[c] = offsets[done] + bytes_of_column(&ends[columns[c]], width + 1, rows)
                fits &= sizes[c] <= room[c]
            if not fits:
                break
            for c in range(n_columns):
                if rows:
                    nulls[c] += copy_column(
                        &reader, &ends[columns[c]], rows, <uint8_t*> <size_t> addresses[c, 2],
                        <int32_t*> <size_t> addresses[c, 0] + done,
                        <uint64_t*> <size_t> addresses[c, 1] + done // ROWS,
                    )
            done = reader.rows
            progress[0] = reader.at
            progress[1] = reader.lines
            progress[2] = reader.rows
    return 0 if fits else reader.rows


ctypedef fused offset_t:
    int32_t
    int64_t


cdef inline bint short_integer(uint64_t word, Py_ssize_t n, double* value) noexcept nogil:
    """The number of 1 to 8 digits, the first n bytes of ``word``; False if some is none."""
    cdef uint64_t digits = (word ^ 0x3030303030303030ULL) << (64 - 8 * n)  # leading zeros fill the rest
    if ((digits + 0x7676767676767676ULL) | digits) & 0x8080808080808080ULL:  # a byte above 9
        return False
    digits = digits * 10 + (digits >> 8)  # pairs
    value[0] = <double> <uint32_t> (
        (
            (digits & 0x000000FF000000FFULL) * 0x000F424000000064ULL  # 100 + (1000000 << 32)
            + ((digits >> 16) & 0x000000FF000000FFULL) * 0x0000271000000001ULL  # 1 + (10000 << 32)
        ) >> 32
    )
    return True


cdef bint decimal(const uint8_t* text, Py_ssize_t n, double* value) noexcept nogil:
    """The number of 1 to 15 digits, with one point between two of them or none; False if it is not so.

    Its digits and the power of ten are exact, so that their quotient is correctly rounded (Clinger, "How to read
    floating point numbers accurately", PLDI 1990).
    """
    cdef double[DIGITS] powers
    cdef Py_ssize_t i, point = -1
    cdef int64_t digits = 0
    cdef uint8_t digit
    powers[:] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14]
    if n > DIGITS + 1:
        return False
    for i in range(n):
        digit = text[i] - 48
        if digit <= 9:
            digits = 10 * digits + digit
        elif text[i] == 46 and point < 0 and 0 < i < n - 1:
            point = i
        else:
            return False
    if n <= 0 or (point < 0 and n > DIGITS):
        return False
    value[0] = <double> digits if point < 0 else <double> digits / powers[n - 1 - point]
    return True


def numbers_into(
    const uint8_t[::1] values, const offset_t[::1] offsets, const uint8_t[::1] valid, Py_ssize_t first,
    double[::1] out, uint8_t[::1] status,
):
    """Parse string i, between ``offsets[i]`` and ``offsets[i + 1]``: ``out[i]`` and ``status[i]`` as `text.numbers`.

    valid: Arrow's bitmap, string i at bit ``first + i``; empty: no nulls. offsets [L + 1]; out and status [L].
    Returns the position of a string that lies outside ``values``, or -1.
    """
    cdef Py_ssize_t i, start, n, n_values = values.shape[0], bad = -1
    cdef const uint8_t* text
    cdef uint64_t word
    cdef int negative
    cdef bint parsed, has_nulls = valid.shape[0] > 0
    cdef double value = 0
    with nogil:
        for i in range(out.shape[0]):
            out[i] = NAN
            if has_nulls and not (valid[(first + i) >> 3] >> ((first + i) & 7)) & 1:
                status[i] = NULL_VALUE
                continue
            start = <Py_ssize_t> offsets[i]
            n = <Py_ssize_t> offsets[i + 1] - start
            if start < 0 or n < 0 or n > n_values - start:
                bad = i
                break
            text = &values[0] + start
            parsed = False
            if start <= n_values - 8:  # no branch on length or sign, which mixed columns would mispredict
                memcpy(&word, text, 8)
                negative = (word & 255) == 45
                word >>= 8 * negative
                if 0 < n - negative and n <= 8:
                    parsed = short_integer(word, n - negative, &value)
            else:
                negative = n > 0 and text[0] == 45
            if not parsed:
                parsed = decimal(text + negative, n - negative, &value)
            if parsed:
                out[i] = value * (1 - 2 * negative)  # floats have a -0
            status[i] = PARSED if parsed else UNPARSED
    return bad
