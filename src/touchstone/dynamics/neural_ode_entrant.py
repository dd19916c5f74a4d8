r"""A neural ODE in the ring of this part: a vector field that is fitted to short windows of the series.

Every window starts on an observed state and is integrated with RK4, one step a sampling interval; the loss is the squared
error of all its states (multiple shooting, with the shooting points held at the data). The method's own module does not
know the ring, so that the ring can grow without touching its record.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.dynamics.budgeted import descend
from touchstone.dynamics.neural_ode_models import Perceptrons
from touchstone.dynamics.odeint import RK4, odeint, rk4_step
from touchstone.dynamics.protocol import Series, check_past, check_series
from touchstone.nn.networks import generators


class LearnedField(nn.Module):
    """An autonomous vector field, in units of the sampling interval.

    Args:
        seed: of the weights.
        scale: typical change of a state in an interval, one a state; the network's outputs are in units of it.
        width: units of each of two hidden layers.
    """

    def __init__(self, seed: int, scale: Float[Tensor, "dim"], width: int = 64):
        super().__init__()
        self.network = Perceptrons(generators([seed]), [len(scale), width, width, len(scale)])
        self.register_buffer("scale", scale)

    def forward(self, time: float, state: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """Change of the states in an interval."""
        return self.scale * self.network(state[None])[0]

    @torch.no_grad()
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
        state, orbit = torch.as_tensor(past[:, -1], dtype=torch.float32), []
        for _ in range(steps):  # not `odeint`, which takes no states that have left the finite numbers
            state = rk4_step(self, 0.0, state, 1.0)
            orbit.append(state)
        return torch.stack(orbit, 1).double().numpy()


def fit_field(
    series: Float[np.ndarray, "time dim"],
    budget: Budget,
    seed: int,
    width: int = 64,
    window: int = 12,
    batch: int = 64,
    rates: tuple[float, float] = (5e-3, 1e-4),
) -> LearnedField:
    """Train on random windows until the budget is spent; the learning rate falls geometrically over it.

    Args:
        series: standardised states at a constant interval.
        budget: CPU seconds.
        seed: of the weights and windows.
        width: units of each of two hidden layers.
        window: steps from a start to the end of its window.
        batch: windows an update.
        rates: first and last learning rate of Adam.

    Returns:
        the field, a simulator.

    Raises:
        ValueError: if the series is not finite or shorter than two windows.
        FloatingPointError: if the loss stops being finite.
    """
    check_series(series, 2 * window)
    data = torch.as_tensor(series, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    scale = data.diff(dim=0).std(0) + 1e-6
    field = LearnedField(seed, scale, width)
    within, times = torch.arange(window + 1), torch.arange(window + 1.0)

    def loss() -> Tensor:
        windows = data[torch.randint(len(data) - window, (batch, 1), generator=generator) + within]
        path = odeint(field, windows[:, 0], times, RK4())
        return ((path[1:] - windows.transpose(0, 1)[1:]) / scale).square().mean()

    descend(field, loss, budget, rates, clip=1.0)
    return field


@entrant("dynamics", "neural-ode")
def learn(series: Series, budget: Budget, seed: int) -> LearnedField:
    """Enter the ring with two hidden layers of 64 units and windows of 12 steps."""
    return fit_field(series.states, budget, seed)
