r"""Particles in three dimensions that attract and repel each other: charges, or springs on random edges.

Charged systems feel the softened Coulomb force

.. math:: \ddot x_i=\sum_{j\ne i} q_iq_j\frac{x_i-x_j}{(|x_i-x_j|^2+\epsilon^2)^{3/2}},

sprung ones :math:`\ddot x_i=-k\sum_j e_{ij}(x_i-x_j)` with random edges :math:`e_{ij}\in\{0,1\}`. Masses are one, all
quantities are dimensionless, and time runs in leapfrog steps of ``STEP``. The task follows Satorras, Hoogeboom and
Welling (2021), arXiv:2102.09844, with softening instead of a clipped force.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped

STEP = 1e-3  # time of one leapfrog step
SOFTENING = 0.2  # length below which the Coulomb force is smoothed
STIFFNESS = 1.0  # of a spring
SPREAD = 0.5  # standard deviation of every initial position and velocity component


@dataclass
class Systems:
    """Recorded systems.

    Attributes:
        couplings: (systems, particles, particles), symmetric with zero diagonal: charge products, or spring edges.
        charges: (systems, particles), plus or minus one; zero for springs.
        positions: (systems, frames, particles, 3).
        velocities: (systems, frames, particles, 3).
        steps: the leapfrog steps at which the frames were taken.
    """

    couplings: Float[Tensor, "systems particles particles"]
    charges: Float[Tensor, "systems particles"]
    positions: Float[Tensor, "systems frames particles 3"]
    velocities: Float[Tensor, "systems frames particles 3"]
    steps: tuple[int, ...]


def accelerations(
    positions: Float[Tensor, "systems particles 3"],
    couplings: Float[Tensor, "systems particles particles"],
    springs: bool = False,
) -> Float[Tensor, "systems particles 3"]:
    """Acceleration of every particle, see the module's equations.

    Args:
        positions: of the particles.
        couplings: charge products or spring edges, zero on the diagonal.
        springs: which of the two forces.

    Returns:
        accelerations in the shape of the positions.
    """
    if springs:
        weights = -STIFFNESS * couplings
    else:
        squared = ((positions[:, :, None] - positions[:, None]) ** 2).sum(3)
        weights = couplings * (squared + SOFTENING**2) ** -1.5
    return weights.sum(2, keepdim=True) * positions - weights @ positions


def energy(
    positions: Float[Tensor, "systems particles 3"],
    velocities: Float[Tensor, "systems particles 3"],
    couplings: Float[Tensor, "systems particles particles"],
    springs: bool = False,
) -> Float[Tensor, " systems"]:
    """Total energy, the sum of kinetic and pair energies.

    Args:
        positions: of the particles.
        velocities: of the particles.
        couplings: charge products or spring edges, zero on the diagonal.
        springs: which of the two forces.

    Returns:
        one energy a system.
    """
    squared = ((positions[:, :, None] - positions[:, None]) ** 2).sum(3)
    pairs = 0.5 * STIFFNESS * couplings * squared if springs else couplings * (squared + SOFTENING**2) ** -0.5
    return 0.5 * (velocities**2).sum((1, 2)) + 0.5 * pairs.sum((1, 2))


def leapfrog(
    positions: Float[Tensor, "systems particles 3"],
    velocities: Float[Tensor, "systems particles 3"],
    couplings: Float[Tensor, "systems particles particles"],
    record: tuple[int, ...],
    springs: bool = False,
    step: float = STEP,
) -> tuple[Float[Tensor, "systems frames particles 3"], Float[Tensor, "systems frames particles 3"]]:
    """Integrate with kick-drift-kick leapfrog.

    Args:
        positions: at the start.
        velocities: at the start.
        couplings: charge products or spring edges, zero on the diagonal.
        record: increasing step numbers to keep, 0 being the start.
        springs: which force.
        step: time step; negative runs backwards.

    Returns:
        positions and velocities at the recorded steps.

    Raises:
        ValueError: if a tensor is empty, not finite or of the wrong shape, or ``record`` does not increase from 0 or later.
    """
    finite(positions=positions, velocities=velocities, couplings=couplings)
    sizes = shaped("positions", positions, ("systems", "particles", 3))
    shaped("velocities", velocities, tuple(positions.shape))
    shaped("couplings", couplings, (sizes["systems"], sizes["particles"], sizes["particles"]))
    if not record or record[0] < 0 or any(later <= earlier for earlier, later in zip(record, record[1:], strict=False)):
        raise ValueError(f"record is {record}, expected increasing step numbers from 0 on")
    kept = []
    force = accelerations(positions, couplings, springs)
    for now in range(record[-1] + 1):
        if now in record:
            kept.append((positions, velocities))
        velocities = velocities + 0.5 * step * force
        positions = positions + step * velocities
        force = accelerations(positions, couplings, springs)
        velocities = velocities + 0.5 * step * force
    places, speeds = zip(*kept, strict=True)
    return torch.stack(places, 1), torch.stack(speeds, 1)


def systems(
    count: int, record: tuple[int, ...] = (0, 1000), particles: int = 5, springs: bool = False, seed: int = 0
) -> Systems:
    """Draw random systems and integrate them in float64; the record is returned in float32.

    Args:
        count: how many systems.
        record: leapfrog steps to keep, such as ``(0, 1000)`` or ``tuple(range(0, 4000, 100))``.
        particles: per system.
        springs: springs on random edges (each present with probability one half) instead of charges.
        seed: of the initial state and the couplings.

    Returns:
        the recorded systems.

    Raises:
        ValueError: if ``count`` is not positive or there are fewer than two ``particles``.
    """
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    if particles < 2:
        raise ValueError(f"particles is {particles}, expected at least 2")
    generator = torch.Generator().manual_seed(seed)
    start = SPREAD * torch.randn(2, count, particles, 3, generator=generator, dtype=torch.float64)
    if springs:
        charges = torch.zeros(count, particles, dtype=torch.float64)
        upper = torch.randint(0, 2, (count, particles, particles), generator=generator).double().triu(1)
        couplings = upper + upper.transpose(1, 2)
    else:
        charges = 2.0 * torch.randint(0, 2, (count, particles), generator=generator).double() - 1
        couplings = charges[:, :, None] * charges[:, None] * (1 - torch.eye(particles, dtype=torch.float64))
    positions, velocities = leapfrog(start[0], start[1], couplings, record, springs)
    return Systems(couplings.float(), charges.float(), positions.float(), velocities.float(), record)
