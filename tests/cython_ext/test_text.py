"""Scans, splits and numbers of a block of text against the obvious."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext.text import TextScan, numbers, scan, split_fields


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


def split_oracle(block: bytes, delimiter: bytes, width: int, columns: list[int]) -> tuple[list, list, list]:
    lines = block.split(b"\n")
    ended = [line.removesuffix(b"\r") for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    fields = [line.split(delimiter) for line in ended]
    rows = [row for row in fields if len(row) == width]
    arrays = [[row[column].decode() or None for row in rows] for column in columns]
    return arrays, [len(row) == width for row in fields], [len(row) for row in fields if len(row) != width]


def check_split(block: bytes, delimiter: bytes, width: int, columns: list[int]) -> None:
    arrays, good, found = split_fields(block, delimiter, width, columns)
    for array in arrays:
        array.validate(full=True)
        assert array.null_count == sum(value is None for value in array.to_pylist())
        assert array.type == pa.string()
    assert good.dtype == bool
    assert found.dtype == np.int32
    got = [array.to_pylist() for array in arrays], good.tolist(), found.tolist()
    assert got == split_oracle(block, delimiter, width, columns)


short = st.sampled_from(["", "a", "1", '"', '""', "\r", "a\rb", "é", "-12.5", "\0"])
long = st.sampled_from([1, 15, 16, 17, 63, 64, 65, 1000]).map("x".__mul__)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[bytes, bytes, int, list[int]]:
    width = draw(st.integers(1, 5))
    delimiter = draw(st.sampled_from(["\t", ",", "\x1f", "\0"]))
    field = st.one_of(short, long).map(lambda text: text.replace(delimiter, "z"))
    any_width = st.one_of(st.just(width), st.just(width), st.integers(1, 8))
    lines = draw(st.lists(any_width.flatmap(lambda n: st.lists(field, min_size=n, max_size=n)), max_size=12))
    text = "".join(delimiter.join(line) + draw(st.sampled_from(["\n", "\r\n"])) for line in lines)
    text *= draw(st.sampled_from([1, 1, 1, 20]))  # more lines than are split at once
    text = text[: len(text) - draw(st.integers(0, 2))]
    columns = draw(st.lists(st.integers(0, width - 1), unique=True))
    return text.encode(), delimiter.encode(), width, columns


@given(blocks())
def test_fields_are_those_of_split(arguments: tuple[bytes, bytes, int, list[int]]) -> None:
    check_split(*arguments)


@given(st.text("ab\t\r\n", max_size=300), st.integers(1, 3))
def test_any_bytes_are_lines_of_fields(text: str, width: int) -> None:
    check_split(text.encode(), b"\t", width, list(range(width))[::-1])


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
@pytest.mark.parametrize("n", [*range(60, 70), *range(124, 132)])
def test_a_line_that_ends_near_the_end_of_a_piece(n: int, end: str) -> None:
    block = ("x" * (n - 3) + "\t" + "y\t" + end).encode()
    check_split(block, b"\t", 3, [0, 1, 2])
    check_split(block, b"\0", 1, [0])


@pytest.mark.parametrize("n", [0, 1, 62, 63, 64, 65, 127, 128, 129, 1000])
def test_lines_by_the_dozen(n: int) -> None:
    lines = [f"{i}\t{'' if i % 3 else i * 7}\tx" for i in range(n)]
    check_split("\n".join(lines).encode(), b"\t", 3, [2, 0, 1])
    check_split("\n".join(["no", *lines, "1\t2\t3\t4"]).encode(), b"\t", 3, [1])
    check_split(b"\n" * n, b"\t", 1, [0])
    check_split(b"\t" * n, b"\t", 2, [1])


@pytest.mark.parametrize("n", [1, 100, 3000])
def test_columns_grow(n: int) -> None:
    lines = ["\t".join(["a" * (i * i % (1 + i)), "b" * (1000 * (i > n // 2)), ""]) for i in range(n)]
    check_split("\n".join(lines).encode(), b"\t", 3, [1, 2, 0])


def test_a_wide_line() -> None:
    fields = [str(i) for i in range(5000)]
    block = "\n".join(["\t".join(fields)] * 3).encode()
    check_split(block, b"\t", 5000, [4999, 0, 77])
    check_split(block, b"\t", 2, [0])


def test_errors_of_split() -> None:
    for delimiter in (b"", b"ab", b"\n", b"\r"):
        with pytest.raises(ValueError, match="delimiter"):
            split_fields(b"a", delimiter, 1, [0])
    with pytest.raises(ValueError, match="width"):
        split_fields(b"a", b",", 0, [])
    for columns in ([0, 0], [2], [-1]):
        with pytest.raises(ValueError, match="columns"):
            split_fields(b"a,b", b",", 2, columns)


# Numbers


def number_oracle(text: str | None) -> tuple[float, int]:
    if text is None:
        return math.nan, 1
    plain = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text, re.ASCII)
    if not plain or sum(c.isdigit() for c in text) > 15:
        return math.nan, 2
    return float(text), 0


def check_numbers(array: pa.Array) -> None:
    values, status = numbers(array)
    expected = [number_oracle(text) for text in array.to_pylist()]
    assert values.dtype == np.float64
    assert status.dtype == np.uint8
    assert status.tolist() == [state for _, state in expected]
    nan, wanted = np.isnan(values), np.array([value for value, _ in expected])
    np.testing.assert_array_equal(nan, status > 0)
    assert values[~nan].tobytes() == wanted[~nan].tobytes()  # by bits: there is a -0


digits = st.text("0123456789", max_size=17)
numerals = st.one_of(
    st.builds("{}{}{}{}".format, st.sampled_from(["", "-"]), digits, st.sampled_from(["", "."]), digits),
    st.integers(-(10**16), 10**16).map(str),
    st.floats().map(str),
    st.text("0123456789.-+e_ ", max_size=10),
    st.text(max_size=4),
    st.sampled_from(
        ["", "-", ".", "-.", "1.", ".5", "--1", "1.2.3", "-0", "-0.0", "1e5", "٣", "1_0", "/", ":"]
    ),
)


@given(st.lists(st.none() | numerals), st.sampled_from([pa.string(), pa.large_string()]), st.integers(0, 9))
def test_numbers_are_those_of_float(texts: list[str | None], kind: pa.DataType, start: int) -> None:
    check_numbers(pa.array(texts, kind))
    check_numbers(pa.array(texts, kind).slice(start))
    check_numbers(pa.array(texts, kind).slice(start, 5))


@pytest.mark.parametrize("n", range(1, 18))
def test_numbers_of_every_length(n: int) -> None:
    texts = ["9" * n, "0" * n, "123456789012345678"[:n], "-" + "7" * n]
    texts += [("8" * n)[:i] + character + ("8" * n)[i:] for i in range(n + 1) for character in "./:-\xb9"]
    check_numbers(pa.array(texts))
    for text in texts:
        check_numbers(pa.array([text]))  # no byte behind it


def test_every_byte_that_is_no_digit() -> None:
    texts = [
        before + chr(code) + after for code in range(256) for before in ("", "1") for after in ("", "23")
    ]
    check_numbers(pa.array(texts))


def test_numbers_refuse() -> None:
    for array in (pa.array([1]), pa.array([b"1"]), ["1"], pa.chunked_array([["1"]])):
        with pytest.raises(TypeError, match="strings"):
            numbers(array)
    offsets = pa.py_buffer(np.array([0, 1, 9, 8], np.int32))
    with pytest.raises(ValueError, match="value 1 lies outside"):
        numbers(pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"12345678")))
