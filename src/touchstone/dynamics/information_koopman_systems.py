"""Test problems of the information-shaped Koopman autoencoder: small systems seen through many channels.

The standardised state of a pendulum, a damped Duffing oscillator with two wells or Lorenz-63 passes through a fixed random
network with two tanh layers, and 1 % noise is added.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from touchstone.data import mechanics, ode

SYSTEMS = ("pendulum", "duffing", "lorenz-63")
INTERVAL = {"pendulum": 0.1, "duffing": 0.1, "lorenz-63": 0.02}
CHANNELS, HIDDEN = 64, 64


@dataclass(frozen=True)
class Lifted:
    """Observations of one system, standardised channel by channel with the training mean and deviation.

    Attributes:
        name: of the system.
        train: noisy observations to learn from.
        test: noisy observations, of which a model sees the first.
        truth: the test observations without noise.
        states: the test states in the system's units.
        dt: sampling interval.
    """

    name: str
    train: Float[np.ndarray, "learnt time channels"]
    test: Float[np.ndarray, "runs time channels"]
    truth: Float[np.ndarray, "runs time channels"]
    states: Float[np.ndarray, "runs time dim"]
    dt: float


def lift(states: Float[np.ndarray, "*batch dim"], seed: int = 0) -> Float[np.ndarray, "*batch channels"]:
    """A fixed random network with two tanh layers.

    Args:
        states: standardised.
        seed: of the network.

    Returns:
        64 channels between -1 and 1.
    """
    random = np.random.default_rng([seed, states.shape[-1]])
    inner = random.standard_normal((states.shape[-1], HIDDEN)) / np.sqrt(states.shape[-1])
    outer = 1.5 * random.standard_normal((HIDDEN, CHANNELS)) / np.sqrt(HIDDEN)
    return np.tanh(np.tanh(states @ inner + 0.5 * random.standard_normal(HIDDEN)) @ outer)


def _motion(name: str, runs: int, steps: int) -> Float[np.ndarray, "runs steps dim"]:
    """Trajectories of a system in its own units."""
    dt, random = INTERVAL[name], np.random.default_rng(len(name))
    if name == "lorenz-63":
        return ode.trajectories(ode.LORENZ63, dt, steps, runs, seed=3, transient=10.0)
    field, reach = {
        "pendulum": (mechanics.pendulum, (2.5, 0.5)),
        "duffing": (functools.partial(mechanics.duffing, damping=0.2), (2.0, 1.0)),
    }[name]
    start = random.uniform(-1, 1, (runs, 2)) * np.array(reach)
    return ode.integrate(ode.System(name, field, None, (0.0, 0.0)), start, dt * np.arange(steps))


def lifted(name: str, train: int = 200, test: int = 50, steps: int = 100, noise: float = 0.01) -> Lifted:
    """Training and test observations of a system.

    Pendulums start at angles up to 2.5 rad and rates up to 0.5, Duffing oscillators at positions up to 2 and velocities up
    to 1, Lorenz-63 on its attractor.

    Args:
        name: one of ``SYSTEMS``.
        train: trajectories to learn from.
        test: trajectories to judge by.
        steps: samples of each.
        noise: standard deviation of the noise, in units of each channel's own.

    Returns:
        the observations.

    Raises:
        ValueError: if the name is unknown or a number is not positive.
    """
    if name not in SYSTEMS:
        raise ValueError(f"name is {name!r}: choose one of {', '.join(SYSTEMS)}")
    if min(train, test, steps) < 1:
        raise ValueError(f"train, test and steps must be positive, got {train}, {test} and {steps}")
    states = _motion(name, train + test, steps)
    mean, std = states[:train].mean((0, 1)), states[:train].std((0, 1))
    observed = lift((states - mean) / std)
    channels = observed[:train].mean((0, 1)), observed[:train].std((0, 1))
    clean = (observed - channels[0]) / channels[1]
    noisy = clean + noise * np.random.default_rng(1).standard_normal(clean.shape)
    return Lifted(name, noisy[:train], noisy[train:], clean[train:], states[train:], INTERVAL[name])
