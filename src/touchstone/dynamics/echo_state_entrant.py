"""House baseline: an echo state network of 300 nodes. Only its read-out is fitted, in a second or two, whatever the budget."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from touchstone.arena import Budget, entrant
from touchstone.dynamics.protocol import Series, check_past
from touchstone.dynamics.reservoir import EchoStateNetwork, fit_echo_state_network


@dataclass(frozen=True)
class EchoStateSimulator:
    """A fitted echo state network as a simulator.

    Attributes:
        network: the network.
    """

    network: EchoStateNetwork

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start; all of them warm the reservoir up.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty or not finite.
        """
        check_past(past)
        with np.errstate(over="ignore", invalid="ignore"):
            return self.network.free_run(past, steps)


@entrant("dynamics", "echo-state")
def learn(series: Series, budget: Budget, seed: int) -> EchoStateSimulator:
    """Enter the ring with 300 nodes and a spectral radius of 0.9."""
    return EchoStateSimulator(fit_echo_state_network(series.states, seed, nodes=300))
