r"""House baselines of this part that need no gradients: persistence, dynamic mode decomposition, nearest neighbours.

Sources: dynamic mode decomposition as a linear map of delay vectors, P. J. Schmid, 2010, and H. Arbabi, I. Mezić, 2017,
arXiv:1611.06664; simplex projection, G. Sugihara, R. M. May, Nature 344, 1990.
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

from touchstone.arena import Budget, entrant
from touchstone.dynamics.protocol import Series, Stepper, check_series, embedded


def persistence() -> Stepper:
    """The state stays where it is."""
    return Stepper(lambda window: window[:, -1])


def fit_dmd(series: Float[np.ndarray, "time dim"], memory: int = 1, ridge: float = 1e-8) -> Stepper:
    r"""Dynamic mode decomposition: the affine map of the last few states with the least squared one-step error.

    Args:
        series: standardised states at a constant interval.
        memory: states that the map looks at; 1 is the classical method, more is its delay form.
        ridge: penalty on the squared coefficients, for each observation.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or too short for as many coefficients.
    """
    check_series(series, memory * (series.shape[1] + 1) + 1)
    features = np.pad(embedded(series[:-1], memory), ((0, 0), (0, 1)), constant_values=1.0)
    gram = features.T @ features
    gram[np.diag_indices(len(gram) - 1)] += ridge * len(features)
    readout = np.linalg.solve(gram, features.T @ series[memory:])
    return Stepper(lambda window: window.reshape(len(window), -1) @ readout[:-1] + readout[-1], memory)


def fit_simplex(series: Float[np.ndarray, "time dim"], memory: int = 1, neighbours: int | None = None) -> Stepper:
    r"""Simplex projection: what followed the nearest delay vectors of the series, weighted by closeness.

    With distances :math:`d_i` to the neighbours the weights are :math:`e^{-d_i/d_1}`, normalised. The displacements of the
    neighbours are averaged, not their successors, so that runs do not jump onto the recorded states.

    Args:
        series: standardised states at a constant interval.
        memory: states in a delay vector.
        neighbours: how many; by default one more than a delay vector has entries.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or holds fewer delay vectors than neighbours.
    """
    neighbours = neighbours or memory * series.shape[1] + 1
    check_series(series, memory + neighbours)
    tree = cKDTree(embedded(series[:-1], memory))
    moves = np.diff(series, axis=0)[memory - 1 :]

    def advance(window: np.ndarray) -> np.ndarray:
        last = window[:, -1]
        query = np.where(np.isfinite(window).all((1, 2), keepdims=True), window, 0.0).reshape(len(window), -1)
        distance, index = tree.query(query, neighbours)
        distance, index = distance.reshape(len(query), -1), index.reshape(len(query), -1)
        weight = np.exp(-distance / np.maximum(distance[:, :1], 1e-12))
        weight /= weight.sum(1, keepdims=True)
        return last + (weight[..., None] * moves[index]).sum(1)

    return Stepper(advance, memory)


@entrant("dynamics", "persistence")
def stay(series: Series, budget: Budget, seed: int) -> Stepper:
    """Enter the ring with the last state."""
    return persistence()


def best_memory(fit, series: Float[np.ndarray, "time dim"], horizon: int = 50) -> int:
    """The number of delays, of 1, 2, 4 and 8, with the smallest error of forecasts on the last fifth of the series.

    Args:
        fit: from a series and a memory to a simulator.
        series: standardised states at a constant interval.
        horizon: steps forecast from each of twenty starts.

    Returns:
        the memory.

    Raises:
        ValueError: if the series is not finite or has fewer than 100 states.
    """
    check_series(series, 100)
    cut = int(0.8 * len(series))
    held, errors = series[cut:], {}
    horizon = min(horizon, len(held) - 10)  # of a short series
    starts = np.linspace(8, len(held) - horizon - 1, 20).astype(int)
    truth = np.stack([held[start : start + horizon] for start in starts])
    for memory in (1, 2, 4, 8):
        past = np.stack([held[start - memory : start] for start in starts])
        with np.errstate(over="ignore", invalid="ignore"):
            guess = fit(series[:cut], memory).simulate(past, horizon)
        errors[memory] = np.nan_to_num(np.sqrt(((guess - truth) ** 2).mean((1, 2))), nan=np.inf).clip(max=10).mean()
    return min(errors, key=errors.get)


@entrant("dynamics", "dmd")
def decompose(series: Series, budget: Budget, seed: int) -> Stepper:
    """Enter the ring with an affine map of delay vectors, their length chosen on the end of the series."""
    return fit_dmd(series.states, best_memory(fit_dmd, series.states))


@entrant("dynamics", "simplex")
def look_up(series: Series, budget: Budget, seed: int) -> Stepper:
    """Enter the ring with nearest neighbours of delay vectors, their length chosen on the end of the series."""
    return fit_simplex(series.states, best_memory(fit_simplex, series.states))
