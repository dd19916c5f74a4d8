r"""The one-dimensional focusing cubic Schroedinger equation by Fourier derivatives and an adaptive eighth-order integrator.

.. math:: i\psi_t + \tfrac12 \psi_{xx} + |\psi|^2 \psi = 0 \quad\text{on } [-L/2, L/2) \text{, periodic.}

In Fourier space, :math:`\hat\psi_t = -\tfrac i2 k^2 \hat\psi + i \sigma(k) \mathcal F[|\psi|^2 \psi]`, where the filter
:math:`\sigma` removes what the cube would fold back onto lower wavenumbers. The closed forms that the solver is held against
(solitons, their collision, the Akhmediev breather, the growth of noise) are here too. All quantities are dimensionless.

Source: Herho et al. (2025), arXiv:2509.05901.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Complex, Float
from numpy import ndarray
from scipy.integrate import DOP853

from touchstone.checks import finite, shaped


@dataclass(frozen=True)
class Grid:
    """Equally spaced points of a periodic interval around 0, and their wavenumbers.

    Args:
        length: of the interval, L.
        points: their number, even.

    Raises:
        ValueError: if the length is not positive or the number of points is odd or below 8.
    """

    length: float
    points: int

    def __post_init__(self) -> None:
        if not 0 < self.length < np.inf:
            raise ValueError(f"length is {self.length}: it must be positive and finite")
        if self.points < 8 or self.points % 2:
            raise ValueError(f"points is {self.points}: give an even number, at least 8")

    @property
    def spacing(self) -> float:
        """Distance of neighbours."""
        return self.length / self.points

    @cached_property
    def x(self) -> Float[ndarray, "points"]:
        """The points, the first at -L/2."""
        return self.spacing * np.arange(self.points) - self.length / 2

    @cached_property
    def k(self) -> Float[ndarray, "points"]:
        """Wavenumbers in the order of the fast Fourier transform."""
        return 2 * np.pi * np.fft.fftfreq(self.points, self.spacing)

    @cached_property
    def filter(self) -> Float[ndarray, "points"]:
        r"""The filter :math:`\exp[-36 (|k| / k_{max})^{36}]`, with two thirds of the largest wavenumber as k_max."""
        largest = 2 / 3 * np.pi / self.spacing
        return np.exp(-36 * (np.abs(self.k) / largest) ** 36)

    def derivative(self, psi: Complex[ndarray, "*batch points"], order: int = 1) -> Complex[ndarray, "*batch points"]:
        """The spectral derivative; the highest wavenumber has none of odd order."""
        symbol = (1j * self.k) ** order
        if order % 2:
            symbol[self.points // 2] = 0.0
        return np.fft.ifft(symbol * np.fft.fft(psi))

    def invariants(self, psi: Complex[ndarray, "*batch points"]) -> Float[ndarray, "*batch 3"]:
        r"""Mass :math:`\int |\psi|^2`, momentum :math:`\int \mathrm{Im}\,\psi^* \psi_x` and energy
        :math:`\int \tfrac12 |\psi_x|^2 - \tfrac12 |\psi|^4`, by the trapezoidal sum, which is spectrally accurate here.
        """
        slope, density = self.derivative(psi), np.abs(psi) ** 2
        parts = [density, (psi.conj() * slope).imag, (np.abs(slope) ** 2 - density**2) / 2]
        return self.spacing * np.stack([part.sum(axis=-1) for part in parts], axis=-1)


@dataclass(frozen=True)
class Solution:
    """What a run returns.

    Args:
        times: the times asked for.
        psi: the wave at those times.
        steps: times at which the integrator's steps ended, the start first.
        invariants: mass, momentum and energy at the ends of steps, not of interpolated states.
        evaluations: of the right-hand side, two Fourier transforms each.
    """

    times: Float[ndarray, "times"]
    psi: Complex[ndarray, "times points"]
    steps: Float[ndarray, "steps"]
    invariants: Float[ndarray, "steps 3"]
    evaluations: int


def solve(
    psi: Complex[ndarray, "points"],
    grid: Grid,
    times: Float[ndarray, "times"],
    rtol: float = 1e-9,
    atol: float | None = None,
    filtered: bool = True,
) -> Solution:
    """Integrate a wave in Fourier space with the Dormand-Prince method of order eight.

    Args:
        psi: the wave at the first time.
        grid: its points.
        times: increasing times at which the wave is returned; the last one is the end of a step, others are interpolated.
        rtol: relative tolerance of a step, for the Fourier coefficients (not divided by the number of points).
        atol: absolute tolerance; a hundredth of the relative one if None.
        filtered: False leaves the cube unfiltered.

    Returns:
        the wave at the times, and the invariants at all steps.

    Raises:
        ValueError: if the wave does not fit the grid, or an argument is not finite or out of range.
        RuntimeError: if the integrator needs steps that are too small.
    """
    shaped("psi", psi, (grid.points,))
    psi = np.ascontiguousarray(psi, dtype=complex)
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise ValueError("times must hold at least two increasing numbers")
    finite(psi=psi, times=times)
    if not rtol > 0 or (atol is not None and not atol > 0):
        raise ValueError(f"rtol and atol must be positive, got {rtol} and {atol}")
    linear = -0.5j * grid.k**2
    force = 1j * (grid.filter if filtered else np.ones(grid.points))

    def rate(_: float, spectrum: ndarray) -> ndarray:
        wave = np.fft.ifft(spectrum)
        return linear * spectrum + force * np.fft.fft((wave.real**2 + wave.imag**2) * wave)

    solver = DOP853(rate, times[0], np.fft.fft(psi), times[-1], rtol=rtol, atol=rtol / 100 if atol is None else atol)
    waves, steps, invariants = [psi], [times[0]], [grid.invariants(psi)]
    while solver.status == "running":
        message = solver.step()
        if solver.status == "failed":
            raise RuntimeError(f"no step from t = {solver.t:.6g} meets the tolerance: {message}")
        wave = np.fft.ifft(solver.y)
        steps.append(solver.t)
        invariants.append(grid.invariants(wave))
        while len(waves) < len(times) and times[len(waves)] <= solver.t:
            time = times[len(waves)]
            waves.append(wave if time == solver.t else np.fft.ifft(solver.dense_output()(time)))
    return Solution(times, np.stack(waves), np.array(steps), np.stack(invariants), solver.nfev)


def drift(values: Float[ndarray, "steps"], scale: float | None = None) -> float:
    """How far an invariant moves: the largest change since the start over its scale.

    Args:
        values: the invariant in the course of time.
        scale: by default the size of the first value.

    Raises:
        ValueError: if the values are empty or not finite, or the scale is zero.
    """
    finite(values=values)
    scale = abs(values[0]) if scale is None else scale
    if scale == 0:
        raise ValueError("scale is zero: give a scale for an invariant that starts at zero")
    return float(np.abs(values - values[0]).max() / scale)


def soliton(
    grid: Grid, time: float, height: float = 1.0, velocity: float = 0.0, start: float = 0.0, phase: float = 0.0
) -> Complex[ndarray, "points"]:
    r"""The soliton :math:`\eta\,\mathrm{sech}(\eta(x - x_0 - vt))\, e^{i(vx + (\eta^2 - v^2)t/2 + \varphi)}`, on the nearest image.

    Args:
        grid: where it is wanted. The phase is periodic if v is a multiple of 2 pi / L.
        time: the t.
        height: the :math:`\eta`, also the inverse width.
        velocity: the v.
        start: the :math:`x_0` at time 0.
        phase: the :math:`\varphi`.

    Raises:
        ValueError: if the height is not positive.
    """
    if not height > 0:
        raise ValueError(f"height is {height}: it must be positive")
    away = (grid.x - start - velocity * time + grid.length / 2) % grid.length - grid.length / 2
    turn = velocity * grid.x + (height**2 - velocity**2) * time / 2 + phase
    return height / np.cosh(height * away) * np.exp(1j * turn)


def collision_shift(height: float, other: float, velocity_difference: float) -> float:
    r"""By how much a collision displaces a soliton: :math:`\tfrac1{\eta_1}\ln\frac{\Delta v^2+(\eta_1+\eta_2)^2}{\Delta v^2+(\eta_1-\eta_2)^2}`.

    The faster soliton is displaced forwards, the slower one backwards.

    Args:
        height: of the soliton that is asked for.
        other: height of the other one.
        velocity_difference: of the two.
    """
    squared = velocity_difference**2
    return float(np.log((squared + (height + other) ** 2) / (squared + (height - other) ** 2)) / height)


def breather(grid: Grid, time: float, a: float = 0.25) -> Complex[ndarray, "points"]:
    r"""The Akhmediev breather of wavelength :math:`2\pi/\Omega`, :math:`\Omega = 2\sqrt{1-2a}`, with its peak at time 0.

    .. math:: e^{it} \frac{(1-4a)\cosh bt + \sqrt{2a}\cos\Omega x + ib\sinh bt}{\sqrt{2a}\cos\Omega x - \cosh bt},
              \qquad b = \sqrt{8a(1-2a)}

    Args:
        grid: a whole number of wavelengths long.
        time: the t.
        a: between 0 and 1/2; the peak is :math:`1 + 2\sqrt{2a}`.

    Raises:
        ValueError: if a is out of range or the grid does not hold a whole number of wavelengths.
    """
    if not 0 < a < 0.5:
        raise ValueError(f"a is {a}: a breather needs 0 < a < 1/2")
    omega, b, s = 2 * np.sqrt(1 - 2 * a), np.sqrt(8 * a * (1 - 2 * a)), np.sqrt(2 * a)
    waves = grid.length * omega / (2 * np.pi)
    if abs(waves - round(waves)) > 1e-9 or round(waves) < 1:
        raise ValueError(
            f"grid holds {waves:.6g} wavelengths of the breather: its length must be a multiple of {2 * np.pi / omega:.9g}"
        )
    cosine = s * np.cos(omega * grid.x)
    return (
        np.exp(1j * time)
        * ((1 - 4 * a) * np.cosh(b * time) + cosine + 1j * b * np.sinh(b * time))
        / (cosine - np.cosh(b * time))
    )


def instability_rate(wavenumber: Float[ndarray, "*modes"]) -> Float[ndarray, "*modes"]:
    r"""Growth rate of a small wave on the plane wave of amplitude 1: :math:`\tfrac\Omega2\sqrt{4-\Omega^2}`, 0 from 2 on."""
    return np.abs(wavenumber) / 2 * np.sqrt(np.maximum(4 - wavenumber**2, 0.0))


def renyi(density: Float[ndarray, "*batch points"], order: float) -> Float[ndarray, "*batch"]:
    r"""Renyi's entropy :math:`\frac1{1-q}\ln\sum_i p_i^q` in nats; Shannon's for q = 1.

    Args:
        density: not negative, at least one entry positive; normalised here to sum 1.
        order: the q > 0.

    Raises:
        ValueError: if the density is empty, not finite or negative, or the order is not positive.
    """
    finite(density=density)
    if (density < 0).any() or not order > 0:
        raise ValueError("density must not be negative and order must be positive")
    p = density / density.sum(axis=-1, keepdims=True)
    if order == 1:
        return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))
    return np.asarray(np.log((p**order).sum(axis=-1)) / (1 - order))


def tsallis(density: Float[ndarray, "*batch points"], order: float) -> Float[ndarray, "*batch"]:
    r"""Tsallis' entropy :math:`\frac{1}{q-1}(1 - \sum_i p_i^q)`; Shannon's for q = 1. Arguments and errors as in :func:`renyi`."""
    logarithm = renyi(density, order)
    return logarithm if order == 1 else np.asarray(np.expm1((1 - order) * logarithm) / (1 - order))


def centre(psi: Complex[ndarray, "points"], grid: Grid, near: float, reach: float = 6.0) -> float:
    """Centre of mass of a pulse within a reach of its peak, on the periodic interval.

    Args:
        psi: the wave.
        grid: its points.
        near: the peak is looked for within the reach of this position.
        reach: half the window's width.

    Raises:
        ValueError: if the reach is not between the spacing and half the interval.
    """
    if not grid.spacing < reach < grid.length / 2:
        raise ValueError(f"reach is {reach}: it must lie between the spacing and half the interval")
    density = np.abs(psi) ** 2
    away = (grid.x - near + grid.length / 2) % grid.length - grid.length / 2
    place = near + away[np.argmax(np.where(np.abs(away) < reach, density, 0.0))]
    for _ in range(5):  # centred on the pulse itself, the window cuts both tails alike
        away = (grid.x - place + grid.length / 2) % grid.length - grid.length / 2
        inside = np.where(np.abs(away) < reach, density, 0.0)
        place += (inside @ away) / inside.sum()
    return float(place)
