"""Bare kernels that read Python's own values, one loop a column; `values.py` validates and reads the others."""

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact
from libc.math cimport isinf
from libc.stdint cimport int64_t, uint8_t, uint64_t

from .xxh64 cimport xxh64_bytes

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from *:
    """
    #define RECSYS_EXACT 9007199254740992LL  /* 2^53: a float64 holds every whole number up to it */
    #define RECSYS_MISSING INT64_MIN
    """
    const int64_t EXACT "RECSYS_EXACT"
    const int64_t MISSING "RECSYS_MISSING"


def ids_into(list values, bint texts, bint integers, Py_ssize_t first, int64_t[::1] out):
    """Read ids from position ``first`` on: text by XXH64 if ``texts``, whole numbers by themselves if ``integers``.

    None is a missing id. Returns the position of the first value that is anything else, or their number.
    """
    cdef Py_ssize_t i, size
    cdef const char* start
    cdef int overflow
    cdef int64_t word
    cdef object value
    for i in range(first, len(values)):
        value = values[i]
        if value is None:
            word = MISSING
        elif texts and PyUnicode_CheckExact(value):
            try:
                start = PyUnicode_AsUTF8AndSize(value, &size)
            except UnicodeEncodeError:
                return i
            word = <int64_t> xxh64_bytes(<const uint8_t*> start, <uint64_t> size)
            word += word == MISSING  # no text is taken for a missing one
        elif integers and PyLong_CheckExact(value):
            overflow = 0
            word = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow or word == MISSING:
                return i
        else:
            return i
        out[i] = word
    return len(values)


def numbers_into(list values, Py_ssize_t first, double[::1] out):
    """Read numbers from position ``first`` on; None is NaN. Returns as `ids_into` does, at an infinite number too."""
    cdef Py_ssize_t i
    cdef int overflow
    cdef int64_t whole
    cdef double number
    cdef object value
    for i in range(first, len(values)):
        value = values[i]
        if value is None:
            number = float("nan")
        elif PyFloat_CheckExact(value):
            number = PyFloat_AS_DOUBLE(value)
            if isinf(number):
                return i
        elif PyLong_CheckExact(value):
            overflow = 0
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow or not -EXACT <= whole <= EXACT:
                return i
            number = <double> whole
        else:
            return i
        out[i] = number
    return len(values)
