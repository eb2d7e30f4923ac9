import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import recsys_cython_ext as ext
from recsys_cython_ext import (
    HASH_VERSION,
    MISSING_ID,
    arrow_ids,
    hash_rows,
    hash_rows_jagged,
    lookup_salt,
    mix64,
    string_ids,
    xxh64,
)
from recsys_cython_ext import threads as kernel_threads
from recsys_cython_ext.column_ids import decimal_words, uuid_text

MASK = 2**64 - 1
EXTREMES = [0, 1, -1, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), -(2**63) + 1]
INT64 = st.one_of(st.sampled_from(EXTREMES), st.integers(-(2**63), 2**63 - 1))
STRING_TYPES = [pa.string(), pa.large_string(), pa.string_view()]
BINARY_TYPES = [pa.binary(), pa.large_binary(), pa.binary_view()]


def oracle_mix64(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def signed(word):
    return (word ^ 2**63) - 2**63


def oracle_salt(feature, j):
    return signed(
        oracle_mix64((xxhash.xxh64_intdigest(feature.encode()) + (j + 1) * 0x9E3779B97F4A7C15) & MASK)
    )


def oracle_row(id_, salt_, n):
    return ((oracle_mix64((id_ ^ salt_) & MASK) >> 32) * n) >> 32


def oracle_string_ids(values):
    encoded = [v.encode() if isinstance(v, str) else v for v in values]
    return [MISSING_ID if v is None else signed(xxhash.xxh64_intdigest(v)) for v in encoded]


# Integers to rows


@given(st.lists(INT64))
def test_mix64_agrees_with_python(values):
    expected = [signed(oracle_mix64(v & MASK)) for v in values]
    array = np.array(values, np.int64)
    assert mix64(array).tolist() == expected
    assert mix64(array.view(np.uint64)).tolist() == expected
    assert mix64(array).dtype == np.int64


@given(st.lists(INT64), INT64, st.integers(1, 2**31 - 1))
def test_hash_rows_agrees_with_python(values, salt_, n):
    rows = hash_rows(np.array(values, np.int64), salt_, n)
    assert rows.tolist() == [oracle_row(v, salt_, n) for v in values]
    assert rows.dtype == np.int64


@given(st.text(), st.integers(0, 2**70))
def test_salt_agrees_with_python(feature, lookup):
    assert lookup_salt(feature, lookup) == oracle_salt(feature, lookup)


def test_golden_file():
    golden = json.loads(Path(__file__).with_name("golden_rows.json").read_text(encoding="utf-8"))
    assert golden["hash_version"] == HASH_VERSION, "a new version needs a new golden file"
    for id_, feature, j, n, row in golden["rows"]:
        assert hash_rows(np.array([id_]), lookup_salt(feature, j), n).tolist() == [row]
    strings = golden["string_ids"]
    assert string_ids(pa.array(list(strings))).tolist() == list(strings.values())


def test_rows_are_spread_and_lookups_differ():
    n, values = 97, np.arange(97_000)
    first, second = (hash_rows(values, lookup_salt("f", j), n) for j in (0, 1))
    for rows in (
        first,
        second,
    ):  # chi-squared, 96 degrees of freedom: 160 is far beyond the 99.9th percentile
        assert (((np.bincount(rows, minlength=n) - 1000) ** 2) / 1000).sum() < 160
    assert (first == second).mean() < 2 / n


def test_hash_rows_accepts_strides_read_only_and_empty():
    values = np.arange(10, dtype=np.int64)
    values.flags.writeable = False
    assert hash_rows(values[::3], 5, 100).tolist() == [oracle_row(v, 5, 100) for v in (0, 3, 6, 9)]
    assert hash_rows(values[:0], 5, 100).shape == (0,)


@pytest.mark.parametrize("n", [0, -1, 2**31, 2**40])
def test_num_embeddings_out_of_range(n):
    with pytest.raises(ValueError, match="num_embeddings"):
        hash_rows(np.array([1]), 0, n)


@pytest.mark.parametrize("bad_salt", [2**63, -(2**63) - 1])
def test_salt_out_of_range(bad_salt):
    with pytest.raises(ValueError, match="salt"):
        hash_rows(np.array([1]), bad_salt, 10)


def test_negative_lookup():
    with pytest.raises(ValueError, match="lookup"):
        lookup_salt("f", -1)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64, np.bool_, np.dtype(">i8")])
def test_ids_are_never_cast(dtype):
    with pytest.raises(TypeError, match=str(np.dtype(dtype))):
        hash_rows(np.zeros(3, dtype), 0, 10)


def test_ids_must_be_one_dimensional_arrays():
    with pytest.raises(ValueError, match="shape"):
        hash_rows(np.zeros((2, 2), np.int64), 0, 10)
    with pytest.raises(TypeError, match="list"):
        hash_rows([1, 2], 0, 10)


# Many ids: SIMD lanes and their remainders, outputs, threads


@pytest.mark.parametrize("length", [*range(1, 35), 1000])
def test_every_remainder_of_a_vector(length):
    values = np.random.default_rng(length).integers(-(2**63), 2**63, length + 1)
    expected = [oracle_row(v, -9, 2**31 - 1) for v in values.tolist()]
    assert hash_rows(values, -9, 2**31 - 1).tolist() == expected
    assert hash_rows(values[1:], -9, 2**31 - 1).tolist() == expected[1:]  # not aligned to a vector


def test_out_is_filled_and_returned():
    values, out = np.arange(10), np.empty(10, np.int64)
    assert hash_rows(values, 5, 100, out) is out
    assert out.tolist() == [oracle_row(v, 5, 100) for v in range(10)]
    texts = pa.chunked_array([["a", None], ["b"]])
    assert string_ids(texts, out[:3]).tolist() == arrow_ids(texts).tolist()
    tensor = torch.empty(10, dtype=torch.int64)
    assert hash_rows(torch.from_numpy(values), 5, 100, tensor) is tensor
    assert tensor.tolist() == [oracle_row(v, 5, 100) for v in range(10)]


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty(3, np.int32), TypeError, "int32"),
        ([0, 0, 0], TypeError, "list"),
        (torch.empty(3, dtype=torch.int64), TypeError, "int64"),
        (np.empty(4, np.int64), ValueError, "shape"),
        (np.empty(6, np.int64)[::2], ValueError, "contiguous"),
        (np.frombuffer(bytes(24), np.int64), ValueError, "writable"),
    ],
    ids=["dtype", "list", "tensor", "length", "strides", "read-only"],
)
def test_unfit_outputs(out, error, message):
    with pytest.raises(error, match=message):
        hash_rows(np.arange(3), 0, 10, out)
    with pytest.raises(error, match=message):
        hash_rows_jagged(np.arange(3), [0, 3], [0], [10], out)
    with pytest.raises(error, match=message):
        arrow_ids(pa.array([1, 2, 3]), out)


def test_an_output_over_the_input():
    values = np.arange(5)
    with pytest.raises(ValueError, match="share memory"):
        hash_rows(values[1:], 0, 10, values[:-1])
    with pytest.raises(TypeError, match="tensor on cpu"):
        hash_rows(torch.arange(5), 0, 10, torch.empty(5, dtype=torch.int32))


@pytest.mark.parametrize("threads", [None, 1, 2, 3, 100])
def test_threads_give_the_same(threads, monkeypatch):
    monkeypatch.setattr(kernel_threads, "VALUES_PER_THREAD", 100)
    values = np.random.default_rng(0).integers(-(2**63), 2**63, 1001)
    rows = [oracle_row(v, 7, 999) for v in values.tolist()]
    assert hash_rows(values, 7, 999, threads=threads).tolist() == rows
    offsets, sizes = [0, 350, 350, 1001], [999, 1, 999]
    assert hash_rows_jagged(values, offsets, [7, 0, 7], sizes, threads=threads).tolist() == rows
    texts = [None if v % 5 == 0 else str(v)[: v % 20] for v in values.tolist()]
    for kind in (pa.string(), pa.string_view()):
        array = pa.array(texts, kind)[1:]
        assert string_ids(array, threads=threads).tolist() == oracle_string_ids(texts[1:])


def test_a_corrupt_value_in_a_later_part(monkeypatch):
    monkeypatch.setattr(kernel_threads, "VALUES_PER_THREAD", 100)
    offsets = np.arange(301, dtype=np.int32)
    offsets[291] = 500
    array = pa.Array.from_buffers(pa.string(), 300, [None, pa.py_buffer(offsets), pa.py_buffer(bytes(300))])
    with pytest.raises(ValueError, match="value 290 lies outside"):
        string_ids(array, threads=3)


def test_number_of_threads():
    assert kernel_threads.available_cores() >= 1
    with pytest.raises(ValueError, match="threads must be >= 1, got 0"):
        hash_rows(np.arange(3), 0, 10, threads=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_after_a_fork():
    code = """
import os, sys, numpy as np
from recsys_cython_ext import hash_rows
from recsys_cython_ext import threads as kernel_threads
from recsys_cython_ext.column_ids import decimal_words, uuid_text
kernel_threads.VALUES_PER_THREAD = 10
rows = hash_rows(np.arange(100), 1, 50, threads=2)
child = os.fork()
if child == 0:
    os._exit(0 if (hash_rows(np.arange(100), 1, 50, threads=2) == rows).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


# Whole batches


@given(st.lists(st.tuples(st.lists(INT64, max_size=20), INT64, st.integers(1, 2**31 - 1)), max_size=8))
def test_jagged_rows_are_those_of_each_feature(features):
    values = [v for bag, _, _ in features for v in bag]
    offsets = [0, *np.cumsum([len(bag) for bag, _, _ in features], dtype=int).tolist()]
    salts, sizes = [s for _, s, _ in features], [n for _, _, n in features]
    expected = [oracle_row(v, s, n) for bag, s, n in features for v in bag]
    array = np.array(values, np.int64)
    assert hash_rows_jagged(array, offsets, salts, sizes).tolist() == expected
    arrays = (np.array(offsets, np.int32), np.array(salts, np.int64), np.array(sizes, np.uint64))
    assert hash_rows_jagged(array, *arrays).tolist() == expected
    tensors = [torch.tensor(v, dtype=torch.int64) for v in (values, offsets, salts, sizes)]
    rows = hash_rows_jagged(*tensors)
    assert rows.dtype == torch.int64
    assert rows.tolist() == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"salts": [0, 2**63]}, ValueError, r"salt of feature 1 .* got 9223372036854775808"),
        ({"salts": np.array([0, 2**63], np.uint64)}, ValueError, "salt of feature 1"),
        ({"num_embeddings": [0, 5]}, ValueError, r"num_embeddings of feature 0 .* got 0"),
        ({"num_embeddings": [1, 2**31]}, ValueError, "num_embeddings of feature 1"),
        ({"num_embeddings": [1]}, ValueError, "got 3, 2 and 1"),
        ({"offsets": [0, 3]}, ValueError, "got 2, 2 and 2"),
        ({"offsets": []}, ValueError, "got 0, 2 and 2"),
        ({"offsets": [0, -1, 3]}, ValueError, "offset of feature 1"),
        ({"offsets": [0, 4, 3]}, ValueError, "fall at feature 1: 4, 3"),
        ({"offsets": [0, 1, 2]}, ValueError, "from 0 to 3, got 0 to 2"),
        ({"offsets": [1, 1, 3]}, ValueError, "from 0 to 3, got 1 to 3"),
        ({"offsets": np.zeros((1, 3), np.int64)}, ValueError, "shape"),
        ({"offsets": np.array([0.0, 1, 3])}, TypeError, "float64"),
        ({"salts": [0.5, 1]}, TypeError, "float"),
        ({"ids": np.zeros(3, np.int32)}, TypeError, "int32"),
        ({"ids": torch.zeros(3, dtype=torch.bfloat16)}, TypeError, "bfloat16"),
        ({"ids": torch.zeros(3, 1, dtype=torch.int64)}, ValueError, "shape"),
    ],
)
def test_jagged_errors(change, error, message):
    good = {"ids": np.arange(3), "offsets": [0, 1, 3], "salts": [0, 1], "num_embeddings": [5, 6]}
    with pytest.raises(error, match=message):
        hash_rows_jagged(**good | change)


# Strings


@given(st.binary(max_size=200))
def test_xxh64_agrees_with_xxhash(data):
    assert xxh64(data) == xxhash.xxh64_intdigest(data)


def test_xxh64_of_every_length():
    data = np.random.default_rng(0).bytes(300)
    for length in range(201):
        assert xxh64(data[length : 2 * length]) == xxhash.xxh64_intdigest(data[length : 2 * length])


@pytest.mark.parametrize("kind", STRING_TYPES + BINARY_TYPES, ids=str)
@given(st.data())
def test_string_ids_of_slices_and_chunks(kind, data):
    element = st.text(max_size=60) if kind in STRING_TYPES else st.binary(max_size=100)
    values = data.draw(st.lists(st.none() | element, max_size=40))
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    array, expected = pa.array(values, kind), oracle_string_ids(values)
    assert string_ids(array).tolist() == expected
    assert string_ids(array[start:stop]).tolist() == expected[start:stop]
    chunks = pa.chunked_array([array[:start], array[start:stop], array[stop:]], kind)
    assert string_ids(chunks).tolist() == arrow_ids(chunks).tolist() == expected


@pytest.mark.parametrize("kind", STRING_TYPES + BINARY_TYPES, ids=str)
@pytest.mark.parametrize("index", [pa.int8(), pa.uint64()], ids=str)
def test_string_ids_of_dictionaries(kind, index):
    words = [v if kind in STRING_TYPES else v.encode() for v in ("a", "", "x" * 40)]
    dictionary = pa.array([*words, None], kind)  # a null can sit in the dictionary as well as in the indices
    codes = pa.array([0, 2, None, 3, 1, 0, 2, 2], index)
    array = pa.DictionaryArray.from_arrays(codes, dictionary)
    expected = oracle_string_ids([words[0], words[2], None, None, words[1], words[0], words[2], words[2]])
    assert string_ids(array).tolist() == arrow_ids(array).tolist() == expected
    for window in (slice(1, 3), slice(2, 8), slice(5, 5)):  # shorter and longer than the dictionary
        assert string_ids(array[window]).tolist() == expected[window]
    assert string_ids(pa.chunked_array([array, array[2:]])).tolist() == expected + expected[2:]


def test_string_ids_of_an_all_null_dictionary():
    array = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int32()), pa.array([], pa.string()))
    assert string_ids(array).tolist() == [MISSING_ID, MISSING_ID]


@pytest.mark.parametrize("kind", STRING_TYPES + BINARY_TYPES, ids=str)
def test_string_ids_of_nothing(kind):
    assert string_ids(pa.array([], kind)).shape == (0,)
    assert string_ids(pa.chunked_array([], kind)).shape == (0,)
    assert string_ids(pa.array([None, None], kind)).tolist() == [MISSING_ID] * 2
    empty = "" if kind in STRING_TYPES else b""
    assert string_ids(pa.array([empty, empty], kind)).tolist() == oracle_string_ids([b"", b""])


def test_the_reserved_digest_is_moved_aside():
    # No string with digest 2^63 is known, so the kernel is told that another digest is the reserved one.
    digest = signed(xxhash.xxh64_intdigest(b"a"))
    out = np.empty(1, np.int64)
    data, offsets = np.frombuffer(b"a", np.uint8), np.array([0, 1], np.int32)
    assert ext.hashing._hashing.strings_into(data, offsets, digest, out) == -1
    assert out[0] == digest + 1


@pytest.mark.parametrize("offsets", [[0, 9, 3], [0, -5, 3], [0, 2, 1]])
def test_corrupt_offsets_are_refused(offsets):
    buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), pa.py_buffer(b"abc")]
    with pytest.raises(ValueError, match="corrupt"):
        string_ids(pa.Array.from_buffers(pa.string(), 2, buffers))


@pytest.mark.parametrize("kind", STRING_TYPES + BINARY_TYPES, ids=str)
@pytest.mark.parametrize(
    "lengths",
    [[8], [0, 8], range(9), [1, 7, 9], [12, 13], range(40)],
    ids=lambda lengths: f"{list(lengths)[:6]}",
)
def test_blocks_of_short_strings(kind, lengths):
    # Whole blocks, mixed ones and the end of the buffer each go their own way in the kernel.
    rng = np.random.default_rng(0)
    values = [rng.integers(97, 123, length, np.uint8).tobytes() for length in rng.choice(list(lengths), 300)]
    array = pa.array(values, pa.binary()).cast(kind)
    expected = oracle_string_ids(values)
    assert string_ids(array).tolist() == expected
    for window in (slice(0, 64), slice(63, 129), slice(299, 300)):
        assert string_ids(array[window]).tolist() == expected[window]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("bad", [-1, 10**9, -(2**31)])
@pytest.mark.parametrize("position", [1, 63, 64, 65, 199])
def test_corrupt_offsets_in_a_block_are_refused(kind, bad, position):
    offsets = np.arange(0, 201 * 8, 8, dtype=np.int32 if kind == pa.string() else np.int64)
    offsets[position] = bad
    array = pa.Array.from_buffers(kind, 200, [None, pa.py_buffer(offsets), pa.py_buffer(bytes(200 * 8))])
    with pytest.raises(ValueError, match=f"corrupt {kind} array: value {position - 1} "):
        string_ids(array)


def test_offsets_that_wrap_around_are_refused():
    # Every difference is positive modulo 2^64, and the last offset lies inside the data.
    offsets = np.array([0, 2**62, 2**63 - 1, -(2**62), 8], np.int64)
    array = pa.Array.from_buffers(
        pa.large_string(), 4, [None, pa.py_buffer(offsets), pa.py_buffer(bytes(64))]
    )
    with pytest.raises(ValueError, match="value 0"):
        string_ids(array)


def view(length, buffer=0, offset=0):
    return np.array([length, 0, buffer, offset], np.int32)


@pytest.mark.parametrize(
    "bad",
    [
        view(-1),
        view(13, 1),
        view(13, -1),
        view(13, 0, -1),
        view(13, 0, 8),
        view(21),
        view(2**31 - 1, 0, 2**31 - 1),
    ],
    ids=lambda v: f"{v.tolist()}",
)
def test_corrupt_views(bad):
    views = pa.py_buffer(np.concatenate([view(13, 0, 7), view(5), bad]))
    text = pa.py_buffer(b"0123456789" * 2)
    with pytest.raises(ValueError, match="corrupt string_view array: value 2 "):
        string_ids(pa.Array.from_buffers(pa.string_view(), 3, [None, views, text]))
    nulls = pa.Array.from_buffers(pa.string_view(), 3, [pa.py_buffer(b"\x03"), views, text])
    expected = oracle_string_ids([b"7890123456789", bytes(5), None])
    assert string_ids(nulls).tolist() == expected  # the view of a null may hold anything
    assert string_ids(nulls[1:]).tolist() == expected[1:]


def test_views_into_several_buffers():
    texts = [f"{n} is longer than twelve bytes" for n in range(10)]
    both = pa.concat_arrays([pa.array(texts[:5], pa.string_view()), pa.array(texts[5:], pa.string_view())])
    assert len(both.buffers()) == 4
    assert string_ids(both).tolist() == oracle_string_ids(texts)


@pytest.mark.parametrize(
    "array", [pa.array([1]), pa.array([1.5]), pa.array([["a"]])], ids=lambda a: str(a.type)
)
def test_string_ids_wants_strings(array):
    with pytest.raises(TypeError, match=str(array.type).split("<")[0]):
        string_ids(array)


# Columns to ids


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["int", "uint"])
@given(st.data())
def test_integers_are_their_own_ids(bits, sign, data):
    low = -(2 ** (bits - 1)) + (bits == 64) if sign == "int" else 0
    high = 2**bits - 1 if sign == "uint" else 2 ** (bits - 1) - 1
    integers = st.integers(low, high).filter(lambda value: value != 2**63)  # whose bits stand for missing
    values = data.draw(st.lists(st.none() | integers, max_size=30))
    start = data.draw(st.integers(0, len(values)))
    array = pa.array(values, getattr(pa, f"{sign}{bits}")())
    expected = [MISSING_ID if v is None else v - 2**64 if v > 2**63 else v for v in values]
    assert arrow_ids(array).tolist() == expected
    assert arrow_ids(array[start:]).tolist() == expected[start:]
    assert arrow_ids(pa.chunked_array([array[:start], array[start:]])).tolist() == expected
    if len(values):
        assert arrow_ids(array.dictionary_encode()[start:]).tolist() == expected[start:]
    assert arrow_ids(array).dtype == np.int64


def test_a_refused_integer_is_named_by_its_position_in_a_dictionary_column():
    column = pa.array([1, 1, -(2**63)]).dictionary_encode()
    with pytest.raises(ValueError, match="at position 2"):
        arrow_ids(column)
    assert arrow_ids(column[:2]).tolist() == [1, 1]  # the dictionary still holds it


def test_booleans_and_nulls():
    assert arrow_ids(pa.array([True, None, False])).tolist() == [1, MISSING_ID, 0]
    assert arrow_ids(pa.nulls(2)).tolist() == [MISSING_ID, MISSING_ID]


def test_the_result_is_writable_and_shares_nothing():
    array = pa.array([1, 2, 3])
    arrow_ids(array)[:] = 0
    assert array.to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([0, None, 2**63], pa.uint64(), "value 9223372036854775808 at position 2"),
        ([5, -(2**63)], pa.int64(), "value -9223372036854775808 at position 1"),
        ([1, 2**63], pa.decimal128(38, 0), "value 9223372036854775808 at position 1 is reserved"),
        ([-(2**63)], pa.decimal256(60, 3), r"value -9223372036854775808\.000 at position 0 is reserved"),
        ([3, 2**64], pa.decimal128(38, 2), "position 1 is no whole number of 64 bits"),
        ([-(2**63) - 1], pa.decimal128(19, 0), "position 0 is no whole number of 64 bits"),
        ([None, Decimal("1.5")], pa.decimal128(5, 1), r"value 1\.5 at position 1 is no whole number"),
    ],
)
def test_integers_without_an_id(values, kind, message):
    with pytest.raises(ValueError, match=message):
        arrow_ids(pa.array(values, kind))
    with pytest.raises(ValueError, match="position") as caught:
        arrow_ids(pa.chunked_array([pa.array([1], kind), pa.array(values, kind)]))
    assert caught.value.__notes__ == ["in the chunk that starts at position 1"]


@pytest.mark.parametrize(
    "kind",
    [pa.decimal128(38, 0), pa.decimal128(30, 2), pa.decimal256(76, 40), pa.decimal128(38, 18)],
    ids=str,
)
def test_whole_decimals_are_integers(kind):
    values = [0, None, -1, 2**63 - 1, 2**64 - 1, 1 - 2**63, 2**53 + 1]
    array = pa.array([None if v is None else Decimal(v) for v in values], kind)
    expected = [MISSING_ID if v is None else (v + 2**63) % 2**64 - 2**63 for v in values]
    assert arrow_ids(array).tolist() == expected
    assert arrow_ids(array[2:5]).tolist() == expected[2:5]
    assert arrow_ids(array[:0]).tolist() == []


@given(st.data())
def test_decimals_of_every_scale(data):
    kind = pa.decimal256(76, data.draw(st.integers(0, 50)))
    unit = 10**kind.scale
    stored = st.integers(-(2**66), 2**66).map(lambda n: n * unit) | st.integers(-(10**75), 10**75)
    values = data.draw(st.lists(st.none() | stored, max_size=10))
    raw = b"".join((v or 0).to_bytes(32, "little", signed=True) for v in values)
    valid = pa.py_buffer(
        np.packbits(np.array([v is not None for v in values], bool), bitorder="little").tobytes()
    )
    array = pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(raw)])
    words, lost = decimal_words(array)
    for value, word, bad in zip(values, words.tolist(), lost.tolist(), strict=True):
        good = value is not None and value % unit == 0 and -(2**63) <= value // unit < 2**64
        assert bad == (value is not None and not good)
        assert word == (signed(value // unit % 2**64) if good else 0)


@given(st.lists(st.none() | st.uuids(), max_size=20), st.data())
def test_uuids_are_their_text(values, data):
    start = data.draw(st.integers(0, len(values)))
    raw = pa.array([None if v is None else v.bytes for v in values], pa.binary(16))
    texts = pa.array([None if v is None else str(v) for v in values], pa.string())
    for array in (raw, pa.ExtensionArray.from_storage(pa.uuid(), raw)):
        assert uuid_text(array).equals(texts)
        assert arrow_ids(array).tolist() == string_ids(texts).tolist()
        assert arrow_ids(array[start:]).tolist() == string_ids(texts).tolist()[start:]
    assert arrow_ids(raw.dictionary_encode()).tolist() == string_ids(texts).tolist()


def test_the_content_of_a_null_slot_does_not_matter():
    buffers = [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([3, 2**63], np.uint64))]
    assert arrow_ids(pa.Array.from_buffers(pa.uint64(), 2, buffers)).tolist() == [3, MISSING_ID]


@pytest.mark.parametrize(
    "array",
    [pa.array([1.0]), pa.array([1], pa.timestamp("s")), pa.array([b"ab"], pa.binary(2)), pa.array([[1]])],
)
def test_types_without_ids(array):
    with pytest.raises(TypeError, match=str(array.type).split("[")[0].split("<")[0]):
        arrow_ids(array)


def test_ids_wants_arrow():
    with pytest.raises(TypeError, match="ndarray"):
        arrow_ids(np.array([1]))


# The package


def test_importing_the_package_does_not_import_torch():
    code = "import sys, recsys_cython_ext; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=120)


def test_public_names():
    assert all(hasattr(ext, name) for name in ext.__all__)
    assert "torch_hashing" not in ext.__all__


def test_a_tensor_on_the_cpu_takes_the_kernel():
    values = torch.tensor([1, -5, 2**62])
    rows = hash_rows(values[::2], 9, 1000)
    assert rows.dtype == torch.int64
    assert rows.tolist() == [oracle_row(v, 9, 1000) for v in (1, 2**62)]
