r"""Chaotic ordinary differential equations and reference trajectories of them.

A system is a right-hand side and its Jacobian, both written for any number of leading axes. Reference trajectories come
from scipy's DOP853 at tolerance 1e-10 in float64, after a transient, and are kept on disk.
"""

import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

Field = Callable[[np.ndarray], np.ndarray]


def lorenz63(
    state: Float[np.ndarray, "*batch 3"], sigma: float = 10.0, rho: float = 28.0, beta: float = 8 / 3
) -> Float[np.ndarray, "*batch 3"]:
    """Right-hand side of Lorenz' 1963 convection model.

    Args:
        state: x, y, z along the last axis.
        sigma: Prandtl number.
        rho: relative Rayleigh number.
        beta: aspect ratio of the rolls.

    Returns:
        time derivative.
    """
    x, y, z = state[..., 0], state[..., 1], state[..., 2]
    rate = np.empty_like(state)
    rate[..., 0] = sigma * (y - x)
    rate[..., 1] = x * (rho - z) - y
    rate[..., 2] = x * y - beta * z
    return rate


def lorenz63_jacobian(
    state: Float[np.ndarray, "*batch 3"], sigma: float = 10.0, rho: float = 28.0, beta: float = 8 / 3
) -> Float[np.ndarray, "*batch 3 3"]:
    """Jacobian of :func:`lorenz63`; same arguments.

    Args:
        state: x, y, z along the last axis.
        sigma: Prandtl number.
        rho: relative Rayleigh number.
        beta: aspect ratio of the rolls.

    Returns:
        derivative of the rate (rows) by the state (columns).
    """
    x, y, z = state[..., 0], state[..., 1], state[..., 2]
    matrix = np.zeros((*state.shape, 3))
    matrix[..., 0, 0], matrix[..., 0, 1] = -sigma, sigma
    matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2] = rho - z, -1.0, -x
    matrix[..., 2, 0], matrix[..., 2, 1], matrix[..., 2, 2] = y, x, -beta
    return matrix


def lorenz96(state: Float[np.ndarray, "*batch dim"], forcing: float = 8.0) -> Float[np.ndarray, "*batch dim"]:
    r"""Right-hand side of Lorenz' 1996 ring, :math:`\dot x_i = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F`.

    Args:
        state: sites of the ring along the last axis.
        forcing: F.

    Returns:
        time derivative.
    """
    return (np.roll(state, -1, -1) - np.roll(state, 2, -1)) * np.roll(state, 1, -1) - state + forcing


def lorenz96_jacobian(state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim dim"]:
    """Jacobian of :func:`lorenz96`, which does not depend on the forcing.

    Args:
        state: sites of the ring along the last axis.

    Returns:
        derivative of the rate (rows) by the state (columns).
    """
    dim = state.shape[-1]
    site = np.arange(dim)
    matrix = np.zeros((*state.shape, dim))
    matrix[..., site, site] -= 1.0
    matrix[..., site, (site + 1) % dim] += np.roll(state, 1, -1)
    matrix[..., site, (site - 2) % dim] -= np.roll(state, 1, -1)
    matrix[..., site, (site - 1) % dim] += np.roll(state, -1, -1) - np.roll(state, 2, -1)
    return matrix


@dataclass(frozen=True)
class System:
    """An autonomous system with what is known about it.

    Args:
        name: the name under which trajectories are cached.
        field: right-hand side, batched.
        jacobian: its derivative, batched.
        centre: a state near the attractor, from which starts are drawn.
        exponent: largest Lyapunov exponent, per unit time.
    """

    name: str
    field: Field
    jacobian: Field
    centre: tuple[float, ...]
    exponent: float


LORENZ63 = System("lorenz-63", lorenz63, lorenz63_jacobian, (0.0, 0.0, 25.0), 0.906)
LORENZ96_5 = System("lorenz-96-5", lorenz96, lorenz96_jacobian, (2.0,) * 5, 0.46)
LORENZ96_10 = System("lorenz-96-10", lorenz96, lorenz96_jacobian, (2.0,) * 10, 1.15)


def cache_folder() -> Path:
    """Where reference solutions are kept: the project's cache, or the user's if the package is installed elsewhere."""
    project = Path(__file__).resolve().parents[3]
    base = project / ".cache" if (project / "pyproject.toml").exists() else Path.home() / ".cache" / "touchstone"
    return base / "references"


def integrate(
    system: System, start: Float[np.ndarray, "runs dim"], times: Float[np.ndarray, "time"], tolerance: float = 1e-10
) -> Float[np.ndarray, "runs time dim"]:
    """Trajectories by DOP853; all runs share the steps of the one that needs the smallest.

    Args:
        system: what to integrate.
        start: states at time 0.
        times: increasing times at which states are returned.
        tolerance: absolute and relative tolerance of a step.

    Returns:
        states.

    Raises:
        ValueError: if the start is empty or not finite.
        RuntimeError: if the integration fails.
    """
    if start.size == 0 or not np.isfinite(start).all():
        raise ValueError(f"start (shape {start.shape}) must hold at least one state and finite numbers only")
    solution = solve_ivp(
        lambda _, state: system.field(state.reshape(start.shape)).ravel(),
        (0.0, times[-1]),
        start.ravel(),
        method="DOP853",
        t_eval=times,
        rtol=tolerance,
        atol=tolerance,
    )
    if not solution.success:
        raise RuntimeError(f"integration of {system.name} failed: {solution.message}")
    return solution.y.T.reshape(len(times), *start.shape).swapaxes(0, 1)


def trajectories(
    system: System, dt: float, steps: int, runs: int, seed: int = 0, transient: float = 50.0
) -> Float[np.ndarray, "runs steps dim"]:
    """Reference trajectories on the attractor, from independent starts; computed once and kept on disk.

    Args:
        system: what to integrate.
        dt: sampling interval, in time units of the system.
        steps: samples of each run.
        runs: number of runs.
        seed: of the starts.
        transient: time dropped before the first sample.

    Returns:
        states in the system's own units.

    Raises:
        ValueError: if a size or the interval is not positive.
    """
    if min(steps, runs) < 1 or not dt > 0:
        raise ValueError(f"steps, runs and dt must be positive, got {steps}, {runs} and {dt}")
    code = inspect.getsource(inspect.unwrap(system.field)) + inspect.getsource(inspect.unwrap(integrate))
    key = repr((code, system.centre, dt, steps, runs, seed, transient))
    path = cache_folder() / f"{system.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if path.exists():
        return np.load(path)
    start = np.array(system.centre) + np.random.default_rng(seed).standard_normal((runs, len(system.centre)))
    states = integrate(system, start, transient + dt * np.arange(steps))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.save(file, states)
    os.replace(partial, path)  # readers see the whole file or none
    return states


@dataclass(frozen=True)
class Splits:
    """Standardised series of one system from three separate trajectories.

    Args:
        train: noisy observations to learn from.
        validation: noisy observations to choose by.
        test: clean states to judge by.
        mean: of the clean training trajectory, in the system's units.
        std: of the clean training trajectory, in the system's units.
        dt: sampling interval.
    """

    train: Float[np.ndarray, "time dim"]
    validation: Float[np.ndarray, "time dim"]
    test: Float[np.ndarray, "time dim"]
    mean: Float[np.ndarray, "dim"]
    std: Float[np.ndarray, "dim"]
    dt: float


def observed(system: System, dt: float, steps: int, noise: float = 0.01, seed: int = 0) -> Splits:
    """Training, validation and test series, standardised with the training statistics.

    Args:
        system: what to observe.
        dt: sampling interval.
        steps: samples of each series.
        noise: standard deviation of the observation noise of training and validation, in units of each state's own.
        seed: of starts and noise.

    Returns:
        the three series.
    """
    raw = trajectories(system, dt, steps, runs=3, seed=seed)
    mean, std = raw[0].mean(0), raw[0].std(0)
    scaled = (raw - mean) / std
    scaled[:2] += noise * np.random.default_rng([seed, 1]).standard_normal(scaled[:2].shape)
    return Splits(*scaled, mean=mean, std=std, dt=dt)


def tangent_step(
    system: System, dt: float, states: Float[np.ndarray, "runs dim"], tangents: Float[np.ndarray, "runs dim k"]
) -> tuple[Float[np.ndarray, "runs dim"], Float[np.ndarray, "runs dim k"]]:
    """One classical Runge-Kutta step of the system together with its variational equation.

    Args:
        system: what to integrate.
        dt: step, in time units of the system.
        states: current states.
        tangents: perturbations, one a column.

    Returns:
        states and perturbations a step later.
    """

    def rate(state: np.ndarray, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return system.field(state), system.jacobian(state) @ tangent

    a, p = rate(states, tangents)
    b, q = rate(states + dt / 2 * a, tangents + dt / 2 * p)
    c, r = rate(states + dt / 2 * b, tangents + dt / 2 * q)
    d, s = rate(states + dt * c, tangents + dt * r)
    return states + dt / 6 * (a + 2 * b + 2 * c + d), tangents + dt / 6 * (p + 2 * q + 2 * r + s)
