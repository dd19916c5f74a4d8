"""What symbolic distillation is compared with: a Hamiltonian graph network, one perceptron for all particles, and direct search.

The networks have the sizes, loss, shifts, batches and updates of :func:`touchstone.dynamics.symbolic_distillation.train`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.dynamics.symbolic_distillation import DIMENSIONS, SHIFT
from touchstone.dynamics.symbolic_distillation_particles import Graphs, pairs
from touchstone.dynamics.symbolic_regression import Expression, evolve
from touchstone.nn.networks import generators


class AllParticles(nn.Module):
    """A perceptron from all particles' features to all accelerations; it knows one number of particles only.

    Args:
        draws: one generator a member.
        particles: their number.
        hidden: width of the three hidden layers.
    """

    def __init__(self, draws: Sequence[torch.Generator], particles: int = 4, hidden: int = 64):
        super().__init__()
        self.net = Perceptrons(draws, [6 * particles, *[hidden] * 3, DIMENSIONS * particles], torch.relu)

    def forward(self, nodes: Float[Tensor, "members graphs n 6"]) -> Float[Tensor, "members graphs n 2"]:
        """Accelerations."""
        return self.net(nodes.flatten(2)).unflatten(2, (nodes.shape[2], DIMENSIONS))

    def cost(self, nodes: Tensor) -> float:
        """No penalty."""
        return 0.0


class HamiltonianNet(nn.Module):
    r"""Energies of particles and of pairs by perceptrons, :math:`H=\sum_iH_1(v_i)+\sum_{i\ne j}H_2(v_i,v_j)`, and Hamilton's equations.

    The message is a scalar energy. Features hold momenta in place of velocities; accelerations are :math:`-\partial_{x_i}H/m_i`.

    Args:
        draws: one generator a member.
        hidden: width of the three hidden layers.
    """

    def __init__(self, draws: Sequence[torch.Generator], hidden: int = 64):
        super().__init__()
        self.pair = Perceptrons(draws, [12, *[hidden] * 3, 1], nn.functional.softplus)
        self.own = Perceptrons(draws, [6, *[hidden] * 3, 1], nn.functional.softplus)

    def energies(
        self, nodes: Float[Tensor, "members graphs n 6"]
    ) -> tuple[Float[Tensor, "members graphs edges"], Float[Tensor, "members graphs n"]]:
        """Energies of ordered pairs and of particles."""
        momentum = nodes[..., 2:4] * nodes[..., 5:]
        nodes = torch.cat([nodes[..., :2], momentum, nodes[..., 4:]], -1)
        receiver, sender = pairs(nodes.shape[2])
        ends = torch.cat([nodes[:, :, receiver], nodes[:, :, sender]], -1)
        pair = self.pair(ends.flatten(1, 2)).unflatten(1, ends.shape[1:3])[..., 0]
        return pair, self.own(nodes.flatten(1, 2)).unflatten(1, nodes.shape[1:3])[..., 0]

    def forward(self, nodes: Float[Tensor, "members graphs n 6"]) -> Float[Tensor, "members graphs n 2"]:
        """Accelerations."""
        with torch.enable_grad():
            place = nodes[..., :2].detach().requires_grad_()
            pair, own = self.energies(torch.cat([place, nodes[..., 2:]], -1))
            (slope,) = torch.autograd.grad(pair.sum() + own.sum(), place, create_graph=self.training)
        return -slope / nodes[..., 5:]

    def cost(self, nodes: Float[Tensor, "members graphs n 6"]) -> Float[Tensor, "members"]:
        """The public code's small charge on energies, which fixes their level."""
        pair, own = self.energies(nodes)
        return 1e-6 * (pair.unflatten(2, (nodes.shape[2], -1)).sum(3) + own).square().mean((1, 2))


def fit(
    make: Callable[[Sequence[torch.Generator]], nn.Module],
    graphs: Graphs,
    seeds: Sequence[int],
    updates: int = 9000,
    batch: int = 32,
    rate: float = 5e-3,
) -> nn.Module:
    """Train a stack of rivals as :func:`touchstone.dynamics.symbolic_distillation.train` trains graph networks.

    Args:
        make: builds the stack from generators.
        graphs: particles and their accelerations.
        seeds: one a member.
        updates: of Adam.
        batch: graphs of an update.
        rate: the largest learning rate.

    Returns:
        the networks, frozen.

    Raises:
        ValueError: if the graphs are empty or not finite.
    """
    finite(nodes=graphs.nodes, accelerations=graphs.accelerations)
    net, draws = make(generators(seeds, 1)).train(), generators(seeds, 2)
    optimiser = torch.optim.Adam(net.parameters(), rate, weight_decay=1e-8, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(updates, 2), final_div_factor=1e5)
    for _ in range(updates):
        pick = torch.stack([torch.randint(len(graphs.nodes), (batch,), generator=draw) for draw in draws])
        shift = SHIFT * torch.stack([torch.randn(batch, 1, DIMENSIONS, generator=draw) for draw in draws])
        nodes = graphs.nodes[pick] + nn.functional.pad(shift, (0, 4))
        error = (net(nodes) - graphs.accelerations[pick]).abs().sum(-1).mean((1, 2))
        optimiser.zero_grad()
        (error + net.cost(nodes)).sum().backward()
        optimiser.step()
        cycle.step()
    return net.eval().requires_grad_(False)


def direct_variables(nodes: Float[Tensor, "graphs n 6"]) -> dict[str, np.ndarray]:
    """What a formula for the acceleration of particle 0 may use: its mass and charge, and all others relative to it.

    Args:
        nodes: particles.

    Returns:
        one value a graph under each name.
    """
    own, others = nodes[:, 0].double().numpy(), nodes[:, 1:].double().numpy()
    found = {"m0": own[:, 5], "q0": own[:, 4]}
    for number in range(others.shape[1]):
        dx, dy = (own[:, :2] - others[:, number, :2]).T
        found |= {f"dx{number + 1}": dx, f"dy{number + 1}": dy, f"r{number + 1}": np.hypot(dx, dy)}
        found |= {f"m{number + 1}": others[:, number, 5], f"q{number + 1}": others[:, number, 4]}
    return found


def direct(
    graphs: Graphs, generations: int = 60, population: int = 200, longest: int = 31, seed: int = 0
) -> list[Expression]:
    """Genetic programming on the x component of one particle's acceleration, without a network.

    Args:
        graphs: particles and their accelerations.
        generations: of the population.
        population: trees.
        longest: nodes of a tree at most.
        seed: of the random numbers.

    Returns:
        the front of formulas.

    Raises:
        ValueError: if the graphs are empty or not finite.
    """
    finite(nodes=graphs.nodes, accelerations=graphs.accelerations)
    target = graphs.accelerations[:, 0, 0].double().numpy()
    return evolve(target, direct_variables(graphs.nodes), generations, population, longest, seed)
