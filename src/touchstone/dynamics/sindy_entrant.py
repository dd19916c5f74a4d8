"""House baseline: sparse identification of a cubic vector field from smoothed data, in a second or two, whatever the budget."""

import numpy as np
from jaxtyping import Float
from scipy.signal import savgol_filter

from touchstone.arena import Budget, entrant
from touchstone.dynamics.forecasters import choose
from touchstone.dynamics.protocol import Series, check_series
from touchstone.dynamics.sindy import SparseField, monomial_exponents, monomials, stlsq

STEP = 2 * np.pi / 50  # of the ring's series, in units in which rates are of order one
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2)
WINDOW, ORDER, DEGREE = 11, 4, 3  # of the smoothing filter; of the monomials


def fit_smoothed(series: Float[np.ndarray, "time dim"], threshold: float) -> SparseField:
    """A sparse cubic vector field whose rates come from a Savitzky-Golay filter.

    Args:
        series: standardised states, fifty a dominant period.
        threshold: coefficients smaller than it are dropped, in units in which the period is 2 pi.

    Returns:
        the field, a simulator.

    Raises:
        ValueError: if the series is not finite or shorter than 100 states.
    """
    check_series(series, 100)
    inner = slice(WINDOW, -WINDOW)
    states = savgol_filter(series, WINDOW, ORDER, axis=0)[inner]
    slopes = savgol_filter(series, WINDOW, ORDER, deriv=1, delta=STEP, axis=0)[inner]
    exponents = monomial_exponents(series.shape[1], DEGREE)
    return SparseField(exponents, stlsq(monomials(states, exponents), slopes, threshold), STEP)


@entrant("dynamics", "sindy")
def identify(series: Series, budget: Budget, seed: int) -> SparseField:
    """Enter the ring with cubic monomials, the threshold chosen on the end of the series."""
    check_series(series.states, 300)
    if series.states.shape[1] == 1:
        raise ValueError(
            "a single observed variable is no state: an equation of first order for it alone cannot oscillate"
        )
    threshold = choose(fit_smoothed, THRESHOLDS, series.states, held=len(series.states) // 5, runs=20, horizon=50)
    return fit_smoothed(series.states, threshold)
