"""The information-shaped Koopman autoencoder in the ring of this part: latents of the last state, both terms, public weights.

The method's own module does not know the ring, so that the ring can grow without touching its record.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.dynamics.budgeted import descend
from touchstone.dynamics.information_koopman import KoopmanAutoencoder, refit
from touchstone.dynamics.protocol import Series, check_past, check_series
from touchstone.nn.networks import generators


@dataclass(frozen=True)
class KoopmanSimulator:
    """Encoder, matrix and decoder of one model.

    Attributes:
        model: the stack of one.
        operator: its matrix.
    """

    model: KoopmanAutoencoder
    operator: Float[Tensor, "1 latent latent"]

    @torch.no_grad()
    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once; the latent state is never encoded again.

        Args:
            past: states up to the start, of which the last is encoded.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        latents, orbit = self.model.encode(torch.as_tensor(past[:, -1], dtype=torch.float32)[None]), []
        for _ in range(steps):
            latents = latents @ self.operator
            orbit.append(self.model.decode(latents)[0])
        return torch.stack(orbit, 1).double().numpy()


def fit_koopman(
    series: Float[np.ndarray, "time dim"],
    budget: Budget,
    seed: int,
    alpha: float = 2.0,
    beta: float = 0.1,
    pairs: int = 16,
    batch: int = 32,
    rates: tuple[float, float] = (1e-3, 1e-4),
) -> KoopmanSimulator:
    """Train on random windows until the budget is spent; the learning rate falls geometrically over it.

    Args:
        series: standardised states at a constant interval.
        budget: CPU seconds.
        seed: of the weights and windows.
        alpha: weight of the mutual-information term.
        beta: weight of the entropy.
        pairs: successive pairs in a window.
        batch: windows an update.
        rates: first and last learning rate of Adam.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or shorter than two windows.
        FloatingPointError: if the loss stops being finite.
    """
    check_series(series, 2 * pairs)
    data = torch.as_tensor(series, dtype=torch.float32)
    model = KoopmanAutoencoder([seed], data.shape[1])
    [draw] = generators([seed], stream=1)
    within, weights = torch.arange(pairs + 1), (torch.tensor([alpha]), torch.tensor([beta]))

    def loss() -> Tensor:
        first = torch.randint(len(data) - pairs, (1, batch, 1), generator=draw)
        return model.loss(data[first + within], *weights)["total"].sum()

    descend(model, loss, budget, rates, clip=1.0)
    return KoopmanSimulator(model, refit(model, data[None])[0])


@entrant("dynamics", "information-koopman")
def learn(series: Series, budget: Budget, seed: int) -> KoopmanSimulator:
    """Enter the ring with 16 latents and the authors' weights of the two terms."""
    return fit_koopman(series.states, budget, seed)
