r"""Spheres that fly, spin and collide in a box: a simulator for many scenarios side by side.

A scenario has up to five slots for bodies, solid spheres with position, velocity, orientation (unit quaternion, real part first)
and angular velocity, all in the frame of the box :math:`[-3, 3]^3` m. Forces are gravity :math:`-9.81 s` m/s² along the third
axis, drag :math:`-c_1 v - c_2 |v| v` and a torque :math:`-c_3 \omega`. Contacts are impulses along the normal, perfectly elastic,
with Coulomb friction that couples flight and spin. The integrator is semi-implicit Euler.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from touchstone.checks import finite, shaped

SLOTS, HALF, GRAVITY, FRICTION = 5, 3.0, 9.81, 0.3
#: gravity and coefficients of drag in random scenarios
LARGEST = np.array([0.5, 0.3, 0.1, 0.05])
PAIRS = list(combinations(range(SLOTS), 2))


@dataclass(frozen=True)
class Scenarios:
    """Bodies and forces at the start.

    Attributes:
        states: position (m), velocity (m/s), quaternion, angular velocity (rad/s) of every body; zero in empty slots.
        mass: kg; 1 in empty slots.
        radius: m.
        present: whether a slot holds a body.
        world: gravity as a share of the Earth's, and the three coefficients of drag (kg/s, kg/m, kg m²/s).
    """

    states: Float[np.ndarray, "scenarios slots 13"]
    mass: Float[np.ndarray, "scenarios slots"]
    radius: Float[np.ndarray, "scenarios slots"]
    present: Bool[np.ndarray, "scenarios slots"]
    world: Float[np.ndarray, "scenarios 4"]


def quaternion_product(
    p: Float[np.ndarray, "*batch 4"], q: Float[np.ndarray, "*batch 4"]
) -> Float[np.ndarray, "*batch 4"]:
    """Hamilton's product: the rotation q, then p."""
    a, u, b, v = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
    real = a * b - (u * v).sum(-1, keepdims=True)
    return np.concatenate([real, a * v + b * u + np.cross(u, v)], -1)


def _directions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def draw_scenarios(
    rng: np.random.Generator, count: int, speed: float = 3.0, spin: float = 5.0, bodies: tuple[int, int] = (3, 5)
) -> Scenarios:
    """Random scenarios in which no body touches another one or a wall.

    Args:
        rng: source of everything random.
        count: number of scenarios.
        speed: largest speed at the start (m/s).
        spin: largest angular speed at the start (rad/s).
        bodies: smallest and largest number of bodies.

    Returns:
        radii in [0.3, 0.6] m, masses in [0.5, 2] kg, gravity between none and half the Earth's, some drag.

    Raises:
        ValueError: if the number of scenarios or of bodies is out of range.
    """
    if count < 1:
        raise ValueError(f"count is {count}: give at least one scenario")
    if not 1 <= bodies[0] <= bodies[1] <= SLOTS:
        raise ValueError(f"bodies is {bodies}: give two numbers between 1 and {SLOTS}, the smaller one first")
    present = np.arange(SLOTS) < rng.integers(bodies[0], bodies[1] + 1, count)[:, None]
    radius = rng.uniform(0.3, 0.6, (count, SLOTS))
    reach = (HALF - radius)[..., None]
    place = rng.uniform(-1, 1, (count, SLOTS, 3)) * reach
    for _ in range(1000):
        touching = np.zeros((count, SLOTS), bool)
        for i, j in PAIRS:  # the later body of a touching pair moves
            gap = np.linalg.norm(place[:, i] - place[:, j], axis=-1) - radius[:, i] - radius[:, j]
            touching[:, j] |= gap < 0
        if not touching.any():
            break
        place = np.where(touching[..., None], rng.uniform(-1, 1, place.shape) * reach, place)
    velocity = _directions(rng, count, SLOTS, 3) * rng.uniform(0, speed, (count, SLOTS, 1))
    turning = _directions(rng, count, SLOTS, 3) * rng.uniform(0, spin, (count, SLOTS, 1))
    states = np.concatenate([place, velocity, _directions(rng, count, SLOTS, 4), turning], -1)
    mass = np.where(present, rng.uniform(0.5, 2.0, (count, SLOTS)), 1.0)
    world = rng.uniform(0, LARGEST, (count, 4))
    return Scenarios(states * present[..., None], mass, np.where(present, radius, 0.0), present, world)


def collide(
    normal: Float[np.ndarray, "hits 3"],
    slip: Float[np.ndarray, "hits 3"],
    lightness: Float[np.ndarray, "hits"],
    friction: float = FRICTION,
    restitution: float = 1.0,
) -> Float[np.ndarray, "hits 3"]:
    """The impulse on the body that the normal points to.

    Args:
        normal: unit vectors at the contact.
        slip: velocity of that body's surface at the contact, relative to the other's (m/s).
        lightness: sum of the inverse masses (1/kg); a wall adds nothing.
        friction: Coulomb's coefficient.
        restitution: 1 for elastic contacts.

    Returns:
        impulses (N s); zero where the bodies already part.
    """
    closing = (slip * normal).sum(-1)
    push = np.maximum(-(1 + restitution) * closing / lightness, 0)
    along = slip - closing[:, None] * normal
    pace = np.linalg.norm(along, axis=-1)
    # stops the slip if friction can: a solid sphere's surface answers 7/2 times as much as its centre
    drag = np.minimum(friction * push, pace / (3.5 * lightness))
    return push[:, None] * normal - (drag / np.maximum(pace, 1e-12))[:, None] * along


def simulate(
    scenarios: Scenarios,
    seconds: float = 0.5,
    contacts: bool = True,
    dt: float = 1 / 500,
    friction: float = FRICTION,
) -> tuple[Float[np.ndarray, "scenarios slots 13"], Int[np.ndarray, "scenarios"]]:
    """The bodies' states after a time, and how many contacts there were in each scenario.

    Args:
        scenarios: where everything starts.
        seconds: duration.
        contacts: with False, bodies pass through each other and through the walls.
        dt: step (s).
        friction: Coulomb's coefficient, of bodies and walls.

    Raises:
        ValueError: if states are not finite or of another shape, or times are not positive.
    """
    shaped("states", scenarios.states, ("scenarios", SLOTS, 13))
    finite(states=scenarios.states)
    for name, value in {"seconds": seconds, "dt": dt}.items():
        if value <= 0:
            raise ValueError(f"{name} is {value}: give a positive time in seconds")
    x, v, q, w = (part.copy() for part in np.split(scenarios.states, [3, 6, 10], axis=-1))
    mass, radius, here = scenarios.mass, scenarios.radius, scenarios.present
    inertia = np.where(here, 0.4 * mass * radius**2, 1.0)
    pull = np.zeros((len(x), 1, 3))
    pull[:, 0, 2] = -GRAVITY * scenarios.world[:, 0]
    linear, square, turning = (scenarios.world[:, k, None, None] for k in (1, 2, 3))
    first, second = (np.array([pair[k] for pair in PAIRS]) for k in (0, 1))
    reach = radius[:, first] + radius[:, second]
    both = here[:, first] & here[:, second]
    count = np.zeros(len(x), int)

    def touch(hit: np.ndarray, normal: np.ndarray, on: int, other: int | None) -> None:
        """Exchange the impulses of one pair of slots, or of a slot and a wall."""
        arm = -radius[hit, on][:, None] * normal
        slip = v[hit, on] + np.cross(w[hit, on], arm)
        lightness = 1 / mass[hit, on]
        if other is not None:
            far = radius[hit, other][:, None] * normal
            slip = slip - v[hit, other] - np.cross(w[hit, other], far)
            lightness = lightness + 1 / mass[hit, other]
        impulse = collide(normal, slip, lightness, friction)
        count[hit] += (slip * normal).sum(-1) < 0
        v[hit, on] += impulse / mass[hit, on][:, None]
        w[hit, on] += np.cross(arm, impulse) / inertia[hit, on][:, None]
        if other is not None:
            v[hit, other] -= impulse / mass[hit, other][:, None]
            w[hit, other] -= np.cross(far, impulse) / inertia[hit, other][:, None]

    for _ in range(round(seconds / dt)):
        drag = linear * v + square * np.linalg.norm(v, axis=-1, keepdims=True) * v
        v += dt * (pull - drag / mass[..., None])
        w -= dt * turning * w / inertia[..., None]
        if contacts:
            apart = x[:, second] - x[:, first]
            distance = np.linalg.norm(apart, axis=-1)
            close = both & (distance < reach)
            for pair in np.flatnonzero(close.any(0)):
                hit = np.flatnonzero(close[:, pair])
                touch(hit, apart[hit, pair] / distance[hit, pair][:, None], *reversed(PAIRS[pair]))
            outside = here[..., None] & (np.abs(x) > HALF - radius[..., None])
            for slot, axis in np.argwhere(outside.any(0)).tolist():
                hit = np.flatnonzero(outside[:, slot, axis])
                normal = np.zeros((len(hit), 3))
                normal[:, axis] = -np.sign(x[hit, slot, axis])
                touch(hit, normal, slot, None)
        x += dt * v
        q += dt / 2 * quaternion_product(np.concatenate([0 * w[..., :1], w], -1), q)
        q /= np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-12)
    return np.concatenate([x, v, q, w], -1) * here[..., None], count
