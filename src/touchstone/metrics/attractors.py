r"""How well a free-running model reproduces an attractor, and how long it predicts.

All series are arrays with time on the second-last axis and states on the last; a leading axis counts runs. Runs that
leave the range of the truth or stop being finite are scored like a fixed point, never dropped.

Sources: state-space divergence and Hellinger distance of spectra as in J. Mikhaeil, Z. Monfared, D. Durstewitz, 2022,
arXiv:2110.07238, and F. Hess et al., 2023, arXiv:2306.04406; Lyapunov exponents by QR: G. Benettin et al., 1980.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from scipy.special import logsumexp


def _checked(truth: np.ndarray, model: np.ndarray) -> None:
    """Reject a truth that is empty or not finite, and a model of another dimension."""
    if truth.size == 0 or not np.isfinite(truth).all():
        raise ValueError(f"truth (shape {truth.shape}) must hold at least one state and finite numbers only")
    if model.size == 0 or model.shape[-1] != truth.shape[-1]:
        raise ValueError(f"model has shape {model.shape}: give states of the truth's dimension {truth.shape[-1]}")


def _range(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The truth's range, widened by 0.1 standard deviations."""
    points = truth.reshape(-1, truth.shape[-1])
    margin = 0.1 * points.std(0) + 1e-12
    return points.min(0) - margin, points.max(0) + margin


def _contained(truth: np.ndarray, model: np.ndarray) -> np.ndarray:
    """The model's states as points: outside the range moved to its border, not finite ones to the truth's mean."""
    low, high = _range(truth)
    points = model.reshape(-1, model.shape[-1])
    mean = truth.reshape(-1, truth.shape[-1]).mean(0)
    return np.clip(np.where(np.isfinite(points).all(-1, keepdims=True), points, mean), low, high)


def state_space_divergence(
    truth: Float[np.ndarray, "*runs time dim"],
    model: Float[np.ndarray, "*others steps dim"],
    bins: int = 30,
    pseudocount: float = 1e-5,
) -> float:
    r"""D_stsp of histograms: :math:`\mathrm{KL}(p \,\|\, q)` of the visited bins, for up to five dimensions.

    Args:
        truth: states of the system; its range, widened by 0.1 standard deviations, is divided into bins.
        model: states of free runs of a model.
        bins: number of bins in each dimension.
        pseudocount: added to every bin's count.

    Returns:
        divergence in nats; 0 for the same states.

    Raises:
        ValueError: if the truth is empty or not finite, or the dimensions differ or exceed five.
    """
    _checked(truth, model)
    if truth.shape[-1] > 5:
        raise ValueError(f"truth has {truth.shape[-1]} states: use mixture_divergence for more than 5")
    low, high = _range(truth)

    def shares(points: np.ndarray) -> np.ndarray:
        cells = np.minimum((bins * (points - low) / (high - low)).astype(int), bins - 1)
        flat = np.ravel_multi_index(tuple(cells.T), (bins,) * cells.shape[1])
        counts = np.bincount(flat, minlength=bins ** cells.shape[1]) + pseudocount
        return counts / counts.sum()

    p, q = shares(truth.reshape(-1, truth.shape[-1])), shares(_contained(truth, model))
    return float((p * np.log(p / q)).sum())


def mixture_divergence(
    truth: Float[np.ndarray, "*runs time dim"],
    model: Float[np.ndarray, "*others steps dim"],
    components: int = 1000,
    width: float = 1.0,
    seed: int = 0,
) -> float:
    r"""D_stsp of Gaussian mixtures centred on states: a Monte-Carlo estimate of KL(truth, model), for many dimensions.

    Args:
        truth: states of the system.
        model: states of free runs of a model.
        components: centres, evenly spaced in the list of states; as many draws estimate the divergence.
        width: standard deviation of a component, in the units of the states.
        seed: of the draws.

    Returns:
        divergence in nats; 0 for the same states.

    Raises:
        ValueError: if the truth is empty or not finite, or the dimensions differ.
    """
    _checked(truth, model)

    def centres(points: np.ndarray) -> np.ndarray:
        return points[np.linspace(0, len(points) - 1, components).round().astype(int)]

    p, q = centres(truth.reshape(-1, truth.shape[-1])), centres(_contained(truth, model))
    draws = p + width * np.random.default_rng(seed).standard_normal(p.shape)

    def log_density(mixture: np.ndarray) -> np.ndarray:
        squared = ((draws[:, None] - mixture[None]) ** 2).sum(-1)
        return logsumexp(-squared / (2 * width**2), axis=1)

    return float((log_density(p) - log_density(q)).mean())


def spectral_distance(
    truth: Float[np.ndarray, "runs time dim"], model: Float[np.ndarray, "others time dim"], smoothing: float = 20.0
) -> float:
    r"""D_H: Hellinger distance of power spectra, averaged over the states.

    Spectra are averaged over runs, smoothed by a Gaussian and normalised to sum 1;
    :math:`D_H^2 = \tfrac12 \sum_f (\sqrt{p_f} - \sqrt{q_f})^2`.

    Args:
        truth: series of the system.
        model: free runs of a model, of the same length.
        smoothing: standard deviation of the Gaussian, in frequency bins.

    Returns:
        distance between 0 (same spectra) and 1. A model that does not move, or any run that is not finite, counts 1.

    Raises:
        ValueError: if the truth is empty or not finite, or the lengths or dimensions differ.
    """
    _checked(truth, model)
    if truth.shape[-2] != model.shape[-2]:
        raise ValueError(f"model has {model.shape[-2]} time steps, truth {truth.shape[-2]}: spectra need equal lengths")
    finite = np.isfinite(model).all((1, 2))

    def spectrum(series: np.ndarray) -> np.ndarray:
        power = (np.abs(np.fft.rfft(series - series.mean(1, keepdims=True), axis=1)) ** 2).mean(0)
        return gaussian_filter1d(power, smoothing, axis=0)

    p = spectrum(truth)
    q = spectrum(model[finite]) if finite.any() else np.zeros_like(p)
    moving = q.sum(0) > 1e-8 * p.sum(0)
    p, q = p / p.sum(0), q / np.where(moving, q.sum(0), 1.0)
    distance = np.sqrt(np.clip(0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(0), 0, 1))
    share = finite.mean()
    return float(share * np.where(moving, distance, 1.0).mean() + (1 - share))


def valid_prediction_time(
    truth: Float[np.ndarray, "runs time dim"],
    forecast: Float[np.ndarray, "runs time dim"],
    dt: float,
    exponent: float,
    spread: Float[np.ndarray, "dim"],
    threshold: float = 0.4,
) -> Float[np.ndarray, "runs"]:
    """Time until the error exceeds a share of the attractor's size, in Lyapunov times.

    Args:
        truth: the system after the starts; the first entry is one step ahead.
        forecast: the model's free runs from the same starts.
        dt: sampling interval.
        exponent: largest Lyapunov exponent of the system, per unit time.
        spread: standard deviation of each state on the attractor.
        threshold: rms error over the attractor's rms at which a forecast ends.

    Returns:
        one time a start; the whole horizon if the error stays below. Values that are not finite end a forecast.

    Raises:
        ValueError: if the truth is empty or not finite, or the shapes differ.
    """
    _checked(truth, forecast)
    if truth.shape != forecast.shape:
        raise ValueError(f"forecast has shape {forecast.shape}, truth {truth.shape}: they must agree")
    error = np.sqrt(((forecast - truth) ** 2).mean(-1) / (spread**2).mean())
    ended = ~(error <= threshold)
    first = np.where(ended.any(1), ended.argmax(1), truth.shape[1])
    return first * dt * exponent


Advance = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def lyapunov_exponents(
    advance: Advance, start: Float[np.ndarray, "runs dim"], steps: int, dt: float, count: int = 1, drop: int = 0
) -> Float[np.ndarray, "runs count"]:
    """Lyapunov exponents by repeated QR decomposition of the tangent map along free runs.

    Args:
        advance: moves states (runs, dim) and perturbations (runs, dim, count) by one step of the map or flow.
        start: states on the attractor.
        steps: steps over which growth is averaged.
        dt: duration of a step.
        count: how many exponents, from the largest.
        drop: steps before averaging starts, during which the perturbations align.

    Returns:
        exponents per unit time, largest first, one row a run; their spread over runs gives a standard error.

    Raises:
        ValueError: if the start is empty or not finite, or more exponents are asked for than there are states.
    """
    if start.size == 0 or not np.isfinite(start).all():
        raise ValueError(f"start (shape {start.shape}) must hold at least one state and finite numbers only")
    if not 1 <= count <= start.shape[-1]:
        raise ValueError(f"count is {count}, expected 1 to {start.shape[-1]}")
    tangents = np.random.default_rng(0).standard_normal((*start.shape, count))
    growth = np.zeros((len(start), count))
    for time in range(drop + steps):
        start, tangents = advance(start, tangents)
        tangents, stretch = np.linalg.qr(tangents)
        if time >= drop:
            growth += np.log(np.abs(np.diagonal(stretch, axis1=1, axis2=2)) + 1e-300)
    return growth / (steps * dt)


def conservation_drift(
    invariant: Callable[[np.ndarray], np.ndarray],
    states: Float[np.ndarray, "runs time dim"],
    scale: float | None = None,
) -> Float[np.ndarray, "runs"]:
    r"""How far a run leaves the level set it started on, :math:`\max_t|I(t)-I(0)|/\text{scale}`.

    Args:
        invariant: the true invariant as a function of states, batched; it is called with time along the first axis, so
            that its parameters may differ from run to run.
        states: free runs; the first entry of each is its start.
        scale: what the drift is measured in; the mean of :math:`|I(0)|` over the runs if None.

    Returns:
        one drift a run; infinite for a run that is not finite, or on which the invariant is not.

    Raises:
        ValueError: if the states are empty or a start is not finite, or the scale is not positive.
    """
    if states.size == 0 or not np.isfinite(states[:, 0]).all():
        raise ValueError(f"states (shape {states.shape}) must hold at least one state a run, and finite starts")
    with np.errstate(all="ignore"):
        values = invariant(states.swapaxes(0, 1))
    scale = float(np.abs(values[0]).mean()) if scale is None else scale
    if not 0 < scale < np.inf:
        raise ValueError(f"scale is {scale}: give a positive one, such as the invariant's spread over starts")
    drift = np.abs(values - values[0]).max(0) / scale
    return np.where(np.isfinite(values).all(0) & np.isfinite(states).all((1, 2)), drift, np.inf)


def running_smape(
    truth: Float[np.ndarray, "runs time dim"], forecast: Float[np.ndarray, "runs time dim"]
) -> Float[np.ndarray, "runs time"]:
    r"""Symmetric mean absolute percentage error, averaged from the start up to each time.

    :math:`\frac{200}{T}\sum_{t\le T}|y_t-\hat y_t|/(|y_t|+|\hat y_t|)`, averaged over the coordinates.

    Args:
        truth: the system after the starts.
        forecast: free runs of a model from the same starts.

    Returns:
        percentages from 0 to 200, the last of a row for the whole horizon; values that are not finite count 200.

    Raises:
        ValueError: if the truth is empty or not finite, or the shapes differ.
    """
    _checked(truth, forecast)
    if truth.shape != forecast.shape:
        raise ValueError(f"forecast has shape {forecast.shape}, truth {truth.shape}: they must agree")
    total = np.abs(truth) + np.abs(forecast)
    with np.errstate(invalid="ignore"):
        share = np.where(total > 0, np.abs(truth - forecast) / np.where(total > 0, total, 1.0), 0.0)
    share = np.where(np.isfinite(forecast), share, 1.0)
    return 200 * share.mean(-1).cumsum(1) / np.arange(1, truth.shape[1] + 1)
