"""The scan of a block of text against the obvious."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext.text import TextScan, scan


def oracle(block: bytes, special: bytes) -> TextScan:
    return TextScan(
        line_ends=block.count(b"\n"),
        carriage_returns=block.count(b"\r"),
        returns_before_line_end=block.count(b"\r\n"),
        double_line_ends=sum(block[i : i + 2] == b"\n\n" for i in range(len(block))),
        quotes=block.count(b'"'),
        special=block.count(special),
        ascii=block.isascii(),
    )


pieces = st.lists(st.sampled_from([b"\n", b"\r", b'"', b"\x1f", b"a", b"\t", b"\x80", b"\xff", b"x" * 130]))


@given(pieces.map(b"".join))
def test_every_count_is_the_count(block: bytes) -> None:
    assert scan(block, b"\x1f") == oracle(block, b"\x1f")


@pytest.mark.parametrize("length", [0, 1, 2, 127, 128, 129, 255, 256, 257, 100_000])
@pytest.mark.parametrize("byte", [b"\n", b"\r", b'"', b"\x1f", b"\xff"])
def test_counts_do_not_run_over(length: int, byte: bytes) -> None:
    assert scan(byte * length, b"\x1f") == oracle(byte * length, b"\x1f")


def test_special_is_one_byte() -> None:
    with pytest.raises(ValueError, match="one byte"):
        scan(b"a", b"ab")
