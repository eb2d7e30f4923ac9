import json
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import MISSING_ID, StaticFunction, feature_keys, lookup_salt, mix64, static_function
from recsys_cython_ext import threads as kernel_threads
from recsys_cython_ext.files import digest
from recsys_cython_ext.manifest import SEAL, DamagedFile, OtherVersion, text_digest

EXTREMES = [0, 1, -1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, MISSING_ID, MISSING_ID + 1]
INT64 = st.one_of(st.sampled_from(EXTREMES), st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1))
SIZES = st.one_of(st.integers(1, 5), st.integers(0, 32).map(lambda bits: 2**bits), st.integers(1, 2**32))


def int64(values):
    return np.array(values, np.int64)


def some(n, num_values, seed=0):
    """Distinct keys [n] and values [n]."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.unique(rng.integers(-(2**63), 2**63, n + 5)))[:n], rng.integers(
        0, num_values, n
    )


@given(st.lists(INT64), SIZES, st.sampled_from([0, 8]), st.lists(INT64), st.randoms())
def test_it_agrees_with_a_dict(ids, num_values, fingerprint_bits, others, random):
    oracle = {id_: random.randrange(num_values) for id_ in ids}
    values = int64([oracle[id_] for id_ in ids])
    function = StaticFunction.build(int64(ids), values, num_values, fingerprint_bits=fingerprint_bits)
    assert function.lookup(int64(ids)).tolist() == values.tolist()
    assert len(function) == len(oracle)
    outside = function.lookup(int64(others))
    assert ((outside >= (-1 if fingerprint_bits else 0)) & (outside < num_values)).all()


@pytest.mark.parametrize("fingerprint_bits", [0, 8])
@pytest.mark.parametrize("bits", range(1, 33))
def test_every_width(bits, fingerprint_bits):
    for num_values in (2**bits, 2**bits - 1, 2 ** (bits - 1) + 1):
        keys, values = some(300, num_values, bits)
        values[:2] = 0, num_values - 1
        function = StaticFunction.build(keys, values, num_values, fingerprint_bits=fingerprint_bits)
        assert function.shape.slot_bits == max(1, (num_values - 1).bit_length()) + fingerprint_bits
        np.testing.assert_array_equal(function.lookup(keys), values)
        outside = function.lookup(keys + 1)
        assert outside.min() >= (-1 if fingerprint_bits else 0)
        assert outside.max() < num_values


@pytest.mark.parametrize("cache_bytes", [0, 2**30])  # with prefetches and without
@pytest.mark.parametrize("n", [*range(20), 127, 128, 129, 5_313, 30_000, 200_000])
def test_every_size(n, cache_bytes, monkeypatch):
    monkeypatch.setattr(static_function, "_CACHE_BYTES", cache_bytes)
    keys, values = some(n, 982)
    function = StaticFunction.build(keys, values, 982)
    np.testing.assert_array_equal(function.lookup(keys), values)
    if n >= 5_000:
        assert 1.125 < function.shape.num_slots / n < 1.3
    assert function.nbytes < 10 * function.shape.num_slots / 8 + 8


@pytest.mark.parametrize("fingerprint_bits", [0, 8])
def test_bytes_follow_from_the_number_of_keys(fingerprint_bits):
    counted = [static_function.static_function_bytes(n, max(n, 1), fingerprint_bits) for n in range(5_000)]
    assert counted == sorted(counted)
    for n in (0, 1, 30_000, 100_000):
        function = StaticFunction.build(*some(n, max(n, 1)), max(n, 1), fingerprint_bits=fingerprint_bits)
        assert function.nbytes == static_function.static_function_bytes(n, max(n, 1), fingerprint_bits)


def test_keys_outside_read_every_value_about_as_often():
    keys, values = some(20_000, 100)
    outside = StaticFunction.build(keys, values, 100).lookup(some(100_000, 1, seed=1)[0])
    counts = np.bincount(outside, minlength=100)
    assert len(counts) == 100
    assert counts.min() > 400
    assert counts.max() < 2_400  # 28 values are read by two of the 128 that 7 bits have


@pytest.mark.parametrize("n", [0, 1, 30, 20_000])
def test_one_key_outside_in_256_passes_for_one_inside(n):
    keys, values = some(n, 1000)
    outside = some(256_000, 1, seed=1)[0]
    passed = StaticFunction.build(keys, values, 1000, fingerprint_bits=8).lookup(outside) >= 0
    assert 850 < passed.sum() < 1_150  # a standard deviation is 32


@pytest.mark.parametrize("n", [0, 40, 5_000])
def test_neither_order_nor_repetition_of_keys_changes_a_byte(n):
    keys, values = some(n, 50)
    first = StaticFunction.build(keys, values, 50, fingerprint_bits=8)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(n), 3))
    again = StaticFunction.build(keys[order], values[order], 50, fingerprint_bits=8)
    assert again.shape == first.shape
    np.testing.assert_array_equal(again._slots, first._slots)


def test_building_takes_few_bytes_a_key():
    keys, values = some(100_000, 2**32)
    tracemalloc.start()
    try:
        StaticFunction.build(keys, values, 2**32, fingerprint_bits=8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 * len(keys)  # 5.8 of them are slots of 40 bits


def test_the_format_is_pinned():
    keys = mix64(np.arange(1000))
    function = StaticFunction.build(keys, np.arange(1000) % 37, 37, fingerprint_bits=8)
    assert digest(function._slots.tobytes()) == "93ded0b2623a2d31"  # FORMAT_VERSION rises where this changes,
    plain = StaticFunction.build(keys, np.arange(1000) % 37, 37)
    assert plain.lookup(np.arange(8)).tolist() == [0, 22, 30, 36, 25, 18, 1, 14]  # or these


def test_more_repetitions_than_a_cell_counts():
    function = StaticFunction.build(np.full(1000, 7), np.full(1000, 3), 5)
    assert function.lookup(int64([7])).tolist() == [3]
    assert len(function) == 1


@pytest.mark.parametrize("repeats", [1, 256, 300])
def test_a_key_with_two_values_is_named(repeats):
    keys = np.concatenate([np.full(repeats, 9), int64([4, 9, 4])])
    values = np.concatenate([np.full(repeats, 2), int64([1, 3, 1])])
    message = f"key 9 has the values 2 at position {repeats - 1} and 3 at position {repeats + 1}"
    with pytest.raises(ValueError, match=message):
        StaticFunction.build(keys, values, 4)


def test_features_share_a_function():
    ids = int64([5, -1, 2**60])
    keys = np.concatenate([feature_keys(ids, "user"), feature_keys(ids, "item")])
    assert len(set(keys.tolist())) == 6
    np.testing.assert_array_equal(keys[:3], mix64(ids ^ np.int64(lookup_salt("user", 0))))
    function = StaticFunction.build(keys, np.arange(6), 6)
    assert function.lookup(feature_keys(ids, "item")).tolist() == [3, 4, 5]


@pytest.mark.parametrize("threads", [None, 1, 2, 100])
def test_out_and_threads(threads, monkeypatch):
    monkeypatch.setattr(kernel_threads, "VALUES_PER_THREAD", 100)
    keys, values = some(1001, 10)
    function, out = StaticFunction.build(keys, values, 10), np.empty(1001, np.int64)
    assert function.lookup(keys, out, threads=threads) is out
    np.testing.assert_array_equal(out, values)
    np.testing.assert_array_equal(
        feature_keys(keys, "f", threads=threads), feature_keys(keys, "f", threads=1)
    )
    with pytest.raises(TypeError, match="int64"):
        function.lookup(keys, np.empty(1001, np.int32))
    with pytest.raises(ValueError, match="shape"):
        function.lookup(keys, out[1:])
    with pytest.raises(ValueError, match="share memory"):
        function.lookup(keys, keys)


def test_strides():
    keys, values = some(100, 10)
    function = StaticFunction.build(keys[::-2], values[::-2], 10)
    np.testing.assert_array_equal(function.lookup(keys[1::2]), values[1::2])


@pytest.mark.parametrize(
    ("keys", "values", "num_values", "fingerprint_bits", "error", "message"),
    [
        ([1.0], [0], 1, 0, TypeError, "keys must be int64, got float64"),
        ([1], [0.0], 1, 0, TypeError, "values must be int64, got float64"),
        ([[1]], [0], 1, 0, ValueError, "keys must be 1-D"),
        ([1, 2], [0], 1, 0, ValueError, "a value a key is needed"),
        ([1, 2], [0, 4], 4, 0, ValueError, r"value 4 at position 1 must be in \[0, 4\)"),
        ([1, 2], [-1, 0], 4, 0, ValueError, "value -1 at position 0"),
        ([1], [0], 0, 0, ValueError, "num_values must be"),
        ([1], [0], 2**32 + 1, 0, ValueError, "num_values must be"),
        ([1], [0], 1, 7, ValueError, "fingerprint_bits must be 0 or 8"),
    ],
)
def test_what_cannot_be_built(keys, values, num_values, fingerprint_bits, error, message):
    with pytest.raises(error, match=message):
        StaticFunction.build(np.array(keys), np.array(values), num_values, fingerprint_bits=fingerprint_bits)


@pytest.fixture
def saved(tmp_path):
    keys, values = some(1000, 700)
    StaticFunction.build(keys, values, 700, fingerprint_bits=8).save(tmp_path / "codes")
    return tmp_path / "codes"


def edit(manifest, change):
    """Change a manifest and seal it again, as one would who means harm."""
    value = json.loads(manifest.read_text())
    del value[SEAL]
    change(value)
    manifest.write_text(json.dumps({**value, SEAL: text_digest(json.dumps(value, sort_keys=True))}))


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_a_saved_function_is_mapped(tmp_path, n):
    keys, values = some(n, 700)
    function = StaticFunction.build(keys, values, 700, fingerprint_bits=8)
    function.save(tmp_path / "codes")
    opened = StaticFunction.open(tmp_path / "codes")
    assert opened.shape == function.shape
    assert opened.nbytes == function.nbytes == (tmp_path / "codes" / "slots.bin").stat().st_size
    assert isinstance(opened._slots.base, np.memmap)
    assert not opened._slots.flags.writeable
    np.testing.assert_array_equal(opened.lookup(keys), values)
    np.testing.assert_array_equal(opened.lookup(keys + 1), function.lookup(keys + 1))
    with pytest.raises(FileExistsError):
        function.save(tmp_path / "codes")


def test_every_flipped_byte_is_refused(saved):
    for name in ("manifest.json", "slots.bin"):
        whole = (saved / name).read_bytes()
        for place in range(0, len(whole), 7):
            (saved / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises((DamagedFile, OtherVersion), match=r"build the static function again|update"):
                StaticFunction.open(saved)
        (saved / name).write_bytes(whole)
    StaticFunction.open(saved)


@pytest.mark.parametrize("name", ["manifest.json", "slots.bin"])
def test_a_truncated_file_is_refused(saved, name):
    whole = (saved / name).read_bytes()
    for end in (0, 1, len(whole) // 2, len(whole) - 2):
        (saved / name).write_bytes(whole[:end])
        with pytest.raises(DamagedFile, match="damaged"):
            StaticFunction.open(saved)


def test_a_missing_file_is_named(saved):
    (saved / "slots.bin").unlink()
    with pytest.raises(DamagedFile, match=r"slots\.bin: missing; build the static function again"):
        StaticFunction.open(saved)
    shutil.rmtree(saved)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        StaticFunction.open(saved)


@pytest.mark.parametrize("name", ["hash_version", "format_version"])
@pytest.mark.parametrize(("version", "cure"), [(0, "build the static function again"), (2, "update")])
def test_another_version_is_refused(saved, name, version, cure):
    edit(saved / "manifest.json", lambda value: value.update({name: version}))
    with pytest.raises(OtherVersion, match=f"{name} {version}, but this program reads 1; {cure}"):
        StaticFunction.open(saved)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_segments": 2**31},
        {"num_segments": 0},
        {"num_segments": 2**32 - 1, "segment_bits": 18},
        {"segment_bits": 19},
        {"segment_bits": 63},
        {"num_values": 2**32},
        {"num_values": 0},
        {"num_values": 2**40},
        {"fingerprint_bits": 0},
        {"fingerprint_bits": 16},
        {"seed": -1},
        {"seed": 2**64},
        {"num_keys": -1},
    ],
)
def test_sizes_of_a_manifest_are_not_trusted(saved, wrong):
    edit(saved / "manifest.json", lambda value: value["shape"].update(wrong))
    with pytest.raises(DamagedFile, match="damaged"):
        StaticFunction.open(saved)


def test_no_seed_works(monkeypatch):
    monkeypatch.setattr(static_function, "_slots", lambda *_: None)
    with pytest.raises(RuntimeError, match="no static function of 3 keys"):
        StaticFunction.build(np.arange(3), np.arange(3), 3)
