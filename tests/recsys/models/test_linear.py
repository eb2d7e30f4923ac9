"""The linear layer by oneDNN against torch's own."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from recsys.models import linear
from recsys.models.linear import Linear

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Multiply by oneDNN, whatever the processor."""
    monkeypatch.setattr(linear, "_MKL_IS_SLOW", True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layers(inputs: int, outputs: int, bias: bool) -> tuple[Linear, nn.Linear]:
    """Return two layers with the same parameters, the oracle second."""
    torch.manual_seed(0)
    layer = Linear(inputs, outputs, bias=bias)
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias=bias)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in layer.state_dict().items())
    return layer, plain


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 429), (7, 429), (300, 429), (5, 3, 8), (6, 1), (0, 4), (2, 0, 4)])
def test_output_and_gradients_are_those_of_the_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, plain = layers(shape[-1], 40, bias)
    x, y = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    out, expected = layer(x), plain(y)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn_like(expected)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-5)
    for name, parameter in layer.named_parameters():
        gradient = plain.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-4)


def test_views_and_expanded_gradients_are_read_as_they_are() -> None:
    layer, plain = layers(8, 5, bias=True)
    x = torch.randn(8, 20).t()
    layer(x).sum().backward()  # the gradient is one number, expanded
    plain(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    torch.testing.assert_close(layer(torch.randn(20, 16)[:, ::2]).shape, (20, 5))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    layer, _ = layers(8, 5, bias=True)
    layer.weight.requires_grad_(False)
    x = torch.randn(6, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), 6.0))
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_what_onednn_does_not_take_is_the_plain_layer() -> None:
    layer, plain = layers(8, 5, bias=True)
    x = torch.randn(6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
        assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer.double()(x.double()), plain.double()(x.double()))
    assert layer.to("meta")(x.to("meta").double()).shape == (6, 5)


def test_an_exported_program_holds_torch_operations_only() -> None:
    layer, _ = layers(8, 5, bias=True)
    program = torch.export.export(layer.eval(), (torch.randn(6, 8),))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called == {"aten.linear.default"}


def test_products_are_those_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[tuple[int, ...]] = []
    product = linear._product

    def counted(x: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        products.append(tuple(x.shape))
        return product(x, *more)

    monkeypatch.setattr(linear, "_product", counted)
    layer, _ = layers(8, 5, bias=True)
    layer(torch.randn(6, 8, requires_grad=True)).sum().backward()
    assert products == [(6, 8), (6, 5), (5, 6)]
