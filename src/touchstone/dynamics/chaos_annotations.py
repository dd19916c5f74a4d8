r"""What a chaotic system can be annotated with: dimensions, entropy, dominant period and phase-space contraction.

The Lyapunov spectrum comes from :func:`touchstone.data.trajectory.lyapunov_spectrum`. From it follows the Kaplan-Yorke
dimension; the sum of the spectrum must equal the mean divergence of the flow, which checks both.

Sources: J. L. Kaplan, J. A. Yorke, 1979; P. Grassberger, I. Procaccia, Physica D 9, 1983; sample entropy, J. S. Richman,
J. R. Moorman, 2000; multiscale entropy, M. Costa, A. L. Goldberger, C.-K. Peng, Physical Review Letters 89, 2002;
W. Gilpin, 2021, arXiv:2110.05266.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.spatial import cKDTree

from touchstone.checks import finite, shaped
from touchstone.data import ode
from touchstone.data.trajectory import dominant_period, lyapunov_spectrum


def kaplan_yorke_dimension(exponents: Float[np.ndarray, "count"]) -> float:
    r"""Kaplan-Yorke dimension :math:`j+\sum_{i\le j}\lambda_i/|\lambda_{j+1}|`, with the largest j whose sum is not negative.

    Args:
        exponents: the whole Lyapunov spectrum, in any order.

    Returns:
        dimension of the attractor; 0 if all exponents are negative, the number of exponents if their sum is not.

    Raises:
        ValueError: if there are no exponents or they are not finite.
    """
    finite(exponents=exponents)
    ordered = np.sort(exponents)[::-1]
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    whole = int(np.flatnonzero(sums >= 0).max())
    if whole == len(ordered):
        return float(whole)
    return float(whole + sums[whole] / abs(ordered[whole]))


def mean_divergence(system: ode.System, states: Float[np.ndarray, "*runs time dim"]) -> float:
    r"""Mean of :math:`\nabla\cdot f` over states of the attractor; it equals the sum of the Lyapunov spectrum.

    Args:
        system: whose phase space is contracted.
        states: of long trajectories.

    Returns:
        rate of change of a volume's logarithm, per unit time.

    Raises:
        ValueError: if the states are empty or not finite.
    """
    finite(states=states)
    return float(np.trace(ode.jacobian(system, states), axis1=-2, axis2=-1).mean())


def correlation_dimension(
    states: Float[np.ndarray, "time dim"],
    share: tuple[float, float] = (1e-3, 1e-1),
    apart: int = 0,
) -> float:
    r"""Correlation dimension of Grassberger and Procaccia: the slope of :math:`\log C(r)` over :math:`\log r`.

    :math:`C(r)` is the share of pairs of states that are closer than r. The slope is fitted over the decades of C given
    by ``share``, at 40 radii evenly spaced in :math:`\log C`.

    Args:
        states: points on the attractor, in time's order; up to about 4000 of them.
        share: smallest and largest C of the fit.
        apart: pairs of states that are at most so many samples apart are left out (Theiler's window).

    Returns:
        the dimension.

    Raises:
        ValueError: if the states are not finite or fewer than 100 pairs lie in the fit, or the shares are out of order.
    """
    shaped("states", states, ("time", "dim"))
    finite(states=states)
    if not 0 < share[0] < share[1] < 1:
        raise ValueError(f"share is {share}: give two rising numbers between 0 and 1")
    lags = range(max(apart, 0) + 1, len(states))
    squared = [np.square(states[lag:] - states[:-lag]).sum(1) for lag in lags]
    distances = np.sort(np.sqrt(np.concatenate(squared))) if squared else np.zeros(0)
    if len(distances) * (share[1] - share[0]) < 100:
        raise ValueError(f"states has {len(states)} rows: too few pairs for a slope between the shares {share}")
    shares = np.geomspace(*share, 40)
    radii = distances[(shares * len(distances)).astype(int)]
    used = radii > 0
    return float(np.polyfit(np.log(radii[used]), np.log(shares[used]), 1)[0])


def sample_entropy(series: Float[np.ndarray, "time"], tolerance: float, length: int = 2) -> float:
    r"""Sample entropy :math:`-\ln(A/B)`: how rarely sequences that agreed so far go on agreeing.

    Args:
        series: one coordinate.
        tolerance: largest difference at which two values agree, in the series' units.
        length: of the sequences.

    Returns:
        B counts pairs of sequences of this length that agree throughout, A those that also agree in the next value;
        infinite if none does.

    Raises:
        ValueError: if the series is not finite or too short, or the tolerance or length is not positive.
    """
    shaped("series", series, ("time",))
    finite(series=series)
    if not tolerance > 0 or length < 1:
        raise ValueError(f"tolerance is {tolerance} and length {length}: both must be positive")
    if len(series) < length + 3:
        raise ValueError(f"series has {len(series)} values: this needs {length + 3} or more")

    def pairs(size: int) -> int:
        windows = np.lib.stride_tricks.sliding_window_view(series, size)[: len(series) - length]
        tree = cKDTree(windows)
        return int(tree.count_neighbors(tree, tolerance, p=np.inf)) - len(windows)  # without each with itself

    shorter, longer = pairs(length), pairs(length + 1)
    return float(np.log(shorter / longer)) if longer else float("inf")


def multiscale_entropy(
    series: Float[np.ndarray, "time"], scales: Sequence[int] = tuple(range(1, 21)), tolerance: float = 0.15
) -> Float[np.ndarray, "scales"]:
    """Sample entropy of a series averaged over blocks of growing length; its mean over scales is one number a system.

    Args:
        series: one coordinate, at a number of points a period that is the same for all systems that are compared.
        scales: lengths of the blocks.
        tolerance: in standard deviations of the whole series.

    Returns:
        one entropy a scale, in nats.

    Raises:
        ValueError: if the series is constant, not finite or too short for the largest scale, or a scale is not positive.
    """
    shaped("series", series, ("time",))
    finite(series=series)
    if not len(scales) or min(scales) < 1 or len(series) // max(scales) < 10:
        raise ValueError(f"scales must lie between 1 and a tenth of the series' {len(series)} values, got {scales}")
    if not series.std() > 0:
        raise ValueError("series is constant: entropy needs values that vary")
    blocks = [series[: len(series) // scale * scale].reshape(-1, scale).mean(1) for scale in scales]
    return np.array([sample_entropy(block, tolerance * series.std()) for block in blocks])


def period_stands_out(
    series: Float[np.ndarray, "time"], dt: float, period: float, surrogates: int = 200, seed: int = 0
) -> bool:
    """Whether the spectral peak at a period is higher than noise with the same background would show anywhere.

    A phase-randomised surrogate of the series itself keeps every peak. The surrogates are therefore made from the
    background, the running median of the spectrum over two octaves, with random phases and exponentially distributed
    powers; the peak counts if it exceeds the background by more than the largest excess of 95 % of the surrogates. Only
    frequencies within a factor of four of the one in question are looked at.

    Args:
        series: one coordinate, uniformly sampled.
        dt: sampling interval.
        period: in question, in the units of ``dt``.
        surrogates: how many.
        seed: of the surrogates.

    Returns:
        True if the peak is significant.

    Raises:
        ValueError: if the series is shorter than 64 values or not finite, or the period does not fit in it.
    """
    shaped("series", series, ("time",))
    finite(series=series)
    if len(series) < 64 or not 2 * dt < period < len(series) * dt / 3:
        raise ValueError(f"period is {period}: give more than two samples and less than a third of the series")

    def excess(power: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        power = gaussian_filter1d(power, 1.0, axis=-1)[..., 1:]
        # in log frequency two octaves are equally wide everywhere
        grid = np.geomspace(1, power.shape[-1], 200)
        level = np.log(power + 1e-300)
        even = np.stack([np.interp(grid, np.arange(1, power.shape[-1] + 1), row) for row in np.atleast_2d(level)])
        octaves = max(3, int(200 * np.log(4) / np.log(power.shape[-1])))
        background = median_filter(even, (1, octaves), mode="nearest")
        smooth = np.stack([np.interp(np.arange(1, power.shape[-1] + 1), grid, row) for row in background])
        return level - smooth.reshape(level.shape), smooth.reshape(level.shape)

    tapered = (series - series.mean()) * np.hanning(len(series))
    found, background = excess(np.abs(np.fft.rfft(tapered)) ** 2)
    random = np.random.default_rng(seed).exponential(size=(surrogates, len(background) + 1))
    centre = len(series) * dt / period
    around = slice(max(0, int(centre / 4) - 1), int(4 * centre))
    peaks = excess(random * np.exp(np.concatenate([background[:1], background])))[0][:, around].max(1)
    near = slice(max(0, int(0.9 * centre) - 1), int(np.ceil(1.1 * centre)))
    return bool(found[near].max() > np.quantile(peaks, 0.95))


def annotate(
    system: ode.System,
    states: Float[np.ndarray, "runs time dim"],
    runs: int = 32,
    periods: float = 50.0,
    steps_per_period: int | None = None,
) -> dict[str, float]:
    """Annotations of a system.

    Args:
        system: what to annotate.
        states: trajectories on its attractor at 100 points a dominant period; 2000 points or more in all.
        runs: starts over which the Lyapunov spectrum is averaged.
        periods: span of each.
        steps_per_period: Runge-Kutta steps of a dominant period; by default so many that a step times the largest norm
            of the Jacobian on the attractor is at most one half. With longer steps strong contraction is underestimated, and
            the sum of the spectrum departs from the divergence.

    Returns:
        ``exponent`` and its standard error ``exponent_error`` (per unit time), ``per_period`` (exponent times period),
        ``period``, ``sum`` of the spectrum and mean ``divergence`` (per unit time), ``kaplan_yorke``, ``correlation``,
        ``entropy`` (mean over scales 1 to 10 of the first coordinate's multiscale entropy), ``stands_out`` (1 if the spectrum of the first
        coordinate has a peak at the period that beats its surrogates).

    Raises:
        ValueError: if the states are not finite or too few, or a size is not positive.
    """
    shaped("states", states, ("runs", "time", len(system.centre)))
    finite(states=states)
    period = dominant_period(system) if system.period is None else system.period
    if steps_per_period is None:
        sample = states[:, ::20].reshape(-1, states.shape[-1])
        steepest = np.linalg.norm(ode.jacobian(system, sample), 2, axis=(-2, -1)).max()
        steps_per_period = int(np.ceil(period * steepest / 0.5))
    spectrum, error = lyapunov_spectrum(system, None, runs, periods, steps_per_period)
    sparse = states[:, ::8].reshape(-1, states.shape[-1])
    return {
        "exponent": float(spectrum[0]),
        "exponent_error": float(error[0]),
        "per_period": float(spectrum[0] * period),
        "period": float(period),
        "sum": float(spectrum.sum()),
        "divergence": mean_divergence(system, states),
        "kaplan_yorke": kaplan_yorke_dimension(spectrum),
        "correlation": correlation_dimension(sparse / sparse.std(0), apart=12),
        "entropy": float(multiscale_entropy(states[:4, :, 0].ravel(), tuple(range(1, 11))).mean()),
        "stands_out": float(period_stands_out(states[0, :, 0], period / 100, period)),
    }
