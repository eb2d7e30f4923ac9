"""Each model against a NumPy oracle of its formula, in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recsys.config import DCNv2Config, DeepFMConfig, DLRMConfig, FMConfig, LRConfig
from recsys.models import build

B, F, D = 7, 3, 4
CONFIGS = {
    "lr": LRConfig(name="lr"),
    "fm": FMConfig(name="fm"),
    "deepfm": DeepFMConfig(name="deepfm", hidden=(6, 5)),
    "dcn_v2": DCNv2Config(name="dcn_v2", hidden=(6,), cross_layers=2),
    "dlrm": DLRMConfig(name="dlrm", hidden=(6,), bottom=(5,)),
}
Weights = dict[str, np.ndarray]


def affine(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def mlp(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    for place in sorted(
        int(key.split(".")[1]) for key in w if key.startswith(name) and key.endswith("weight")
    ):
        x = np.maximum(affine(x, w, f"{name}.{place}"), 0)
    return x


def dots(vectors: np.ndarray) -> list[list[float]]:
    """<e_i, e_j> for j < i, in the order of DLRM's lower triangle."""
    return [[e[i] @ e[j] for i in range(len(e)) for j in range(i)] for e in vectors]


def oracle(name: str, x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    flat = np.concatenate([x, e.reshape(len(e), -1)], axis=1)
    pairs = np.array(dots(e)).sum(axis=1)
    if name == "lr":
        return w["bias"] + e.mean(axis=2).sum(axis=1) + x @ w["dense"]
    if name == "fm":
        return affine(flat, w, "linear")[:, 0] + pairs
    if name == "deepfm":
        return affine(flat, w, "linear")[:, 0] + affine(mlp(flat, w, "mlp"), w, "output")[:, 0] + pairs
    if name == "dcn_v2":
        crossed = flat
        for layer in range(2):
            crossed = flat * affine(crossed, w, f"crosses.{layer}") + crossed
        return affine(np.concatenate([crossed, mlp(flat, w, "mlp")], axis=1), w, "output")[:, 0]
    bottom = [mlp(x, w, "bottom")] if x.shape[1] else []
    stacked = np.concatenate([*(b[:, None] for b in bottom), e], axis=1)
    top = np.concatenate([*bottom, np.array(dots(stacked))], axis=1)
    return affine(mlp(top, w, "top"), w, "output")[:, 0]


def case(name: str, num_dense: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    model = build(CONFIGS[name], num_dense, F, D).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.7, 0.7)
    dense = torch.randn(B, num_dense, dtype=torch.float64, requires_grad=True)
    return model, dense, torch.randn(B, F, D, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("num_dense", [0, 2])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_equals_its_formula_and_passes_gradients(name: str, num_dense: int) -> None:
    model, dense, vectors = case(name, num_dense)
    logit = model(dense, vectors)
    weights = {key: value.detach().numpy() for key, value in model.named_parameters()}
    expected = oracle(name, dense.detach().numpy(), vectors.detach().numpy(), weights)
    assert logit.shape == (B,)
    np.testing.assert_allclose(logit.detach().numpy(), expected, rtol=1e-10)
    logit.sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad != 0).any(dim=2).all(), "every field of every sample is read"
    assert dense.grad is None or (dense.grad != 0).any(dim=0).all()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_an_empty_batch(name: str) -> None:
    model, dense, vectors = case(name, 2)
    assert model(dense[:0], vectors[:0]).shape == (0,)


@pytest.mark.parametrize("name", ["deepfm", "dcn_v2", "dlrm"])
def test_dropout_is_random_in_training_only(name: str) -> None:
    settings: Any = CONFIGS[name].model_copy(update={"dropout": 0.5, "hidden": (64,)})
    torch.manual_seed(2)
    model = build(settings, 2, F, D)
    dense, vectors = torch.randn(B, 2), torch.randn(B, F, D)
    assert not torch.equal(model(dense, vectors), model(dense, vectors))
    model.eval()
    assert torch.equal(model(dense, vectors), model(dense, vectors))


def test_dlrm_without_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a second categorical or a numeric feature"):
        build(CONFIGS["dlrm"], 0, 1, D)
    assert build(CONFIGS["dlrm"], 1, 1, D)(torch.randn(B, 1), torch.randn(B, 1, D)).shape == (B,)


def test_seeded_models_are_equal() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(CONFIGS["dcn_v2"], 2, F, D).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
