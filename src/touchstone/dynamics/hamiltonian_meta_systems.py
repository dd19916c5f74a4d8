"""Six kinds of Hamiltonian systems as bodies in the plane, and the errors of rollouts against them. All constants are 1."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import shaped
from touchstone.data import mechanics, orbits, regular
from touchstone.data.ode import System, trajectories
from touchstone.dynamics.hamiltonian_graph import Energy, Weights, field, graph_energy
from touchstone.dynamics.hamiltonian_meta import Kind
from touchstone.dynamics.odeint import RK4, odeint

DT, SAMPLES = 0.05, 200


def mirror(state: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4"]:
    r"""A quartic stand-in for a charge in a magnetic mirror, :math:`H=\tfrac12|p|^2+\tfrac12|q|^2+\tfrac12q_1^2q_2^2`.

    Args:
        state: positions, then momenta.

    Returns:
        time derivative.
    """
    x, y, px, py = np.moveaxis(state, -1, 0)
    return np.stack([px, py, -x - x * y**2, -y - y * x**2], -1)


def mirror_energy(state: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch"] | np.floating:
    """Energy of :func:`mirror`.

    Args:
        state: positions, then momenta.

    Returns:
        energy.
    """
    x, y, px, py = np.moveaxis(state, -1, 0)
    return 0.5 * (px**2 + py**2 + x**2 + y**2 + (x * y) ** 2)


def shell_starts(
    random: np.random.Generator,
    runs: int,
    energy: Callable[[np.ndarray], np.ndarray],
    spread: tuple[float, ...],
    low: float,
    high: float,
) -> Float[np.ndarray, "runs dim"]:
    """Normal states about 0 whose energy lies between two values.

    Args:
        random: generator.
        runs: number of states.
        energy: batched function of the state.
        spread: standard deviation of each coordinate.
        low: smallest energy.
        high: largest energy.

    Returns:
        states.
    """
    drawn = np.array(spread) * random.standard_normal((60 * runs, len(spread)))
    # beyond distance 1 a low energy of Henon and Heiles can belong to an orbit that escapes; spreads of the others are larger
    near = np.abs(drawn).max(-1) < 3 * max(spread)
    kept = drawn[near & (energy(drawn) > low) & (energy(drawn) < high)]
    return kept[:runs]


def _shell(energy: Callable, spread: tuple[float, ...], low: float, high: float) -> Callable:
    return functools.partial(shell_starts, energy=energy, spread=spread, low=low, high=high)


_MIRROR = System("mirror", mirror, None, (0.0,) * 4, invariants={"energy": mirror_energy}, transient=0.0)
# pendulums swing wide but do not turn over; orbits of Henon and Heiles stay bound; three bodies stay apart until time 10
SYSTEMS = {
    "spring": dataclasses.replace(
        regular.system("spring-mass"), starts=_shell(mechanics.spring_mass_energy, (1.0, 1.0), 0.2, 2.0)
    ),
    "pendulum": dataclasses.replace(
        regular.system("pendulum"), starts=_shell(mechanics.pendulum_energy, (1.2, 0.9), 0.2, 1.7)
    ),
    "henon-heiles": dataclasses.replace(
        regular.system("henon-heiles"), starts=_shell(mechanics.henon_heiles_energy, (0.25,) * 4, 0.02, 0.15)
    ),
    "mirror": dataclasses.replace(_MIRROR, starts=_shell(mirror_energy, (0.7,) * 4, 0.2, 2.0)),
    "two-body": orbits.two_body(),
    "three-body": dataclasses.replace(
        orbits.three_body(), starts=functools.partial(orbits.ring_starts, count=3, low=1.2, high=1.8, shake=0.03)
    ),
}


def system(name: str) -> System:
    """One of ``SYSTEMS``.

    Args:
        name: spring, pendulum, henon-heiles, mirror, two-body or three-body.

    Raises:
        ValueError: if the name is unknown; the message names the nearest.
    """
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, 1, 0)
        raise ValueError(f"name is {name!r}: did you mean {near[0]!r}? There are {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def to_bodies(state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch bodies 4"]:
    """States that list all positions, then all momenta, as bodies in the plane.

    Args:
        state: of one coordinate (the second of the body is then 0), or of two for each body.
    """
    positions, momenta = np.split(state, 2, -1)
    if positions.shape[-1] == 1:
        positions, momenta = (np.concatenate([part, 0 * part], -1) for part in (positions, momenta))
    return np.concatenate([part.reshape(*part.shape[:-1], -1, 2) for part in (positions, momenta)], -1)


def from_bodies(bodies: Float[np.ndarray, "*batch bodies 4"], dim: int) -> Float[np.ndarray, "*batch dim"]:
    """The inverse of :func:`to_bodies`.

    Args:
        bodies: positions and momenta of each.
        dim: length of a state.
    """
    positions, momenta = (part.reshape(*part.shape[:-2], -1)[..., : dim // 2] for part in np.split(bodies, 2, -1))
    return np.concatenate([positions, momenta], -1)


def data(name: str, seeds: Sequence[int], runs: int = 200, samples: int = SAMPLES, test: bool = False) -> Kind:
    """Trajectories of a system with exact rates, sampled every 0.05.

    Args:
        name: of the system.
        seeds: each draws its own starts.
        runs: trajectories of a seed.
        samples: of a trajectory.
        test: other starts than those to learn from.

    Returns:
        states and rates in single precision.

    Raises:
        ValueError: if the name is unknown or a number is not positive.
    """
    own = system(name)
    flat = np.stack([trajectories(own, DT, samples, runs, seed + 1000 * test) for seed in seeds])
    states, rates = (torch.from_numpy(to_bodies(part)).float() for part in (flat, own.field(flat)))
    active = torch.tensor([1.0, 0.0, 1.0, 0.0]) if flat.shape[-1] == 2 else torch.ones(4)
    return Kind(states, rates, active)


@torch.no_grad()
def rollout(
    weights: Weights,
    start: Float[Tensor, "nets runs bodies 4"],
    active: Float[Tensor, "4"],
    steps: int,
    dt: float = 2 * DT,
    energy: Energy = graph_energy,
) -> Float[Tensor, "nets runs time bodies 4"]:
    """Free runs of learned fields by Runge-Kutta steps.

    Args:
        weights: of each network.
        start: states to start from.
        active: 0 for coordinates that stay where they are.
        steps: how many.
        dt: length of a step.
        energy: the model's.

    Returns:
        states, the first of which is the start; not finite where a run explodes.
    """
    times = dt * torch.arange(steps + 1, dtype=torch.float64)
    return odeint(lambda _, state: active * field(weights, state, energy), start, times, RK4()).permute(1, 2, 0, 3, 4)


def errors(
    name: str, truth: Float[np.ndarray, "runs time bodies 4"], run: Float[np.ndarray, "runs time bodies 4"]
) -> tuple[Float[np.ndarray, "runs"], Float[np.ndarray, "runs"]]:
    r"""Relative errors of rollouts, averaged over time: of the state, :math:`|\hat x-x|/|x|`, and of its energy, :math:`|H(\hat x)-H(x)|/|H(x)|`.

    Args:
        name: of the system, whose true energy is used.
        truth: its trajectories.
        run: rollouts from the same starts at the same times.

    Returns:
        error of the state and of the energy of each run; infinite where a run is not finite.

    Raises:
        ValueError: if the name is unknown or shapes differ.
    """
    own = system(name)
    shaped("run", run, truth.shape)
    energy = own.invariants["energy"]
    with np.errstate(all="ignore"):
        state = np.linalg.norm(run - truth, axis=(-2, -1)) / np.linalg.norm(truth, axis=(-2, -1))
        true, found = (energy(from_bodies(part.astype(np.float64), len(own.centre))) for part in (truth, run))
        found = [state.mean(1), (np.abs(found - true) / np.abs(true)).mean(1)]
    return tuple(np.where(np.isfinite(part), part, np.inf) for part in found)
