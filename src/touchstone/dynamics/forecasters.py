r"""Forecasters without gradients behind one interface, for the benchmarks of this part.

``fit_<name>(series, lookback, …)`` sees a standardised series ``[time, dim]`` and returns a
:class:`~touchstone.dynamics.protocol.Simulator`, which continues any past. ``lookback`` is the one number that a
benchmark tunes: how far back a forecaster looks, in samples. :func:`choose` tunes it on the end of the series.

Sources: next-generation reservoir computing (NVAR), D. J. Gauthier et al., Nature Communications 12, 2021,
arXiv:2106.07688; random forests, L. Breiman, Machine Learning 45, 2001; damped trends, E. S. Gardner, E. McKenzie,
Management Science 31, 1985.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from touchstone.dynamics.baselines import fit_dmd, persistence
from touchstone.dynamics.protocol import Simulator, Stepper, check_past, check_series, embedded
from touchstone.dynamics.reservoir import EchoStateNetwork, fit_echo_state_network
from touchstone.dynamics.sindy import monomial_exponents, monomials
from touchstone.metrics.attractors import running_smape

Setting = TypeVar("Setting")


def _positive(**sizes: int | float) -> None:
    """Reject a size that is not positive."""
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} is {size}: it must be positive")


@dataclass(frozen=True)
class Continuation:
    """A simulator that computes all steps at once from the last states of the past.

    Args:
        extend: from the last ``memory`` states ``[runs, memory, dim]`` and a number of steps to ``[runs, steps, dim]``.
        memory: how many states it looks at.
    """

    extend: Callable[[np.ndarray, int], np.ndarray]
    memory: int

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start, which is the last of them.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty, not finite, or shorter than the memory.
        """
        check_past(past, self.memory)
        return self.extend(past[:, past.shape[1] - self.memory :], steps)


def fit_last_value(series: Float[np.ndarray, "time dim"], lookback: int = 1) -> Stepper:
    """The last value for ever.

    Args:
        series: standardised states at a constant interval.
        lookback: not used; it has nothing to tune.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or empty.
    """
    check_series(series, 1)
    return persistence()


def fit_seasonal(series: Float[np.ndarray, "time dim"], lookback: int) -> Continuation:
    """Seasonal naive forecast: the last season again and again.

    Args:
        series: standardised states at a constant interval.
        lookback: length of the season, in samples.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than a season, or the season is not positive.
    """
    _positive(lookback=lookback)
    check_series(series, lookback)
    return Continuation(lambda window, steps: window[:, np.arange(steps) % lookback], lookback)


def fit_autoregression(series: Float[np.ndarray, "time dim"], lookback: int, ridge: float = 1e-6) -> Stepper:
    """Linear autoregression of all coordinates on all lagged coordinates, by ridge regression.

    Args:
        series: standardised states at a constant interval.
        lookback: number of lags.
        ridge: penalty on the squared coefficients, for each observation.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or has fewer states than coefficients, or lookback is not positive.
    """
    _positive(lookback=lookback)
    return fit_dmd(series, lookback, ridge)


def fit_nvar(
    series: Float[np.ndarray, "time dim"], lookback: int, spacing: int = 1, degree: int = 2, ridge: float = 1e-6
) -> Stepper:
    r"""Next-generation reservoir computing: the increment as a polynomial of a few delayed states, by ridge regression.

    The coefficients are scaled so that the ridge weighs each monomial in units of its own size, and the targets in units
    of the increments'.

    Args:
        series: standardised states at a constant interval.
        lookback: number of delayed states k, the present one included.
        spacing: samples between two of them.
        degree: of the monomials; 2 is the usual choice, 1 a linear autoregression.
        ridge: penalty on the squared coefficients, for each observation; 0 for plain least squares.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or too short, or lookback, spacing or degree is not positive.
    """
    _positive(lookback=lookback, spacing=spacing, degree=degree)
    memory = (lookback - 1) * spacing + 1
    check_series(series, memory + 2)
    exponents = monomial_exponents(lookback * series.shape[1], degree)

    def features(windows: np.ndarray) -> np.ndarray:
        return monomials(windows[:, ::spacing].reshape(len(windows), -1), exponents)

    windows = embedded(series[:-1], memory).reshape(-1, memory, series.shape[1])
    table, targets = features(windows), np.diff(series, axis=0)[memory - 1 :]
    scale = np.sqrt((table**2).mean(0)) + 1e-300
    damped = np.concatenate([table / scale, np.sqrt(ridge * len(table)) * np.eye(len(exponents))])
    damped[len(table), 0] = 0.0  # the constant goes free
    padded = np.concatenate([targets, np.zeros((len(exponents), series.shape[1]))])
    readout = np.linalg.lstsq(damped, padded, rcond=None)[0] / scale[:, None]
    # a run that leaves all bounds becomes infinite and is scored as such
    return Stepper(lambda window: window[:, -1] + features(window) @ readout, memory)


def _damped_trend(
    window: np.ndarray, level_gain: np.ndarray, trend_gain: np.ndarray, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level and trend after a window ``[..., time, dim]``, and the one-step errors; gains broadcast against ``[..., dim]``."""
    level = np.broadcast_to(window[..., 0, :], np.broadcast_shapes(window[..., 0, :].shape, level_gain.shape))
    trend, errors = np.zeros_like(level), []
    for time in range(1, window.shape[-2]):
        error = window[..., time, :] - (level + damping * trend)
        level = level + damping * trend + level_gain * error
        trend = damping * trend + level_gain * trend_gain * error
        errors.append(error)
    return level, trend, np.stack(errors, -2)


def fit_smoothing(series: Float[np.ndarray, "time dim"], lookback: int) -> Continuation:
    """Exponential smoothing with a damped trend, its three parameters chosen for each coordinate by one-step errors.

    Args:
        series: standardised states at a constant interval.
        lookback: samples of the past that are smoothed, at least 2.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than the lookback, or the lookback is below 2.
    """
    if lookback < 2:
        raise ValueError(f"lookback is {lookback}: smoothing needs 2 samples or more")
    check_series(series, max(lookback, 3))
    grid = np.array(
        list(itertools.product((0.1, 0.3, 0.6, 0.9, 1.0), (0.0, 0.1, 0.3, 0.6, 1.0), (0.8, 0.9, 0.98, 1.0)))
    )
    gains = grid.T[:, :, None]  # level, trend, damping; one row a setting
    errors = _damped_trend(series[None], *gains)[2]
    level_gain, trend_gain, damping = grid[np.square(errors).mean(1).argmin(0)].T  # of each coordinate

    def extend(window: np.ndarray, steps: int) -> np.ndarray:
        level, trend, _ = _damped_trend(window, level_gain, trend_gain, damping)
        reach = np.cumsum(damping ** np.arange(1, steps + 1)[:, None], 0)
        return level[:, None] + reach * trend[:, None]

    return Continuation(extend, lookback)


def fit_fourier(series: Float[np.ndarray, "time dim"], lookback: int, harmonics: int = 10) -> Continuation:
    """Fourier extrapolation: the strongest oscillations of the past go on.

    Frequencies are multiples of one over the lookback, so the forecast repeats the smoothed past.

    Args:
        series: standardised states at a constant interval; only its size is looked at.
        lookback: samples of the past that are analysed, at least 2.
        harmonics: oscillations kept, for each run and coordinate.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than the lookback, or a number is out of range.
    """
    _positive(harmonics=harmonics)
    if lookback < 2:
        raise ValueError(f"lookback is {lookback}: an oscillation needs 2 samples or more")
    check_series(series, lookback)

    def extend(window: np.ndarray, steps: int) -> np.ndarray:
        spectrum = np.fft.rfft(window, axis=1)  # frequency 0 is the mean and always stays
        weak = 1 + np.argsort(np.abs(spectrum[:, 1:]), axis=1)[:, : max(0, spectrum.shape[1] - 1 - harmonics)]
        np.put_along_axis(spectrum, weak, 0.0, axis=1)
        return np.fft.irfft(spectrum, lookback, axis=1)[:, np.arange(steps) % lookback]

    return Continuation(extend, lookback)


def fit_random_forest(
    series: Float[np.ndarray, "time dim"], lookback: int, seed: int = 0, trees: int = 50, share: float = 1 / 3
) -> Stepper:
    """A random forest that predicts the next increment from the lagged states.

    Args:
        series: standardised states at a constant interval.
        lookback: number of lags.
        seed: of the forest.
        trees: how many.
        share: of the lagged values that a split may choose from.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or too short, or a number is not positive.
    """
    from sklearn.ensemble import RandomForestRegressor

    _positive(lookback=lookback, trees=trees, share=share)
    check_series(series, lookback + 2)
    targets = np.diff(series, axis=0)[lookback - 1 :]
    scale = targets.std(0) + 1e-300  # one tree serves all coordinates, so they count alike
    forest = RandomForestRegressor(trees, max_features=share, min_samples_leaf=2, random_state=seed, n_jobs=1)
    forest.fit(embedded(series[:-1], lookback), (targets / scale).squeeze(-1) if len(scale) == 1 else targets / scale)
    parts = [(grown.tree_, grown.tree_.value[..., 0]) for grown in forest.estimators_]

    def advance(window: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(window.reshape(len(window), -1), dtype=np.float32)
        # the trees are asked directly: the forest's own checks take longer than they do
        mean = sum(values[tree.apply(flat)] for tree, values in parts) / trees
        return window[:, -1] + scale * mean

    return Stepper(advance, lookback)


@dataclass(frozen=True)
class Reservoir:
    """An echo state network as a simulator that hears the end of the past only.

    Attributes:
        network: the fitted network.
        lookback: most samples of warm-up.
    """

    network: EchoStateNetwork
    lookback: int

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start; the last ``lookback`` of them, or all if there are fewer, warm the reservoir up.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        with np.errstate(over="ignore", invalid="ignore"):
            return self.network.free_run(past[:, -self.lookback :], steps)


def fit_echo_state(
    series: Float[np.ndarray, "time dim"],
    lookback: int = 100,
    seed: int = 0,
    nodes: int = 300,
    radius: float = 0.9,
    input_scale: float = 0.5,
    ridge: float = 1e-6,
) -> Reservoir:
    """An echo state network (:func:`touchstone.dynamics.reservoir.fit_echo_state_network`).

    Args:
        series: standardised states at a constant interval.
        lookback: samples of warm-up, which are also left out of the fit (at most half of the series is).
        seed: of the reservoir.
        nodes: size of the reservoir.
        radius: spectral radius of the recurrent weights.
        input_scale: half-width of the uniform input weights and biases.
        ridge: penalty on the squared read-out weights, for each observation.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or has fewer than four states, or a number is not positive.
    """
    _positive(lookback=lookback, nodes=nodes, radius=radius, input_scale=input_scale)
    check_series(series, 4)
    washout = min(lookback, len(series) // 2)
    return Reservoir(fit_echo_state_network(series, seed, nodes, radius, input_scale, ridge, washout), lookback)


def choose(
    fit: Callable[[np.ndarray, Setting], Simulator],
    settings: Sequence[Setting],
    series: Float[np.ndarray, "time dim"],
    held: int,
    runs: int = 1,
    horizon: int | None = None,
) -> Setting:
    """The setting whose forecasts of the end of the series have the smallest sMAPE; the test data are not looked at.

    Args:
        fit: from a series and a setting to a simulator.
        settings: what to try. One that raises ValueError, because the series is too short for it, is passed over.
        series: what may be learned from; its last ``held`` samples are kept from the fit.
        held: length of the validation span.
        runs: forecasts made in it, from starts evenly spaced.
        horizon: steps of each; by default what fits from every start (all of the span for one run).

    Returns:
        the best setting, the earlier one of equals; forecasts that are not finite count as the worst error.

    Raises:
        ValueError: if the settings are empty or none can be fitted, the series is not finite or not longer than the
            span, or the runs do not fit in it.
    """
    _positive(held=held, runs=runs)
    check_series(series, held + 1)
    if not len(settings):
        raise ValueError("settings is empty: give at least one")
    horizon = max(1, held // 2 if runs > 1 else held) if horizon is None else horizon
    if not 1 <= horizon <= held:
        raise ValueError(f"horizon is {horizon}: give 1 to the span's {held} samples")
    learned = series[: len(series) - held]
    starts = np.unique(np.linspace(len(learned), len(series) - horizon, runs).round().astype(int))
    truth = np.stack([series[start : start + horizon] for start in starts])
    past = np.stack([series[start - len(learned) : start] for start in starts])
    errors, refusals = {}, []
    for index, setting in enumerate(settings):
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                forecast = fit(learned, setting).simulate(past, horizon)
        except ValueError as error:
            refusals.append(f"{setting}: {error}")
            continue
        errors[index] = running_smape(truth, forecast)[:, -1].mean()
    if not errors:
        raise ValueError(f"settings: none could be fitted ({'; '.join(refusals)})")
    return settings[min(errors, key=errors.get)]
