r"""Reference solutions of the problems of this part: exact where there is a formula, else spectral and far more accurate than any method here.

Each function returns test points and values in float64. What takes more than a moment is computed once and kept on disk.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import logsumexp

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "references"
Reference = tuple[Float[np.ndarray, "points dims"], Float[np.ndarray, "points outputs"]]


def cached(function: Callable[..., Reference]) -> Callable[..., Reference]:
    """Keep a reference solution on disk, one file for each set of arguments, written whole or not at all."""

    def load(*arguments: int | float) -> Reference:
        name = f"{function.__name__}-{hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]}.npz"
        path = CACHE / name
        if path.exists():
            with np.load(path) as stored:
                return stored["points"], stored["values"]
        points, values = function(*arguments)
        CACHE.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=CACHE, suffix=".npz")
        with os.fdopen(handle, "wb") as file:
            np.savez(file, points=points, values=values)
        os.replace(temporary, path)
        return points, values

    return load


def grid(times: Float[np.ndarray, " t"], places: Float[np.ndarray, " x"]) -> Float[np.ndarray, "points 2"]:
    """All pairs (t, x), time varying slowest."""
    return np.stack(np.meshgrid(times, places, indexing="ij"), -1).reshape(-1, 2)


def etdrk4(
    linear: Float[np.ndarray, " modes"] | np.ndarray,
    nonlinear: Callable[[np.ndarray], np.ndarray],
    start: Float[np.ndarray, " places"],
    step: float,
    steps: int,
    every: int,
) -> Float[np.ndarray, "times places"]:
    r"""Exponential time differencing, fourth order, for :math:`\hat u_t = L\hat u + \hat N(u)` (Kassam, Trefethen 2005).

    Args:
        linear: symbol :math:`L` of the linear part, one entry a mode of the real Fourier transform.
        nonlinear: maps Fourier coefficients to those of the nonlinear part.
        start: initial values on a periodic grid.
        step: time step.
        steps: number of steps.
        every: keep every so many steps; the start is kept too.

    Returns:
        the kept solutions.
    """
    roots = np.exp(1j * np.pi * (np.arange(1, 65) - 0.5) / 64)  # contour means avoid cancellation
    z = step * np.asarray(linear, dtype=complex)[:, None]
    w = z + np.concatenate([roots, roots.conj()])
    half = step * ((np.exp(w / 2) - 1) / w).mean(1)
    a = step * ((-4 - w + np.exp(w) * (4 - 3 * w + w**2)) / w**3).mean(1)
    b = step * ((2 + w + np.exp(w) * (w - 2)) / w**3).mean(1)
    c = step * ((-4 - 3 * w - w**2 + np.exp(w) * (4 - w)) / w**3).mean(1)
    decay, decay_half = np.exp(z[:, 0]), np.exp(z[:, 0] / 2)
    state, kept = np.fft.rfft(start), [np.asarray(start)]
    for number in range(1, steps + 1):
        n0 = nonlinear(state)
        first = decay_half * state + half * n0
        n1 = nonlinear(first)
        second = decay_half * state + half * n1
        n2 = nonlinear(second)
        third = decay_half * first + half * (2 * n2 - n0)
        state = decay * state + a * n0 + 2 * b * (n1 + n2) + c * nonlinear(third)
        if number % every == 0:
            kept.append(np.fft.irfft(state, len(start)))
    return np.stack(kept)


def convection_solution(speed: float) -> Reference:
    """The travelling sine, exactly."""
    points = grid(np.linspace(0, 1, 101), 2 * np.pi * np.arange(256) / 256)
    return points, np.sin(points[:, 1:] - speed * points[:, :1])


@cached
def allen_cahn_solution(modes: int, step: float) -> Reference:
    """The Allen-Cahn problem by ETDRK4 on ``modes`` grid points, reported on 256 by 101 points."""
    places = -1 + 2 * np.arange(modes) / modes
    wave = np.pi * np.arange(modes // 2 + 1)

    def reaction(state):
        return -5 * np.fft.rfft(np.fft.irfft(state, modes) ** 3)

    steps = round(1 / step)
    values = etdrk4(5 - 1e-4 * wave**2, reaction, places**2 * np.cos(np.pi * places), step, steps, steps // 100)
    stride = modes // 256
    return grid(np.linspace(0, 1, 101), places[::stride]), values[:, ::stride].reshape(-1, 1)


@cached
def burgers_solution(viscosity: float, nodes: int) -> Reference:
    r"""Burgers' equation by the Cole-Hopf transform, its heat kernel integrated by Gauss-Hermite quadrature.

    With :math:`\eta = 2\sqrt{\nu t}\,z`: :math:`u = -\int \sin(\pi(x-\eta)) f\,e^{-z^2}dz \,/\int f\,e^{-z^2}dz` and
    :math:`f = \exp(-\cos(\pi(x-\eta))/(2\pi\nu))`; the exponents are shifted before they are raised.
    """
    points = grid(np.linspace(0, 1, 101), np.linspace(-1, 1, 256))
    z, weight = np.polynomial.hermite.hermgauss(nodes)
    with np.errstate(divide="ignore"):  # the outermost weights underflow to 0, which is what they are worth
        log_weight = np.log(weight)
    foot = points[:, 1:] - 2 * np.sqrt(viscosity * points[:, :1]) * z
    exponent = log_weight - np.cos(np.pi * foot) / (2 * np.pi * viscosity)
    share = np.exp(exponent - logsumexp(exponent, axis=1, keepdims=True))
    return points, -(share * np.sin(np.pi * foot)).sum(1, keepdims=True)


@cached
def lorenz_solution(horizon: float, tolerance: float) -> Reference:
    """The Lorenz trajectory from (1, 1, 1) at 1001 times, by the Runge-Kutta pair of order 8."""
    times = np.linspace(0, horizon, 1001)

    def field(_, state):
        x, y, z = state
        return 10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z

    found = solve_ivp(field, (0, horizon), (1.0, 1.0, 1.0), "DOP853", times, rtol=tolerance, atol=tolerance)
    return times[:, None], found.y.T


@cached
def korteweg_de_vries_solution(modes: int, step: float) -> Reference:
    r"""Korteweg-de Vries :math:`u_t + uu_x + 0.0025u_{xxx} = 0` by ETDRK4 on ``modes`` grid points."""
    places = -1 + 2 * np.arange(modes) / modes
    wave = np.pi * np.arange(modes // 2 + 1)
    return _spectral(places, 0.0025j * wave**3, -0.5j * wave, np.cos(np.pi * places), step)


@cached
def kuramoto_sivashinsky_solution(modes: int, step: float) -> Reference:
    r"""Kuramoto-Sivashinsky :math:`u_t + 5uu_x + 0.5u_{xx} + 0.005u_{xxxx} = 0` by ETDRK4 on ``modes`` grid points."""
    places = -1 + 2 * np.arange(modes) / modes
    wave = np.pi * np.arange(modes // 2 + 1)
    return _spectral(places, 0.5 * wave**2 - 0.005 * wave**4, -2.5j * wave, -np.sin(np.pi * places), step)


def _spectral(
    places: np.ndarray, linear: np.ndarray, advection: np.ndarray, start: np.ndarray, step: float
) -> Reference:
    """Advance a periodic problem with a quadratic term to time 1 and report it on 256 by 101 points."""
    modes, steps = len(places), round(1 / step)

    def square(state):
        return advection * np.fft.rfft(np.fft.irfft(state, modes) ** 2)

    values = etdrk4(linear, square, start, step, steps, steps // 100)
    stride = modes // 256
    return grid(np.linspace(0, 1, 101), places[::stride]), values[:, ::stride].reshape(-1, 1)


def formula(function: Callable[..., np.ndarray], *axes: np.ndarray) -> Reference:
    """A closed form on the grid that the axes span, the first varying slowest.

    Args:
        function: maps one array a coordinate to values.
        *axes: the grid's coordinates.

    Returns:
        points and values.
    """
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    return points, function(*points.T)[:, None]


def reaction_solution(rate: float, t: np.ndarray, x: np.ndarray) -> np.ndarray:
    r"""Logistic growth :math:`u_t = \rho u(1-u)` of a Gaussian bump at every place."""
    bump = np.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2))
    grown = bump * np.exp(rate * t)
    return grown / (grown + 1 - bump)


def heat_solution(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Two sines that decay at their own rates."""
    slow, fast = np.exp(-0.05 * np.pi**2 * t), np.exp(-0.05 * 25 * np.pi**2 * t)
    return slow * np.sin(np.pi * x) + 0.5 * fast * np.sin(5 * np.pi * x)


def wave_solution(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Two standing waves."""
    slow, fast = np.cos(2 * np.pi * t), np.cos(6 * np.pi * t)
    return np.sin(np.pi * x) * slow + 0.5 * np.sin(3 * np.pi * x) * fast
