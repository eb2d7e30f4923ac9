"""Each model against a NumPy oracle of its formula, in float64."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from recsys.config.models import (
    AutoIntConfig,
    DCNv2Config,
    DeepFMConfig,
    DLRMConfig,
    FinalMLPConfig,
    FMConfig,
    FNNConfig,
    IPNNConfig,
    LRConfig,
    XDeepFMConfig,
)
from recsys.models import build
from recsys.models.layers import pairwise_sum

B, FIELDS, D = 7, ("user", "item", "tag"), 4
F = len(FIELDS)
CONFIGS = {
    "lr": LRConfig(name="lr"),
    "fm": FMConfig(name="fm"),
    "fnn": FNNConfig(name="fnn", hidden=(6, 5)),
    "ipnn": IPNNConfig(name="ipnn", hidden=(6, 5)),
    "deepfm": DeepFMConfig(name="deepfm", hidden=(6, 5)),
    "dcn_v2": DCNv2Config(name="dcn_v2", hidden=(6,), cross_layers=2),
    "dlrm": DLRMConfig(name="dlrm", hidden=(6,), bottom=(5,)),
    "xdeepfm": XDeepFMConfig(name="xdeepfm", hidden=(6,), cin=(5, 2)),
    "autoint": AutoIntConfig(name="autoint", layers=2, heads=2, head_dim=3),
    "autoint_plus": AutoIntConfig(name="autoint", layers=1, heads=1, head_dim=5, residual=False, hidden=(6,)),
    "final_mlp": FinalMLPConfig(
        name="final_mlp",
        hidden=(6, 4),
        second_hidden=(8,),
        gate_hidden=(5,),
        first_gate=("tag", "user"),
        heads=2,
    ),
}
Weights = dict[str, np.ndarray]
Model = Callable[[np.ndarray, np.ndarray, Weights], np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small take a hundred times as long on threads that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def affine(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def mlp(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    own = [key.removeprefix(f"{name}.").split(".") for key in w if key.startswith(f"{name}.")]
    for place in sorted(int(key[0]) for key in own if key[1] == "weight"):
        x = np.maximum(affine(x, w, f"{name}.{place}"), 0)
    return x


def dots(vectors: np.ndarray) -> np.ndarray:
    """<e_i, e_j> for j < i, in the order of the lower triangle."""
    return np.array([[e[i] @ e[j] for i in range(len(e)) for j in range(i)] for e in vectors])


def side_by_side(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def lr(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    return w["bias"] + e.mean(axis=2).sum(axis=1) + x @ w["dense"]


def fm(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    return affine(side_by_side(x, e), w, "linear")[:, 0] + dots(e).sum(axis=1)


def fnn(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    return affine(mlp(side_by_side(x, e), w, "mlp"), w, "output")[:, 0]


def ipnn(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    return affine(mlp(side_by_side(x, e, dots(e)), w, "mlp"), w, "output")[:, 0]


def deepfm(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    return fm(x, e, w) + fnn(x, e, w)


def dcn_v2(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    flat = crossed = side_by_side(x, e)
    for layer in range(2):
        crossed = flat * affine(crossed, w, f"crosses.{layer}") + crossed
    return affine(side_by_side(crossed, mlp(flat, w, "mlp")), w, "output")[:, 0]


def dlrm(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    bottom = [mlp(x, w, "bottom")] if x.shape[1] else []
    stacked = np.concatenate([*(b[:, None] for b in bottom), e], axis=1)
    return affine(mlp(side_by_side(*bottom, dots(stacked)), w, "top"), w, "output")[:, 0]


def cin(first: np.ndarray, w: Weights) -> list[float]:
    """Of one sample [F, D]: one outer product for each pair of a map and a field."""
    maps, pooled = first, []
    for layer in range(2):
        weight = w[f"cin.layers.{layer}.weight"]
        weight = weight.reshape(len(weight), len(maps), F)
        maps = np.array(
            [sum(h[i, j] * maps[i] * first[j] for i in range(len(maps)) for j in range(F)) for h in weight]
        )
        pooled += [row.sum() for row in maps]
    return pooled


def xdeepfm(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    flat = side_by_side(x, e)
    deep = side_by_side(np.array([cin(sample, w) for sample in e]), mlp(flat, w, "mlp"))
    return affine(flat, w, "linear")[:, 0] + affine(deep, w, "output")[:, 0]


def interacting(e: np.ndarray, w: Weights, name: str, heads: int) -> np.ndarray:
    """Of one sample [F, D]: field m of each head attends to all fields k."""
    query, key, value = (affine(e, w, f"{name}.{kind}") for kind in ("query", "key", "value"))
    width = query.shape[1] // heads
    out = np.zeros_like(value)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for m in range(len(e)):
            scores = np.exp([query[m, own] @ key[k, own] for k in range(len(e))])
            out[m, own] = (scores / scores.sum()) @ value[:, own]
    residual = f"{name}.residual"
    return np.maximum(out + (affine(e, w, residual) if f"{residual}.weight" in w else 0), 0)


def autoint(x: np.ndarray, e: np.ndarray, w: Weights, layers: int = 2, heads: int = 2) -> np.ndarray:
    fields = np.concatenate([x[:, :, None] * w["dense"], e], axis=1)
    for layer in range(layers):
        fields = np.array([interacting(sample, w, f"layers.{layer}", heads) for sample in fields])
    deep = [mlp(side_by_side(x, e), w, "mlp")] if "mlp.0.weight" in w else []
    return affine(side_by_side(fields, *deep), w, "output")[:, 0]


def autoint_plus(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    return autoint(x, e, w, layers=1, heads=1)


def final_mlp(x: np.ndarray, e: np.ndarray, w: Weights) -> np.ndarray:
    flat = side_by_side(x, e)
    contexts = {
        "first": side_by_side(e[:, 2], e[:, 0]),  # of tag and user
        "second": np.repeat(w["second_gate.constant"], len(e), axis=0),
    }
    streams = {}
    for name, context in contexts.items():
        gate = affine(mlp(context, w, f"{name}_gate.mlp"), w, f"{name}_gate.gate")
        streams[name] = mlp(2 / (1 + np.exp(-gate)) * flat, w, name)
    logit = affine(side_by_side(streams["first"], streams["second"]), w, "fusion.linear")[:, 0]
    for sample, (a, b) in enumerate(zip(streams["first"], streams["second"], strict=True)):
        for head, matrix in enumerate(w["fusion.bilinear"]):
            logit[sample] += a[2 * head : 2 * head + 2] @ matrix @ b[4 * head : 4 * head + 4]
    return logit


ORACLES: dict[str, Model] = {
    **{"lr": lr, "fm": fm, "fnn": fnn, "ipnn": ipnn, "deepfm": deepfm, "dcn_v2": dcn_v2, "dlrm": dlrm},
    **{"xdeepfm": xdeepfm, "autoint": autoint, "autoint_plus": autoint_plus, "final_mlp": final_mlp},
}


def case(name: str, num_dense: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    model = build(CONFIGS[name], num_dense, FIELDS, D).double()
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
    expected = ORACLES[name](dense.detach().numpy(), vectors.detach().numpy(), weights)
    assert logit.shape == (B,)
    np.testing.assert_allclose(logit.detach().numpy(), expected, rtol=1e-10)
    logit.sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad != 0).any(dim=2).all(), "every field of every sample is read"
    assert dense.grad is None or (dense.grad != 0).any(dim=0).all()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.numel() == 0 or (parameter.grad != 0).any(), key


@pytest.mark.parametrize("name", CONFIGS)
def test_an_empty_batch(name: str) -> None:
    model, dense, vectors = case(name, 2)
    assert model(dense[:0], vectors[:0]).shape == (0,)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sample_does_not_see_the_others(name: str) -> None:
    """In another order, and alone: in training too, for there is no batch normalisation."""
    model, dense, vectors = case(name, 2)
    logit = model(dense, vectors)
    order = torch.randperm(B)
    torch.testing.assert_close(model(dense[order], vectors[order]), logit[order])
    torch.testing.assert_close(model(dense[2:3], vectors[2:3]), logit[2:3])


@pytest.mark.parametrize("rows", [1, 7, 130])
@pytest.mark.parametrize("name", CONFIGS)
def test_float32_and_its_gradients_are_those_of_float64(name: str, rows: int) -> None:
    """Float32 has products and gradients of its own on some processors; float64 is plain torch."""
    model, _, _ = case(name, 2)
    dense = torch.randn(rows, 2, dtype=torch.float64)
    vectors = torch.randn(rows, F, D, dtype=torch.float64, requires_grad=True)
    single, single_vectors = copy.deepcopy(model).float(), vectors.detach().float().requires_grad_()
    expected, logit = model(dense, vectors), single(dense.float(), single_vectors)
    torch.testing.assert_close(logit.double(), expected, rtol=1e-5, atol=1e-5)
    expected.square().mean().backward()
    logit.square().mean().backward()
    pairs = {"vectors": (single_vectors, vectors)} | {
        name: (parameter, model.get_parameter(name)) for name, parameter in single.named_parameters()
    }
    for name, (parameter, other) in pairs.items():
        assert parameter.grad is not None, name
        assert other.grad is not None, name
        largest = float(other.grad.abs().max())
        torch.testing.assert_close(parameter.grad.double(), other.grad, rtol=1e-4, atol=1e-5 * (1 + largest))


def test_gradients_of_the_sum_over_pairs() -> None:
    vectors = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pairwise_sum, vectors)


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_near_float32(name: str) -> None:
    model, dense, vectors = case(name, 2)
    model, dense, vectors = model.float(), dense.detach().float(), vectors.detach().float()
    exact = model(dense, vectors).detach()
    with torch.autocast("cpu", torch.bfloat16):
        logit = model(dense, vectors)
    logit.float().sum().backward()
    torch.testing.assert_close(logit.float(), exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("lr", "fm")])
def test_dropout_is_random_in_training_only(name: str) -> None:
    settings: Any = CONFIGS[name].model_copy(update={"dropout": 0.5})
    torch.manual_seed(2)
    model = build(settings, 2, FIELDS, D)
    dense, vectors = torch.randn(B, 2), torch.randn(B, F, D)
    assert not torch.equal(model(dense, vectors), model(dense, vectors))
    model.eval()
    assert torch.equal(model(dense, vectors), model(dense, vectors))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_model_but_lr_learns_an_interaction(name: str) -> None:
    """A click when user and item are both even or both odd: neither says anything alone."""
    torch.manual_seed(4)
    user, item = (ids.reshape(-1) for ids in torch.meshgrid(*[torch.arange(8)] * 2, indexing="ij"))
    label = ((user + item) % 2 == 0).float()
    vectors = nn.Parameter(0.2 * torch.randn(2, 8, D))
    config = CONFIGS[name].model_copy(
        update={"first_gate": ("user",)}
        if name == "final_mlp"
        else {"hidden": (16,)}
        if name == "dlrm"
        else {}
    )
    model = build(config, 0, ("user", "item"), D)
    optimizer = torch.optim.Adam([*model.parameters(), vectors], lr=0.05, fused=True)
    for _ in range(100):
        logit = model(torch.zeros(64, 0), torch.stack([vectors[0][user], vectors[1][item]], dim=1))
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    share = loss.item() / np.log(2)  # of the loss of one who knows only how many click
    assert share > 0.99 if name == "lr" else share < 0.5


@pytest.mark.parametrize("name", ["dlrm", "ipnn"])
def test_a_model_of_pairs_without_a_pair_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a second categorical"):
        build(CONFIGS[name], 0, ["user"], D)


def test_dlrm_pairs_one_field_with_the_numbers() -> None:
    model = build(CONFIGS["dlrm"], 1, ["user"], D)
    assert model(torch.randn(B, 1), torch.randn(B, 1, D)).shape == (B,)


def test_final_mlp_refuses_gates_it_cannot_make() -> None:
    with pytest.raises(ValueError, match=r"first_gate: 'tag' is none of the features of ids: user, item"):
        build(CONFIGS["final_mlp"], 0, ["user", "item"], D)
    with pytest.raises(
        ValidationError, match="width 9 of `second_hidden` cannot be cut into 2 equal `heads`"
    ):
        FinalMLPConfig(name="final_mlp", second_hidden=(9,), heads=2)


def test_seeded_models_are_equal() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(CONFIGS["dcn_v2"], 2, FIELDS, D).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
