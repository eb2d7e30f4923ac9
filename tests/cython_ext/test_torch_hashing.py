import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys_cython_ext import hashing, torch_hashing

EXTREMES = [0, 1, -1, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), -(2**63) + 1]
INT64 = st.one_of(st.sampled_from(EXTREMES), st.integers(-(2**63), 2**63 - 1))
SIZES = st.one_of(st.sampled_from([1, 2, 2**31 - 1]), st.integers(1, 2**31 - 1))


@given(st.lists(INT64), INT64, SIZES)
def test_torch_agrees_with_the_kernel_to_the_bit(values, salt, n):
    array = np.array(values, np.int64)
    tensor = torch.from_numpy(array)
    assert torch_hashing.mix64(tensor).tolist() == hashing.mix64(array).tolist()
    rows = torch_hashing.hash_rows(tensor, salt, n)
    assert rows.tolist() == hashing.hash_rows(array, salt, n).tolist()
    assert rows.dtype == torch.int64


def test_many_random_ids():
    array = np.random.default_rng(0).integers(-(2**63), 2**63, 100_000)
    salt = hashing.lookup_salt("user", 3)
    rows = torch_hashing.hash_rows(torch.from_numpy(array), salt, 1_000_003)
    np.testing.assert_array_equal(rows.numpy(), hashing.hash_rows(array, salt, 1_000_003))


def test_a_device_other_than_the_cpu_is_dispatched_here():
    rows = hashing.hash_rows(torch.empty(4, dtype=torch.int64, device="meta"), 5, 10)
    assert rows.device.type == "meta"
    assert rows.shape == (4,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_agrees_with_the_kernel_to_the_bit():
    array = np.concatenate([EXTREMES, np.random.default_rng(0).integers(-(2**63), 2**63, 100_000)])
    rows = hashing.hash_rows(torch.from_numpy(array).cuda(), -7, 2**31 - 1)
    assert rows.device.type == "cuda"
    np.testing.assert_array_equal(rows.cpu().numpy(), hashing.hash_rows(array, -7, 2**31 - 1))


@pytest.mark.parametrize("hash_rows", [hashing.hash_rows, torch_hashing.hash_rows])
def test_errors(hash_rows):
    with pytest.raises(TypeError, match="int32"):
        hash_rows(torch.zeros(2, dtype=torch.int32), 0, 10)
    with pytest.raises(ValueError, match="shape"):
        hash_rows(torch.zeros(2, 2, dtype=torch.int64), 0, 10)
    with pytest.raises(ValueError, match="num_embeddings"):
        hash_rows(torch.zeros(2, dtype=torch.int64), 0, 2**31)
    with pytest.raises(ValueError, match="salt"):
        hash_rows(torch.zeros(2, dtype=torch.int64), 2**63, 10)


def test_mix64_wants_int64():
    with pytest.raises(TypeError, match="float32"):
        torch_hashing.mix64(torch.zeros(2))


# Whole batches


@given(st.lists(st.tuples(st.lists(INT64, max_size=20), INT64, SIZES), max_size=8))
def test_jagged_torch_agrees_with_the_kernel_to_the_bit(features):
    values = np.array([v for bag, _, _ in features for v in bag], np.int64)
    offsets = [0, *np.cumsum([len(bag) for bag, _, _ in features], dtype=int).tolist()]
    arguments = (offsets, [salt for _, salt, _ in features], [n for _, _, n in features])
    expected = hashing.hash_rows_jagged(values, *arguments)
    tensor, out = torch.from_numpy(values), torch.zeros(len(values), dtype=torch.int64)
    rows = torch_hashing.hash_rows_jagged(tensor, *arguments)
    assert rows.dtype == torch.int64
    assert rows.tolist() == expected.tolist()
    assert torch_hashing.hash_rows_jagged(tensor, *arguments, out=out) is out
    assert out.tolist() == expected.tolist()


def test_jagged_batches_on_other_devices_are_dispatched_here():
    values = torch.empty(4, dtype=torch.int64, device="meta")
    assert hashing.hash_rows_jagged(values, [0, 1, 4], [1, 2], [3, 4]).device.type == "meta"


@pytest.mark.parametrize("out", [torch.empty(3), torch.empty(2, dtype=torch.int64), [0, 0, 0]])
def test_unfit_outputs(out):
    values = torch.zeros(3, dtype=torch.int64)
    for function, arguments in (
        (torch_hashing.hash_rows, (0, 10)),
        (torch_hashing.hash_rows_jagged, ([0, 3], [0], [10])),
    ):
        with pytest.raises((TypeError, ValueError), match="out must be"):
            function(values, *arguments, out=out)


def golden_batch():
    """The golden file as one batch with a feature for every (name, lookup, number of rows), some empty."""
    golden = json.loads(Path(__file__).with_name("golden_rows.json").read_text(encoding="utf-8"))
    features = {}
    for id_, name, j, n, row in golden["rows"]:
        features.setdefault((name, j, n), []).append((id_, row))
        features.setdefault((name, j, -n), [])
    offsets = [0, *np.cumsum([len(pairs) for pairs in features.values()]).tolist()]
    salts = [hashing.lookup_salt(name, j) for name, j, _ in features]
    pairs = [pair for pairs in features.values() for pair in pairs]
    return (
        torch.tensor([id_ for id_, _ in pairs]),
        offsets,
        salts,
        [abs(n) for _, _, n in features],
        [row for _, row in pairs],
    )


@pytest.mark.parametrize("hash_rows_jagged", [hashing.hash_rows_jagged, torch_hashing.hash_rows_jagged])
def test_the_golden_file_as_one_batch(hash_rows_jagged):
    *batch, rows = golden_batch()
    assert hash_rows_jagged(*batch).tolist() == rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("triton", [False, True])
def test_the_golden_file_on_cuda(triton, monkeypatch):
    if triton and find_spec("triton") is None:
        pytest.skip("needs Triton")
    if not triton:
        monkeypatch.setattr(torch_hashing, "find_spec", lambda name: None)
    values, offsets, salts, sizes, rows = golden_batch()
    for repeats in (1, 50):  # one program and several, the last one partly filled
        many, ends = values.repeat_interleave(repeats), [offset * repeats for offset in offsets]
        out = hashing.hash_rows_jagged(many.cuda(), ends, salts, sizes)
        assert out.device.type == "cuda"
        assert out.tolist() == np.repeat(rows, repeats).tolist()
