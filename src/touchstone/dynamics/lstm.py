r"""House baseline: a long short-term memory network that predicts the next step, trained on short windows.

The network hears a state and says how it will change; free runs feed its answers back. Training is by one-step
errors along windows with the recurrent state carried through (teacher forcing), as forecasting libraries do it.

Source: S. Hochreiter, J. Schmidhuber, Neural Computation 9, 1997.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.dynamics.budgeted import descend
from touchstone.dynamics.protocol import Series, check_past, check_series


class LSTM(nn.Module):
    """One recurrent layer and a linear read-out of the increment.

    Args:
        dim: number of states.
        width: memory cells.
        scale: typical size of an increment, one a state; the read-out is in units of it.
    """

    def __init__(self, dim: int, width: int, scale: Float[Tensor, "dim"]):
        super().__init__()
        self.cells, self.readout = nn.LSTM(dim, width, batch_first=True), nn.Linear(width, dim)
        self.register_buffer("scale", scale)

    def forward(self, states: Float[Tensor, "runs time dim"], memory: tuple | None = None) -> tuple[Tensor, tuple]:
        """Next states at every time, and the memory after the last."""
        activity, memory = self.cells(states, memory)
        return states + self.scale * self.readout(activity), memory

    @torch.no_grad()
    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start; all of them warm the memory up.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        following, memory = self(torch.as_tensor(past, dtype=torch.float32))
        orbit = [following[:, -1:]]
        while len(orbit) < steps:
            following, memory = self(orbit[-1], memory)
            orbit.append(following)
        return torch.cat(orbit, 1).double().numpy()


def fit_lstm(
    series: Float[np.ndarray, "time dim"],
    budget: Budget,
    seed: int,
    width: int = 64,
    window: int = 64,
    batch: int = 32,
    rates: tuple[float, float] = (5e-3, 1e-4),
) -> LSTM:
    """Train on random windows until the budget is spent; the learning rate falls geometrically over it.

    Args:
        series: standardised states at a constant interval.
        budget: CPU seconds.
        seed: of the weights and windows.
        width: memory cells.
        window: steps of a training window.
        batch: windows an update.
        rates: first and last learning rate of Adam.

    Returns:
        the trained network, a simulator.

    Raises:
        ValueError: if the series is not finite or shorter than two windows.
        FloatingPointError: if the loss stops being finite.
    """
    check_series(series, 2 * window)
    data = torch.as_tensor(series, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LSTM(data.shape[1], width, data.diff(dim=0).std(0) + 1e-6)
    within = torch.arange(window + 1)

    def loss() -> Tensor:
        windows = data[torch.randint(len(data) - window, (batch, 1), generator=generator) + within]
        return ((network(windows[:, :-1])[0] - windows[:, 1:]) / network.scale).square().mean()

    descend(network, loss, budget, rates, clip=1.0)
    return network


@entrant("dynamics", "lstm")
def learn(series: Series, budget: Budget, seed: int) -> LSTM:
    """Enter the ring with 64 cells."""
    return fit_lstm(series.states, budget, seed)
