"""Families of simulated systems whose parameters vary, in three domains: the training range and two shells around it.

A family's training range is a box. Domains are told apart by the excess of a parameter set, its largest distance from
the box in units of the box's edges: 0 in range, up to 0.15 "OOD-easy", 0.15 to 0.3 "OOD-hard". Lotka-Volterra and the
three bodies always start from the same state, the pendulum at rest from a random angle; of the bodies, positions are seen.

Source: families and starts follow the notebooks that make the data in https://github.com/stathius/sd-vae.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.data import ode, orbits, regular
from touchstone.data.pixels import draw_pendulum

DOMAINS = {"in range": (None, 0.0), "OOD-easy": (0.0, 0.15), "OOD-hard": (0.15, 0.3)}


@dataclass(frozen=True)
class Family:
    """Systems that differ in their parameters.

    Args:
        names: of the parameters.
        low: lower ends of the training range.
        high: upper ends.
        dt: sampling interval, in the system's time units (s for the pendulum).
        noise: standard deviation of the observation noise, in standard deviations of the training states.
        dim: leading state coordinates that are observed.
        build: the system from parameters ``[runs, parameters]``.
        start: initial states from a generator and a number of runs.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dt: float
    noise: float
    dim: int
    build: Callable[[np.ndarray], ode.System]
    start: Callable[[np.random.Generator, int], np.ndarray]

    def label(self, parameters: Float[np.ndarray, "*runs parameters"]) -> Float[np.ndarray, "*runs parameters"]:
        """Parameters in units of the training range: its ends become 0 and 1, values outside are not clipped.

        Raises:
            ValueError: if parameters are empty, not finite or of another number than the family has.
        """
        finite(parameters=parameters)
        shaped("parameters", parameters, (*parameters.shape[:-1], len(self.names)))
        low, high = np.array(self.low), np.array(self.high)
        return (parameters - low) / (high - low)


def _released(random: np.random.Generator, runs: int) -> np.ndarray:
    """Pendulums at rest, 0.17 to 1.5 rad (10 to 86 degrees) to either side."""
    angle = random.uniform(0.17, 1.5, runs) * random.choice([-1.0, 1.0], runs)
    return np.stack([angle, np.zeros(runs)], -1)


def _populations(random: np.random.Generator, runs: int) -> np.ndarray:
    return np.tile([5.0, 3.0], (runs, 1))


def _triangle(random: np.random.Generator, runs: int) -> np.ndarray:
    places, velocities = [1, -1, -1, -1, 0, 1], [0, 0.5, 0.5, -0.5, -0.5, 0]
    return np.tile(np.array([*places, *velocities], float), (runs, 1))


FAMILIES = {
    "pendulum": Family(
        ("length",),
        (1.0,),
        (1.5,),
        0.05,
        0.05,
        2,
        lambda p: regular.system("pendulum", length=p[:, 0], gravity=9.81),
        _released,
    ),
    "lotka-volterra": Family(
        ("a", "b", "c", "d"),
        (1.35, 0.9, 2.7, 0.9),
        (1.65, 1.1, 3.3, 1.1),
        0.02,
        0.0,
        2,
        lambda p: regular.system("lotka-volterra", **dict(zip("abcd", p.T, strict=True))),
        _populations,
    ),
    "three-body": Family(
        ("m1", "m2", "m3"),
        (0.9,) * 3,
        (1.1,) * 3,
        0.02,
        0.0,
        6,
        lambda p: orbits.three_body(p),
        _triangle,
    ),
}


def excess(labels: Float[np.ndarray, "*runs parameters"]) -> Float[np.ndarray, "*runs"] | np.floating:
    """How far the parameter farthest outside lies from the training range, in units of the range; negative inside.

    Args:
        labels: scaled parameters, see :meth:`Family.label`.
    """
    return np.maximum(-labels, labels - 1).max(-1)


def draw(family: Family, domain: str, runs: int, random: np.random.Generator) -> Float[np.ndarray, "runs parameters"]:
    """Parameter sets, uniform in a domain.

    Args:
        family: whose parameters.
        domain: one of ``DOMAINS``.
        runs: how many sets.
        random: generator.

    Raises:
        ValueError: if the domain is unknown or ``runs`` is not positive.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain is {domain!r}: use one of {', '.join(DOMAINS)}")
    if runs < 1:
        raise ValueError(f"runs is {runs}: ask for at least one")
    inner, outer = DOMAINS[domain]
    kept = np.empty((0, len(family.names)))
    while len(kept) < runs:
        labels = random.uniform(-outer, 1 + outer, (4 * runs, len(family.names)))
        kept = np.concatenate([kept, labels if inner is None else labels[excess(labels) > inner]])
    low, high = np.array(family.low), np.array(family.high)
    return low + (high - low) * kept[:runs]


@dataclass(frozen=True)
class Trajectories:
    """Standardised trajectories of one domain.

    Args:
        observed: with noise; what models learn from and start from.
        states: without noise; what forecasts are held against.
        labels: parameters in units of the training range.
    """

    observed: Float[Tensor, "seeds runs time dim"]
    states: Float[Tensor, "seeds runs time dim"]
    labels: Float[Tensor, "seeds runs parameters"]


def simulate(
    name: str, parameters: Float[np.ndarray, "runs parameters"], start: Float[np.ndarray, "runs dim"], steps: int
) -> Float[np.ndarray, "runs steps observed"]:
    """Observed coordinates of one run for every parameter set, in the system's units, kept on disk.

    Args:
        name: of the family.
        parameters: one set a run.
        start: initial states.
        steps: samples of a run, the first at the start.
    """
    family = FAMILIES[name]
    system = family.build(parameters)
    key = (ode.source(system.field) + ode.source(ode.integrate), start.tolist(), family.dt, steps)
    times = family.dt * np.arange(steps)
    states = ode.remembered(f"family-{name}", key, lambda: ode.integrate(system, start, times, 1e-8))
    return states[..., : family.dim]


def problem(
    name: str, seeds: Sequence[int], train: int = 1000, validation: int = 100, test: int = 200, steps: int = 300
) -> dict[str, Trajectories]:
    """Training, validation and test trajectories; every seed draws its own.

    Args:
        name: one of ``FAMILIES``.
        seeds: one data set for each.
        train: training trajectories.
        validation: trajectories to choose by, in range.
        test: trajectories of each domain.
        steps: samples of a trajectory.

    Returns:
        ``train``, ``validation`` and the names of ``DOMAINS``; states in standard deviations of the training states.

    Raises:
        ValueError: if the name is unknown or there are no seeds.
    """
    if name not in FAMILIES:
        raise ValueError(f"name is {name!r}: use one of {', '.join(FAMILIES)}")
    if not len(seeds):
        raise ValueError("seeds is empty: give at least one seed")
    family = FAMILIES[name]
    sizes = {"train": train, "validation": validation, **dict.fromkeys(DOMAINS, test)}
    parts: dict[str, list] = {part: [] for part in sizes}
    for seed in seeds:
        random = np.random.default_rng([seed, 17])
        sets = [draw(family, part if part in DOMAINS else "in range", runs, random) for part, runs in sizes.items()]
        parameters = np.concatenate(sets)
        raw = simulate(name, parameters, family.start(random, len(parameters)), steps)
        states = (raw - raw[:train].mean((0, 1))) / raw[:train].std((0, 1))
        observed = states + family.noise * random.standard_normal(states.shape)
        ends = np.cumsum(list(sizes.values()))[:-1]
        for arrays in zip(
            sizes, *(np.split(a, ends) for a in (observed, states, family.label(parameters))), strict=True
        ):
            parts[arrays[0]].append(arrays[1:])
    return {
        part: Trajectories(*(torch.as_tensor(np.stack(a), dtype=torch.float32) for a in zip(*some, strict=True)))
        for part, some in parts.items()
    }


def videos(
    domain: str, runs: int, steps: int, random: np.random.Generator
) -> tuple[Float[Tensor, "runs steps 32 32"], Float[Tensor, "runs parameters"]]:
    """Videos of pendulums without noise, and their scaled lengths; a metre is drawn as 0.48 half edges.

    Args:
        domain: one of ``DOMAINS``.
        runs: how many videos.
        steps: frames of each, 0.05 s apart.
        random: generator.
    """
    family = FAMILIES["pendulum"]
    length = draw(family, domain, runs, random)
    angle = simulate("pendulum", length, family.start(random, runs), steps)[..., 0]
    frames = draw_pendulum(angle, 32, 0.48 * np.broadcast_to(length, angle.shape))
    return torch.from_numpy(frames), torch.as_tensor(family.label(length), dtype=torch.float32)
