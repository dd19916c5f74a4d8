r"""Chaotic systems as a benchmark: series of known difficulty, and forecasters that meet on equal terms.

A system is more than its data: its largest exponent :math:`\lambda` says how fast errors must grow, its dominant period T
how fast the series turns, and more data can be drawn at will. All systems are sampled at the same number of points a
period, so that :math:`\lambda T`, the growth of errors within one turn, is what differs between them. A forecaster
learns ten periods of one coordinate and predicts the next two; its error is

.. math:: \mathrm{sMAPE} = \frac{200}{H}\sum_{t\le H}\frac{|y_t-\hat y_t|}{|y_t|+|\hat y_t|}.

Source: W. Gilpin, 2021, arXiv:2110.05266.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from touchstone.checks import finite, shaped
from touchstone.data import dysts_systems, ode
from touchstone.data.chaotic_flows import CHAOS12
from touchstone.data.trajectory import dominant_period
from touchstone.dynamics import forecasters
from touchstone.dynamics.neural_forecasters import fit_lstm, fit_nbeats
from touchstone.dynamics.protocol import Simulator
from touchstone.metrics.attractors import running_smape

LAGS = (0.05, 0.12, 0.25, 0.5)  # lengths tried for all that look back, in periods
RADII = (0.5, 0.8, 0.95, 1.1)  # tried for the reservoir, whose memory its spectral radius sets
TAPS = 6  # delays of the quadratic map, spread over its lag


def load(name: str) -> ode.System:
    """A system of the collection.

    Args:
        name: one of the twelve of :data:`~touchstone.data.chaotic_flows.CHAOS12`, or a flow as dysts writes it.

    Returns:
        right-hand side, Jacobian, starts, largest exponent and dominant period.

    Raises:
        ValueError: if there is no such system; the message names the nearest flow of dysts.
        ModuleNotFoundError: if the name is not one of the twelve and dysts is not installed.
    """
    return CHAOS12[name] if name in CHAOS12 else dysts_systems.system(name)


def observe(
    system: ode.System,
    runs: int = 8,
    periods: int = 24,
    points: int = 100,
    noise: float = 0.0,
    seed: int = 0,
    transient: float = 100.0,
) -> Float[np.ndarray, "runs time dim"]:
    r"""Trajectories on the attractor, at an equal number of points a dominant period for every system.

    With ``noise`` the dynamics is random: after each sample the state is kicked by
    :math:`\sigma\,s\sqrt{\Delta t/T}\,\xi`, where s is the coordinate's standard deviation and :math:`\xi` normal, so
    that the kicks of one period add up to :math:`\sigma s`.

    Args:
        system: what to observe.
        runs: independent starts.
        periods: length of each run.
        points: samples a period; 100 is the fine version of the collection, 15 the coarse one.
        noise: :math:`\sigma`; 0 for the deterministic flow, 0.2 for the noisy version.
        seed: of starts and kicks.
        transient: periods dropped before the first sample, at most 300 time units.

    Returns:
        states in the system's units; with noise, a run that is kicked out of the basin may leave all bounds.

    Raises:
        ValueError: if a size is not positive or the noise negative.
    """
    if min(runs, periods, points) < 1 or not 0 <= noise < np.inf or not transient >= 0:
        raise ValueError(
            f"runs {runs}, periods {periods}, points {points}, noise {noise}: sizes start at 1, noise at 0"
        )
    period = dominant_period(system) if system.period is None else system.period
    dt = period / points
    clean = ode.trajectories(system, dt, periods * points, runs, seed, min(300.0, transient * period))
    if noise == 0:
        return clean
    kick = noise * clean.std((0, 1)) * np.sqrt(1 / points)
    random, substeps = np.random.default_rng([seed, 2]), max(1, round(100 / points))
    state, states = clean[:, 0], [clean[:, 0]]
    unperturbed = np.zeros((*state.shape, 0))
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(clean.shape[1] - 1):
            for _ in range(substeps):
                state = ode.tangent_step(system, dt / substeps, state, unperturbed)[0]
            state = state + kick * random.standard_normal(state.shape)
            states.append(state)
    return np.stack(states, 1)


@dataclass(frozen=True)
class Tasks:
    """Forecasting tasks from one system.

    Attributes:
        train: what may be learned from, standardised by its own mean and standard deviation.
        truth: what follows, in the same units.
        points: samples a period.
    """

    train: Float[np.ndarray, "runs past dim"]
    truth: Float[np.ndarray, "runs ahead dim"]
    points: int


def forecast_tasks(
    states: Float[np.ndarray, "runs time dim"],
    points: int = 100,
    learned: int = 10,
    ahead: int = 2,
    coordinate: int = 0,
) -> Tasks:
    """One task a run: learn some periods of one coordinate and predict the next ones.

    Args:
        states: trajectories of a system.
        points: samples a period.
        learned: periods of training.
        ahead: periods to predict.
        coordinate: the one that is seen.

    Returns:
        the tasks.

    Raises:
        ValueError: if the states are not finite or shorter than both spans, or there is no such coordinate.
    """
    shaped("states", states, ("runs", "time", "dim"))
    finite(states=states)
    if states.shape[1] < (learned + ahead) * points:
        raise ValueError(f"states has {states.shape[1]} samples a run: this needs {(learned + ahead) * points}")
    if not 0 <= coordinate < states.shape[2]:
        raise ValueError(f"coordinate is {coordinate}, expected 0 to {states.shape[2] - 1}")
    seen = states[:, : (learned + ahead) * points, coordinate, None]
    past = seen[:, : learned * points]
    scaled = (seen - past.mean(1, keepdims=True)) / past.std(1, keepdims=True)
    return Tasks(scaled[:, : learned * points], scaled[:, learned * points :], points)


Fit = Callable[[np.ndarray, float, int, int, int], Simulator]  # series, setting, points, updates, seed


def _lag(setting: float, points: int) -> int:
    return max(1, round(setting * points))


def _network(fit: Callable[..., Simulator]) -> Fit:
    def trained(series: np.ndarray, setting: float, points: int, updates: int, seed: int) -> Simulator:
        horizon = max(1, points // 2)  # half a period at once, then rolled out
        return fit(series, _lag(setting, points), horizon=horizon, updates=updates, seed=seed, batch=32)

    return trained


FORECASTERS: dict[str, tuple[Fit, Sequence[float]]] = {
    "last value": (lambda series, setting, *_: forecasters.fit_last_value(series), (1.0,)),
    "seasonal": (
        lambda s, setting, points, *_: forecasters.fit_seasonal(s, _lag(setting, points)),
        (0.5, 1.0, 1.5, 2.0),
    ),
    "AR": (lambda s, setting, points, *_: forecasters.fit_autoregression(s, _lag(setting, points)), LAGS),
    "NVAR": (
        lambda s, setting, points, *_: forecasters.fit_nvar(s, TAPS, max(1, round(setting * points / (TAPS - 1)))),
        LAGS,
    ),
    "forest": (
        lambda s, setting, points, updates, seed: forecasters.fit_random_forest(s, _lag(setting, points), seed),
        LAGS,
    ),
    "echo state": (
        lambda s, setting, points, updates, seed: forecasters.fit_echo_state(s, points, seed, radius=setting),
        RADII,
    ),
    "LSTM": (_network(fit_lstm), LAGS),
    "N-BEATS": (_network(fit_nbeats), LAGS),
}
SEVEN = tuple(name for name in FORECASTERS if name != "seasonal")


def score(
    tasks: Tasks, name: str, updates: int = 300, runs: Sequence[int] | None = None
) -> list[dict[str, float | int]]:
    """Forecast errors of one forecaster on the tasks of one system.

    Its setting (the lag; the spectral radius of a reservoir) is chosen among four on the last training period of the first run,
    which is kept from the fit, and then serves all runs of the system, each learned anew from all its ten periods.

    Args:
        tasks: from :func:`forecast_tasks`.
        name: a key of :data:`FORECASTERS`.
        updates: of a network that is trained by gradients.
        runs: which of the tasks to meet; None for all. A run's number is also the forecaster's seed.

    Returns:
        for each run its number ``run``, ``smape`` in percent (200 for a forecast that is not finite) and the ``setting``.

    Raises:
        ValueError: if there is no such forecaster.
    """
    if name not in FORECASTERS:
        raise ValueError(f"name is {name!r}: expected one of {', '.join(FORECASTERS)}")
    fit, settings = FORECASTERS[name]

    def fitted(series: np.ndarray, setting: float, seed: int = 0) -> Simulator:
        return fit(series, setting, tasks.points, updates, seed)

    chosen = settings[0]
    if len(settings) > 1:
        chosen = forecasters.choose(fitted, settings, tasks.train[0], held=tasks.points)
    rows = []
    for run in range(len(tasks.train)) if runs is None else runs:
        past, truth = tasks.train[run], tasks.truth[run, None]
        with np.errstate(over="ignore", invalid="ignore"):
            forecast = fitted(past, chosen, run).simulate(past[None], truth.shape[1])
        rows.append({"run": run, "smape": float(running_smape(truth, forecast)[0, -1]), "setting": float(chosen)})
    return rows
