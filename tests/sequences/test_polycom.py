"""Polynomial composition activations: limits, closed forms, invariances and parameter counts."""

import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.nn.activations import FeedForward
from touchstone.sequences.char_lm import baseline
from touchstone.sequences.polycom import PolyNorm, PolyReLU, polynorm, polyrelu


@pytest.fixture
def x():
    return torch.randn(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def coefficients(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_polyrelu_contains_relu_and_squared_relu(x):
    torch.testing.assert_close(polyrelu(x, coefficients(0, 1, 0, 0)), x.relu())
    torch.testing.assert_close(polyrelu(x, coefficients(0, 0, 1, 0)), x.relu() ** 2)


def test_polyrelu_is_the_sum_of_powers(x):
    direct = 0.3 - 0.2 * x.relu() + 0.7 * x.relu() ** 2 - 0.1 * x.relu() ** 3
    torch.testing.assert_close(polyrelu(x, coefficients(0.3, -0.2, 0.7, -0.1)), direct)


def test_polynorm_is_the_sum_of_normalised_powers(x):
    a, expected = (0.3, -0.2, 0.7, -0.1), 0.3
    for power in (1, 2, 3):
        expected = expected + a[power] * x**power / ((x**power) ** 2).mean(-1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(polynorm(x, coefficients(*a)), expected)


@pytest.mark.parametrize("scale", [1.0, 3.0, 100.0])
def test_polynorm_ignores_the_scale_of_a_token(x, scale):
    a = coefficients(0, 1 / 3, 1 / 3, 1 / 3)
    x = x / x.std(-1, keepdim=True)
    torch.testing.assert_close(polynorm(scale * x, a), polynorm(x, a), atol=1e-4, rtol=0)
    odd, even = coefficients(0, 0.5, 0, 0.5), coefficients(0, 0, 1, 0)
    torch.testing.assert_close(polynorm(-scale * x, odd), -polynorm(x, odd), atol=1e-4, rtol=0)
    torch.testing.assert_close(polynorm(-scale * x, even), polynorm(x, even), atol=1e-4, rtol=0)


def test_one_pair_of_units_represents_square_and_cube():
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    pair = torch.cat((x, -x), -1)
    square = polyrelu(pair, coefficients(0, 0, 1)) @ coefficients(1, 1)
    torch.testing.assert_close(square, x[:, 0] ** 2)
    cube = polyrelu(pair, coefficients(0, 0, 0, 1)) @ coefficients(1, -1)
    torch.testing.assert_close(cube, x[:, 0] ** 3)


def test_tokens_do_not_see_each_other(x):
    a = coefficients(0, 1, 1, 1)
    torch.testing.assert_close(polynorm(x, a)[2], polynorm(x[2:3] * 1.0, a)[0])


def test_modules_start_at_equal_weights_and_agree_with_the_functions(x):
    x = x.float()
    for module, function in ((PolyReLU(), polyrelu), (PolyNorm(), polynorm)):
        torch.testing.assert_close(module.coefficients.detach(), torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]))
        torch.testing.assert_close(module(x), function(x, module.coefficients))
    assert len(PolyNorm(degree=4).coefficients) == 5


def test_gradients_against_finite_differences(x):
    x, a = x[:2, :4].clone().requires_grad_(), coefficients(0.1, 0.4, -0.3, 0.2).requires_grad_()
    assert torch.autograd.gradcheck(polyrelu, (x, a))
    assert torch.autograd.gradcheck(polynorm, (x, a))


def test_feed_forward_layers_have_equal_parameters():
    layers = [baseline(name) for name in ("relu", "gelu", "squared-relu", "swiglu")]
    layers += [FeedForward(64, 256, kind(degree)) for kind in (PolyReLU, PolyNorm) for degree in (2, 3, 4)]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert max(counts) / min(counts) < 1.01
    assert not any(isinstance(m, nn.Linear) and m.bias is not None for layer in layers for m in layer.modules())


@pytest.mark.parametrize("function", [polyrelu, polynorm])
def test_bad_input_is_named(function, x):
    a = coefficients(0, 1, 1)
    bad = x.clone()
    bad[0, 0] = float("nan")
    for arguments, name in (
        ((bad, a), "x"),
        ((x[:0], a), "x"),
        ((torch.tensor(1.0), a), "x"),
        ((x, a[None]), "coefficients"),
        ((x, a[:0]), "coefficients"),
        ((x, a[:1]), "coefficients"),
        ((x, a * float("inf")), "coefficients"),
    ):
        with pytest.raises(ValueError, match=f"^{name}"):
            unchecked(function)(*arguments)
    with pytest.raises(ValueError, match="^degree"):
        PolyNorm(0)
