"""What PINNACLE is measured against: points with fixed shares of the kinds, and a network for unknown coefficients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.stats import qmc
from torch import Tensor, nn

from touchstone.nn.jets import Jet
from touchstone.nn.networks import uniform
from touchstone.pinns.pinnacle import EDGE_PLACES, RESIDUAL, Points, Run, misfit
from touchstone.pinns.problems import Problem, kdv
from touchstone.pinns.protocol import default_network
from touchstone.pinns.samplers import POOL_FACTOR, draw, draw_probability

WAYS = ("uniform", "Hammersley", "RAD", "RAD of all kinds")


@dataclass(frozen=True)
class FixedShares:
    """Points of which a fixed share is for the residual; the conditions get equal parts of the rest.

    Args:
        total: points of all kinds, measurements among them.
        share: of the points that are not measurements, for the residual.
        way: ``uniform`` (new points at every choice), ``Hammersley`` (one regular set), ``RAD`` (residual points drawn by
            their misfit, arXiv:2207.10289) or ``RAD of all kinds``.

    Raises:
        ValueError: for an unknown way or a share outside 0..1.
    """

    total: int = 240
    share: float = 0.8
    way: str = "uniform"

    def __post_init__(self):
        if self.way not in WAYS:
            raise ValueError(f"way is {self.way!r}: choose one of {', '.join(WAYS)}")
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}: it must lie between 0 and 1")

    def __call__(self, run: Run) -> Points:
        """The next training points; measurements are added at random sites and kept."""
        if self.way == "Hammersley" and run.points is not None:
            return run.points
        measured = self.measure(run)
        room = self.total - (0 if measured is None else measured.kinds.shape[1])
        inside, conditions = round(self.share * room), run.problem.conditions
        points = self.inner(run, inside)
        for number, condition in enumerate(conditions):
            part = (room - inside) * (number + 1) // len(conditions) - (room - inside) * number // len(conditions)
            points = points + self.outer(run, number + 1, condition.place, part)
        return points if measured is None else points + measured

    def inner(self, run: Run, count: int) -> Points:
        """Residual points in the domain."""
        problem, dims = run.problem, len(run.problem.low)
        if self.way == "Hammersley":
            return Points.of(RESIDUAL, problem.scale(hammersley(count, dims)).repeat(len(run.draws), 1, 1))
        if self.way == "uniform":
            return Points.of(RESIDUAL, problem.scale(uniform(run.draws, count, dims)))
        return by_misfit(run, Points.of(RESIDUAL, problem.scale(uniform(run.draws, POOL_FACTOR * count, dims))), count)

    def outer(self, run: Run, kind: int, place: Callable[[int], Tensor], count: int) -> Points:
        """Points on an edge."""
        if self.way == "Hammersley":  # every second of twice as many, since places come in equal numbers a side
            return Points.of(kind, run.problem.scale(place(2 * count)[::2]).repeat(len(run.draws), 1, 1))
        places = run.problem.scale(place(EDGE_PLACES)).expand(len(run.draws), -1, -1)
        if self.way == "RAD of all kinds":
            return by_misfit(run, Points.of(kind, places), count)
        return Points.of(kind, places).take(draw(torch.ones(places.shape[:2]), count, run.draws))

    def measure(self, run: Run) -> Points | None:
        """The old measurements and new ones at random sites."""
        if run.sites is None:
            return None
        kind, seeds = 1 + len(run.problem.conditions), len(run.draws)
        old = None
        if run.points is not None:
            old = run.points.take((run.points.kinds == kind).nonzero()[:, 1].view(seeds, -1))
        quota = min(run.sites.every_time, run.sites.most - (0 if old is None else old.kinds.shape[1]))
        if quota == 0:
            return old
        numbers = draw(torch.ones(seeds, len(run.sites.places)), quota, run.draws)
        new = Points.of(kind, run.sites.places[numbers], run.sites.readings.gather(1, numbers))
        return new if old is None else old + new


def hammersley(count: int, dims: int) -> Float[Tensor, "{count} {dims}"]:
    """The Hammersley set of the unit cube: evenly spaced in the first coordinate, van der Corput in the others."""
    first = (torch.arange(count) + 0.5) / count
    others = qmc.Halton(dims - 1, scramble=False).random(count) if dims > 1 else first.new_zeros(count, 0)
    return torch.cat([first[:, None], torch.as_tensor(others, dtype=torch.float32)], 1)


def by_misfit(run: Run, pool: Points, count: int) -> Points:
    """Points of a pool drawn by their misfit as RAD does (k = 1, c = 1)."""
    with torch.no_grad():
        size = misfit(run.problem, run.network, pool).abs()
    return pool.take(draw(draw_probability(size), count, run.draws))


class WithCoefficients(nn.Module):
    """A network and unknown coefficients of the equation, which travel as constant components behind the solution.

    Args:
        network: stack of networks, one a seed.
        start: first values of the coefficients.
        scale: their typical size; what is trained is the coefficient over its scale.
    """

    def __init__(self, network: nn.Module, start: Sequence[float], scale: Sequence[float]):
        super().__init__()
        seeds = next(network.parameters()).shape[0]
        self.network = network
        self.register_buffer("scale", torch.tensor(scale))
        self.scaled = nn.Parameter((torch.tensor(start) / self.scale).repeat(seeds, 1, 1))

    @property
    def coefficients(self) -> Float[Tensor, "seeds coefficients"]:
        """The present values."""
        return (self.scaled * self.scale)[:, 0].detach()

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """The network's jet, and the coefficients as further components whose derivatives vanish."""
        streams = self.network(points, orders).streams
        constant = streams.new_zeros(*streams.shape[:-1], len(self.scale))
        constant[:, 0] = self.scaled * self.scale
        return Jet(torch.cat([streams, constant], -1), tuple(orders))


def kdv_inverse() -> Problem:
    r"""Korteweg-de Vries with unknown coefficients, :math:`u_t+\lambda_1uu_x+\lambda_2u_{xxx}=0`, as components 1 and 2."""
    known = kdv()
    (start,) = known.conditions

    def equation(jet: Jet, points: Tensor) -> Tensor:
        u, first, second = jet.value.split(1, -1)
        return jet.d(0)[..., :1] + first * u * jet.d(1)[..., :1] + second * jet.d(1, 3)[..., :1]

    def misfit(jet: Jet, points: Tensor) -> Tensor:
        return start.misfit(Jet(jet.streams[..., :1], jet.orders), points)

    return replace(known, name="kdv inverse", outputs=3, equation=equation, conditions=(replace(start, misfit=misfit),))


def inverse_network(seeds: Sequence[int]) -> WithCoefficients:
    r"""The network of the head-to-head budget, started from :math:`\lambda=(0.5, 0.005)`; the truth is (1, 0.0025)."""
    return WithCoefficients(default_network(kdv(), seeds), start=(0.5, 0.005), scale=(1.0, 0.01))
