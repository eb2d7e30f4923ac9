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
    salt = hashing.salt("user", 3)
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
