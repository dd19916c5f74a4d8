"""Bodies under gravity: Kepler's ellipses, two and three bodies, and states to start from."""

import functools
import math

import numpy as np
from jaxtyping import Float

from touchstone.data.many_body import Bodies
from touchstone.data.ode import System


def ring_starts(
    random: np.random.Generator, runs: int, count: int = 2, low: float = 0.5, high: float = 1.5, shake: float = 0.1
) -> Float[np.ndarray, "runs dim"]:
    """Bodies at equal angles around their centre on nearly circular orbits, for unit masses and gravity.

    Args:
        random: generator.
        runs: number of states.
        count: bodies.
        low: smallest distance from the centre.
        high: largest distance from the centre.
        shake: standard deviation of each velocity component about the circular one, as a share of its speed.

    Returns:
        states in the plane; total momentum is zero.
    """
    radius = random.uniform(low, high, (runs, 1))
    angle = random.uniform(0, 2 * np.pi, (runs, 1)) + 2 * np.pi * np.arange(count) / count
    pull = sum(0.25 / math.sin(math.pi * k / count) for k in range(1, count))  # of the others, at distance 1
    speed = np.sqrt(pull / radius)[..., None]
    place = radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    velocity = speed * (np.stack([-np.sin(angle), np.cos(angle)], -1) + shake * random.standard_normal(place.shape))
    velocity -= velocity.mean(1, keepdims=True)
    return np.concatenate([place.reshape(runs, -1), velocity.reshape(runs, -1)], 1)


def kepler_starts(
    random: np.random.Generator, runs: int, axes: tuple[float, float] = (0.6, 1.6), eccentricity: float = 0.5
) -> Float[np.ndarray, "runs 4"]:
    """States on Kepler ellipses about a unit mass at the origin, at a random time and orientation.

    Args:
        random: generator.
        runs: number of states.
        axes: smallest and largest semi-major axis.
        eccentricity: the largest.

    Returns:
        position and velocity in the plane.
    """
    axis, e = random.uniform(*axes, runs), random.uniform(0, eccentricity, runs)
    mean = random.uniform(0, 2 * np.pi, runs)
    anomaly = mean.copy()
    for _ in range(30):  # Newton's method for Kepler's equation
        anomaly -= (anomaly - e * np.sin(anomaly) - mean) / (1 - e * np.cos(anomaly))
    minor, rate = np.sqrt(1 - e**2), axis**-0.5 / (1 - e * np.cos(anomaly))
    place = axis * np.stack([np.cos(anomaly) - e, minor * np.sin(anomaly)])
    velocity = rate * np.stack([-np.sin(anomaly), minor * np.cos(anomaly)])
    turn = random.uniform(0, 2 * np.pi, runs)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.concatenate([np.einsum("ijr,jr->ri", rotation, part) for part in (place, velocity)], 1)


def kepler() -> System:
    """One body in the plane about a fixed unit mass at the origin.

    Returns:
        the system, with energy and angular momentum; its period is that of the unit semi-axis.
    """
    bodies = Bodies(np.ones(1), sources=np.zeros((1, 2)))
    invariants = {"energy": bodies.energy, "angular momentum": bodies.angular_momentum}
    return System("kepler", bodies, None, (1.0, 0.0, 0.0, 1.0), 0.0, 2 * math.pi, invariants, 0.0, 0.0, kepler_starts)


def two_body(softening: float = 0.05) -> System:
    """Two unit masses in the plane.

    Args:
        softening: length below which gravity is smoothed.

    Returns:
        the system, on nearly circular orbits of radius 0.5 to 1.5; the period is that of radius 1.
    """
    return Bodies(np.ones(2), softening=softening).system("two-body", ring_starts, 4 * math.pi, 0.0)


def three_body(masses: Float[np.ndarray, "*runs 3"] | None = None, softening: float = 0.05) -> System:
    """Three bodies in the plane, from shaken circular orbits: irregular after a few turns.

    Args:
        masses: 1 each if None; one row a run for a family.
        softening: length below which gravity is smoothed.

    Returns:
        the system; the period is that of the unshaken circle of radius 1.
    """
    bodies = Bodies(np.ones(3) if masses is None else masses, softening=softening)
    return bodies.system("three-body", functools.partial(ring_starts, count=3), 2 * math.pi * 3**0.25)
