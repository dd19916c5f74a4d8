r"""Plane densities with exact samplers, the standard targets of small generative models.

Per-axis standard deviations lie between 0.7 and 1.5, so that one network and one step size fit all; two-moons,
swiss-roll and checkerboard are standardised with their exact moments, never with those of a sample.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor


def _uniform(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator)


def _normal(count: int, generator: Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator)


def eight_gaussians(count: int, generator: Generator) -> Float[Tensor, "count 2"]:
    """Eight Gaussians of standard deviation 0.15 on a circle of radius 2, equally likely."""
    angle = torch.randint(8, (count,), generator=generator) * (math.pi / 4)
    centre = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return centre + 0.15 * _normal(count, generator)


def two_moons(count: int, generator: Generator) -> Float[Tensor, "count 2"]:
    """Two interleaved half circles of radius 1 with Gaussian noise 0.08, standardised."""
    noise = 0.08
    upper = torch.randint(2, (count,), generator=generator).bool()
    angle = math.pi * _uniform(count, generator)
    outer = torch.stack([angle.cos(), angle.sin()], dim=-1)
    points = torch.where(upper[:, None], outer, torch.tensor([1.0, 0.5]) - outer) + noise * _normal(count, generator)
    mean = torch.tensor([0.5, 0.25])
    deviation = torch.tensor([0.75 + noise**2, 0.5625 - 1 / math.pi + noise**2]).sqrt()
    return (points - mean) / deviation


@cache
def _swiss_moments() -> tuple[Tensor, Tensor]:
    """Mean and variance of the noiseless spiral, by the midpoint rule."""
    angle = 1.5 * math.pi * (1 + 2 * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    spiral = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return spiral.mean(0).float(), spiral.var(0, correction=0).float()


def swiss_roll(count: int, generator: Generator) -> Float[Tensor, "count 2"]:
    """The spiral of radius equal to its angle, from 1.5 pi to 4.5 pi, with Gaussian noise 0.5, standardised."""
    noise = 0.5
    mean, variance = _swiss_moments()
    angle = 1.5 * math.pi * (1 + 2 * _uniform(count, generator))
    spiral = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return (spiral + noise * _normal(count, generator) - mean) / (variance + noise**2).sqrt()


def checkerboard(count: int, generator: Generator) -> Float[Tensor, "count 2"]:
    """The eight dark squares of a 4 by 4 board, each uniformly filled, standardised."""
    column = torch.randint(4, (count,), generator=generator)
    row = 2 * torch.randint(2, (count,), generator=generator) + column % 2
    inside = torch.rand(count, 2, generator=generator)
    return (torch.stack([column, row], dim=-1) + inside - 2) / math.sqrt(4 / 3)


def unit_ring(count: int, generator: Generator) -> Float[Tensor, "count 2"]:
    """The unit circle, uniformly, without noise: a density that has none with respect to area."""
    angle = 2 * math.pi * _uniform(count, generator)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def grid_25(count: int, generator: Generator) -> Float[Tensor, "count 2"]:
    """Twenty-five Gaussians of standard deviation 0.05 on the 5 by 5 lattice of spacing 1, equally likely."""
    return torch.randint(5, (count, 2), generator=generator) - 2 + 0.05 * _normal(count, generator)


DENSITIES: dict[str, Callable[[int, Generator], Tensor]] = {
    "eight-gaussians": eight_gaussians,
    "two-moons": two_moons,
    "swiss-roll": swiss_roll,
    "checkerboard": checkerboard,
    "unit-ring": unit_ring,
    "grid-25": grid_25,
}


def draw(name: str, count: int, seed: int) -> Float[Tensor, "count 2"]:
    """Independent points of a named density.

    Args:
        name: a key of ``DENSITIES``.
        count: number of points.
        seed: of the random generator.

    Returns:
        the points, dimensionless.

    Raises:
        ValueError: if the name is unknown or ``count`` is not positive.
    """
    if name not in DENSITIES:
        raise ValueError(f"name is {name!r}: choose one of {', '.join(DENSITIES)}")
    if count < 1:
        raise ValueError(f"count is {count}: it must be positive")
    return DENSITIES[name](count, torch.Generator().manual_seed(seed))
