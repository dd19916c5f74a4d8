"""A trajectory with its time scales: sampling interval, dominant period, largest Lyapunov exponent, noise level."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

from touchstone.data import ode
from touchstone.metrics.attractors import lyapunov_exponents

QR_EVERY = 5  # Runge-Kutta steps between two orthonormalisations


@dataclass(frozen=True)
class Trajectory:
    """Observations of a system from independent starts.

    Attributes:
        name: of the system.
        states: what is observed, noise included, in the system's units.
        clean: the same without noise.
        dt: sampling interval, in time units.
        period: dominant period, in time units.
        exponent: largest Lyapunov exponent, per unit time.
        noise: standard deviation of the noise, in units of each coordinate's own.
    """

    name: str
    states: Float[np.ndarray, "runs time dim"]
    clean: Float[np.ndarray, "runs time dim"]
    dt: float
    period: float
    exponent: float
    noise: float


def trajectory(
    system: ode.System,
    steps: int,
    points_per_period: float | int = 100,
    dt: float | None = None,
    runs: int = 1,
    noise: float = 0.0,
    seed: int = 0,
) -> Trajectory:
    """Observe a system, by default at the same number of points a dominant period for every system.

    The reference is DOP853 at tolerance 1e-10. It, and a period or exponent that the system does not carry, are computed
    once and kept on disk; equal arguments give equal numbers.

    Args:
        system: what to observe.
        steps: samples of each run.
        points_per_period: samples a dominant period.
        dt: sampling interval in time units, in place of ``points_per_period``.
        runs: independent starts.
        noise: standard deviation of the observation noise, in units of each coordinate's own.
        seed: of starts and noise.

    Returns:
        the trajectory and its time scales.

    Raises:
        ValueError: if a size, an interval or the noise is out of range.
    """
    if not points_per_period > 0 or not 0 <= noise < np.inf:
        raise ValueError(
            f"points_per_period must be positive and noise at least 0, got {points_per_period} and {noise}"
        )
    period = dominant_period(system) if system.period is None else system.period
    exponent = lyapunov_spectrum(system, 1)[0][0] if system.exponent is None else system.exponent
    dt = period / points_per_period if dt is None else dt
    clean = ode.trajectories(system, dt, steps, runs, seed)
    drawn = np.random.default_rng([seed, 1]).standard_normal(clean.shape)
    return Trajectory(
        system.name, clean + noise * clean.std((0, 1)) * drawn, clean, dt, float(period), float(exponent), noise
    )


def spectral_period(series: Float[np.ndarray, "runs time dim"], dt: float) -> float:
    """Period of the strongest oscillation of a series.

    Each run is detrended and tapered (Hann); power is normalised for each coordinate, summed over coordinates and runs
    and smoothed over two frequency bins. Of its local maxima the one with the largest power per octave (power times
    frequency) counts, because slow switching between the lobes of an attractor puts most power near frequency 0. It is
    refined by a parabola through the logarithms of it and its neighbours.

    Args:
        series: uniformly sampled; at least 64 samples.
        dt: sampling interval.

    Returns:
        period, in the units of ``dt``. Periods longer than a third of the series are not looked for.

    Raises:
        ValueError: if the series is too short or not finite, or its spectrum has no peak.
    """
    if series.shape[1] < 64 or not np.isfinite(series).all():
        raise ValueError(f"series (shape {series.shape}) must hold at least 64 samples and finite numbers only")
    size = series.shape[1]
    time = np.linspace(-1, 1, size)[None, :, None]
    series = series - series.mean(1, keepdims=True)
    series = series - time * (time * series).sum(1, keepdims=True) / (time**2).sum()
    power = np.abs(np.fft.rfft(series * np.hanning(size)[None, :, None], axis=1)) ** 2
    power = power.sum(0)
    total = power.sum(0)
    power = power[:, total > 0] / total[total > 0]
    density = gaussian_filter1d(power.sum(1), 2.0)
    middle = density[1:-1]
    peaks = 1 + np.flatnonzero((middle > density[:-2]) & (middle >= density[2:]))
    peaks = peaks[peaks >= 3]
    if not len(peaks):
        raise ValueError(f"series (shape {series.shape}) has no spectral peak: nothing in it oscillates")
    best = peaks[(peaks * density[peaks]).argmax()]
    left, top, right = np.log(density[best - 1 : best + 2])
    return size * dt / (best + 0.5 * (left - right) / (left - 2 * top + right))


def dominant_period(system: ode.System, runs: int = 16, samples: int = 4096) -> float:
    """Dominant period of a system on its attractor, by :func:`spectral_period`; computed once and kept on disk.

    The sampling interval follows from the system: the median over coordinates of standard deviation over rms rate is the
    time in which a coordinate turns by one radian, if it oscillates harmonically, and a sixth of it is used.

    Args:
        system: whose period is wanted; none of its coordinates may grow without bound.
        runs: independent trajectories over which spectra are averaged.
        samples: of each, spanning about 100 periods.

    Returns:
        period, in time units.

    Raises:
        ValueError: if nothing oscillates.
    """

    def compute() -> np.ndarray:
        start = ode.integrate(system, system.draw(4 * runs), np.array([max(system.transient, 1e-3)]), 1e-6)[:, 0]
        rate = np.sqrt((system.field(start) ** 2).mean(0))
        turn = np.median(start.std(0)[rate > 0] / rate[rate > 0])
        series = ode.integrate(system, start[:runs], turn / 6 * np.arange(samples), 1e-6)
        return np.array(spectral_period(series, turn / 6))

    code = [ode.source(part) for part in (system.field, dominant_period, spectral_period)]
    key = (code, system.centre, system.spread, system.starts and ode.source(system.starts), runs, samples)
    return float(ode.remembered(f"{system.name}-period", key, compute))


def lyapunov_spectrum(
    system: ode.System,
    count: int | None = None,
    runs: int = 32,
    periods: float = 100.0,
    steps_per_period: int = 60,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "count"], Float[np.ndarray, "count"]]:
    """Lyapunov exponents of a system by QR of the tangent flow; computed once and kept on disk.

    Classical Runge-Kutta carries states and perturbations from points on the attractor; the perturbations align for a
    fifth of the span first.

    Args:
        system: whose exponents are wanted.
        count: how many, from the largest; None for all.
        runs: independent starts.
        periods: span over which growth is averaged, in dominant periods.
        steps_per_period: Runge-Kutta steps a dominant period; more for a stiff system.
        seed: of the starts.

    Returns:
        exponents per unit time, and the standard error of each over the starts.

    Raises:
        ValueError: if a size is not positive, or more exponents are asked for than there are states.
    """
    if min(runs, steps_per_period) < 1 or not periods > 0:
        raise ValueError(f"runs, periods, steps_per_period must be positive: {runs}, {periods}, {steps_per_period}")
    count = len(system.centre) if count is None else count
    dt = (dominant_period(system) if system.period is None else system.period) / steps_per_period
    blocks = max(1, round(periods * steps_per_period / QR_EVERY))

    def compute() -> np.ndarray:
        start = ode.integrate(system, system.draw(runs, seed), np.array([max(system.transient, dt)]), 1e-6)[:, 0]
        found = lyapunov_exponents(
            functools.partial(_advance, system, dt), start, blocks, QR_EVERY * dt, count, blocks // 5
        )
        return np.stack([found.mean(0), found.std(0) / np.sqrt(runs)])

    code = [ode.source(part) for part in (system.field, lyapunov_spectrum)]
    key = (
        code,
        system.centre,
        system.spread,
        system.starts and ode.source(system.starts),
        count,
        runs,
        blocks,
        dt,
        seed,
    )
    mean, error = ode.remembered(f"{system.name}-exponents", key, compute)
    return mean, error


def _advance(system: ode.System, dt: float, states: np.ndarray, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Several Runge-Kutta steps of states and perturbations."""
    for _ in range(QR_EVERY):
        states, tangents = ode.tangent_step(system, dt, states, tangents)
    return states, tangents
