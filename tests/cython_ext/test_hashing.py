import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import recsys_cython_ext as ext
from recsys_cython_ext import HASH_VERSION, MISSING_ID, hash_rows, ids, mix64, salt, string_ids, xxh64

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
    assert salt(feature, lookup) == oracle_salt(feature, lookup)


def test_golden_file():
    golden = json.loads(Path(__file__).with_name("golden_rows.json").read_text(encoding="utf-8"))
    assert golden["hash_version"] == HASH_VERSION, "a new version needs a new golden file"
    for id_, feature, j, n, row in golden["rows"]:
        assert hash_rows(np.array([id_]), salt(feature, j), n).tolist() == [row]
    strings = golden["string_ids"]
    assert string_ids(pa.array(list(strings))).tolist() == list(strings.values())


def test_rows_are_spread_and_lookups_differ():
    n, values = 97, np.arange(97_000)
    first, second = (hash_rows(values, salt("f", j), n) for j in (0, 1))
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
        salt("f", -1)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64, np.bool_, np.dtype(">i8")])
def test_ids_are_never_cast(dtype):
    with pytest.raises(TypeError, match=str(np.dtype(dtype))):
        hash_rows(np.zeros(3, dtype), 0, 10)


def test_ids_must_be_one_dimensional_arrays():
    with pytest.raises(ValueError, match="shape"):
        hash_rows(np.zeros((2, 2), np.int64), 0, 10)
    with pytest.raises(TypeError, match="list"):
        hash_rows([1, 2], 0, 10)


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
    assert string_ids(chunks).tolist() == ids(chunks).tolist() == expected


@pytest.mark.parametrize("kind", STRING_TYPES + BINARY_TYPES, ids=str)
@pytest.mark.parametrize("index", [pa.int8(), pa.uint64()], ids=str)
def test_string_ids_of_dictionaries(kind, index):
    words = [v if kind in STRING_TYPES else v.encode() for v in ("a", "", "x" * 40)]
    dictionary = pa.array([*words, None], kind)  # a null can sit in the dictionary as well as in the indices
    codes = pa.array([0, 2, None, 3, 1, 0, 2, 2], index)
    array = pa.DictionaryArray.from_arrays(codes, dictionary)
    expected = oracle_string_ids([words[0], words[2], None, None, words[1], words[0], words[2], words[2]])
    assert string_ids(array).tolist() == ids(array).tolist() == expected
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
    high = 2**bits - 1 if sign == "uint" and bits < 64 else 2 ** (bits - 1) - 1
    values = data.draw(st.lists(st.none() | st.integers(low, high), max_size=30))
    start = data.draw(st.integers(0, len(values)))
    array = pa.array(values, getattr(pa, f"{sign}{bits}")())
    expected = [MISSING_ID if v is None else v for v in values]
    assert ids(array).tolist() == expected
    assert ids(array[start:]).tolist() == expected[start:]
    assert ids(pa.chunked_array([array[:start], array[start:]])).tolist() == expected
    if len(values):
        assert ids(array.dictionary_encode()[start:]).tolist() == expected[start:]
    assert ids(array).dtype == np.int64


def test_booleans_and_nulls():
    assert ids(pa.array([True, None, False])).tolist() == [1, MISSING_ID, 0]
    assert ids(pa.nulls(2)).tolist() == [MISSING_ID, MISSING_ID]


def test_the_result_is_writable_and_shares_nothing():
    array = pa.array([1, 2, 3])
    ids(array)[:] = 0
    assert array.to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([0, None, 2**63], pa.uint64(), "value 9223372036854775808 at position 2"),
        ([None, 7, 2**64 - 1], pa.uint64(), "value 18446744073709551615 at position 2"),
        ([5, -(2**63)], pa.int64(), "value -9223372036854775808 at position 1"),
    ],
)
def test_integers_without_an_id(values, kind, message):
    with pytest.raises(ValueError, match=message):
        ids(pa.array(values, kind))
    with pytest.raises(ValueError, match="position") as caught:
        ids(pa.chunked_array([pa.array([1], kind), pa.array(values, kind)]))
    assert caught.value.__notes__ == ["in the chunk that starts at position 1"]


def test_the_content_of_a_null_slot_does_not_matter():
    buffers = [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([3, 2**63], np.uint64))]
    assert ids(pa.Array.from_buffers(pa.uint64(), 2, buffers)).tolist() == [3, MISSING_ID]


@pytest.mark.parametrize(
    "array",
    [pa.array([1.0]), pa.array([1], pa.timestamp("s")), pa.array([b"ab"], pa.binary(2)), pa.array([[1]])],
)
def test_types_without_ids(array):
    with pytest.raises(TypeError, match=str(array.type).split("[")[0].split("<")[0]):
        ids(array)


def test_ids_wants_arrow():
    with pytest.raises(TypeError, match="ndarray"):
        ids(np.array([1]))


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
