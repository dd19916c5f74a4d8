r"""Rivals of :mod:`~touchstone.dynamics.concernet`: InfoNCE in place of the ratio loss, and a Hamiltonian network.

Sources: A. van den Oord, Y. Li, O. Vinyals, 2018, arXiv:1807.03748; S. Greydanus, M. Dzamba, J. Yosinski, 2019,
arXiv:1906.01563.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.concernet import batches, fit, gradient
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.nn.networks import generators


def info_nce(values: Float[Tensor, "members trajectories points outputs"]) -> Float[Tensor, "members"]:
    r"""Mean over pairs on one trajectory of :math:`-\ln\big(e^{-d_{ij}}/\sum_{k\ne i}e^{-d_{ik}}\big)`.

    Args:
        values: H at points of several trajectories.

    Returns:
        loss of each member; it depends on the scale of H, which is learned.
    """
    count, size = values.shape[1:3]
    flat = values.flatten(1, 2)
    apart = (flat[:, :, None] - flat[:, None]).square().sum(-1)
    itself = torch.eye(count * size, dtype=torch.bool)
    total = torch.logsumexp((-apart).masked_fill(itself, -torch.inf), -1)
    number = torch.arange(count * size) // size
    pairs = (number[:, None] == number) & ~itself
    return (apart * pairs).sum((1, 2)) / pairs.sum() + total.mean(1)


@dataclass
class HamiltonianField:
    r"""The flow of a learned energy, :math:`\dot q=\partial H/\partial p,\ \dot p=-\partial H/\partial q`.

    Args:
        network: the energy.
        pairs: factor of each conjugate pair, one over the product of the units of its position and momentum.
    """

    network: Perceptrons
    pairs: Float[Tensor, "members 1 half"]

    def __call__(self, points: Float[Tensor, "members batch n"], graph: bool = False) -> Tensor:
        """Time derivative; positions come first, then momenta."""
        place, momentum = gradient(self.network, points, graph)[..., 0, :].chunk(2, -1)
        return torch.cat([momentum * self.pairs, -place * self.pairs], -1)


def learn_hamiltonian(
    states: Float[Tensor, "members trajectories points dim"],
    rates: Float[Tensor, "members trajectories points dim"],
    units: Float[Tensor, "members dim"],
    seeds: Sequence[int],
    updates: int = 3000,
    rate: float = 1e-3,
    width: int = 100,
) -> HamiltonianField:
    """Fit an energy to time derivatives.

    Args:
        states: standardised, positions first, then momenta.
        rates: their time derivatives.
        units: of the coordinates, by which they were divided.
        seeds: one a member.
        updates: of Adam.
        rate: the first one.
        width: of the two hidden layers.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other, or the dimension is odd.
    """
    finite(states=states, rates=rates, units=units)
    shaped("states", states, (len(seeds), "trajectories", "points", "dim"))
    shaped("rates", rates, states.shape)
    if states.shape[-1] % 2:
        raise ValueError(f"states has {states.shape[-1]} coordinates: give positions and as many momenta")
    place, momentum = units.chunk(2, -1)
    pairs = 1 / (place * momentum)
    network = Perceptrons(generators(seeds, 3), [states.shape[-1], width, width, 1])
    field = HamiltonianField(network, (pairs / pairs.mean(-1, keepdim=True))[:, None])
    every, targets, member = states.flatten(1, 2), rates.flatten(1, 2), torch.arange(len(seeds))[:, None]

    def objective(pick: Tensor) -> Tensor:
        return (field(every[member, pick], graph=True) - targets[member, pick]).square().mean((1, 2))

    fit(network, batches(seeds, *states.shape[1:3], updates, 4), objective, updates, rate)
    return field
