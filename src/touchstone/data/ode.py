r"""Autonomous ordinary differential equations, and reference trajectories of them.

A system is a right-hand side and what is known about it, written for any number of leading axes. Reference trajectories
come from scipy's DOP853 at tolerance 1e-10 in float64, after a transient, and are kept on disk. The two systems of Lorenz
are here; the others are in :mod:`~touchstone.data.chaotic_flows`, :mod:`~touchstone.data.mechanics`,
:mod:`~touchstone.data.many_body` and :mod:`~touchstone.data.dysts_systems`.
"""

import dataclasses
import functools
import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
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
        field: right-hand side, batched; a function of a module, or :func:`functools.partial` of one.
        jacobian: its derivative, batched; None for central differences.
        centre: a state near the attractor, from which starts are drawn.
        exponent: largest Lyapunov exponent, per unit time; None if it is not known.
        period: dominant period, in time units; None if it is not known.
        invariants: functions of the state that are constant along every trajectory, batched, by name.
        spread: standard deviation of the starts about the centre, common or one a coordinate.
        transient: time after which a trajectory from a start is on the attractor.
        starts: draws states from a generator and a number of runs, where normal draws about the centre would not do.
    """

    name: str
    field: Field
    jacobian: Field | None
    centre: tuple[float, ...]
    exponent: float | None = None
    period: float | None = None
    invariants: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    spread: float | tuple[float, ...] = 1.0
    transient: float = 50.0
    starts: Callable[[np.random.Generator, int], np.ndarray] | None = None

    def draw(self, runs: int, seed: int = 0) -> Float[np.ndarray, "runs dim"]:
        """Independent states to start from.

        Args:
            runs: how many.
            seed: of the draws.

        Returns:
            states, near the attractor but not on it.
        """
        random = np.random.default_rng(seed)
        if self.starts is not None:
            return self.starts(random, runs)
        noise = random.standard_normal((runs, len(self.centre)))
        return np.array(self.centre) + np.array(self.spread) * noise


def numerical_jacobian(
    field: Field, state: Float[np.ndarray, "*batch dim"], step: float = 1e-3
) -> Float[np.ndarray, "*batch dim dim"]:
    """Derivative of a right-hand side by central differences of fourth order, for systems without a written Jacobian.

    Args:
        field: right-hand side, batched.
        state: where to differentiate.
        step: displacement of each coordinate, in units of its own size or of 1, whichever is larger.

    Returns:
        derivative of the rate (rows) by the state (columns); 9 to 11 digits of it are right for a smooth field.
    """
    directions = np.eye(state.shape[-1]).reshape(state.shape[-1], *(1,) * (state.ndim - 1), state.shape[-1])
    size = step * np.maximum(1.0, np.abs(state))

    def difference(width: float) -> np.ndarray:
        shift = width * size * directions
        return field(state + shift) - field(state - shift)

    columns = (8 * difference(1.0) - difference(2.0)) / 12  # the differences lie along the first axis
    return np.moveaxis(columns, 0, -1) / size[..., None, :]


def jacobian(system: System, state: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim dim"]:
    """The system's Jacobian: the written one, or central differences.

    Args:
        system: whose derivative is wanted.
        state: where.

    Returns:
        derivative of the rate (rows) by the state (columns).
    """
    return numerical_jacobian(system.field, state) if system.jacobian is None else system.jacobian(state)


LORENZ63 = System("lorenz-63", lorenz63, lorenz63_jacobian, (0.0, 0.0, 25.0), 0.906, 0.759)
LORENZ96_5 = System("lorenz-96-5", lorenz96, lorenz96_jacobian, (2.0,) * 5, 0.46, 1.469)
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


def source(function: Callable) -> str:
    """What a cached number depends on: the text of a function and the values bound to its parameters.

    Args:
        function: a function, :func:`functools.partial` of one, or an object with its own ``source``.

    Returns:
        text that changes when the function or a bound value does.

    Raises:
        ValueError: if the function refers to variables of an enclosing function, whose values its text does not show.
    """
    if isinstance(function, functools.partial):
        return source(function.func) + joblib.hash((function.args, sorted(function.keywords.items())))
    if hasattr(function, "source"):
        return function.source
    function = inspect.unwrap(function)
    if function.__closure__:
        raise ValueError(f"field {function.__qualname__} is a closure: use functools.partial of a module's function")
    return inspect.getsource(function)


def remembered(name: str, key: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the cache, computed and kept there if it is missing.

    Args:
        name: start of the file's name.
        key: everything the array depends on; its repr is hashed.
        compute: makes the array.

    Returns:
        the array.
    """
    path = cache_folder() / f"{name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.npy"
    if path.exists():
        return np.load(path)
    array = np.array(compute(), order="C")  # as np.load gives it: sums over another layout differ in the last digit
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.save(file, array)
    os.replace(partial, path)  # readers see the whole file or none
    return array


def trajectories(
    system: System, dt: float, steps: int, runs: int, seed: int = 0, transient: float | None = None
) -> Float[np.ndarray, "runs steps dim"]:
    """Reference trajectories on the attractor, from independent starts; computed once and kept on disk.

    Args:
        system: what to integrate.
        dt: sampling interval, in time units of the system.
        steps: samples of each run.
        runs: number of runs.
        seed: of the starts.
        transient: time dropped before the first sample; the system's own if it is None.

    Returns:
        states in the system's own units.

    Raises:
        ValueError: if a size or the interval is not positive, or the system's field is a closure.
    """
    if min(steps, runs) < 1 or not dt > 0:
        raise ValueError(f"steps, runs and dt must be positive, got {steps}, {runs} and {dt}")
    transient = system.transient if transient is None else transient
    key = (source(system.field) + source(integrate), system.centre, dt, steps, runs, seed, transient)
    if system.spread != 1.0 or system.starts is not None:
        key += (system.spread, system.starts and source(system.starts))
    return remembered(
        system.name, key, lambda: integrate(system, system.draw(runs, seed), transient + dt * np.arange(steps))
    )


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
    slope = system.jacobian or functools.partial(numerical_jacobian, system.field)

    def rate(state: np.ndarray, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return system.field(state), slope(state) @ tangent

    a, p = rate(states, tangents)
    b, q = rate(states + dt / 2 * a, tangents + dt / 2 * p)
    c, r = rate(states + dt / 2 * b, tangents + dt / 2 * q)
    d, s = rate(states + dt * c, tangents + dt * r)
    return states + dt / 6 * (a + 2 * b + 2 * c + d), tangents + dt / 6 * (p + 2 * q + 2 * r + s)
