r"""Five systems with invariants, as stacks of training trajectories and test runs for :mod:`~touchstone.dynamics.concernet`.

Two of them are only here: the reaction A <-> B, which keeps A + B, and a rod with insulated ends, which keeps its heat. The
rod's 101 temperatures follow exactly from their cosine transform.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.fft import dct, idct
from torch import Tensor

from touchstone.checks import finite
from touchstone.data import ode, orbits, regular
from touchstone.data.ode import Field, System
from touchstone.dynamics import concernet

NODES, SPACING = 101, 0.1  # of the rod
SAMPLES, SPANS = 100, 5  # samples of a training trajectory; a test run is this many times as long


def kinetics(
    state: Float[np.ndarray, "*batch 2"], forward: float = 0.63, backward: float = 0.27
) -> Float[np.ndarray, "*batch 2"]:
    r"""The reaction A <-> B of first order.

    Args:
        state: amounts of A and B.
        forward: rate of A to B, per unit time.
        backward: rate of B to A, per unit time.

    Returns:
        time derivative.
    """
    flow = forward * state[..., 0] - backward * state[..., 1]
    return np.stack([-flow, flow], -1)


def mass(state: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"] | np.floating:
    """A + B, which :func:`kinetics` keeps."""
    return state[..., 0] + state[..., 1]


def kinetics_starts(random: np.random.Generator, runs: int) -> Float[np.ndarray, "runs 2"]:
    """Amounts with a random mixture and a random size up to 1."""
    mixture = random.uniform(0, 1, (runs, 2))
    return mixture / np.linalg.norm(mixture, axis=1, keepdims=True) * random.uniform(0, 1, (runs, 1))


def heat(field: Float[np.ndarray, "*batch 101"]) -> Float[np.ndarray, "*batch"] | np.floating:
    """Total heat of the rod."""
    return SPACING * field.sum(-1)


def heat_rates(field: Float[np.ndarray, "*batch 101"]) -> Float[np.ndarray, "*batch 101"]:
    """Second differences of the temperatures, with insulated ends and unit diffusivity."""
    padded = np.concatenate([field[..., :1], field, field[..., -1:]], -1)
    return np.diff(padded, 2) / SPACING**2


def heat_trajectories(
    start: Float[np.ndarray, "runs 101"], times: Float[np.ndarray, "time"]
) -> Float[np.ndarray, "runs time 101"]:
    """The rod's temperatures at later times.

    Args:
        start: temperatures at time 0.
        times: at which they are wanted.

    Returns:
        temperatures, exact for the second differences in space.

    Raises:
        ValueError: if an argument is empty or not finite.
    """
    finite(start=start, times=times)
    decay = -((2 * np.sin(np.pi * np.arange(NODES) / (2 * NODES)) / SPACING) ** 2)
    return idct(dct(start)[:, None] * np.exp(decay * times[:, None]), axis=-1)


def heat_starts(random: np.random.Generator, runs: int) -> Float[np.ndarray, "runs 101"]:
    """Gaussian bumps of height 1, centre in [-1, 1] and squared width in [0.5, 2], on a rod from -5 to 5."""
    x = SPACING * (np.arange(NODES) - NODES // 2)
    centre, width = random.uniform(-1, 1, (runs, 1)), random.uniform(0.5, 2, (runs, 1))
    return np.exp(-((x - centre) ** 2) / width)


def system(name: str) -> tuple[System, float, int, int]:
    """A system of low dimension, its training span, number of training trajectories, and Runge-Kutta steps a sample.

    Args:
        name: spring-mass, lotka-volterra, kinetics or kepler.

    Raises:
        ValueError: if the name is unknown.
    """
    if name == "kinetics":
        return (
            System(name, kinetics, None, (0.5, 0.5), 0.0, None, {"mass": mass}, 1.0, 0.0, kinetics_starts),
            3.0,
            50,
            1,
        )
    if name == "kepler":
        return orbits.kepler(), 2 * math.pi, 100, 2
    if name in ("spring-mass", "lotka-volterra"):
        found = regular.system(name)
        return found, found.period, 50, 1
    raise ValueError(f"name is {name!r}: there are spring-mass, lotka-volterra, kinetics, kepler and heat-rod")


@dataclass
class Problem:
    """Training data in the networks' coordinates, and test runs in the systems' own.

    Attributes:
        names: the system of each member; members of one system are neighbours.
        seeds: of each member.
        states: standardised training trajectories; of the rod, their codes.
        rates: time derivatives of the states; time is in units of the training span over 2 pi.
        truth: test runs without noise.
        start: their first samples, standardised.
        units: standard deviation of each coordinate, by which errors are divided; of the rod, common to all nodes.
        decode: from standardised states to the system's own.
        encode: the way back.
        invariants: of each system.
        scales: standard deviation of each member's invariants over the training trajectories.
        step: time between samples.
        inner: Runge-Kutta steps between samples.
    """

    names: list[str]
    seeds: list[int]
    states: Float[Tensor, "members trajectories points dim"]
    rates: Float[Tensor, "members trajectories points dim"]
    truth: Float[np.ndarray, "members runs time coordinates"]
    start: Float[Tensor, "members runs dim"]
    units: Float[np.ndarray, "members 1 1 scales"]
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    invariants: dict[str, list[Field]]
    scales: Float[np.ndarray, "members invariants"]
    step: float
    inner: int

    def values(self, states: Float[np.ndarray, "members *batch coordinates"]) -> Float[np.ndarray, "members *batch k"]:
        """True invariants of states in the system's own coordinates; NaN where they are not defined."""
        with np.errstate(all="ignore"):
            return np.stack(
                [
                    np.stack([f(x) for f in self.invariants[name]], -1)
                    for name, x in zip(self.names, states, strict=True)
                ]
            )

    def true_slopes(self, points: Float[Tensor, "members batch dim"]) -> Float[Tensor, "members batch k dim"]:
        """Gradients of the true invariants by the standardised states; numerical but for the rod, whose heat is linear."""
        if "heat-rod" in self.names:
            return concernet.gradient(lambda z: self.decode(z).sum(-1, keepdim=True), points)
        states = self.decode(points).double().numpy()
        shift = 1e-5 * np.eye(states.shape[-1])[:, None, None]
        # central differences, one coordinate after the other along the first axis
        ahead, behind = (np.stack([self.values(states + sign * move) for move in shift]) for sign in (1, -1))
        slopes = np.moveaxis((ahead - behind) / 2e-5, 0, -1)
        return torch.as_tensor(slopes * self.units, dtype=points.dtype)

    def score(self, runs: Float[Tensor, "members runs time dim"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far free runs are from the truth; departures above 10 units, or not finite, count 10.

        Args:
            runs: free runs of a model, standardised.

        Returns:
            per member the mean squared departure of the true invariants from their value at the start of the run, in units of
            their variance over trajectories; the mean squared error of the coordinates, in units of their variance; and the
            rms violation at each time.
        """
        found = self.decode(runs.flatten(1, 2)).unflatten(1, runs.shape[1:3]).double().numpy()
        errors = _capped((found - self.truth) / self.units)
        values = self.values(found)
        violations = _capped((values - values[:, :, :1]) / self.scales[:, None, None])
        return (
            (violations**2).mean((1, 2, 3)),
            (errors**2).mean((1, 2, 3)),
            np.sqrt((violations**2).mean((1, 3))),
        )


def _capped(departures: np.ndarray) -> np.ndarray:
    return np.clip(np.where(np.isfinite(departures), departures, 10.0), -10.0, 10.0)


def problem(names: Sequence[str], seeds: Sequence[int], noise: float = 0.0, runs: int = 20) -> Problem:
    """Training trajectories and test runs of systems of low dimension, one member a system and seed.

    Args:
        names: systems of equal dimension, of those of :func:`system`.
        seeds: of starts and noise.
        noise: standard deviation of the noise on training states and rates, in units of each coordinate's own.
        runs: test runs.

    Returns:
        the stack, all seeds of the first system first.

    Raises:
        ValueError: if a name is unknown or nothing is asked for.
    """
    if not len(names) or not len(seeds):
        raise ValueError(f"names and seeds must not be empty, got {list(names)} and {list(seeds)}")
    clean, rates, truth, invariants = [], [], [], {}
    for name in names:
        found, span, count, inner = system(name)
        invariants[name] = list(found.invariants.values())
        dt = span / SAMPLES
        for seed in seeds:
            clean.append(ode.trajectories(found, dt, SAMPLES, count, seed, 0.0))
            rates.append(found.field(clean[-1]) * span / (2 * math.pi))
            truth.append(ode.trajectories(found, dt, SPANS * SAMPLES + 1, runs, 1000 + seed, 0.0))
    states, rates, truth = np.stack(clean), np.stack(rates), np.stack(truth)
    members = [seed for _ in names for seed in seeds]
    if noise:
        for member, seed in enumerate(members):
            random = np.random.default_rng([seed, 1])
            for series in (states, rates):
                series[member] += noise * series[member].std((0, 1)) * random.standard_normal(series[member].shape)
    mean, units = states.mean((1, 2), keepdims=True), states.std((1, 2), keepdims=True)
    middle, size = (torch.as_tensor(part[:, :, 0], dtype=torch.float64) for part in (mean, units))
    stack = Problem(
        [name for name in names for _ in seeds],
        members,
        torch.as_tensor((states - mean) / units).float(),
        torch.as_tensor(rates / units).float(),
        truth,
        torch.as_tensor(((truth - mean) / units)[:, :, 0]).float(),
        units,
        lambda points: points * size + middle,
        lambda points: ((points - middle) / size).float(),
        invariants,
        np.ones((len(members), 1)),
        2 * math.pi / SAMPLES,
        inner,
    )
    stack.scales = stack.values(np.stack(clean)[:, :, 0]).std(1)
    return stack


def rod(seeds: Sequence[int], updates: int = 3000, span: float = 10.0, count: int = 50, runs: int = 20) -> Problem:
    """The heat rod, with an autoencoder to nine numbers trained on the training trajectories; test runs last one span.

    Args:
        seeds: of starts and networks.
        updates: of the autoencoder.
        span: time of a trajectory.
        count: training trajectories.
        runs: test runs.

    Returns:
        the stack.
    """
    times = span / SAMPLES * np.arange(SAMPLES + 1)
    made = [heat_trajectories(heat_starts(np.random.default_rng(seed), count + runs), times) for seed in seeds]
    fields = np.stack([part[:count, :SAMPLES] for part in made])
    truth = np.stack([part[count:] for part in made])
    mean, unit = fields.mean((1, 2), keepdims=True), fields.std((1, 2, 3), keepdims=True)
    scaled = torch.as_tensor((fields - mean) / unit).float()
    speeds = torch.as_tensor(heat_rates(fields) / unit * span / (2 * math.pi)).float()
    encoder, decoder = concernet.learn_autoencoder(scaled, seeds, updates=updates)
    codes = encoder(scaled.flatten(1, 2))
    middle, size = codes.mean(1, keepdim=True), codes.std(1, keepdim=True)
    back, factor = (torch.as_tensor(part[:, :, 0]).float() for part in (mean, unit))

    def encode(states: Tensor) -> Tensor:
        return (encoder((states.float() - back) / factor) - middle) / size

    motion = concernet.latent_rates(encoder, scaled.flatten(1, 2), speeds.flatten(1, 2)) / size
    stack = Problem(
        ["heat-rod"] * len(seeds),
        list(seeds),
        ((codes - middle) / size).unflatten(1, scaled.shape[1:3]),
        motion.unflatten(1, scaled.shape[1:3]),
        truth,
        encode(torch.as_tensor(truth[:, :, 0])),
        unit,
        lambda points: decoder(points * size + middle) * factor + back,
        encode,
        {"heat-rod": [heat]},
        np.ones((len(seeds), 1)),
        2 * math.pi / SAMPLES,
        1,
    )
    stack.scales = stack.values(fields[:, :, 0]).std(1)
    return stack
