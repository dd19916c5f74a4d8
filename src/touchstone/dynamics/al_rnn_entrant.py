r"""The almost-linear network in the ring of this part: 20 units, two of them rectified, sparse teacher forcing.

Settings are those of the registered runs of the method's page, where the forcing interval is a fifth of the dominant period;
only the number of updates follows the budget, from the time that a few of them take. The authors' windows of 200 steps need
ten times as long. The method's own module does not know the ring, so that the ring can grow without touching its record.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.data.trajectory import spectral_period
from touchstone.dynamics.al_rnn import AlmostLinearRNN, init_al_rnn
from touchstone.dynamics.budgeted import sized, until_timeout
from touchstone.dynamics.protocol import Series, check_past, check_series
from touchstone.dynamics.recurrent import free_run, sparse_forcing, train

POINTS, INTERVAL = 65, 16  # of a window, the start included; most steps between two replacements
SHARE = 0.21  # of a period between two replacements: 16 steps of 0.01 on the page, whose period is 0.759


@dataclass(frozen=True)
class AlmostLinearSimulator:
    """A trained network of one seed as a simulator.

    Attributes:
        model: the stack of one.
    """

    model: AlmostLinearRNN

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start; the last of each run is where it starts, the other units start at the learned guess.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        start = self.model.start(torch.as_tensor(past[None, :, -1], dtype=torch.float64))
        return free_run(self.model, start, steps)[0, ..., : past.shape[2]].numpy()


def forcing_interval(series: Float[np.ndarray, "time dim"]) -> int:
    """Steps between two replacements of the state: a fifth of the dominant period, at most 16.

    Args:
        series: states at a constant interval.

    Returns:
        the interval, 16 where nothing oscillates.
    """
    try:
        return int(np.clip(round(SHARE * spectral_period(series[None], 1.0)), 1, INTERVAL))
    except ValueError:
        return INTERVAL


def fit_al_rnn(
    series: Float[np.ndarray, "time dim"],
    budget: Budget,
    seed: int,
    latent: int = 20,
    rectified: int = 2,
    batch: int = 16,
    rates: tuple[float, float] = (5e-3, 1e-5),
    clip: float = 10.0,
    noise: float = 0.05,
) -> AlmostLinearSimulator:
    """Train for as many updates as the budget allows; the learning rate falls geometrically over them.

    Args:
        series: standardised states at a constant interval.
        budget: CPU seconds.
        seed: of the weights, windows and noise.
        latent: units; ten more than there are states where these are many.
        rectified: how many of the units are rectified.
        batch: windows an update.
        rates: first and last learning rate.
        clip: largest norm of the gradients.
        noise: standard deviation of the noise added to windows.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than a window.
    """
    check_series(series, POINTS)
    data = torch.as_tensor(series, dtype=torch.float32)
    dim = data.shape[1]
    alpha = sparse_forcing(POINTS, forcing_interval(series), 1)

    def run(updates: int, look: Callable[[], None]) -> AlmostLinearRNN:
        model = init_al_rnn([seed], [rectified], dim, max(latent, dim + 10))

        def forcing(*_: object) -> Tensor:
            look()
            return alpha

        with until_timeout:
            train(model, data, [seed], forcing, updates, POINTS, batch, rates, clip, noise)
        return model

    return AlmostLinearSimulator(sized(run, budget).to(torch.float64))


@entrant("dynamics", "al-rnn")
def learn(series: Series, budget: Budget, seed: int) -> AlmostLinearSimulator:
    """Enter the ring with 20 units, two of them rectified."""
    return fit_al_rnn(series.states, budget, seed)
