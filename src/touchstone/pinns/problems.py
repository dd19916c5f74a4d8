r"""The partial and ordinary differential equations on which the methods of this part are compared.

A :class:`Problem` holds what a physics-informed network needs (the domain, the residual, initial and boundary values)
and what only the judge may see (a reference solution on a test grid of 256 by 101 points). Coordinates are ordered :math:`(t, x)`.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from scipy.special import logsumexp
from torch import Tensor

from touchstone.nn import jets
from touchstone.nn.jets import Jet

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "references"
Reference = tuple[Float[np.ndarray, "points dims"], Float[np.ndarray, "points outputs"]]


@dataclass(frozen=True)
class Problem:
    r"""A differential equation with its data and its reference solution.

    Attributes:
        name: how tables call it.
        low: smallest value of each coordinate, time first.
        high: largest value of each coordinate.
        orders: highest derivative that the residual needs along each coordinate.
        outputs: number of components of the solution.
        equation: the residual from a jet of the solution and the points, one column an equation.
        solve: computes test points and reference values.
        initial: the solution at the first time from the other coordinates; ``None`` where the ansatz makes it exact.
        ends: the value that the solution has at both ends of :math:`x`; ``None`` for a periodic problem.
        period: period of :math:`x`, which the features then have exactly; ``None`` where there is none.
        harmonics: number of harmonics in the periodic features.
        start: initial values of an ordinary differential equation, made exact by :math:`u = u_0 + t\,N(t)`.
    """

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    orders: tuple[int, ...]
    outputs: int
    equation: Callable[[Jet, Tensor], Tensor]
    solve: Callable[[], Reference]
    initial: Callable[[Tensor], Tensor] | None = None
    ends: float | None = None
    period: float | None = None
    harmonics: int = 1
    start: tuple[float, ...] | None = None

    @property
    def inputs(self) -> int:
        """Number of features that :meth:`embed` delivers to a network."""
        return len(self.low) if self.period is None else len(self.low) - 1 + 2 * self.harmonics

    def embed(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """The network's input features: the coordinates, a periodic :math:`x` replaced by its cosines and sines."""
        if self.period is None:
            return jets.coordinates(points, orders)
        return jets.periodic(points, orders, axis=1, period=self.period, harmonics=self.harmonics)

    def solution(
        self, network: Callable, points: Float[Tensor, "seeds points dims"], orders: Sequence[int] | None = None
    ) -> Jet:
        """The jet of the approximate solution: the network, behind the exact initial value where there is one.

        Args:
            network: maps points and orders to a jet.
            points: coordinates.
            orders: derivatives to carry; those of the residual by default.

        Returns:
            the jet of the approximate solution.
        """
        orders = self.orders if orders is None else tuple(orders)
        jet = network(points, orders)
        if self.start is None:
            return jet
        clock = Jet(jets.coordinates(points, orders).streams[..., :1], orders)
        streams = jets.product(clock, jet).streams
        shifted = streams[:, :1] + streams.new_tensor(self.start)
        return Jet(torch.cat([shifted, streams[:, 1:]], 1), orders)

    def residual(
        self, network: Callable, points: Float[Tensor, "seeds points dims"]
    ) -> Float[Tensor, "seeds points equations"]:
        """How far the network is from solving the equation at each point."""
        return self.equation(self.solution(network, points), points)

    def scale(self, unit: Float[Tensor, "*batch points dims"]) -> Float[Tensor, "*batch points dims"]:
        """Carry points of the unit cube into the domain."""
        low, high = unit.new_tensor(self.low), unit.new_tensor(self.high)
        return low + unit * (high - low)

    def reference(self) -> Reference:
        """Test points and reference solution, from the disk cache where they have been computed before.

        Returns:
            points ``[n, dims]`` with time varying slowest, and values ``[n, outputs]``, both float64.
        """
        return self.solve()

    def error(self, predict: Callable[[Tensor], Tensor]) -> Float[np.ndarray, " seeds"]:
        """Relative L2 error on the test grid.

        Args:
            predict: maps test points ``[points, dims]`` to values ``[seeds, points, outputs]``.

        Returns:
            one error a seed.
        """
        points, truth = self.reference()
        guess = np.asarray(predict(torch.as_tensor(points, dtype=torch.float32)), dtype=np.float64)
        return np.linalg.norm(guess - truth, axis=(1, 2)) / np.linalg.norm(truth)


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


def conv(speed: float) -> Problem:
    r"""Convection :math:`u_t + b\,u_x = 0` of a sine, periodic, :math:`x\in[0,2\pi)`, :math:`t\in[0,1]`."""
    return Problem(
        name=f"conv({speed:g})",
        low=(0.0, 0.0),
        high=(1.0, 2 * np.pi),
        orders=(1, 1),
        outputs=1,
        equation=lambda u, points: u.d(0) + speed * u.d(1),
        solve=partial(convection_solution, float(speed)),
        initial=torch.sin,
        period=2 * np.pi,
    )


def ac() -> Problem:
    r"""Allen-Cahn :math:`u_t = 10^{-4}u_{xx} - 5u^3 + 5u` on the periodic [-1, 1], :math:`u_0 = x^2\cos\pi x`."""
    return Problem(
        name="ac",
        low=(0.0, -1.0),
        high=(1.0, 1.0),
        orders=(1, 2),
        outputs=1,
        equation=lambda u, points: u.d(0) - 1e-4 * u.d(1, 2) + 5 * u.value**3 - 5 * u.value,
        solve=partial(allen_cahn_solution, 512, 5e-4),
        initial=lambda x: x**2 * torch.cos(np.pi * x),
        period=2.0,
        harmonics=5,
    )


def burgers() -> Problem:
    r"""Burgers :math:`u_t + u\,u_x = (0.01/\pi)u_{xx}` on [-1, 1], 0 at both ends, :math:`u_0 = -\sin\pi x`."""
    return Problem(
        name="burgers",
        low=(0.0, -1.0),
        high=(1.0, 1.0),
        orders=(1, 2),
        outputs=1,
        equation=lambda u, points: u.d(0) + u.value * u.d(1) - 0.01 / np.pi * u.d(1, 2),
        solve=partial(burgers_solution, 0.01 / np.pi, 256),
        initial=lambda x: -torch.sin(np.pi * x),
        ends=0.0,
    )


def lorenz(horizon: float) -> Problem:
    r"""Lorenz-63 with :math:`\sigma=10, \rho=28, \beta=8/3` from (1, 1, 1), up to time ``horizon``."""

    def equation(u: Jet, points: Tensor) -> Tensor:
        x, y, z = u.value.unbind(-1)
        field = torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)
        return u.d(0) - field

    return Problem(
        name=f"lorenz({horizon:g})",
        low=(0.0,),
        high=(float(horizon),),
        orders=(1,),
        outputs=3,
        equation=equation,
        solve=partial(lorenz_solution, float(horizon), 1e-11),
        start=(1.0, 1.0, 1.0),
    )
