r"""Particles in the plane with masses and charges, as graphs: the data of :mod:`~touchstone.dynamics.symbolic_distillation`.

Positions, velocities and the logarithms of masses start standard normal; charges are plus or minus one. Runs last as long
as in the public code of arXiv:2006.11287, by the leapfrog method; the target is the exact acceleration at each frame, so
that a trajectory's small errors do not matter. Everything is dimensionless.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.data.many_body import POTENTIALS, Bodies

SOFTENING = 0.01  # length below which a force is smoothed
STEPS, FRAMES = 1000, 20  # of a run
FEATURES = ("x", "y", "vx", "vy", "charge", "mass")
# name: potential, time step, and the exponents in force = mass_i^a mass_j^b charge_i^c charge_j^d g(r) (dx, dy)
FORCES: dict[str, tuple[str, float, tuple[int, int, int, int], str]] = {
    "spring": ("spring", 1e-2, (0, 0, 0, 0), "(r-1)/r"),
    "1/r": ("log", 5e-3, (1, 1, 0, 0), "r^-2"),
    "1/r^2": ("gravity", 1e-3, (1, 1, 0, 0), "r^-3"),
    "charge": ("charge", 1e-3, (0, 0, 1, 1), "r^-3"),
}


@dataclass(frozen=True)
class Graphs:
    """Snapshots of particles.

    Attributes:
        nodes: positions, velocities, charge and mass of each particle, as in ``FEATURES``.
        accelerations: of each particle.
    """

    nodes: Float[Tensor, "graphs particles 6"]
    accelerations: Float[Tensor, "graphs particles 2"]


def pairs(particles: int) -> tuple[Int[Tensor, " edges"], Int[Tensor, " edges"]]:
    """Receivers and senders of all ordered pairs, the edges of one receiver next to each other."""
    receiver = torch.arange(particles).repeat_interleave(particles)
    sender = torch.arange(particles).repeat(particles)
    apart = receiver != sender
    return receiver[apart], sender[apart]


@functools.lru_cache(maxsize=6)
def simulate(force: str, runs: int, particles: int = 4, seed: int = 0, keep: float = 0.99) -> Graphs:
    """Frames of simulated particles, without those of the largest accelerations.

    Args:
        force: one of ``FORCES``.
        runs: simulations, of which 20 evenly spaced frames each are taken.
        particles: of a run.
        seed: of the starts.
        keep: share of the frames that is kept, by their largest acceleration.

    Returns:
        the frames, in random order; the same tensors when called again with the same arguments.

    Raises:
        ValueError: if the force is unknown, or a number is out of range.
    """
    if force not in FORCES:
        raise ValueError(f"force is {force!r}: choose from {', '.join(FORCES)}")
    if runs < 1 or particles < 2 or not 0 < keep <= 1:
        raise ValueError(f"runs {runs}, particles {particles}, keep {keep}: expected at least 1, at least 2, in (0, 1]")
    random = np.random.default_rng(seed)
    state = random.standard_normal((runs, 4 * particles))
    masses = np.exp(random.standard_normal((runs, particles)))
    charges = random.choice([-1.0, 1.0], (runs, particles))
    potential, step = FORCES[force][:2]
    bodies = Bodies(masses, potential, charges, softening=SOFTENING)
    place, speed = np.split(state, 2, 1)
    frames, rates = [], []
    for number in range(STEPS + 1):
        push = bodies(np.concatenate([place, speed], 1))[:, 2 * particles :]
        if number:
            speed = speed + 0.5 * step * push  # the second half of the step before
        if number % (STEPS // FRAMES) == 0 and number < STEPS:
            parts = [part.reshape(runs, particles, 2) for part in (place, speed)]
            frames.append(np.concatenate([*parts, charges[..., None], masses[..., None]], 2))
            rates.append(push.reshape(runs, particles, 2))
        speed = speed + 0.5 * step * push
        place = place + step * speed
    nodes, accelerations = np.concatenate(frames), np.concatenate(rates)
    largest = np.abs(accelerations).max((1, 2))
    chosen = random.permutation(np.flatnonzero(largest <= np.quantile(largest, keep)))
    return Graphs(*(torch.from_numpy(array[chosen]).float() for array in (nodes, accelerations)))


def pair_forces(nodes: Float[Tensor, "graphs particles 6"], force: str) -> Float[Tensor, "graphs edges 2"]:
    """The force of each sender on its receiver, edges in the order of :func:`pairs`.

    Args:
        nodes: particles.
        force: one of ``FORCES``.

    Returns:
        force vectors.
    """
    receiver, sender = pairs(nodes.shape[1])
    to, by = nodes[:, receiver].double().numpy(), nodes[:, sender].double().numpy()
    apart = to[..., :2] - by[..., :2]
    distance = np.sqrt((apart**2).sum(-1) + SOFTENING**2)
    slope = POTENTIALS[FORCES[force][0]][1](distance, to[..., 5] * by[..., 5], to[..., 4] * by[..., 4])
    # a spring's slope does not depend on masses and charges
    return torch.from_numpy(-np.broadcast_to(slope, distance.shape)[..., None] * apart).float()


def pair_variables(nodes: Float[Tensor, "graphs particles 6"]) -> dict[str, np.ndarray]:
    """What a formula for a pair may use, one value an edge.

    Args:
        nodes: particles.

    Returns:
        separations dx and dy (receiver minus sender), distance r, and mass and charge of receiver (i) and sender (j).
    """
    receiver, sender = pairs(nodes.shape[1])
    to, by = (nodes[:, ends].double().flatten(0, 1).numpy() for ends in (receiver, sender))
    dx, dy = (to - by)[:, :2].T
    names = {"mi": to[:, 5], "mj": by[:, 5], "qi": to[:, 4], "qj": by[:, 4]}
    return {"dx": dx, "dy": dy, "r": np.sqrt(dx**2 + dy**2 + SOFTENING**2)} | names
