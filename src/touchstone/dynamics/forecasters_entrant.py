"""Forecasters of the benchmark pages in the ring of this part: the next-generation reservoir (NVAR) and N-BEATS.

Their modules do not know the ring, so that the ring can grow without touching the records of those pages.
"""

import numpy as np
from jaxtyping import Float

from touchstone.arena import Budget, entrant
from touchstone.dynamics.forecasters import choose, fit_nvar
from touchstone.dynamics.neural_forecasters import BlockForecaster, fit_nbeats
from touchstone.dynamics.protocol import Series, Stepper, check_series

DELAYS, SPACINGS = 4, (1, 2, 4, 8)  # states that NVAR looks at; steps between them that it tries
LOOKBACK, BLOCK = 50, 25  # of N-BEATS: a dominant period of the ring's series, and half of one


@entrant("dynamics", "nvar")
def regress(series: Series, budget: Budget, seed: int) -> Stepper:
    """Enter the ring with four delayed states and their products, the delay chosen on the end of the series."""

    check_series(series.states, 300)

    def fit(states: Float[np.ndarray, "time dim"], spacing: int) -> Stepper:
        return fit_nvar(states, DELAYS, spacing)

    spacing = choose(fit, SPACINGS, series.states, held=len(series.states) // 5, runs=20, horizon=50)
    return fit(series.states, spacing)


@entrant("dynamics", "n-beats")
def learn(series: Series, budget: Budget, seed: int) -> BlockForecaster:
    """Enter the ring with six blocks that look at one period and say half of one."""
    return fit_nbeats(series.states, LOOKBACK, horizon=BLOCK, seconds=budget.seconds - budget.spent(), seed=seed)
