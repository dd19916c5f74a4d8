r"""Lagrangian physics-informed networks: solve a transport equation along its characteristics.

A profile that travels is a hard target in a fixed frame: the snapshots span many directions and the residual
:math:`u_t+a(u)u_x-\nu u_{xx}` couples steep slopes in time and space. Label each particle by where it starts, :math:`\xi`.
Then the equation splits into two smooth unknowns, where the particle is, :math:`x=\xi+\delta(\xi,t)`, and what it
carries, :math:`u(\xi,t)`:

.. math:: \partial_tx=a(u),\qquad\partial_tu=\nu u_{xx},\qquad u_x=\frac{u_\xi}{x_\xi},\quad u_{xx}=\frac1{x_\xi}\partial_\xi\frac{u_\xi}{x_\xi}.

Two separate networks represent them. The displacement :math:`\delta` is periodic in :math:`\xi`, which :math:`x` itself is not.

Source: Mojgani, Balajewicz and Hassanzadeh (2022), arXiv:2205.02902, and the defaults of the authors' code.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import MLP, generators, single, uniform
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Solution

PERIOD = 2 * math.pi
FLOOR, SHARPNESS = 0.05, 200.0  # of the spacing of neighbouring particles: a sharp floor, as fronts come close to it


@dataclass(frozen=True)
class Transport:
    r"""A problem :math:`u_t+a(u)u_x=\nu u_{xx}` on :math:`[0,2\pi)` with periodic ends, for times 0 to 1.

    Attributes:
        name: how tables call it.
        velocity: :math:`a`, from the value :math:`u`.
        fastest: largest :math:`|a|` that occurs.
        viscosity: :math:`\nu`.
        start: initial values :math:`u_0`, from :math:`x`.
    """

    name: str
    velocity: Callable[[Tensor], Tensor]
    fastest: float
    viscosity: float
    start: Callable[[Tensor], Tensor]


def convection(speed: float, start: Callable[[Tensor], Tensor] = torch.sin, viscosity: float = 0.0) -> Transport:
    """Transport at a constant speed, with or without diffusion."""
    return Transport(f"convection({speed:g})", lambda u: speed + 0 * u, abs(speed), viscosity, start)


def moving_burgers(speed: float, viscosity: float = 0.01) -> Transport:
    r"""Burgers' equation from :math:`u_0=c+\sin x`: a front that forms while it travels with the mean speed :math:`c`."""
    return Transport(f"burgers({speed:g})", lambda u: u, abs(speed) + 1, viscosity, lambda x: speed + torch.sin(x))


_embed = partial(jets.periodic, axis=1, period=PERIOD, harmonics=1)


class LagrangianNetwork(nn.Module):
    r"""Two stacks of perceptrons of :math:`(\cos\xi,\sin\xi,t)`, one for :math:`u` and one for :math:`\delta`, which share nothing.

    Args:
        seeds: one pair of networks for each.
        reach: factor of the displacement branch, the farthest distance that a particle can travel.
        mean: of the initial values, where the branch for :math:`u` starts.
        width: units of a hidden layer.
        carried_depth: hidden layers of the branch for :math:`u`.
        moved_depth: hidden layers of the branch for :math:`\delta`.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        reach: float,
        mean: float = 0.0,
        width: int = 32,
        carried_depth: int = 4,
        moved_depth: int = 2,
    ):
        super().__init__()
        self.reach = reach
        self.carried = MLP(3, 1, seeds, width, carried_depth, _embed)
        self.carried.biases[-1].data.fill_(mean)
        self.moved = MLP(3, 1, [1_000_000 + int(seed) for seed in seeds], width, moved_depth, _embed)

    def forward(self, points: Float[Tensor, "seeds points 2"], orders: Sequence[int] = (0, 0)) -> tuple[Jet, Jet]:
        r"""Jets of :math:`u` and :math:`\delta` at :math:`(t,\xi)`.

        Args:
            points: times and labels.
            orders: derivatives in :math:`t` and :math:`\xi`.

        Returns:
            the jet of what is carried and the jet of the displacement.
        """
        moved = self.moved(points, orders)
        return self.carried(points, orders), Jet(self.reach * moved.streams, moved.orders)


def compression(displacement: Jet) -> tuple[Tensor, Tensor]:
    r"""The spacing of neighbouring particles :math:`x_\xi=1+\delta_\xi`, kept above 0.05 by a softplus, and its derivative in :math:`\xi`."""
    over = SHARPNESS * (1 + displacement.d(1) - FLOOR)
    return FLOOR + nn.functional.softplus(over) / SHARPNESS, torch.sigmoid(over) * displacement.d(1, 2)


def residuals(
    problem: Transport, carried: Jet, displacement: Jet, chain_rule: bool = True
) -> tuple[Float[Tensor, "seeds points 1"], Float[Tensor, "seeds points 1"]]:
    r"""Residuals :math:`r_x=\partial_tx-a(u)` and :math:`r_u=\partial_tu-\nu u_{xx}` at fixed labels.

    Args:
        problem: velocity and viscosity.
        carried: jet of :math:`u` of orders (1, 2).
        displacement: jet of :math:`\delta` of orders (1, 2).
        chain_rule: carry the second derivative over to physical space; if not, take :math:`u_{\xi\xi}` in its place as the
            authors' code does, which is right as long as :math:`a` is constant.

    Returns:
        the two residuals.
    """
    bend = carried.d(1, 2)
    if chain_rule:
        spacing, slope = compression(displacement)
        bend = (bend * spacing - carried.d(1) * slope) / spacing**3
    return displacement.d(0) - problem.velocity(carried.value), carried.d(0) - problem.viscosity * bend


def root_mean_square(values: Float[Tensor, "seeds points 1"]) -> Float[Tensor, " seeds"]:
    """Root of the mean square of each seed, with a finite gradient at zero."""
    return (values.square().mean((1, 2)) + 1e-20).sqrt()


def labels(draws: Sequence[torch.Generator], count: int) -> Float[Tensor, "seeds points 2"]:
    """Times and labels on a grid of count by count cells, one uniform point in each cell."""
    corner = torch.arange(count) / count
    grid = torch.cartesian_prod(corner, corner) + uniform(draws, count**2, 2) / count
    return grid * grid.new_tensor([1.0, PERIOD])


def initial_line(count: int, seeds: int) -> Float[Tensor, "seeds points 2"]:
    """Evenly spaced labels at time 0."""
    places = PERIOD * torch.arange(count) / count
    return torch.stack([torch.zeros(count), places], -1).expand(seeds, -1, -1)


Misfits = Callable[[Callable, Tensor], Iterator[tuple[float, Tensor]]]


def misfits(
    problem: Transport,
    chain_rule: bool = True,
    line: int = 128,
    weights: tuple[float, float, float] = (100.0, 10.0, 1000.0),
) -> Misfits:
    r"""The terms of the loss :math:`\gamma_x\lVert r_x\rVert+\gamma_u\lVert r_u\rVert+\gamma_0(\lVert u-u_0\rVert+\lVert\delta\rVert)`.

    The paper sums over a grid of :math:`N_x\times N_t` points, with factors 10, 1 and 1000. Divided by :math:`\sqrt{N_x}` that
    is :math:`\sqrt{N_t}` times a root mean square for the residuals and one root mean square on the initial line; the
    factors here are those of the paper's :math:`N_t=100`.

    Args:
        problem: the equation.
        chain_rule: as in :func:`residuals`.
        line: labels on the initial line, evenly spaced.
        weights: factors of the root mean squares of :math:`r_x`, of :math:`r_u` and of what is known at the start.

    Returns:
        a function from network and points to pairs of a weight and values.
    """

    def terms(network: Callable, points: Tensor) -> Iterator[tuple[float, Tensor]]:
        along, carried = residuals(problem, *network(points, (1, 2)), chain_rule)
        place = initial_line(line, len(points)).to(points.dtype)
        value, displacement = network(place)
        yield weights[0], along
        yield weights[1], carried
        yield weights[2], value.value - problem.start(place[..., 1:])
        yield weights[2], displacement.value

    return terms


def total(terms: Misfits, network: Callable, points: Tensor) -> Float[Tensor, " seeds"]:
    """The weighted sum of norms, not squared."""
    return sum(weight * root_mean_square(values) for weight, values in terms(network, points))


def train(
    network: nn.Module,
    terms: Misfits,
    seeds: Sequence[int],
    steps: int = 4000,
    polish: int = 100,
    count: int = 24,
    rates: tuple[float, float] = (1e-2, 1e-4),
    budget: Budget | None = None,
    choose: Callable[[Sequence[torch.Generator], int], Tensor] = labels,
) -> int:
    """Adam (amsgrad) on new jittered points, its rate falling exponentially, then L-BFGS in float64 on one set of points.

    Args:
        network: stack of networks, trained in place; float64 afterwards where it was polished.
        terms: weights and values of the loss, from :func:`misfits`.
        seeds: one a network.
        steps: steps of Adam, where no budget is given.
        polish: iterations of L-BFGS for each seed, none with a budget.
        count: points along either axis.
        rates: learning rates at the start and at the end.
        budget: a time budget in place of ``steps``.
        choose: draws the points.

    Returns:
        number of steps of Adam.

    Raises:
        FloatingPointError: when the loss becomes NaN or infinite.
    """
    draws, step = generators(seeds, stream=1), 0
    optimiser = torch.optim.Adam(network.parameters(), lr=rates[0], amsgrad=True, fused=True)
    while (progress := step / steps if budget is None else budget.fraction()) < 1:
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** progress
        loss = total(terms, network, choose(draws, count)).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is NaN or infinite at step {step}: lower the learning rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    if polish and budget is None:
        _polish(network, terms, choose(draws, count), polish)
    return step


def _polish(network: nn.Module, terms: Misfits, points: Tensor, iterations: int) -> None:
    """L-BFGS with strong Wolfe line search, one seed after the other; a seed whose loss rises keeps what it had."""
    network.double()
    for number, place in enumerate(points.double().split(1)):
        alone = single(network, number)
        optimiser = torch.optim.LBFGS(alone.parameters(), max_iter=iterations, line_search_fn="strong_wolfe")

        def closure(alone=alone, place=place, optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = total(terms, alone, place).sum()
            loss.backward()
            return loss

        before = optimiser.step(closure).item()
        with torch.no_grad():
            better = total(terms, alone, place).item() < before
        for whole, part in zip(network.parameters(), alone.parameters(), strict=True):
            if better:
                whole.data[number] = part.data[0]


def in_fixed_frame(
    network: nn.Module,
    times: Float[Tensor, " times"],
    places: Float[Tensor, " places"],
    count: int = 512,
) -> Float[np.ndarray, "seeds times places"]:
    r"""The solution at fixed places: particles are wrapped into the period, sorted, and joined by straight lines.

    Args:
        network: the trained stack, or another map from labels to the two jets.
        times: between 0 and 1.
        places: of any period.
        count: particles followed.

    Returns:
        values for every seed, time and place.

    Raises:
        ValueError: if an argument is empty, not finite or not one-dimensional.
    """
    for name, value in {"times": times, "places": places}.items():
        shaped(name, value, ("n",))
        finite(**{name: value})
    weight = next(network.parameters())
    label = PERIOD * torch.arange(count, dtype=weight.dtype) / count
    grid = torch.cartesian_prod(times.to(weight.dtype), label).expand(weight.shape[0], -1, -1)
    with torch.no_grad():
        value, displacement = (jet.value.unflatten(1, (-1, count))[..., 0].double().numpy() for jet in network(grid))
    position = (label.double().numpy() + displacement) % PERIOD
    wanted = places.double().numpy() % PERIOD
    out = np.empty((*value.shape[:2], len(wanted)))
    for at in np.ndindex(*value.shape[:2]):
        out[at] = np.interp(wanted, position[at], value[at], period=PERIOD)
    return out


def as_transport(problem: Problem) -> Transport:
    r"""Read speed and initial values off a problem :math:`u_t+au_x=0` with constant :math:`a`, by probing its equation.

    Args:
        problem: of the suite.

    Returns:
        the same problem for this method.

    Raises:
        ValueError: for any other equation.
    """

    def probe(*streams: float | int) -> float:
        jet = Jet(torch.tensor(streams, dtype=torch.float32)[None, :, None, None], (1, 1))
        return float(problem.equation(jet, torch.full((1, 1, 2), 0.5)))

    if problem.orders != (1, 1) or problem.period != problem.high[1] - problem.low[1] or problem.outputs != 1:
        raise ValueError(
            f"problem {problem.name!r} is not periodic convection, which is what lagrangian-pinn solves in the ring"
        )
    speed = probe(0, 0, 1)
    if probe(0, 1, 0) != 1 or probe(0, 0, 2) != 2 * speed or probe(1, 0, 0) != 0 or abs(problem.period - PERIOD) > 1e-6:
        raise ValueError(f"problem {problem.name!r} is not u_t + a u_x = 0 with constant a on a period of 2 pi")

    def start(x: Tensor) -> Tensor:
        zero = Jet(x.new_zeros(*x.shape[:-2], 1, *x.shape[-2:]), (0, 0))
        return -problem.conditions[0].misfit(zero, torch.cat([torch.zeros_like(x), x], -1))

    return convection(speed, start)


@entrant("pinns", "lagrangian-pinn")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring, for convection at a constant speed only, where the carried value does not change.

    Raises:
        ValueError: for other problems.
    """
    transport = as_transport(problem)
    network = LagrangianNetwork([seed], transport.fastest)
    steps = train(network, misfits(transport), [seed], budget=budget)

    def predict(points: Tensor) -> Tensor:
        problem.check(points)
        times, at = points[:, 0].unique(return_inverse=True)
        values = torch.empty(len(points), 1)
        for number, time in enumerate(times):
            here = at == number
            values[here, 0] = torch.as_tensor(in_fixed_frame(network, time[None], points[here, 1]), dtype=values.dtype)[
                0, 0
            ]
        return values

    return Solution(predict, float(problem.error(lambda points: predict(points)[None])[0]), steps)
