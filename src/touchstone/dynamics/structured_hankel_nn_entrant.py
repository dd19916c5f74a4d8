r"""The structured Hankel network in the ring of this part: 16 delays of every state, four copies, trained until the budget ends.

The method's own module does not know the ring, so that the ring can grow without touching its record.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.dynamics.budgeted import descend
from touchstone.dynamics.protocol import Series, check_past, check_series
from touchstone.dynamics.structured_hankel_nn import HankelNetwork, Layout, Stepper
from touchstone.nn.networks import generators


@dataclass(frozen=True)
class HankelSimulator:
    """A trained model of one seed as a simulator.

    Args:
        model: the stack of one.
    """

    model: Stepper

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty, not finite, or shorter than the windows.
        """
        check_past(past, self.model.layout.memory)
        return self.model.free_run(torch.as_tensor(past, dtype=torch.float32)[None], steps)[0].double().numpy()


def fit_hankel(
    series: Float[np.ndarray, "time dim"],
    budget: Budget,
    seed: int,
    memory: int = 16,
    copies: int = 4,
    batch: int = 128,
    rates: tuple[float, float] = (2e-2, 2e-4),
) -> HankelSimulator:
    """Train on random windows until the budget is spent; the learning rate falls geometrically over it.

    Args:
        series: standardised states at a constant interval.
        budget: CPU seconds.
        seed: of the weights and windows.
        memory: delays of each state; windows are padded to a power of two.
        copies: parallel copies.
        batch: windows an update.
        rates: first and last learning rate of Adam.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than two windows.
        FloatingPointError: if the loss stops being finite.
    """
    check_series(series, 2 * memory)
    data = torch.as_tensor(series, dtype=torch.float32)
    layout = Layout(memory, data.shape[1], 1 << (memory * data.shape[1] - 1).bit_length())
    model = Stepper(HankelNetwork([seed], layout.size, copies), layout, data.diff(dim=0).std(0) + 1e-6)
    windows, following = layout.windows(data[:-1]), data[memory:]
    [draw] = generators([seed], stream=1)

    def loss() -> Tensor:
        picked = torch.randint(len(windows), (1, batch), generator=draw)
        return ((model(windows[picked]) - following[picked]) / model.scale).square().mean()

    descend(model, loss, budget, rates)
    return HankelSimulator(model)


@entrant("dynamics", "structured-hankel-nn")
def learn(series: Series, budget: Budget, seed: int) -> HankelSimulator:
    """Enter the ring with 16 delays and four copies."""
    return fit_hankel(series.states, budget, seed)
