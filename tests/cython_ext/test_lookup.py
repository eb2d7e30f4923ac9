import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import (
    QuantisedTable,
    _lookup,
    advise_huge_pages,
    dequantise,
    empty_huge,
    lookup,
    padded,
    pooled,
    quantise,
)
from recsys_cython_ext.lookup import TableBatchedLookup

KINDS = ["fp32", "fp16", "fp8", "int8", "int4"]


def oracle(table, rows, offsets, weights):
    """Sum of each bag in its order, in fp32."""
    values, out = dequantise(table), np.zeros((len(offsets) - 1, table.shape[1]), np.float32)
    for b in range(len(out)):
        for at in range(offsets[b], offsets[b + 1]):
            out[b] += weights[at] * values[rows[at]]
    return out


def random_table(n, d, kind="fp32", seed=0):
    return quantise(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32), kind)


def placed(array, past_a_line):
    """The same values, so many bytes past the begin of a cache line."""
    memory = np.empty(array.nbytes + 64 + past_a_line, np.uint8)
    start = -memory.ctypes.data % 64 + past_a_line
    out = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


@pytest.fixture
def many_threads(monkeypatch):
    monkeypatch.setattr(lookup, "_ROWS_PER_THREAD", 1)


@pytest.fixture(scope="module", params=range(3), ids=["portable", "AVX2", "AVX-512"])
def level(request):
    """Each level that the processor has."""
    if _lookup.use_level(request.param) != request.param:
        pytest.skip("this processor, or this build, has it not")
    yield
    _lookup.use_level(2)


# Against the oracle


@given(
    kind=st.sampled_from(KINDS),
    d=st.integers(1, 36).map(lambda quarter: 4 * quarter),
    lengths=st.lists(st.one_of(st.just(0), st.integers(0, 40)), max_size=12),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_the_oracle_to_the_bit(level, kind, d, lengths, weighted, seed):
    rng = np.random.default_rng(seed)
    table = random_table(17, d, kind, seed)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    rows = rng.integers(0, 17, offsets[-1])
    weights = rng.standard_normal(len(rows)).astype(np.float32) if weighted else None
    expected = oracle(table, rows, offsets, weights if weighted else np.ones(len(rows), np.float32))
    assert np.array_equal(pooled(table, rows, offsets, weights), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [4, 8, 12, 16, 32, 64, 100, 128])
def test_bags_of_one_are_the_rows(level, kind, d):
    table = random_table(300, d, kind)
    rows = np.random.default_rng(1).permutation(300)
    out = pooled(table, rows)
    assert out.dtype == np.float32
    assert np.array_equal(out, dequantise(table)[rows])
    weights = np.full(300, 0.1, np.float32)
    assert np.array_equal(pooled(table, rows, weights=weights), weights[0] * dequantise(table)[rows])


def test_every_fp16_value_is_converted_like_numpy(level):
    table = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 16)
    out = pooled(table, np.arange(len(table)))
    assert np.array_equal(out, table.astype(np.float32), equal_nan=True)


@given(
    scales=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
    d=st.sampled_from([4, 8, 16, 32, 64, 100]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy on inf - inf and overflow
def test_every_fp8_code_is_read_like_numpy(level, scales, d, weighted, seed):
    """Scales of every size, subnormal and infinite ones too; the codes of NaN; bags that are empty and of many."""
    rng = np.random.default_rng(seed)
    n = -(-256 // d) * len(scales)
    codes = rng.permutation(np.resize(np.arange(256, dtype=np.uint8), n * d)).reshape(n, d)
    header = np.resize(np.array(scales, np.float32), (n, 1)).view(np.uint8)
    table = QuantisedTable(np.concatenate([header, codes], axis=1), "fp8", d)
    rows, weights = rng.integers(0, n, 300), np.ones(300, np.float32)
    rows[:n] = rng.permutation(n)
    if weighted:
        weights = rng.standard_normal(300).astype(np.float32)
    offsets = np.array([0, 0, *range(1, n + 1), n, 300])
    found = pooled(table, rows, offsets, weights if weighted else None)
    assert np.array_equal(found, oracle(table, rows, offsets, weights), equal_nan=True)
    assert np.isnan(pooled(table, np.arange(n))[codes & 127 == 127]).all()


@given(
    kind=st.sampled_from(KINDS),
    d=st.integers(1, 36).map(lambda quarter: 4 * quarter),
    more=st.integers(0, 20).map(lambda quarter: 4 * quarter),
    n=st.integers(0, 17),
    length=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_padded_rows_are_the_rows_and_zeros(level, kind, d, more, n, length, seed):
    rows = np.random.default_rng(seed).integers(-1, n, length)
    table = random_table(n, d, kind, seed)
    values, expected = dequantise(table), np.zeros((length, d + more), np.float32)
    for at, row in enumerate(rows):
        if row >= 0:
            expected[at, :d] = values[row]
    assert np.array_equal(padded(table, rows, d + more), expected)


def test_unaligned_memory(level):
    table, rows = random_table(50, 20), np.arange(50)[::-1].copy()
    out = placed(np.zeros((50, 20), np.float32), 4)
    assert pooled(placed(table, 4), rows, out=out) is out
    assert np.array_equal(out, table[::-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [36, 112])  # of which the second is whole cache lines
def test_threads_and_streaming_change_no_bit(level, kind, d, many_threads, monkeypatch):
    rng = np.random.default_rng(2)
    table = random_table(1000, d, kind)
    offsets = np.append(np.sort(rng.integers(0, 5001, 200)), 5000)
    offsets[:7] = 0
    rows, weights = rng.integers(0, 1000, 5000), rng.random(5000, np.float32)
    alone = pooled(table, rows, offsets, weights)
    monkeypatch.setattr(lookup, "_STREAM_BYTES", 0)
    for threads in (1, 2, 3, 7, 500):
        out = placed(np.full(alone.shape, np.nan, np.float32), 0)
        assert np.array_equal(pooled(table, rows, offsets, weights, out, threads), alone)
        assert np.array_equal(pooled(table, rows, threads=threads), pooled(table, rows))
    one_bag = np.array([0, 5000])
    assert np.array_equal(pooled(table, rows, one_bag, threads=4), pooled(table, rows, one_bag))


def test_parts_have_as_many_rows_each():
    offsets = np.array([0, 1, 2, 3, 100, 101, 102, 200, 200])
    assert lookup._cuts(offsets, 8, 200, 2) == [0, 4, 8]
    assert lookup._cuts(None, 10, 10, 4) == [0, 2, 5, 7, 10]


# Empty things


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_and_empty_bags(kind, many_threads):
    table, none = random_table(3, 8, kind), np.empty(0, np.int64)
    assert pooled(table, none).shape == (0, 8)
    assert pooled(table, none, np.zeros(1, np.int64)).shape == (0, 8)
    assert np.array_equal(pooled(table, none, np.zeros(6, np.int64), threads=2), np.zeros((5, 8)))
    assert np.array_equal(
        pooled(table, none, np.zeros(2, np.int64), none.astype(np.float32)), np.zeros((1, 8))
    )
    stale = np.full((2, 8), np.nan, np.float32)
    pooled(table, np.array([1]), np.array([0, 0, 1]), out=stale)
    assert np.array_equal(stale, [np.zeros(8), dequantise(table)[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_table_without_rows(kind):
    table = random_table(0, 8, kind)
    assert pooled(table, np.empty(0, np.int64)).shape == (0, 8)
    with pytest.raises(ValueError, match="row 0 at position 0 is outside the table's 0 rows"):
        pooled(table, np.zeros(1, np.int64))


# Errors


@pytest.mark.parametrize("bad", [5, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("d", [4, 64, 100])
def test_row_out_of_range_names_position_and_value(bad, threads, d, many_threads):
    rows = np.arange(100) % 5
    rows[[70, 90]] = bad
    with pytest.raises(ValueError, match=f"row {bad} at position 70 is outside the table's 5 rows"):
        pooled(random_table(5, d), rows, np.arange(0, 101, 10), threads=threads)


@pytest.mark.parametrize("bad", [5, -2, 2**63 - 1, -(2**63)])
def test_padded_refuses_what_is_no_row(bad):
    with pytest.raises(ValueError, match=f"row {bad} at position 2 is outside the table's 5 rows"):
        padded(random_table(5, 8), np.array([0, -1, bad, bad]), 12)


def test_padded_refuses_another_width_or_dtype():
    for width in (4, 10):
        with pytest.raises(ValueError, match=f"a multiple of 4 and at least the table's 8, got {width}"):
            padded(random_table(5, 8), np.array([0]), width)
    with pytest.raises(TypeError, match="rows must be int64"):
        padded(random_table(5, 8), np.array([0], np.int32), 8)


@pytest.mark.parametrize(
    "offsets",
    [[0, 3, 2, 4], [0, 5, 3, 4], [0, -1, 2, 4], [0, 2**62, 1, 4], [0, 4, -(2**63), 4], [0, 4, 4, 4, 0, 4]],
)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_offsets_that_fall_or_leave_the_rows(offsets, threads, many_threads):
    with pytest.raises(ValueError, match="offsets of bag"):
        pooled(random_table(5, 8), np.arange(4), np.array(offsets), threads=threads)


@pytest.mark.parametrize("offsets", [[], [1, 4], [0, 3], [0, 5]])
def test_offsets_with_wrong_ends(offsets):
    with pytest.raises(ValueError, match="offsets must run from 0 to 4"):
        pooled(random_table(5, 8), np.arange(4), np.array(offsets, np.int64))


def test_weight_nan_is_named():
    weights = np.array([1, np.inf, np.nan, 1], np.float32)
    with pytest.raises(ValueError, match="the weight at position 2 is NaN"):
        pooled(random_table(5, 8), np.arange(4), weights=weights)


def test_wrong_dtypes():
    table, rows = random_table(5, 8), np.arange(4)
    for bad in (table.astype(np.float64), table.tolist(), table.astype(np.int8)):
        with pytest.raises(TypeError, match="table must be"):
            pooled(bad, rows)
    for name, arguments in {
        "rows": (rows.astype(np.int32),),
        "offsets": (rows, np.array([0, 4], np.int32)),
        "weights": (rows, None, np.ones(4)),
        "out": (rows, None, None, np.empty((4, 8))),
    }.items():
        with pytest.raises(TypeError, match=f"{name} must be"):
            pooled(table, *arguments)
    with pytest.raises(TypeError):
        pooled(table, rows, threads=1.5)


def test_wrong_shapes_and_layouts():
    table, rows = random_table(8, 8), np.arange(4)
    wide = np.ones((4, 16), np.float32)
    locked = np.empty((4, 8), np.float32)
    locked.flags.writeable = False
    for arguments in (
        (table.T, rows),
        (table[0], rows),
        (np.ones((3, 6), np.float32), rows),
        (np.ones((3, 0), np.float32), rows),
        (table, rows[::2]),
        (table, rows[None]),
        (table, rows, None, np.ones(3, np.float32)),
        (table, rows, None, None, wide),
        (table, rows, None, None, wide[:, :8]),
        (table, rows, None, None, wide[:3]),
        (table, rows, None, None, locked),
        (table, rows, None, None, None, 0),
    ):
        with pytest.raises(ValueError, match=r".+"):
            pooled(*arguments)


# Memory


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_memory_mapped_table(kind, tmp_path):
    table = random_table(2000, 32, kind)
    np.save(tmp_path / "table.npy", table)
    mapped = np.load(tmp_path / "table.npy", mmap_mode="r")
    advise_huge_pages(mapped)
    rows = np.random.default_rng(3).integers(0, 2000, 500)
    assert np.array_equal(pooled(mapped, rows), pooled(table, rows))


@pytest.mark.parametrize("shape", [(0, 8), (3, 8), (100_000, 8)])
def test_empty_huge(shape):
    out = empty_huge(shape, np.float32)
    assert (out.shape, out.dtype) == (shape, np.float32)
    assert out.flags.c_contiguous
    assert out.flags.writeable
    out[:] = 1
    if hasattr(mmap, "MADV_HUGEPAGE") and out.nbytes > 2**21:
        assert out.ctypes.data % 2**21 == 0
    assert empty_huge((700_000,), np.int64).dtype == np.int64


def test_advice_on_anything_is_harmless():
    for array in (np.empty(0), np.ones(3), np.ones((2000, 2000))[:, ::2], np.ones((2000, 2000))):
        before = array.copy()
        advise_huge_pages(array)
        assert np.array_equal(array, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_after_a_fork():
    code = """
import os, numpy as np
from recsys_cython_ext import pooled
table, rows = np.ones((10, 8), np.float32), np.zeros(100_000, np.int64)
pooled(table, rows, threads=2)
child = os.fork()
if child == 0:
    os._exit(int(pooled(table, rows, threads=2).sum()) != 800_000)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], timeout=120, check=False)
    assert done.returncode == 0


# Several tables at once


@given(
    kinds=st.lists(st.sampled_from(KINDS), max_size=6),
    bags=st.integers(0, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_several_tables_are_those_of_each(kinds, bags, seed):
    random = np.random.default_rng(seed)
    sizes, widths = random.integers(1, 50, len(kinds)), 4 * random.integers(1, 20, len(kinds))
    tables = [random_table(*shape, seed) for shape in zip(sizes, widths, kinds, strict=True)]
    columns = np.cumsum([4, *widths])[:-1]
    width = int(4 + widths.sum() + 4)  # four columns before and after belong to others
    rows = np.array([random.integers(0, n, bags) for n in sizes], np.int64).reshape(len(kinds), bags)
    out = np.full((bags, width), 7, np.float32)
    TableBatchedLookup(tables, columns.tolist(), width).gather(rows, out)
    expected = [pooled(table, of_table) for table, of_table in zip(tables, rows, strict=True)]
    border = np.full((bags, 4), 7, np.float32)
    np.testing.assert_array_equal(out, np.concatenate([border, *expected, border], axis=1))


def test_several_tables_refuse_what_does_not_fit():
    tables = [random_table(3, 4), random_table(5, 8, "int8")]
    both = TableBatchedLookup(tables, [0, 4], 12)
    for rows, message in (
        ([[0, 2], [4, 5]], "table 1: row 5 at position 1 is outside the table's 5 rows"),
        ([[0, -1], [4, 4]], "table 0: row -1 at position 1"),
        ([[0, 1]], r"rows \[1, 2\] of 2 tables do not go into out"),
    ):
        with pytest.raises(ValueError, match=message):
            both.gather(np.array(rows), np.empty((2, 12), np.float32))
    with pytest.raises(ValueError, match="rows"):
        both.gather(np.zeros((2, 4), np.int64)[:, ::2], np.empty((2, 12), np.float32))
    with pytest.raises(ValueError, match="tables end in column 13, and there are 12"):
        TableBatchedLookup(tables, [0, 5], 12)
