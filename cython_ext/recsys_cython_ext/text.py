"""What a block of delimited text holds that its reader must know before it splits lines and fields."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import recsys_cython_ext._text as _text


class TextScan(NamedTuple):
    """Counts over a block of bytes."""

    line_ends: int
    carriage_returns: int
    returns_before_line_end: int
    double_line_ends: int  # a line end right after another: a blank line
    quotes: int
    special: int  # the byte that was asked for
    ascii: bool


def scan(block: bytes, special: bytes = b"\0") -> TextScan:
    r"""Count ``\n``, ``\r``, ``\r\n``, ``\n\n``, ``"`` and the byte `special` in one pass, several bytes at a time.

    Raises ValueError unless `special` is one byte.
    """
    if len(special) != 1:
        raise ValueError(f"special must be one byte, got {special!r}")
    found = np.zeros(7, np.int64)
    _text.scan_into(block, special[0], found)
    lines, returns, pairs, blank, quotes, specials, high = found.tolist()
    return TextScan(lines, returns, pairs, blank, quotes, specials, not high)
