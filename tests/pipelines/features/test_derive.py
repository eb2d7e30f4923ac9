import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, arrow_ids, string_ids
from recsys_pipelines.features.convert import WrongType, text_ids, typed
from recsys_pipelines.features.derive import (
    PARTS,
    VALUES,
    Cross,
    DatePart,
    Prefixes,
    Tokens,
    Weights,
    combined,
)
from recsys_pipelines.quarantine import Quarantine
from recsys_pipelines.sources.base import Chunk

WORDS = st.text("ab1é ,.-", max_size=12) | st.none()


def one_id(text):
    return int(string_ids(pa.array([text]))[0])


def slow_mix(z):
    mask = 2**64 - 1
    z &= mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return z ^ z >> 31


def slow_combined(values):
    if all(value == MISSING_ID for value in values):
        return MISSING_ID
    h = slow_mix(values[0])
    for value in values[1:]:
        h = slow_mix(h * 0x9E3779B97F4A7C15 + value)
    signed = h - 2**64 if h >= 2**63 else h
    return signed + (signed == MISSING_ID)


def convert(spec, *columns):
    output, problems = spec.convert([pa.array(column) for column in columns])
    return output.to_pylist(), [
        (p.column, p.reason, np.flatnonzero(p.bad).tolist()) for p in problems if p.bad.any()
    ]


IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3) | st.just(MISSING_ID)


@given(st.lists(st.tuples(IDS, IDS, IDS), max_size=20))
def test_combined_ids_equal_slow_ones(rows):
    columns = [np.array([row[place] for row in rows], np.int64) for place in range(3)]
    assert combined(columns).tolist() == [slow_combined(row) for row in rows]


def test_a_cross_tells_the_order_and_the_missing_apart():
    a, b = ["x", "y", None, None, "x"], ["y", "x", "x", None, None]
    found, problems = convert(Cross(("a", "b")), a, b)
    assert problems == []
    assert len(set(found)) == 5
    assert found[3] == MISSING_ID
    assert found == [
        slow_combined([int(v) for v in pair])
        for pair in zip(arrow_ids(pa.array(a)), arrow_ids(pa.array(b)), strict=True)
    ]


def test_a_cross_names_the_column_that_is_at_fault():
    with pytest.raises(WrongType) as caught:
        Cross(("a", "b")).convert([pa.array(["x"]), pa.array([[1]])])
    assert caught.value.column == 1
    _, problems = convert(Cross(("a", "b")), ["x", "y"], [1.0, 0.5])
    assert problems == [(1, "not a whole number within int64", [1])]
    specs = {"ab": Cross(("a", "b"))}
    chunk = Chunk(pa.table({"a": ["x", "y"], "b": [1.0, 0.5]}), np.arange(2), "f")
    bad = Quarantine()
    assert typed(chunk, specs, bad).num_rows == 1
    assert [(e.row, e.field, e.value) for e in bad.examples] == [(1, "b", "0.5")]
    assert text_ids(chunk, specs) == {"a": True, "b": False}


@given(st.lists(WORDS, max_size=10), st.integers(1, 3), st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_tokens_equal_slow_ones(texts, ngrams, most, lowercase):
    def words(text):
        out, word = [], ""
        for c in (text or "") + " ":
            if c.isalnum():
                word += c
            elif word:
                out, word = [*out, word], ""
        return out[:most]

    expected = []
    for text in texts:
        found = [one_id(word.lower() if lowercase else word) for word in words(text)]
        grams = [
            slow_combined(found[i : i + n]) for n in range(2, ngrams + 1) for i in range(len(found) - n + 1)
        ]
        expected.append(found + grams)
    column = pa.array(texts, pa.string())
    assert Tokens("t", lowercase, ngrams, most).convert([column])[0].to_pylist() == expected


def test_tokens_lower_the_case():
    assert convert(Tokens("t"), ["The  THE, été!"])[0] == [[one_id("the"), one_id("the"), one_id("été")]]
    assert convert(Tokens("t", lowercase=False), ["The"])[0] == [[one_id("The")]]


@given(st.lists(WORDS, max_size=10), st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True))
@settings(deadline=None)
def test_prefixes_equal_slow_ones(texts, lengths):
    expected = [[one_id(text[:n]) for n in lengths if len(text) >= n] if text else [] for text in texts]
    column = pa.array(texts, pa.string())
    assert Prefixes("t", tuple(lengths)).convert([column])[0].to_pylist() == expected


@pytest.mark.parametrize("spec", [Tokens("t"), Prefixes("t", (1,))])
def test_text_is_needed(spec):
    with pytest.raises(WrongType, match="text is needed"):
        spec.convert([pa.array([1])])
    assert spec.convert([pa.array([None, None])])[0].to_pylist() == [[], []]
    assert convert(spec, [b"ok", b"\xff"])[1] == [(0, "not UTF-8 text", [1])]


TIMES = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2100, 1, 1)).map(
    lambda t: t.replace(microsecond=0)
)


def slow_part(time, part):
    if time is None:
        return MISSING_ID
    found = {"weekday": time.weekday(), "weekend": int(time.weekday() >= 5)}
    return found.get(part, getattr(time, part, None))


@given(st.lists(TIMES | st.none(), max_size=10), st.sampled_from(sorted(PARTS)))
@settings(deadline=None)
def test_parts_of_a_date_in_every_form(times, part):
    expected = [slow_part(time, part) for time in times]
    seconds = [None if t is None else int(t.replace(tzinfo=datetime.UTC).timestamp()) for t in times]
    text = [None if t is None else t.strftime("%Y-%m-%d %H:%M:%S") for t in times]
    forms = [
        (pa.array(times, pa.timestamp("us")), "seconds"),
        (pa.array(seconds, pa.int64()), "seconds"),
        (pa.array([None if s is None else 1000 * s for s in seconds], pa.int64()), "milliseconds"),
        (pa.array([None if s is None else str(s) for s in seconds], pa.string()), "seconds"),
        (pa.array(text, pa.string()), "%Y-%m-%d %H:%M:%S"),
    ]
    for column, format_ in forms:
        found, problems = DatePart("t", part, format_).convert([column])
        assert found.to_pylist() == expected
        assert not any(problem.bad.any() for problem in problems)
    assert set(expected) - {MISSING_ID} <= set(VALUES.get(part, expected))


def test_times_that_are_none_are_named():
    assert convert(DatePart("t", "hour", "%y%m%d%H"), ["14102123", "1410212", "x", None]) == (
        [23, MISSING_ID, MISSING_ID, MISSING_ID],
        [(0, "not a time of the format %y%m%d%H", [1, 2])],
    )
    assert convert(DatePart("t", "hour"), [3600, -(2**63), 2**62]) == (
        [1, MISSING_ID, MISSING_ID],
        [(0, "not seconds since 1970", [1, 2])],
    )
    assert convert(DatePart("t", "hour", "%y%m%d%H"), [14102123])[0] == [23]
    assert convert(DatePart("t", "hour", "%y%m%d%H"), [14102123.0, 14102100.5]) == (
        [23, MISSING_ID],
        [(0, "not a whole number within int64", [1])],
    )


def test_weights_are_as_long_as_what_they_weigh():
    found, problems = convert(
        Weights("tags", "w"),
        [[0.5, 1], [1], None, [None], [float("inf")]],
        [["a", "b"], ["a", "b"], [], ["a"], ["a"]],
    )
    assert found[0] == [0.5, 1.0]
    assert found[2] == []
    assert problems == [
        (0, "infinite", [4]),
        (0, "missing weight", [3, 4]),
        (0, "not as many weights as tags has elements", [1]),
    ]
    assert convert(Weights("tags", "w", "|"), ["1|2.5", "x"], ["a|b", "a"]) == (
        [[1.0, 2.5], [pytest.approx(float("nan"), nan_ok=True)]],
        [(0, "not a number", [1]), (0, "missing weight", [1])],
    )
    found = convert(Weights("tags", "w", "|"), [b"1", b"\xff"], ["a", "a"])
    assert (0, "not UTF-8 text", [1]) in found[1]
