r"""Feynman integrals from their differential equations: a small network, a linear system, and a handful of boundary values.

The master integrals of a family obey :math:`m(x)\,\partial_xF=\sum_kM^{(k)}(x)\epsilon^kF`. Expanded in :math:`\epsilon` the
orders couple as a Cauchy product,

.. math:: m\,\partial_xF^{(w)}=\sum_kM^{(k)}F^{(w-k)}.

One network has all masters and orders as its outputs. Its loss is the mean square of these equations at random points plus
the mean square error at the few points where the integrals are known. The matrices are rational and real, so real and
imaginary parts obey the same system apart from each other, and each has its own network. Several replicas, which differ in
their initial weights and points, give a mean and a spread as an estimate of its error.

Source: Calisto, Moodie and Zoia (2023), arXiv:2312.02067, section 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn
from torch.nn import functional

from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators, glorot, uniform
from touchstone.pinns.feynman_families import Family


def couple(
    matrices: Float[Tensor, "*points powers masters masters"], coefficients: Float[Tensor, "*points masters orders"]
) -> Float[Tensor, "*points masters orders"]:
    r"""Right-hand side of the system order by order, :math:`\sum_kM^{(k)}F^{(w-k)}`; orders beyond the last are dropped.

    Args:
        matrices: the cleared matrices, one a power of epsilon.
        coefficients: the coefficients of the integrals.

    Returns:
        what the cleared derivatives of the coefficients must be.

    Raises:
        ValueError: if the matrices are not square, or do not fit the coefficients.
    """
    masters, orders = coefficients.shape[-2:]
    if matrices.shape[-2:] != (masters, masters):
        raise ValueError(f"matrices has shape {tuple(matrices.shape)}, expected (..., powers, {masters}, {masters})")
    terms = (matrices[..., None] * coefficients[..., None, None, :, :]).sum(-2)  # [..., powers, masters, orders]
    shifted = [functional.pad(terms[..., k, :, : orders - k], (k, 0)) for k in range(min(terms.shape[-3], orders))]
    return sum(shifted)


class Replicas(nn.Module):
    """A stack of GELU perceptrons of one variable, which carry their first derivative forward.

    Args:
        family: gives the interval, and how many coefficients there are.
        seeds: one replica for each.
        scale: size of every output, ``[parts, masters, orders]``: one part for real integrals, two for complex ones.
        width: units of a hidden layer.
        depth: number of hidden layers.
    """

    def __init__(self, family: Family, seeds: Sequence[int], scale: Tensor, width: int = 32, depth: int = 3):
        super().__init__()
        self.family, self.seeds, self.parts = family, list(seeds), len(scale)
        sizes = [1, *[width] * depth, family.masters * family.orders]
        draws = [draw for part in range(self.parts) for draw in generators(seeds, stream=part)]
        self.weights = nn.ParameterList(glorot(draws, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
        self.biases = nn.ParameterList(torch.zeros(len(draws), 1, size) for size in sizes[1:])
        self.register_buffer("scale", scale.repeat_interleave(len(self.seeds), 0)[:, None])

    def forward(self, x: Float[Tensor, "stack points"]) -> tuple[Tensor, Tensor]:
        """Coefficients in units of their scale and their derivative in ``x``, each ``[stack, points, masters, orders]``."""
        distance = (x - self.family.edge)[..., None]
        value, slope = distance.abs().log(), 1 / distance
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before, slope = torch.baddbmm(bias, value, weight), torch.bmm(slope, weight)
            value = functional.gelu(before)
            slope = torch.ops.aten.gelu_backward(slope, before)  # slope times the derivative of GELU
        value, slope = torch.baddbmm(self.biases[-1], value, self.weights[-1]), torch.bmm(slope, self.weights[-1])
        shape = (*x.shape, self.family.masters, self.family.orders)
        return value.view(shape), slope.view(shape)

    def residual(self, x: Float[Tensor, "stack points"]) -> Float[Tensor, "stack points masters orders"]:
        """How far every cleared equation is from holding, in units of its coefficient's scale."""
        value, slope = self(x)
        wanted = couple(self.family.matrices(x), value * self.scale) / self.scale
        return self.family.clear(x)[..., None, None] * slope - wanted


class Estimate(NamedTuple):
    """What a trained stack of replicas says about the integrals.

    Attributes:
        replicas: ``[replicas, points, masters, orders]``, complex where the boundary values were.
        mean: the estimate ``[points, masters, orders]``.
        spread: standard deviation over the replicas, of real and imaginary part apart, in the same layout.
    """

    replicas: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


def estimate(network: Replicas, x: Float[np.ndarray, " points"]) -> Estimate:
    """Evaluate a trained stack; inside the interval it was trained on, or the equations say nothing.

    Args:
        network: the stack.
        x: where to evaluate.

    Returns:
        the replicas, their mean and their spread.

    Raises:
        ValueError: if ``x`` is empty, not a vector or not finite.
    """
    shaped("x", x, ("points",))
    finite(x=x)
    with torch.no_grad():
        points = torch.as_tensor(x, dtype=torch.float32).expand(network.parts * len(network.seeds), -1)
        values = (network(points)[0] * network.scale).double().numpy()
    parts = np.split(values, network.parts)
    spreads = [part.std(0, ddof=1) if len(part) > 1 else np.zeros_like(part[0]) for part in parts]
    combine = (lambda pair: pair[0] + 1j * pair[1]) if len(parts) == 2 else (lambda single: single[0])
    return Estimate(combine(parts), combine(parts).mean(0), combine(spreads))


def train(
    family: Family,
    values: Inexact[np.ndarray, "places masters orders"],
    seeds: Sequence[int],
    steps: int = 4000,
    batch: int = 256,
    rate: float = 5e-3,
    equations: bool = True,
) -> Replicas:
    """Train a stack of replicas on the equations and the boundary values.

    Each replica halves its own learning rate when the mean loss over a fortieth of the run is no lower than the best so far.

    Args:
        family: the differential system, with the places of the boundary values.
        values: the integrals' coefficients at ``family.places``; complex values train one network for each part.
        seeds: one replica for each.
        steps: steps of Adam.
        batch: points a step and replica, new ones each time.
        rate: learning rate of Adam at the start.
        equations: false leaves only the error at the boundary values, which is regression.

    Returns:
        the trained replicas.

    Raises:
        ValueError: if an argument is empty, not finite or does not fit the family.
        FloatingPointError: if the loss becomes NaN or infinite.
    """
    shaped("values", values, (len(family.places), family.masters, family.orders))
    finite(values=values)
    if steps < 1:
        raise ValueError(f"steps is {steps}: give at least 1")
    parts = [values.real, values.imag] if np.iscomplexobj(values) else [values]
    known = torch.as_tensor(np.stack(parts), dtype=torch.float32)
    scale = known.square().mean(1).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    network = Replicas(family, seeds, scale)
    target = known.repeat_interleave(len(network.seeds), 0) / network.scale
    places = torch.tensor(family.places, dtype=torch.float32).expand(len(target), -1)

    draws, parameters = generators(seeds, stream=7), list(network.parameters())
    optimiser = torch.optim.Adam(parameters, lr=rate, fused=True)
    factor, best = torch.ones(len(target)), torch.full((len(target),), torch.inf)
    window, total = max(1, steps // 40), torch.zeros(len(target))
    for step in range(1, steps + 1):
        loss = (network(places)[0] - target).square().mean((1, 2, 3))
        if equations:
            points = family.low + (family.high - family.low) * uniform(draws, batch).repeat(network.parts, 1)
            loss = loss + network.residual(points).square().mean((1, 2, 3))
        optimiser.zero_grad()
        loss.sum().backward()
        before = [parameter.detach().clone() for parameter in parameters]
        optimiser.step()
        with torch.no_grad():  # Adam's step, shortened for the replicas whose rate has dropped
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(torch.lerp(old, parameter, factor[:, None, None]))
            total += loss
            if step % window == 0:
                if not torch.isfinite(total).all():
                    raise FloatingPointError(f"the loss is NaN or infinite by step {step}: lower the learning rate")
                factor = torch.where(total < best, factor, factor / 2)
                best, total = torch.minimum(best, total), torch.zeros_like(total)
    return network
