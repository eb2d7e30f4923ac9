import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys_cython_ext import QuantisedTable, dequantise, pooled, quantise
from recsys_cython_ext.rowwise import E4M3, to_e4m3

BITS = {"int8": 8, "int4": 4}
TABLES = st.tuples(st.integers(1, 5), st.integers(1, 9).map(lambda quarter: 4 * quarter)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-6e4, 6e4, width=32))
)


def oracle(table, bits):
    """Scale, bias and codes, value by value (round half to even)."""
    header, codes = [], np.zeros(table.shape, np.uint8)
    for row, values in enumerate(table):
        bias = np.float16(values.min())
        spread = values.max() - np.float32(bias)
        scale = np.float16(1) if spread == 0 else np.float16(spread / np.float32(2**bits - 1))
        scale = np.float16(1) if scale == 0 else scale
        header.append([scale, bias])
        for column, value in enumerate(values):
            code = round(float((value - np.float32(bias)) * (np.float32(1) / np.float32(scale))))
            codes[row, column] = min(max(code, 0), 2**bits - 1)
    return np.array(header), codes


def unpack(table):
    header, codes = table.data[:, :4].copy().view(np.float16), table.data[:, 4:]
    if table.kind == "int4":
        codes = np.stack([codes & 15, codes >> 4], 2).reshape(table.shape)
    return header, codes


@pytest.mark.parametrize("kind", BITS)
@given(table=TABLES)
def test_codes_agree_with_the_oracle(kind, table):
    quantised = quantise(table, kind)
    header, codes = unpack(quantised)
    expected_header, expected_codes = oracle(table, BITS[kind])
    assert np.array_equal(header, expected_header)
    assert np.array_equal(codes, expected_codes)
    values = header[:, :1].astype(np.float32) * codes.astype(np.float32) + header[:, 1:].astype(np.float32)
    assert np.array_equal(dequantise(quantised), values)


@given(table=TABLES)
def test_fp8_rows_are_a_scale_and_the_nearest_codes(table):
    quantised = quantise(table, "fp8")
    sizes = E4M3[:127].astype(np.float64)
    for row, values in zip(quantised.data, table, strict=True):
        scale = np.abs(values).max() / np.float32(448) or np.float32(1)
        assert row[:4].tobytes() == np.float32(scale).tobytes()
        for code, value in zip(row[4:], values, strict=True):
            exact = float(value / scale)
            nearest = np.abs(sizes - abs(exact)).min()
            assert abs(float(E4M3[code]) - exact) == nearest
            assert bool(code & 128) == bool(np.signbit(value))
    assert np.array_equal(
        dequantise(quantised), quantised.data[:, :4].copy().view(np.float32) * E4M3[quantised.data[:, 4:]]
    )


def test_e4m3_is_that_of_torch():
    torch = pytest.importorskip("torch")
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(E4M3, every, equal_nan=True)
    finite = every[np.isfinite(every)]
    sizes = np.unique(np.abs(finite))
    random = np.random.default_rng(0).uniform(-448, 448, 4000)
    middles = (sizes[1:] + sizes[:-1]) / 2
    values = np.concatenate([finite, middles, -middles, random, random / 1e4, [448.1, -460]]).astype(
        np.float32
    )
    wanted = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(to_e4m3(values), wanted)


@pytest.mark.parametrize("kind", BITS)
@given(table=TABLES)
def test_error_is_at_most_half_a_step_and_the_rounding_of_the_header(kind, table):
    quantised = quantise(table, kind)
    scale = np.abs(unpack(quantised)[0][:, :1].astype(np.float64))
    ends = np.abs(table).max(1, keepdims=True).astype(np.float64)
    bound = scale / 2 + 2 * ends * 2**-10 + 2 ** BITS[kind] * 2.0**-24
    assert (np.abs(dequantise(quantised) - table.astype(np.float64)) <= bound).all()


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("d", [4, 8, 16, 36, 64, 128])
@pytest.mark.parametrize("size", [1e-7, 1e-3, 1, 1e4])
def test_bytes_are_those_of_fbgemm(kind, d, size):
    torch = pytest.importorskip("torch")
    pytest.importorskip("fbgemm_gpu")
    if not hasattr(torch.ops.fbgemm, "FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf"):
        pytest.skip("this fbgemm has no FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf")
    table = (np.random.default_rng(0).standard_normal((200, d)) * size).astype(np.float32)
    table[0], table[1], table[2], table[3] = 0, 0.3, -0.1, 1e-8  # constant rows
    codes_first = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(
        torch.from_numpy(table), BITS[kind]
    )
    quantised = quantise(table, kind)
    assert np.array_equal(quantised.data, np.roll(codes_first.numpy(), 4, axis=1))
    back = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(codes_first, BITS[kind]).numpy()
    assert np.allclose(dequantise(quantised), back, rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int4"])
def test_lookup_agrees_with_fbgemm_inference_table(kind):
    torch = pytest.importorskip("torch")
    pytest.importorskip("fbgemm_gpu")
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )

    rng = np.random.default_rng(4)
    table = quantise(rng.standard_normal((100, 32)).astype(np.float32), kind)
    rival = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", 100, 32, SparseType[kind.upper()], EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=PoolingMode.SUM,
        output_dtype=SparseType.FP32,
    )
    rival.initialize_weights()
    stored = table.data if isinstance(table, QuantisedTable) else table.view(np.uint8)
    rival.split_embedding_weights_with_scale_bias(split_scale_bias_mode=0)[0][0][:] = torch.from_numpy(stored)
    rows, offsets, weights = rng.integers(0, 100, 300), np.arange(0, 301, 20), rng.random(300, np.float32)
    expected = rival(torch.from_numpy(rows), torch.from_numpy(offsets), torch.from_numpy(weights)).numpy()
    assert np.allclose(pooled(table, rows, offsets, weights), expected, rtol=1e-5, atol=1e-5)


def test_padded_rows_and_memory_mapping(tmp_path):
    table = quantise(np.random.default_rng(5).standard_normal((50, 12)).astype(np.float32), "int4")
    np.save(tmp_path / "data.npy", np.pad(table.data, [(0, 0), (0, 6)], constant_values=255))
    padded = QuantisedTable(np.load(tmp_path / "data.npy", mmap_mode="r"), "int4", 12)
    assert np.array_equal(dequantise(padded), dequantise(table))
    assert np.array_equal(pooled(padded, np.arange(50)), dequantise(table))
    assert (table.shape, table.nbytes) == ((50, 12), 500)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "fp8", *BITS])
def test_blocks_do_not_show(kind, monkeypatch):
    table = np.random.default_rng(6).standard_normal((100, 8)).astype(np.float32)
    whole = dequantise(quantise(table, kind))
    monkeypatch.setattr("recsys_cython_ext.rowwise._BLOCK", 24)
    assert np.array_equal(dequantise(quantise(table, kind)), whole)
    table[77, 3] = np.nan
    with pytest.raises(ValueError, match="row 77, column 3: nan is not finite"):
        quantise(table, kind)


def test_floats_are_kept_or_rounded():
    table = np.random.default_rng(7).standard_normal((10, 8)).astype(np.float32)
    kept = quantise(table, "fp32")
    assert np.array_equal(kept, table)
    assert not np.shares_memory(kept, table)
    assert np.array_equal(quantise(table, "fp16"), table.astype(np.float16))
    assert quantise(table[:0], "int4").shape == (0, 8)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("fp32", [0, 1, np.inf, 0], "row 1, column 2: inf is not finite"),
        ("fp16", [0, 0, 0, -65520], "row 1, column 3: -65520.0 does not fit fp16"),
        ("int8", [0, -7e4, 0, 0], "row 1, column 1: -70000.0 is a minimum that does not fit fp16"),
        ("int4", [0, 0, 1e6, 0], "row 1, column 2: 1000000.0 needs a scale that does not fit fp16"),
        ("int8", [3e38, -6e4, 0, 0], "row 1, column 0: .* needs a scale that does not fit fp16"),
    ],
)
def test_refused_values_are_named(kind, values, message):
    with pytest.raises(ValueError, match=message):
        quantise(np.array([[1, 2, 3, 4], values], np.float32), kind)


def test_refused_arguments():
    table = np.ones((3, 8), np.float32)
    with pytest.raises(TypeError, match="float32"):
        quantise(table.astype(np.float64), "int8")
    with pytest.raises(ValueError, match="kind"):
        quantise(table, "int2")
    for bad in (table[0], table[:, :6], table[:, :0]):
        with pytest.raises(ValueError, match="multiple of 4"):
            quantise(bad, "int8")
    with pytest.raises(TypeError, match="need"):
        dequantise(table.astype(np.float64))
    data = np.zeros((3, 12), np.uint8)
    for arguments in (
        (data, "int2", 8),
        (data[0], "int8", 8),
        (data[:, ::2], "int8", 4),
        (data, "int8", 6),
        (data, "int8", 12),
    ):
        with pytest.raises(ValueError, match=r".+"):
            QuantisedTable(*arguments)
    with pytest.raises(TypeError, match="uint8"):
        QuantisedTable(data.astype(np.int8), "int8", 8)
