"""What contestants of this part meet: a noisy series of one system to learn from, and unseen runs to be judged by.

Every system is sampled at the same number of points a dominant period, so that a step means the same to all. A contestant gets
the series and nothing else; the judge draws the test runs from the name of the series.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from touchstone.data import dysts_systems, regular
from touchstone.data.chaotic_flows import CHAOS12
from touchstone.data.ode import System, trajectories
from touchstone.data.trajectory import trajectory
from touchstone.dynamics.protocol import Series, Simulator, embedded
from touchstone.metrics import attractors

POINTS = 50  # a dominant period
LENGTH = 10_000  # of the series to learn from: two hundred periods
PAST, DROP, KEPT, STARTS = (
    200,
    500,
    2000,
    20,
)  # states before a start, steps left out of and kept for invariants, test runs
SIX = ("Aizawa", "Chen", "GlycolyticOscillation", "LuChen", "SanUmSrisuchinwong", "SprottN")  # what every_nth() says
HORIZON = 20.0  # Lyapunov times within which forecasts are judged
WIDTH = 0.3  # of the mixtures' components, in std: with 1, twenty points that stand still score 0.1 on Lorenz-96, with 0.3 they score 4


def _all(states: np.ndarray) -> np.ndarray:
    return states


def _first(states: np.ndarray) -> np.ndarray:
    return states[..., :1]


def _with_phase(states: np.ndarray) -> np.ndarray:
    """Position and velocity, and the phase of the force as a point of the circle."""
    return np.concatenate([states[..., :2], np.cos(states[..., 2:]), np.sin(states[..., 2:])], -1)


@dataclass(frozen=True)
class Challenge:
    """A system and how it is seen.

    Attributes:
        name: under which contestants meet it.
        system: makes the system.
        noise: standard deviation of the observation noise, in units of each coordinate's own.
        observe: from states to what is seen of them.
    """

    name: str
    system: Callable[[], System]
    noise: float = 0.01
    observe: Callable[[np.ndarray], np.ndarray] = field(default=_all, repr=False)

    def _seen(self, clean: np.ndarray, seed: int) -> np.ndarray:
        """Standardised observations with noise."""
        mean, std = self._scale
        noise = np.random.default_rng([seed, 7]).standard_normal(clean.shape)
        return (clean - mean) / std + self.noise * noise

    @functools.cached_property
    def _learned(self) -> tuple[np.ndarray, float, float]:
        """The clean series to learn from, the sampling interval and the exponent."""
        found = trajectory(self.system(), LENGTH, POINTS, seed=0)
        return self.observe(found.clean[0]), found.dt, found.exponent

    @functools.cached_property
    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        return self._learned[0].mean(0), self._learned[0].std(0)

    def series(self) -> Series:
        """What a contestant learns from."""
        clean, dt, _ = self._learned
        return Series(self.name, self._seen(clean, 0), dt)

    @functools.cached_property
    def test(self) -> tuple[Float[np.ndarray, "runs past dim"], Float[np.ndarray, "runs steps dim"]]:
        """Pasts as a contestant may see them, and the clean continuations; from starts of their own."""
        steps = PAST + max(DROP + KEPT, self.forecast_steps)
        clean = self.observe(trajectories(self.system(), self._learned[1], steps, STARTS, seed=1))
        mean, std = self._scale
        return self._seen(clean[:, :PAST], 1), ((clean - mean) / std)[:, PAST:]

    @property
    def forecast_steps(self) -> int:
        """Steps within which forecasts are judged; no more than runs are long for the invariants."""
        _, dt, exponent = self._learned
        return min(DROP + KEPT, int(np.ceil(HORIZON / (exponent * dt))))


def every_nth(count: int = 6) -> list[str]:
    """Flows of dysts picked by a fixed rule: of those with three states and a positive exponent, every n-th by name.

    Args:
        count: how many.

    Returns:
        their names in dysts.
    """
    known = [(name, dysts_systems.annotations(name)) for name in dysts_systems.names()]
    fit = [
        name for name, about in known if about["embedding_dimension"] == 3 and about["maximum_lyapunov_estimated"] > 0
    ]
    return fit[:: len(fit) // count][:count]


CHALLENGES: dict[str, Challenge] = {
    challenge.name: challenge
    for challenge in [
        Challenge("lorenz-63", lambda: CHAOS12["lorenz-63"]),
        Challenge("roessler", lambda: CHAOS12["roessler"]),
        Challenge("lorenz-96", lambda: CHAOS12["lorenz-96-5"]),
        Challenge("duffing", lambda: regular.system("forced-duffing"), observe=_with_phase),
        Challenge("lorenz-63-partial", lambda: CHAOS12["lorenz-63"], 0.1, _first),
        *[Challenge(f"dysts-{name.lower()}", functools.partial(dysts_systems.system, name)) for name in SIX],
    ]
}


def score(simulator: Simulator, series: Series) -> dict[str, float]:
    """Judge free runs from unseen starts.

    Args:
        simulator: what a contestant handed back.
        series: what it learned from; only its name is used.

    Returns:
        ``VPT``, the median valid prediction time in Lyapunov times; ``D_stsp`` in nats and ``D_H`` of the runs' later part. Where
        a single coordinate is seen, D_stsp compares delay vectors of three.
    """
    challenge = CHALLENGES[series.name]
    past, truth = challenge.test
    with np.errstate(over="ignore", invalid="ignore"):
        run = np.asarray(simulator.simulate(past, truth.shape[1]), dtype=float)
    run = np.where(np.abs(run) < 1e6, run, np.nan)  # far outside is as lost as infinite
    near = challenge.forecast_steps
    _, dt, exponent = challenge._learned
    valid = attractors.valid_prediction_time(truth[:, :near], run[:, :near], dt, exponent, truth.std((0, 1)))
    late, later = truth[:, DROP : DROP + KEPT], run[:, DROP : DROP + KEPT]
    shapes = (late, later) if truth.shape[2] > 1 else (_delays(late), _delays(later))
    few = shapes[0].shape[2] <= 3
    divergence = (
        attractors.state_space_divergence if few else functools.partial(attractors.mixture_divergence, width=WIDTH)
    )
    return {
        "VPT": float(np.median(valid)),
        "D_stsp": divergence(*shapes),
        "D_H": attractors.spectral_distance(late, later),
    }


def _delays(runs: np.ndarray) -> np.ndarray:
    """Delay vectors of three, a sixth of a period apart."""
    lag = POINTS // 6
    return np.stack([embedded(run, 2 * lag + 1)[:, [0, lag, 2 * lag]] for run in runs])
