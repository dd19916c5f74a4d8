"""The recurrent rival: one memory network a seed encodes a window and continues it step by step, trained on its own outputs."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.disentangled_dynamics import draw_windows, errors
from touchstone.dynamics.disentangled_dynamics_domains import Trajectories
from touchstone.dynamics.lstm import LSTM
from touchstone.nn.networks import generators


class LSTMForecasters(nn.Module):
    """One network a seed, with the interface of the autoencoders' stack.

    Args:
        networks: one a seed.
        seeds: their seeds.
        window: states that are seen.
    """

    def __init__(self, networks: Sequence[LSTM], seeds: Sequence[int], window: int = 10):
        super().__init__()
        self.networks, self.seeds, self.window = nn.ModuleList(networks), list(seeds), window
        self.members = [("LSTM", seed) for seed in seeds]

    def forecast(
        self,
        past: Float[Tensor, "members runs window dim"],
        labels: Float[Tensor, "members runs parameters"],
        steps: int,
    ) -> Float[Tensor, "members runs steps dim"]:
        """Continue windows with the memory carried along.

        Args:
            past: the last states.
            labels: not used.
            steps: how many states to append.

        Raises:
            ValueError: if the past is empty, not finite or of another shape.
        """
        finite(past=past)
        shaped("past", past, (len(self.members), "runs", "window", "dim"))
        runs = [torch.from_numpy(n.simulate(p.numpy(), steps)) for n, p in zip(self.networks, past, strict=True)]
        return torch.stack(runs).to(past.dtype)


def continued(network: LSTM, windows: Float[Tensor, "batch window dim"]) -> Float[Tensor, "batch window dim"]:
    """The states after a window, as many as it has, with gradients.

    Args:
        network: hears the window, then its own outputs.
        windows: what is seen.
    """
    following, memory = network(windows)
    outputs = [following[:, -1:]]
    while len(outputs) < windows.shape[1]:
        following, memory = network(outputs[-1], memory)
        outputs.append(following)
    return torch.cat(outputs, 1)


def train_lstm(
    seeds: Sequence[int],
    data: Trajectories,
    validation: Trajectories,
    updates: int = 3000,
    batch: int = 32,
    rates: tuple[float, float] = (3e-3, 3e-5),
    cells: int = 100,
    window: int = 10,
    horizon: int = 50,
    checks: int = 20,
) -> LSTMForecasters:
    """Adam on the mean absolute error of continued windows; rates, clipping and choice of weights as for the autoencoders.

    Args:
        seeds: one network for each.
        data: training trajectories, one set a seed.
        validation: in-range trajectories to choose the weights by; their noisy states are the truth.
        updates: of Adam.
        batch: windows an update.
        rates: first and last learning rate.
        cells: of the memory.
        window: states that are seen, and states that are forecast in training.
        horizon: steps of the forecasts on the validation trajectories.
        checks: how often these are made.

    Raises:
        ValueError: if data are not finite or ``updates`` or ``batch`` is not positive.
    """
    finite(observed=data.observed)
    if min(updates, batch) < 1:
        raise ValueError(f"updates and batch are {updates} and {batch}: give positive numbers")
    networks = []
    for i, seed in enumerate(seeds):
        own = Trajectories(data.observed[i : i + 1], data.states[i : i + 1], data.labels[i : i + 1])
        noisy = validation.observed[i : i + 1]
        seen = Trajectories(noisy, noisy, validation.labels[i : i + 1])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            increments = own.observed.diff(dim=2).std((0, 1, 2))
            network = LSTM(noisy.shape[-1], cells, increments + 1e-6)
        model, places = LSTMForecasters([network], [seed], window), generators([seed], 3)
        best, kept = torch.inf, {name: value.clone() for name, value in network.state_dict().items()}
        optimiser = torch.optim.Adam(network.parameters(), rates[0], fused=True)
        for update in range(updates):
            optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** (update / updates)
            windows, targets = draw_windows(own, 2 * window, batch, places)[0][0].split(window, 1)
            loss = (continued(network, windows) - targets).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            if (update + 1) % max(1, updates // checks) == 0:
                score = errors(model, seen, horizon).mean().item()
                if score < best:
                    best, kept = score, {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(kept)
        networks.append(network)
    return LSTMForecasters(networks, seeds, window)
