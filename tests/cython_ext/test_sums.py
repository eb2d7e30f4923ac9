"""Exact sums against rational numbers."""

import math
import pickle
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import ExactSum

SMALLEST, LARGEST = 5e-324, 1.7976931348623157e308
finite = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1, 1),
    st.integers(0, 2**63 - 2**52 - 1).map(
        lambda bits: float(np.int64(bits).view(np.float64))
    ),  # any exponent
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, SMALLEST, -SMALLEST, 2.0**-1022, LARGEST, -LARGEST, 0.1, 2.0**53 - 1]
    ),
)
roots = st.one_of(
    st.floats(-(2.0**500), 2.0**500),
    st.builds(math.ldexp, st.floats(-1, 1), st.integers(-560, -440)),  # around where squares lose bits
    st.builds(math.ldexp, st.integers(2**53 - 9, 2**53 - 1), st.integers(-600, 447)),  # every bit set
    st.sampled_from([2.0**500, -(2.0**500), 0.0, SMALLEST, 1.0]),
)


def exact(values):
    out = ExactSum()
    out.add(np.array(values, np.float64))
    return out


def units(value):
    """Times 2^1074, which makes any float an integer."""
    return Fraction(value) * 2**1074


@given(st.lists(finite))
def test_the_sum_is_that_of_fractions(values):
    assert exact(values).value() == sum(map(Fraction, values))


@given(st.lists(finite), st.randoms(), st.integers(0, 50))
def test_order_and_parts_leave_no_trace(values, shuffle, cut):
    expected = exact(values).value()
    shuffle.shuffle(values)
    first, second = exact(values[:cut]), exact(values[cut:])
    added = ExactSum.from_state(first.state() + second.state())
    before = second.state()
    first.merge(second)
    assert first.value() == added.value() == expected
    np.testing.assert_array_equal(second.state(), before)
    np.testing.assert_array_equal(first.state(), exact(values).state())  # as long as nothing is carried over


@given(st.lists(roots))
def test_squares(values):
    total = ExactSum()
    total.add_squares(np.array(values, np.float64))
    lossy = [Fraction(math.floor(units(value) * Fraction(value)), 2**1074) for value in values]
    assert total.value() == sum(lossy)
    if all(value == 0 or abs(value) >= 2.0**-485 for value in values):
        assert total.value() == sum(Fraction(value) ** 2 for value in values)


def test_squares_at_every_exponent():
    for exponent in range(-1074, 501):
        mantissas = [1.0] if exponent == 500 else [1.0, 2 - 2.0**-52, 1.2345678901234567]
        for value in [math.ldexp(mantissa, exponent) for mantissa in mantissas]:
            total = ExactSum()
            total.add_squares(np.array([-value]))
            assert total.value() == Fraction(math.floor(units(value) * Fraction(value)), 2**1074)


def test_many_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000) * 10.0 ** rng.integers(-20, 20, 100_000)
    total = exact(values)
    assert float(total.value()) == math.fsum(values)
    total.add(-values[::-1])  # strided
    assert total.value() == 0
    total.add(np.zeros(0))
    assert total.value() == 0


@given(st.lists(finite, min_size=1), st.booleans())
def test_rows_are_carried_over_when_full(values, merge):
    expected = exact(values).value()
    state = exact(values).state()
    state[2047, 0] = 2**36  # as many adds as fit
    total = ExactSum.from_state(state)
    more = exact([1.5, SMALLEST, -LARGEST])
    if merge:
        more.merge(total)
        assert total.value() == expected
        total = more
    else:
        total.add(np.array([1.5, SMALLEST, -LARGEST]))
    assert total.value() == expected + Fraction(1.5) + Fraction(SMALLEST) - Fraction(LARGEST)
    assert total.state()[2047, 0] < 100
    assert abs(total.state()[:2047]).max() < 2**36


def test_the_largest_sum():
    state = exact([LARGEST]).state()
    state *= 2**36 - 1
    total, once = ExactSum.from_state(state), exact([LARGEST])
    total.merge(once)
    assert total.value() == 2**36 * Fraction(LARGEST)
    assert total.state()[2047, 0] == 2**36
    with pytest.raises(OverflowError):
        total.add(np.full(9, LARGEST))
    with pytest.raises(OverflowError):
        total.merge(total)
    assert total.value() == 2**36 * Fraction(LARGEST)


def test_state_and_pickle():
    values = [random.Random(0).gauss(0, 1) for _ in range(100)]
    total = exact(values)
    assert ExactSum.from_state(total.state()).value() == total.value()
    assert pickle.loads(pickle.dumps(total)).value() == total.value()
    total.state()[:] = 0
    assert total.value() == sum(map(Fraction, values))
    total.merge(total)
    assert total.value() == 2 * sum(map(Fraction, values))
    assert total.state()[2047].tolist() == [200, 0]


def test_what_is_refused_leaves_the_sum_as_it_was():
    total = exact([1.0])
    for add in (total.add, total.add_squares):
        for bad in (math.nan, math.inf, -math.inf, -math.nan):
            with pytest.raises(ValueError, match="finite"):
                add(np.array([5.0] * 100 + [bad]))
        with pytest.raises(TypeError, match="float32"):
            add(np.ones(1, np.float32))
        with pytest.raises(TypeError, match="list"):
            add([1.0])
        with pytest.raises(ValueError, match="shape"):
            add(np.ones((2, 2)))
    with pytest.raises(ValueError, match="2\\^500"):
        total.add_squares(np.array([1.0, np.nextafter(2.0**500, np.inf)]))
    assert total.value() == 1


def test_states_that_are_refused():
    state = exact([1.0]).state()
    with pytest.raises(TypeError, match="int32"):
        ExactSum.from_state(state.astype(np.int32))
    with pytest.raises(ValueError, match="shape"):
        ExactSum.from_state(state[1:])
    for adds in (-1, 2**36 + 1):
        state[2047, 0] = adds
        with pytest.raises(ValueError, match="adds"):
            ExactSum.from_state(state)
