r"""Polynomial composition activations: a feed-forward layer that can multiply.

A polynomial of low degree with trainable coefficients is composed with a simple non-linearity. PolyReLU is a polynomial
of :math:`\mathrm{ReLU}(x)`; PolyNorm adds up the powers of the input itself, each scaled to unit root mean square over
the hidden features of a token, so that no power can explode. Zhijian Zhuo, Ya Wang, Yutao Zeng, Xiaoqing Li,
Xun Zhou, Jinwen Ma: "Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models", 2024,
arXiv 2411.03884.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped

EPSILON = 1e-6  # added to the mean square of a power before its root, as in the paper's code


def _polynomial(
    x: Float[Tensor, "*batch features"], coefficients: list[Tensor] | tuple[Tensor, ...]
) -> Float[Tensor, "*batch features"]:
    """Horner's rule; the coefficients may be scalars or one number a token."""
    y = coefficients[-1] * x
    for coefficient in reversed(coefficients[1:-1]):
        y = (y + coefficient) * x
    return y + coefficients[0]


def _normalised(
    x: Float[Tensor, "*batch features"], coefficients: list[Tensor] | tuple[Tensor, ...]
) -> Float[Tensor, "*batch features"]:
    """PolyNorm as a polynomial whose coefficients are divided, token by token, by the size of the power."""
    power, scaled = x, [coefficients[0]]
    for coefficient in coefficients[1:]:
        scaled.append(coefficient * torch.rsqrt(power.square().mean(-1, keepdim=True) + EPSILON))
        power = power * x
    return _polynomial(x, scaled)


def _check(x: Tensor, coefficients: Tensor) -> None:
    shaped("coefficients", coefficients, ("degree + 1",))
    finite(x=x, coefficients=coefficients)
    if len(coefficients) < 2:
        raise ValueError("coefficients holds 1 entry: a polynomial of degree r needs r + 1, and r is at least 1")
    if x.ndim == 0:
        raise ValueError("x has shape (), expected (..., features)")


def polyrelu(
    x: Float[Tensor, "*batch features"], coefficients: Float[Tensor, "terms"]
) -> Float[Tensor, "*batch features"]:
    r"""The activation :math:`\sum_{i=0}^{r} a_i\,\mathrm{ReLU}(x)^i` (paper, equation 4).

    Args:
        x: pre-activations.
        coefficients: :math:`a_0 \dots a_r`.

    Returns:
        the activations; with :math:`a=(0,1)` this is ReLU, with :math:`a=(0,0,1)` squared ReLU.

    Raises:
        ValueError: if an argument is empty or not finite, or there are fewer than two coefficients.
    """
    _check(x, coefficients)
    return _polynomial(torch.relu(x), coefficients.unbind())


def polynorm(
    x: Float[Tensor, "*batch features"], coefficients: Float[Tensor, "terms"]
) -> Float[Tensor, "*batch features"]:
    r"""The activation :math:`a_0 + \sum_{i=1}^{r} a_i\,x^i / \mathrm{rms}(x^i)` (paper, equation 5).

    Powers are taken entry by entry; :math:`\mathrm{rms}(u) = (\mathrm{mean}(u^2) + 10^{-6})^{1/2}` over the features.

    Args:
        x: pre-activations; the last axis holds the features of one token.
        coefficients: :math:`a_0 \dots a_r`.

    Returns:
        the activations.

    Raises:
        ValueError: if an argument is empty or not finite, or there are fewer than two coefficients.
    """
    _check(x, coefficients)
    return _normalised(x, coefficients.unbind())


class _PolyCom(nn.Module):
    def __init__(self, degree: int = 3):
        super().__init__()
        if degree < 1:
            raise ValueError(f"degree is {degree}: give at least 1")
        # The bias a_0 starts at zero and all powers start with the same weight.
        self.coefficients = nn.Parameter(torch.cat((torch.zeros(1), torch.full((degree,), 1 / degree))))


class PolyReLU(_PolyCom):
    """:func:`polyrelu` with one trainable polynomial for the whole layer.

    Args:
        degree: of the polynomial; the paper uses 3.
    """

    def forward(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Apply it to the pre-activations of a layer."""
        return _polynomial(torch.relu(x), self.coefficients.unbind())


class PolyNorm(_PolyCom):
    """:func:`polynorm` with one trainable polynomial for the whole layer.

    Args:
        degree: of the polynomial; the paper uses 3.
    """

    def forward(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """Apply it to the pre-activations of a layer."""
        return _normalised(x, self.coefficients.unbind())
