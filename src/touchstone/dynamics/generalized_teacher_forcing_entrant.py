r"""Generalized teacher forcing in the ring of this part: a shallow piecewise-linear network, adaptive forcing.

Settings are those of the method's page; only the number of updates follows the budget, from the time that a few of them take.
The method's own module does not know the ring, so that the ring can grow without touching its record.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.dynamics.budgeted import sized, until_timeout
from touchstone.dynamics.generalized_teacher_forcing import AdaptiveForcing
from touchstone.dynamics.plrnn import ShallowPLRNN, init_plrnn
from touchstone.dynamics.protocol import Series, check_past, check_series
from touchstone.dynamics.recurrent import free_run, train

POINTS = 65  # of a window, the start included


@dataclass(frozen=True)
class ShallowSimulator:
    """A trained network of one seed as a simulator.

    Attributes:
        model: the stack of one.
    """

    model: ShallowPLRNN

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start; the last of each run is where it starts.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        return free_run(self.model, torch.as_tensor(past[None, :, -1], dtype=torch.float64), steps)[0].numpy()


def fit_plrnn(
    series: Float[np.ndarray, "time dim"], budget: Budget, seed: int, hidden: int | None = None
) -> ShallowSimulator:
    """Train for as many updates as the budget allows; the learning rate falls geometrically over them.

    Args:
        series: standardised states at a constant interval.
        budget: CPU seconds.
        seed: of the weights and windows.
        hidden: hidden units; by default 50 for up to six states and 100 for more, as on the method's page.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than a window.
    """
    check_series(series, POINTS)
    data = torch.as_tensor(series, dtype=torch.float32)
    dim = data.shape[1]
    hidden = hidden or (50 if dim <= 6 else 100)

    def run(updates: int, look: Callable[[], None]) -> ShallowPLRNN:
        model, adaptive = init_plrnn([seed], dim, hidden), AdaptiveForcing(1)

        def forcing(update: int, stack: ShallowPLRNN, windows: Tensor) -> Tensor:
            look()
            return adaptive(update, stack, windows)

        with until_timeout:
            train(model, data, [seed], forcing, updates, POINTS)
        return model

    return ShallowSimulator(sized(run, budget).to(torch.float64))


@entrant("dynamics", "generalized-teacher-forcing")
def learn(series: Series, budget: Budget, seed: int) -> ShallowSimulator:
    """Enter the ring with the page's network and its adaptive strength."""
    return fit_plrnn(series.states, budget, seed)
