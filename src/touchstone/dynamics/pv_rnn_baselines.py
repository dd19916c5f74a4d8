"""What PV-RNN is compared with: a posterior that reads the observations, and a network without randomness."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.dynamics.pv_rnn import PVRNN, fit, init_pv_rnn


class Encoder(nn.Module):
    """Amortised posterior: in place of stored vectors, a network reads the observation of the same step (VRNN).

    The rest is PV-RNN's: same units, same prior, same part of the posterior that comes from the units, same objective.

    Args:
        codes: training sequences.
        seeds: one seed a model.
        latent: latent variables of a model.
        width: hidden units.
    """

    def __init__(
        self, codes: Float[Tensor, "time models batch groups bins"], seeds: list[int], latent: int, width: int
    ):
        super().__init__()
        self.codes, inputs = codes, codes.shape[3] * codes.shape[4]
        drawn = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(3_000_003 + seed)
            drawn.append(
                (
                    torch.randn(inputs, width, generator=generator) / inputs**0.5,
                    torch.randn(width, 2 * latent, generator=generator) / width**0.5,
                )
            )
        first, second = (torch.stack(values) for values in zip(*drawn, strict=True))
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)
        self.bias = nn.Parameter(torch.zeros(len(seeds), 1, width))

    def forward(self, codes: Float[Tensor, "time models batch groups bins"] | None = None) -> Tensor:
        """What takes the place of the adaptive vectors, for the training sequences or for others."""
        seen = (self.codes if codes is None else codes).flatten(-2)
        return torch.matmul((torch.matmul(seen, self.first) + self.bias).tanh(), self.second)


class InitialState(nn.Module):
    """Vectors that are free at the first step only, for the network without randomness."""

    def __init__(self, time: int, models: int, batch: int, latent: int):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1, models, batch, 2 * latent))
        self.register_buffer("rest", torch.zeros(time - 1, models, batch, 2 * latent))

    def forward(self) -> Tensor:
        return torch.cat([self.a, self.rest])


def fit_deterministic(
    codes: Float[Tensor, "time models batch groups bins"],
    seeds: list[int],
    units: int,
    constant: float | int,
    epochs: int,
) -> tuple[PVRNN, InitialState]:
    """Ordinary recurrent network with a learned initial state for each sequence, by the same loop.

    It has as many latent variables as units, which carry the initial state in the first step and are zero afterwards.

    Args:
        codes: training sequences of each model.
        seeds: one seed a model.
        units: number of units.
        constant: time constant, in steps.
        epochs: number of updates.

    Returns:
        the networks and the initial states.
    """
    model = init_pv_rnn(seeds, [units], [units], [constant], codes.shape[3] * codes.shape[4])
    model.mask_z.zero_()  # neither heads nor Wz are trained: z is tanh(a) at the first step, then 0
    model.Wz.copy_(2 * constant * torch.eye(units).expand_as(model.Wz))  # potentials between -2 and 2
    model.Wp.zero_(), model.Wq.zero_()
    states = InitialState(len(codes), len(seeds), codes.shape[2], units)
    fit(model, states, codes, torch.zeros(len(seeds)), seeds, epochs, noise=0.0)
    return model, states
