"""Deep hash embeddings beyond the suite of all schemes."""

from typing import Any

import numpy as np
import pytest
import torch
from torchrec import KeyedJaggedTensor

from recsys_tables import DeepHash, Hash
from recsys_tables.bytes import combine_bytes
from recsys_tables.engine.deep_hash import DeepHashEmbedding
from recsys_tables.engine.engine import EmbeddingEngine
from recsys_tables.field import Field
from recsys_tables.schemes.deep_hash import HASH_VALUES

SCHEME = DeepHash("item", 8, 64, (16, 16))
EXTREMES = np.array([-(2**63), -1, 0, 2**53, 2**53 + 1, 2**63 - 1])


def kjt(ids: list[int]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor.from_lengths_sync(
        ["item"], torch.tensor(ids), torch.ones(len(ids), dtype=torch.int32)
    )


def test_hashes_are_uniform_and_independent() -> None:
    hashes = SCHEME.aux(np.arange(20_000)) / HASH_VALUES
    assert hashes.shape == (20_000, 64)
    assert np.abs(hashes.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(hashes.var(axis=0) - 1 / 12).max() < 0.002
    assert np.abs(np.corrcoef(hashes.T) - np.eye(64)).max() < 0.04
    other = DeepHash("user", 8, 64, (16, 16)).aux(np.arange(20_000)) / HASH_VALUES
    assert np.abs(np.corrcoef(hashes[:, 0], other[:, 0])[0, 1]) < 0.03, "salted by the feature's name"
    assert SCHEME.aux(np.empty(0, np.int64)).shape == (0, 64)


@pytest.mark.parametrize("encoding", ["uniform", "normal"])
def test_encodings_are_finite_and_scaled_as_named(encoding: Any) -> None:
    network: Any = DeepHash("item", 8, 4, (16,), encoding).combine()
    scaled: list[torch.Tensor] = []
    network.layers.register_forward_pre_hook(lambda _, inputs: scaled.append(inputs[0]))
    network([], torch.tensor([[0, HASH_VALUES - 1, HASH_VALUES // 2, 1]]))
    network([], torch.randint(HASH_VALUES, (50_000, 4)))
    ends, many = scaled
    assert torch.isfinite(ends).all()
    assert ends[0, 0] == -ends[0, 1]
    assert ends[0, 0] > (-6 if encoding == "normal" else -1)
    assert many.var().item() == pytest.approx(1 if encoding == "normal" else 1 / 3, rel=0.02)


def test_every_64_bit_id_has_a_vector_of_its_own() -> None:
    embedding = DeepHashEmbedding([Field(SCHEME)])
    vectors = embedding.vectors_of("item", EXTREMES)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(6), axis=0)) == len(EXTREMES)
    np.testing.assert_allclose(embedding(kjt(EXTREMES.tolist())).values().detach(), vectors, atol=1e-6)


def test_bytes_are_the_dense_parameters() -> None:
    expected = 4 * (64 * 16 + 16 + 16 * 16 + 16 + 16 * 8 + 8)
    assert DeepHashEmbedding([Field(SCHEME)]).parameter_bytes == expected
    assert combine_bytes(SCHEME).dense == expected


def test_it_learns() -> None:
    torch.manual_seed(0)
    embedding = DeepHashEmbedding([Field(SCHEME)])
    top = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*embedding.parameters(), *top.parameters()], 0.01)
    ids = kjt(list(range(64)))
    label = (torch.arange(64) % 3 == 0).float()
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        logit = top(embedding(ids).values()).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepHash("f", 0), r"feature 'f': embedding_dim 0 is not at least 1"),
        (lambda: DeepHash("f", 8, 0), r"feature 'f': num_hashes 0 is not at least 1"),
        (lambda: DeepHash("f", 8, 4, ()), r"feature 'f': hidden_dims \(\) are not"),
        (lambda: DeepHash("f", 8, 4, (8,), "cosine"), r"feature 'f': encoding 'cosine' is neither"),
        (lambda: DeepHashEmbedding([Field(Hash("f", 9, 8))]), r"feature 'f': Hash is not DeepHash"),
        (lambda: DeepHashEmbedding([Field(SCHEME), Field(SCHEME)]), "declared twice"),
        (lambda: EmbeddingEngine([Field(SCHEME)]), r"'item': DeepHash has no tables: use DeepHashEmbedding"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_batches_are_checked_as_the_engine_checks_them() -> None:
    embedding = DeepHashEmbedding([Field(SCHEME)])
    bad = KeyedJaggedTensor.from_lengths_sync(["item"], torch.tensor([1, 2]), torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="'item' is single-valued, but sample 0 holds 2 ids"):
        embedding(bad)
