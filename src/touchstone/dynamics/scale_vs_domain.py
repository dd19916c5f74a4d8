r"""Large general forecasters against forecasters built for dynamical systems, under one protocol.

Twelve methods of three groups see a series, tune one number on its end with four trials, are fitted under one cap on their
training time, and forecast from the same starts. A forecast is valid until its running sMAPE exceeds 30,

.. math:: \mathrm{VPT}=\min\Big\{T:\ \frac{200}{T\,d}\sum_{t\le T}\sum_{i\le d}
   \frac{|y_{ti}-\hat y_{ti}|}{|y_{ti}|+|\hat y_{ti}|}>30\Big\},

in Lyapunov times. The cap is nominal: CPU seconds are turned into updates by the costs of a time trial, so that a fit gives
the same numbers on every machine.

Source: W. Gilpin, 2023, arXiv:2303.08011.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from touchstone.arena import Budget
from touchstone.checks import finite
from touchstone.data.chaotic_flows import CHAOS12
from touchstone.data.ode import System, trajectories
from touchstone.dynamics import forecasters, neural_forecasters
from touchstone.dynamics.neural_ode_entrant import fit_field
from touchstone.dynamics.protocol import Simulator
from touchstone.metrics.attractors import running_smape

GRANULARITY = 30  # samples a period
CONTEXT = 240  # samples of the past that every forecast may look at
TRIALS = 4

# CPU milliseconds of an update, constant and per unit of the tuned number, in a time trial with batches of 64
COSTS = {
    "n-beats": (6.4, 0.0),
    "n-hits": (4.2, 0.035),
    "lstm": (1.5, 0.12),
    "transformer": (5.2, 0.47),
    "tcn": (2.6, 0.27),
    "neural-ode": (2.0, 1.0),
}


class Updates(Budget):
    """A budget that counts how often it is asked for its fraction, which a training loop does once an update.

    Args:
        updates: after how many the budget is spent.
    """

    def __init__(self, updates: int):
        super().__init__(float(updates))
        self.asked = 0

    def spent(self) -> float:
        """Updates so far."""
        return float(self.asked)

    def fraction(self) -> float:
        """Share of the updates made, at most 1."""
        share = min(1.0, self.asked / self.seconds)
        self.asked += 1
        return share


@dataclass(frozen=True)
class Method:
    """A forecaster with the number that is tuned.

    Args:
        group: ``general``, ``hybrid`` or ``classical``.
        settings: at most four values of the tuned number.
        fit: from a series, a value, a seed and a number of updates to a simulator.
        tuned: what the number is.
    """

    group: str
    settings: tuple[int | float, ...]
    fit: Callable[[np.ndarray, int | float, int, int], Simulator]
    tuned: str = "lookback"


def _network(fit: Callable, rate: float) -> Method:
    """A network that forecasts two states at a time."""

    def trained(series: np.ndarray, lookback: int, seed: int, updates: int) -> Simulator:
        return fit(series, lookback, horizon=2, updates=updates, seed=seed, rates=(rate, 1e-4))

    return Method("general", (4, 8, 16, 32), trained)


METHODS: dict[str, Method] = {
    "n-beats": _network(neural_forecasters.fit_nbeats, 3e-3),
    "n-hits": _network(neural_forecasters.fit_nhits, 1e-2),
    "lstm": _network(neural_forecasters.fit_lstm, 1e-2),
    "transformer": _network(neural_forecasters.fit_transformer, 1e-2),
    "tcn": _network(neural_forecasters.fit_tcn, 1e-2),
    "echo-state": Method(
        "hybrid",
        (0.2, 0.4, 0.8, 1.2),
        lambda s, radius, seed, _: forecasters.fit_echo_state(s, 100, seed, radius=radius, ridge=1e-8),
        "spectral radius",
    ),
    "nvar": Method("hybrid", (1, 2, 3, 4), lambda s, k, *_: forecasters.fit_nvar(s, k, ridge=1e-8)),
    "neural-ode": Method(
        "hybrid",
        (2, 4, 8, 16),
        lambda s, window, seed, updates: fit_field(s, Updates(updates), seed, window=window, rates=(2e-2, 1e-4)),
        "training window",
    ),
    "last value": Method("classical", (1,), lambda s, *_: forecasters.fit_last_value(s)),
    "ar": Method("classical", (4, 8, 16, 32), lambda s, k, *_: forecasters.fit_autoregression(s, k, ridge=1e-8)),
    "smoothing": Method("classical", (4, 8, 16, 32), lambda s, k, *_: forecasters.fit_smoothing(s[-1000:], k)),
    "fourier": Method("classical", (30, 60, 120, 240), lambda s, k, *_: forecasters.fit_fourier(s, k)),
}


def updates(name: str, setting: int | float, seconds: int | float) -> int:
    """Updates that fit into a nominal time.

    Args:
        name: of a method.
        setting: value of its tuned number.
        seconds: CPU seconds in the time trial.

    Returns:
        the number, at least 1; 1 for methods that are not trained by gradients.
    """
    constant, slope = COSTS.get(name, (1000 * seconds, 0.0))
    return max(1, int(1000 * seconds / (constant + slope * setting)))


def fit_tuned(
    name: str, series: Float[np.ndarray, "time dim"], seconds: int | float = 5.0, seed: int = 0
) -> tuple[Simulator, int | float]:
    """Tune a method on the last fifth of a series, then fit it to all of it.

    A trial of a gradient-trained method gets a tenth of the time, the final fit six tenths. Forecasts are tried from eight
    starts over at most three periods, and the smallest sMAPE decides.

    Args:
        name: of a method, a key of ``METHODS``.
        series: standardised states, ``GRANULARITY`` a period.
        seconds: nominal CPU seconds for tuning and fitting.
        seed: of weights and windows.

    Returns:
        the simulator, and the value of the tuned number.

    Raises:
        ValueError: if the method is unknown, the time is not positive, or the series is not finite or too short.
    """
    if name not in METHODS:
        raise ValueError(f"name is {name!r}: one of {', '.join(METHODS)}")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}: a fit needs more than zero")
    finite(series=series)
    method = METHODS[name]

    def fit(part: np.ndarray, setting: int | float, share: float) -> Simulator:
        try:
            return method.fit(part, setting, seed, updates(name, setting, share * seconds))
        except FloatingPointError:  # a training that diverged forecasts nothing
            return forecasters.fit_last_value(part)

    held, setting = len(series) // 5, method.settings[0]
    if len(method.settings) > 1:
        horizon = min(max(1, held // 2), 3 * GRANULARITY)
        trial = lambda part, value: fit(part, value, 0.4 / TRIALS)  # noqa: E731
        setting = forecasters.choose(trial, method.settings, series, held, 8, horizon)
    return fit(series, setting, 0.6), setting


@dataclass(frozen=True)
class Task:
    """One system's data for one seed.

    Attributes:
        train: all that may be learned from, standardised by its own mean and deviation.
        past: what precedes each test start.
        future: what follows it.
        exponent: largest Lyapunov exponent, per period.
    """

    train: Float[np.ndarray, "time dim"]
    past: Float[np.ndarray, "starts context dim"]
    future: Float[np.ndarray, "starts steps dim"]
    exponent: float

    @property
    def lyapunov_time(self) -> float:
        """Samples in a Lyapunov time."""
        return GRANULARITY / self.exponent


def task(system: System | str, size: int, seed: int = 0, starts: int = 20, points: int = 10_000) -> Task:
    """The data of the benchmark: noise-free, 30 samples a period, trained and tested on separate trajectories.

    Args:
        system: with a known exponent and period, or a name out of ``CHAOS12``.
        size: training samples, the last of a trajectory.
        seed: chooses the training trajectory; three seeds share the test trajectory.
        starts: of forecasts, evenly spaced along the test trajectory.
        points: samples of every trajectory.

    Returns:
        the data; forecasts are judged over 20 Lyapunov times, but at most 2000 samples and half the test trajectory.

    Raises:
        ValueError: if the sizes do not fit, or the system's exponent or period is unknown.
    """
    system = CHAOS12[system] if isinstance(system, str) else system
    if system.exponent is None or system.period is None:
        raise ValueError(f"system {system.name} has no exponent or no period: the benchmark measures time in them")
    if not 10 <= size <= points or points < 4 * CONTEXT or starts < 1:
        raise ValueError(f"size {size}, points {points}, starts {starts}: need 10 <= size <= points, points >= 960")
    pool, run = divmod(seed, 3)
    raw = trajectories(system, system.period / GRANULARITY, points, runs=4, seed=pool)
    train, test = raw[run, points - size :], raw[3]
    mean, std = train.mean(0), train.std(0)
    exponent = system.exponent * system.period
    steps = min(int(np.ceil(20 * GRANULARITY / exponent)), 2000, points // 2)
    first = np.linspace(CONTEXT, points - steps, starts).astype(int)
    past, future = (
        np.stack([(test[i + low : i + high] - mean) / std for i in first]) for low, high in ((-CONTEXT, 0), (0, steps))
    )
    return Task((train - mean) / std, past, future, exponent)


def valid_steps(
    truth: Float[np.ndarray, "runs time dim"],
    forecast: Float[np.ndarray, "runs time dim"],
    threshold: int | float = 30.0,
) -> Float[np.ndarray, "runs"]:
    """First step at which the running sMAPE exceeds a threshold.

    Args:
        truth: what followed each start.
        forecast: what was said to follow.
        threshold: in percent, from 0 to 200.

    Returns:
        numbers from 1 to the length of the forecast, which also stands for never.

    Raises:
        ValueError: if the truth is empty or not finite, or the shapes differ.
    """
    over = running_smape(truth, forecast) > threshold
    return np.where(over.any(1), over.argmax(1) + 1, over.shape[1]).astype(float)
