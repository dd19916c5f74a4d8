r"""Domains that arrive one after another, to learn from data or from an equation alone, and Fisher importances.

Every testbed is cut into windows along its first coordinate. Regression: :math:`y=\sin(2\pi x)e^{-x}` on [0, 2.5] in five
intervals, the same times :math:`\cos\pi x_2`, and a sequence of functions that have nothing to do with each other. From the
equation alone: the damped pendulum on [0, 10] in five windows, and the reaction :math:`u_t=5u(1-u)` in four.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import Embedding, generators, uniform

Law = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Windows:
    """A problem whose domain arrives window by window.

    Args:
        name: of the problem.
        edges: of the windows along the first coordinate.
        outputs: components of the solution.
        law: the solution at points ``[points, dims]``, for a seed; to take data from, and to judge by.
        residual: of the equation, from a jet with one derivative along the first coordinate; None where data are given.
        sides: smallest and largest value of the other coordinates.
        embedding: features of the points.
    """

    name: str
    edges: tuple[float, ...]
    outputs: int
    law: Law
    residual: Callable[[Jet], Tensor] | None = None
    sides: tuple[tuple[float, float], ...] = ()
    embedding: Embedding = field(default=jets.coordinates)

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.edges) - 1

    @property
    def orders(self) -> tuple[int, ...]:
        """Derivatives that the residual needs."""
        return (int(self.residual is not None), *(0 for _ in self.sides))

    def points(self, window: int, count: int, seeds: Sequence[int]) -> Float[Tensor, "seeds count dims"]:
        """Uniform random points of a window, each seed its own.

        Args:
            window: number of the window, from 0.
            count: how many points.
            seeds: whose points.

        Returns:
            coordinates.

        Raises:
            ValueError: if there is no such window, or ``count`` is below 1.
        """
        if not 0 <= window < self.count or count < 1:
            raise ValueError(
                f"window is {window} and count {count}: need a window below {self.count} and a positive count"
            )
        low, high = zip(*[self.edges[window : window + 2], *self.sides], strict=True)
        unit = uniform(generators(seeds, stream=11 + window), count, 1 + len(self.sides))
        return unit * (torch.tensor(high) - torch.tensor(low)) + torch.tensor(low)

    def grid(self, window: int, count: int = 101) -> Float[Tensor, "points dims"]:
        """A regular grid on a window, to judge by."""
        axes = [torch.linspace(*self.edges[window : window + 2], count)]
        axes += [torch.linspace(low, high, 21) for low, high in self.sides]
        return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], -1)

    def values(self, points: Float[Tensor, "seeds points dims"], seeds: Sequence[int]) -> Tensor:
        """The solution at each seed's points."""
        return torch.stack([self.law(part, int(seed)) for part, seed in zip(points, seeds, strict=True)])


def decaying_sine(points: Float[Tensor, "points dims"], seed: int = 0) -> Float[Tensor, "points 1"]:
    r""":math:`\sin(2\pi x)e^{-x}`, times :math:`\cos\pi x_2` if there is a second coordinate."""
    x = points[:, :1]
    law = torch.sin(2 * math.pi * x) * torch.exp(-x)
    return law * torch.cos(math.pi * points[:, 1:]) if points.shape[1] == 2 else law


def unrelated(points: Float[Tensor, "points 1"], seed: int) -> Float[Tensor, "points 1"]:
    """On each interval of 0.5 a random sum of four waves, as large as the decaying sine is there, drawn anew for every seed."""
    total = torch.zeros_like(points)
    for window in range(5):
        rng = np.random.default_rng([seed, window, 7])
        size, phase = rng.standard_normal(4), rng.uniform(0, 2 * math.pi, 4)
        local = points - 0.5 * window
        wave = sum(
            float(a) * torch.sin(math.pi * k * local + float(p))
            for k, (a, p) in enumerate(zip(size, phase, strict=True), 1)
        )
        # rms of the decaying sine on its half period over that of the sum, whose waves are taken as independent
        scale = 0.55 * math.exp(-0.5 * window) / float(np.sqrt((size**2).sum() / 2))
        inside = (local >= 0) & ((local < 0.5) | (window == 4))
        total = torch.where(inside, scale * wave, total)
    return total


def pendulum_field(state: np.ndarray) -> list[float]:
    r"""The damped pendulum :math:`s_1'=s_2,\ s_2'=-0.05s_2-9.81\sin s_1`."""
    return [state[1], -0.05 * state[1] - 9.81 * math.sin(state[0])]


def pendulum_states(points: Float[Tensor, "points 1"], seed: int = 0) -> Float[Tensor, "points 2"]:
    """Angle (rad) and angular velocity (rad/s) of the pendulum from (1, 1), by DOP853 at tolerance 1e-10."""
    times, back = np.unique(points[:, 0].double().numpy(), return_inverse=True)
    run = solve_ivp(
        lambda _, s: pendulum_field(s), (0, max(times[-1], 1e-9)), [1.0, 1.0], "DOP853", times, rtol=1e-10, atol=1e-10
    )
    return torch.tensor(run.y.T[back], dtype=torch.float32)


def pendulum_residual(jet: Jet) -> Tensor:
    """Residual of the pendulum, from the states and their rates."""
    angle, speed = jet.value.unbind(-1)
    field = torch.stack([speed, -0.05 * speed - 9.81 * torch.sin(angle)], -1)
    return jet.d(0) - field


def reaction(points: Float[Tensor, "points 2"], seed: int = 0) -> Float[Tensor, "points 1"]:
    r"""The exact solution of :math:`u_t=5u(1-u)` from a Gaussian bump at :math:`\pi` of width :math:`\pi/4`."""
    t, x = points.split(1, dim=1)
    bump = torch.exp(-((x - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))
    grown = bump * torch.exp(5 * t)
    return grown / (grown + 1 - bump)


TESTBEDS = {
    problem.name: problem
    for problem in (
        Windows("regression", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5), 1, decaying_sine),
        Windows("regression, 2-D", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5), 1, decaying_sine, sides=((0.0, 1.0),)),
        Windows("unrelated", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5), 1, unrelated),
        Windows("pendulum", (0.0, 2.0, 4.0, 6.0, 8.0, 10.0), 2, pendulum_states, pendulum_residual),
        Windows(
            "reaction",
            (0.0, 0.25, 0.5, 0.75, 1.0),
            1,
            reaction,
            lambda jet: jet.d(0) - 5 * jet.value * (1 - jet.value),
            sides=((0.0, 2 * math.pi),),
            embedding=partial(jets.coordinates, low=(0.0, 0.0), high=(1.0, 2 * math.pi)),
        ),
    )
}


def fisher_importances(
    network: nn.Module, points: Float[Tensor, "seeds points dims"]
) -> Float[Tensor, "seeds parameters"]:
    r"""Diagonal of the Fisher matrix of a Gaussian likelihood with unit variance, for elastic weight consolidation.

    .. math:: F_k=\frac1n\sum_x\sum_o\Bigl(\frac{\partial N_o(x)}{\partial\theta_k}\Bigr)^2

    Args:
        network: maps points and orders to a jet.
        points: where it has learned.

    Returns:
        one importance for each trainable parameter (Kirkpatrick et al., 2017, arXiv:1612.00796).

    Raises:
        ValueError: if the points are empty, not finite, or not one set a seed.
    """
    shaped("points", points, ("seeds", "points", "dims"))
    finite(points=points)
    parameters = [p for p in network.parameters() if p.requires_grad]
    total = 0.0
    for point in points.split(1, dim=1):
        outputs = network(point, (0,) * points.shape[-1]).value.sum((0, 1))
        for number, output in enumerate(outputs):
            slopes = torch.autograd.grad(output, parameters, retain_graph=number + 1 < len(outputs))
            total = total + torch.cat([g.flatten(1) for g in slopes], 1).square()
    return total / points.shape[1]
