"""Values are read in C as the reader of single values reads them."""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, text_id
from recsys_cython_ext.values import UnreadableAt, ids_of_values, numbers_of_values

VALUES = st.one_of(
    st.none(),
    st.text(max_size=40),
    st.integers(-(2**65), 2**65),
    st.sampled_from([MISSING_ID, MISSING_ID + 1, 2**63 - 1, 2**53 + 1, 0, -1, True, "", "\ud800"]),
    st.floats(),
    st.decimals(),
    st.binary(max_size=2),
)


def read_id(value, texts, integers):
    if value is None:
        return MISSING_ID
    if isinstance(value, str) and texts:
        return text_id(value)
    if isinstance(value, int) and integers and MISSING_ID < value < 2**63:
        return int(value)
    raise ValueError(f"no id: {value!r}")


def read_number(value):
    if isinstance(value, int | float) and not math.isinf(value):
        return float(value)
    raise ValueError(f"no number: {value!r}")


def read_all(read, values):
    out = []
    for position, value in enumerate(values):
        try:
            out.append(read(value))
        except (ValueError, OverflowError):
            return position
    return out


def agrees(wanted, read):
    """Whether `read` gives the wanted values, or names the wanted position."""
    if isinstance(wanted, int):
        with pytest.raises(UnreadableAt) as caught:
            read()
        assert caught.value.position == wanted
        assert isinstance(caught.value.__cause__, ValueError)
    else:
        got = read()
        np.testing.assert_array_equal(got, np.array(wanted, got.dtype))


@given(st.lists(VALUES), st.booleans(), st.booleans())
def test_ids_are_those_of_single_values(values, texts, integers):
    def read(value):
        return read_id(value, texts, integers)

    wanted = read_all(read, values)
    agrees(wanted, lambda: ids_of_values(values, read, texts=texts, integers=integers))


@given(st.lists(VALUES.filter(lambda value: not isinstance(value, int))))
def test_numbers_are_those_of_single_values(values):
    wanted = read_all(lambda value: math.nan if value is None else read_number(value), values)
    agrees(wanted, lambda: numbers_of_values(values, read_number))


def test_whole_numbers_are_rounded_as_python_rounds_them():
    values = [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**64 + 2**11, 3, True]
    assert numbers_of_values(values, read_number).tolist() == [float(value) for value in values]


def test_what_is_left_goes_to_the_reader_one_by_one():
    seen = []

    def read(value):
        seen.append(value)
        return 7

    assert ids_of_values([1, "a", None, Decimal(2), 3], read, texts=False, integers=True).tolist() == [
        1, 7, MISSING_ID, 7, 3
    ]  # fmt: skip
    assert seen == ["a", Decimal(2)]
    assert ids_of_values((), read, texts=True, integers=True).shape == (0,)


def test_an_error_has_its_cause():
    with pytest.raises(UnreadableAt, match="position 1") as caught:
        numbers_of_values([1.0, "x"], read_number)
    assert "no number: 'x'" in str(caught.value.__cause__)
