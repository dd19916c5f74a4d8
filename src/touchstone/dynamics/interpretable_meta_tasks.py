r"""Families of physical systems that differ in a few parameters, as regression tasks, and a pendulum to be steered.

Three families are linear in their parameters :math:`\varphi`, with features :math:`\nu(x)` that a learner is not shown:

* ``charges``: the potential :math:`\sum_k \varphi_k / |x - x_k|` of three fixed charges outside the square where it is observed;
* ``pendulum``: the torque :math:`\varphi_1 \ddot\theta + \varphi_2 \dot\theta + \varphi_3 \sin\theta` (inertia, friction, weight);
* ``arm``: the two torques of a two-link arm in a vertical plane, linear in five inertial parameters.

``capacitor`` is not: two plates at opposite voltages in a grounded box, from a finite-difference Laplace solve. Its potential is
linear in the voltage and nonlinear in the plates' distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import diags, eye, kron
from scipy.sparse.linalg import spsolve
from torch import Tensor

from touchstone.data import mechanics

PLACES = np.array([[-1.3, -0.4], [1.3, -0.4], [0.0, 1.3]])
GRAVITY = 9.81
#: cells along a side of the capacitor's box
CELLS = 60


@dataclass(frozen=True)
class Tasks:
    """Tasks of one family.

    Attributes:
        points: inputs, of order one.
        targets: outputs, standardised with the training tasks.
        parameters: physical ones, not for the learner.
        features: in which the standardised output plus the problem's shift is linear; None for the capacitor.
    """

    points: Float[Tensor, "seeds tasks points dim"]
    targets: Float[Tensor, "seeds tasks points out"]
    parameters: Float[Tensor, "seeds tasks parameters"]
    features: Float[Tensor, "seeds tasks points parameters out"] | None


@dataclass(frozen=True)
class Problem:
    """A family's training and test tasks.

    Attributes:
        train: tasks to train on.
        test: tasks to adapt to.
        scale: standard deviation of the training outputs.
        shift: their mean, in units of the scale.
    """

    train: Tasks
    test: Tasks
    scale: Float[Tensor, "seeds 1 1 out"]
    shift: Float[Tensor, "seeds 1 1 out"]


def charges(rng: np.random.Generator, tasks: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs ``[tasks, points, 2]``, features ``[tasks, points, 3, 1]``, charges in [1, 5]."""
    x = rng.uniform(-1, 1, (tasks, points, 2))
    distance = np.linalg.norm(x[:, :, None] - PLACES, axis=-1)
    return x, 1 / distance[..., None], rng.uniform(1, 5, (tasks, 3))


def pendulum(rng: np.random.Generator, tasks: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs of :func:`pendulum_inputs`, features ``[tasks, points, 3, 1]``, inertia (kg m²), friction (N m s) and weight (N m)."""
    angle = rng.uniform(-np.pi, np.pi, (tasks, points))
    rate, acceleration = rng.uniform(-4, 4, (tasks, points)), rng.uniform(-8, 8, (tasks, points))
    features = np.stack([acceleration, rate, np.sin(angle)], -1)[..., None]
    parameters = rng.uniform([0.5, 0.0, 5.0], [2.0, 0.5, 20.0], (tasks, 3))
    return pendulum_inputs(angle, rate, acceleration), features, parameters


def pendulum_inputs(angle: np.ndarray, rate: np.ndarray, acceleration: np.ndarray) -> np.ndarray:
    """Sine and cosine of the angle, rate over 4 rad/s, acceleration over 8 rad/s²."""
    return np.stack([np.sin(angle), np.cos(angle), rate / 4, acceleration / 8], -1)


def arm(rng: np.random.Generator, tasks: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (cosines, sines, rates, accelerations of both joints), features ``[tasks, points, 5, 2]``, inertial parameters."""
    angles = rng.uniform(-np.pi, np.pi, (tasks, points, 2))
    rates, accelerations = rng.uniform(-2, 2, (tasks, points, 2)), rng.uniform(-4, 4, (tasks, points, 2))
    inputs = np.concatenate([np.cos(angles), np.sin(angles), rates / 2, accelerations / 4], -1)
    mass, centre = rng.uniform(0.5, 1.5, (tasks, 2)), rng.uniform(0.3, 0.7, (tasks, 2))
    inertia = rng.uniform(0.05, 0.15, (tasks, 2)) + mass * centre**2
    parameters = np.stack(
        [
            inertia.sum(-1) + mass[:, 1],
            mass[:, 1] * centre[:, 1],
            inertia[:, 1],
            GRAVITY * (mass[:, 0] * centre[:, 0] + mass[:, 1]),
            GRAVITY * mass[:, 1] * centre[:, 1],
        ],
        -1,
    )
    return inputs, arm_features(angles, rates, accelerations), parameters


def arm_features(angles: np.ndarray, rates: np.ndarray, accelerations: np.ndarray) -> np.ndarray:
    r"""What each inertial parameter adds to the two torques of an arm whose first link is 1 m long.

    Parameters are :math:`J_1 + J_2 + m_2`, :math:`m_2 c_2`, :math:`J_2`, :math:`g(m_1 c_1 + m_2)` and :math:`g m_2 c_2`, with
    the links' inertias J about their joints, masses m and centres of mass c; angles are from straight down, the second one from
    the first link.

    Returns:
        ``[..., 5, 2]``.
    """
    second, (u, v), (a, b) = angles[..., 1], np.moveaxis(rates, -1, 0), np.moveaxis(accelerations, -1, 0)
    cosine, sine, none = np.cos(second), np.sin(second), 0 * u
    bent = np.sin(angles.sum(-1))
    coupling = cosine * (2 * a + b) - sine * (2 * u * v + v**2)
    rows = [
        (a, none),
        (coupling, cosine * a + sine * u**2),
        (b, a + b),
        (np.sin(angles[..., 0]), none),
        (bent, bent),
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


@lru_cache(maxsize=64)
def capacitor_potential(half_gap: int) -> Float[np.ndarray, "nodes nodes"]:
    """Potential of plates at voltages 1/2 (above) and -1/2 in the box [-1, 1]² with grounded walls.

    Args:
        half_gap: distance of each plate from the middle, in cells of 2/60.

    Returns:
        values at the nodes, walls included; the first axis is the height. The plates reach from -1/2 to 1/2.

    Raises:
        ValueError: if a plate is not inside.
    """
    if not 0 < half_gap < CELLS // 2:
        raise ValueError(f"half_gap is {half_gap}: give between 1 and {CELLS // 2 - 1} cells")
    inner = CELLS - 1
    line = diags([1.0, -2.0, 1.0], [-1, 0, 1], (inner, inner))
    laplacian = (kron(line, eye(inner)) + kron(eye(inner), line)).tolil()
    height, place = np.meshgrid(np.arange(1, CELLS), np.arange(1, CELLS), indexing="ij")
    offset = height - CELLS // 2
    plate = ((np.abs(offset) == half_gap) & (np.abs(place - CELLS // 2) <= CELLS // 4)).ravel()
    values = np.where(plate, np.sign(offset).ravel() / 2, 0.0)
    laplacian[plate] = 0
    laplacian[plate, plate] = 1
    return np.pad(spsolve(laplacian.tocsc(), values).reshape(inner, inner), 1)


def capacitor(rng: np.random.Generator, tasks: int, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs ``[tasks, points, 2]`` (nodes inside), potentials ``[tasks, points, 1]``, distance of the plates and voltage."""
    half_gaps, voltage = rng.integers(5, 20, tasks), rng.uniform(1, 5, tasks)
    nodes = rng.integers(1, CELLS, (tasks, points, 2))
    potential = np.stack(
        [capacitor_potential(int(gap))[own[:, 1], own[:, 0]] for gap, own in zip(half_gaps, nodes, strict=True)]
    )
    parameters = np.stack([4 * half_gaps / CELLS, voltage], -1)
    return 2 * nodes / CELLS - 1, (voltage[:, None] * potential)[..., None], parameters


FAMILIES = {"charges": charges, "pendulum": pendulum, "arm": arm, "capacitor": capacitor}
#: length of the task vectors: the number of parameters, and 4 where no number is right
RANKS = {"charges": 3, "pendulum": 3, "arm": 5, "capacitor": 4}


def problem(
    family: str, seeds: Sequence[int], train: int = 10, test: int = 10, points: int = 100, test_points: int = 230
) -> Problem:
    """Training and test tasks of a family; each seed draws its own.

    Args:
        family: one of ``FAMILIES``.
        seeds: stacked along the first axis.
        train: number of training tasks.
        test: number of test tasks.
        points: of a training task.
        test_points: of a test task.

    Raises:
        ValueError: for an unknown family or sizes below 1.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family}: give one of {', '.join(FAMILIES)}")
    sizes = {"train": train, "test": test, "points": points, "test_points": test_points}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: give at least 1")
    drawn = []
    for stream, (tasks, count) in enumerate([(train, points), (test, test_points)]):
        own = [FAMILIES[family](np.random.default_rng([seed, stream, 477]), tasks, count) for seed in seeds]
        inputs, middle, parameters = (np.stack(parts) for parts in zip(*own, strict=True))
        linear = family != "capacitor"
        outputs = np.einsum("stnpm,stp->stnm", middle, parameters) if linear else middle
        drawn.append((inputs, outputs, parameters, middle if linear else None))
    mean = drawn[0][1].mean((1, 2), keepdims=True)
    scale = drawn[0][1].std((1, 2), keepdims=True)
    both = [
        Tasks(
            torch.from_numpy(inputs).float(),
            torch.from_numpy((outputs - mean) / scale).float(),
            torch.from_numpy(parameters).float(),
            None if features is None else torch.from_numpy(features / scale[:, :, :, None]).float(),
        )
        for inputs, outputs, parameters, features in drawn
    ]
    return Problem(*both, torch.from_numpy(scale).float(), torch.from_numpy(mean / scale).float())


def reference(time: float) -> tuple[float, float, float]:
    """The angle (rad) that the pendulum is to follow, its rate and its acceleration at a time (s)."""
    parts = [(1.0, 1.5), (0.5, 2.7)]
    return (
        sum(size * np.sin(pace * time) for size, pace in parts),
        sum(size * pace * np.cos(pace * time) for size, pace in parts),
        sum(-size * pace**2 * np.sin(pace * time) for size, pace in parts),
    )


def swing(
    state: Float[np.ndarray, "*batch 2"], torque: np.ndarray, parameters: Float[np.ndarray, "*batch 3"], dt: float
) -> Float[np.ndarray, "*batch 2"]:
    """The pendulum's state after a time under a constant torque, by one step of the classical Runge-Kutta method.

    Args:
        state: angle (rad) and rate.
        torque: N m.
        parameters: inertia, friction and weight, as in ``pendulum``.
        dt: s.
    """
    inertia, friction, weight = np.moveaxis(parameters, -1, 0)

    def slope(now: np.ndarray) -> np.ndarray:
        free = mechanics.pendulum(now, gravity=weight / inertia, damping=friction / inertia)
        return free + np.stack([0 * torque, torque / inertia], -1)

    first = slope(state)
    second = slope(state + dt / 2 * first)
    third = slope(state + dt / 2 * second)
    return state + dt / 6 * (first + 2 * second + 2 * third + slope(state + dt * third))
