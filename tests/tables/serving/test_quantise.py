"""Tables in fewer bytes, against a dense product."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_tables.serving.quantise import DTYPES, Dtype, StoredTable, compress, pca


def table_of(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, (rows, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "error"), [("fp32", 0), ("fp16", 2**-11), ("fp8", 2**-4), ("int8", 1 / 255), ("int4", 1 / 15)]
)
def test_values_are_near(dtype: Dtype, error: float) -> None:
    table = table_of(300, 16)
    table[7] = 0
    table[8] = 1e-44  # too small for a scale
    values = compress(table, dtype).dense()
    assert values.dtype == np.float32
    spread = np.abs(table).max(axis=1, keepdims=True) * (2 if dtype.startswith("int") else 1)
    assert (np.abs(values - table) <= error * spread + 2e-4 * (dtype != "fp32")).all()
    assert not values[7].any()


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(st.integers(0, 7), st.integers(1, 3)),
    narrow=st.booleans(),
    weighted=st.booleans(),
)
def test_a_lookup_is_a_sum_of_dense_rows(
    dtype: Dtype, shape: tuple[int, int], narrow: bool, weighted: bool
) -> None:
    random = np.random.default_rng(1)
    stored = compress(table_of(20, 12), dtype, 4 if narrow else None)
    rows = random.integers(0, 20, shape)
    weights = random.normal(size=shape).astype(np.float32) if weighted else None
    values = stored.pooled(rows, weights)
    factors = np.ones(shape) if weights is None else weights
    expected = (stored.dense().astype(np.float64)[rows] * factors[:, :, None]).sum(axis=1)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", [None, 4])
def test_a_padded_lookup_is_dense_rows_and_zeros(dtype: Dtype, narrow: int | None) -> None:
    stored = compress(table_of(20, 12), dtype, narrow)
    values = stored.padded(np.array([3, -1, 19, 3]), 16)
    expected = np.zeros((4, 16), np.float32)
    expected[[0, 2, 3], :12] = stored.dense()[[3, 19, 3]]
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=0, atol=0 if narrow is None else 1e-6)


@pytest.mark.parametrize(
    ("dtype", "width", "ratio"),
    [
        ("fp32", 16, 1),
        ("fp16", 16, 2),
        ("fp8", 16, 3.2),
        ("int8", 16, 3.2),
        ("int8", 64, 256 / 68),
        ("int4", 64, 256 / 36),
    ],
)
def test_bytes(dtype: Dtype, width: int, ratio: float) -> None:
    stored = compress(table_of(50, width), dtype)
    assert stored.shape == (50, width)
    assert 4 * 50 * width / stored.nbytes == pytest.approx(ratio)


def test_pca_is_the_nearest_table_of_its_rank() -> None:
    table = table_of(200, 16) @ np.diag(np.geomspace(1, 0.01, 16)).astype(np.float32)
    rows, projection = pca(table, 8)
    assert (rows.shape, projection.shape, rows.dtype, projection.dtype) == (
        (200, 8),
        (8, 16),
        np.float32,
        np.float32,
    )
    u, s, v = np.linalg.svd(table.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(rows @ projection, u[:, :8] * s[:8] @ v[:8], atol=1e-6)
    exact = table_of(100, 4, 2) @ table_of(4, 16, 3)
    np.testing.assert_allclose(compress(exact, "fp32", 4).dense(), exact, atol=1e-6)
    as_wide = compress(table, "fp32", 16)
    assert as_wide.projection is None
    assert np.array_equal(as_wide.data, table)


def test_what_cannot_be_stored_is_refused() -> None:
    table = table_of(5, 8)
    table[3, 2] = np.nan
    for dtype in DTYPES:
        with pytest.raises(ValueError, match="row 3, column 2: nan is not finite"):
            compress(table, dtype)
    with pytest.raises(ValueError, match="row 3, column 2: nan is not finite"):
        compress(table, "fp32", 4)
    with pytest.raises(ValueError, match="dtype 'int2' is none of fp32, fp16, fp8, int8, int4"):
        compress(table, "int2")  # type: ignore[arg-type]
    for width in (0, 6):
        with pytest.raises(ValueError, match=f"width {width} is none of 4, 8, … below the 8 columns"):
            compress(table_of(5, 8), "fp32", width)
    with pytest.raises(ValueError, match=r"int8 rows of width 8 are uint8 \[N, 12\], not uint8 \[5, 11\]"):
        StoredTable(np.zeros((5, 11), np.uint8), "int8", 8)
    with pytest.raises(
        ValueError, match=r"a projection of width 8 is float32 \[8, D\], not float64 \[8, 16\]"
    ):
        StoredTable(np.zeros((5, 8), np.float32), "fp32", 8, np.zeros((8, 16)))
