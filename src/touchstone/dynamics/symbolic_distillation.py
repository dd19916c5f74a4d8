r"""Graph networks with few messages, whose messages are forces and can be replaced by formulas.

A network of two perceptrons predicts the acceleration of particle i from messages of all others,

.. math:: e_{ij}=\phi^e(v_i,v_j)\in\mathbb R^L,\qquad \hat a_i=\phi^v\Big(v_i,\sum_{j\ne i}e_{ij}\Big),

with :math:`v` = position, velocity, charge, mass. It is fitted by the absolute error plus
:math:`0.02\cdot\frac1E\sum_{ij}\|e_{ij}\|_1` (or with :math:`L=2`; or with messages drawn from normals that are pulled to
:math:`N(0,1)`). If accelerations are images of sums of D numbers, the cheapest messages span D dimensions and are linear in
the pair force. One message is then replaced by a formula, the node perceptron by another, and constants are refitted.

Members of a stack (seeds) train side by side. Source: M. Cranmer, A. Sanchez-Gonzalez, P. Battaglia, R. Xu, K. Cranmer,
D. Spergel, S. Ho, 2020, arXiv:2006.11287.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.dynamics.symbolic_distillation_particles import Graphs, pair_variables, pairs
from touchstone.dynamics.symbolic_regression import Law, absolute_fit, power_laws, select, terms
from touchstone.nn.networks import generators

PENALTIES = {"none": 0.0, "l1": 2e-2, "kl": 1.0}  # the public code has 1e-2 and 1, for twenty times the updates
SHIFT = 1.0  # standard deviation of the random translations; 3 in the public code
DIMENSIONS = 2


class GraphNet(nn.Module):
    """One round of messages between all pairs of particles, for every member of a stack.

    Args:
        draws: one generator a member.
        messages: L, numbers in a message.
        hidden: width of the three hidden layers of either perceptron.
        sampled: draw messages from normal distributions, whose log-variances the edge model gives too.
    """

    def __init__(self, draws: Sequence[torch.Generator], messages: int = 100, hidden: int = 64, sampled: bool = False):
        super().__init__()
        self.count, self.sampled = messages, sampled
        self.edge = Perceptrons(draws, [12, *[hidden] * 3, messages * (2 if sampled else 1)], torch.relu)
        self.node = Perceptrons(draws, [6 + messages, *[hidden] * 3, DIMENSIONS], torch.relu)

    def messages(self, nodes: Float[Tensor, "members graphs n 6"]) -> Float[Tensor, "members graphs edges outputs"]:
        """Messages along all edges, in the order of ``pairs``; means and then log-variances if they are sampled."""
        receiver, sender = pairs(nodes.shape[2])
        ends = torch.cat([nodes[:, :, receiver], nodes[:, :, sender]], -1)
        return self.edge(ends.flatten(1, 2)).unflatten(1, ends.shape[1:3])

    def update(
        self, nodes: Float[Tensor, "members graphs n 6"], messages: Float[Tensor, "members graphs edges L"]
    ) -> Float[Tensor, "members graphs n 2"]:
        """Accelerations from particles and the messages to them."""
        total = messages.unflatten(2, (nodes.shape[2], -1)).sum(3)
        return self.node(torch.cat([nodes, total], -1).flatten(1, 2)).unflatten(1, nodes.shape[1:3])

    def forward(self, nodes: Float[Tensor, "members graphs n 6"]) -> Float[Tensor, "members graphs n 2"]:
        """Accelerations, with the means as messages."""
        return self.update(nodes, self.messages(nodes)[..., : self.count])


def train(
    graphs: Graphs,
    seeds: Sequence[int],
    penalty: str = "l1",
    messages: int = 100,
    hidden: int = 64,
    updates: int = 9000,
    batch: int = 32,
    rate: float = 5e-3,
) -> GraphNet:
    """Fit a stack of graph networks by Adam with one cycle of the learning rate; graphs are shifted at random.

    The weight of the penalty grows linearly over the first half of the updates (in the public code it is constant).

    Args:
        graphs: particles and their accelerations.
        seeds: one a member; each draws its own weights, batches and shifts.
        penalty: on messages; ``l1``, ``kl`` or ``none``.
        messages: L; 2 is the bottleneck.
        hidden: width of the hidden layers.
        updates: of Adam.
        batch: graphs of an update.
        rate: the largest learning rate.

    Returns:
        the networks, frozen.

    Raises:
        ValueError: if the graphs are empty or not finite, or the penalty is unknown.
    """
    finite(nodes=graphs.nodes, accelerations=graphs.accelerations)
    if penalty not in PENALTIES:
        raise ValueError(f"penalty is {penalty!r}: choose from {', '.join(PENALTIES)}")
    net, draws = GraphNet(generators(seeds, 1), messages, hidden, penalty == "kl"), generators(seeds, 2)
    optimiser = torch.optim.Adam(net.parameters(), rate, weight_decay=1e-8, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(updates, 2), final_div_factor=1e5)
    for number in range(updates):
        pick = torch.stack([torch.randint(len(graphs.nodes), (batch,), generator=draw) for draw in draws])
        shift = SHIFT * torch.stack([torch.randn(batch, 1, DIMENSIONS, generator=draw) for draw in draws])
        nodes = graphs.nodes[pick] + torch.nn.functional.pad(shift, (0, 4))  # charge, mass and velocity stay
        sent = net.messages(nodes)
        if penalty == "kl":
            mean, spread = sent.chunk(2, -1)
            cost = 0.5 * (spread.exp() + mean.square() - spread).sum(-1)
            noise = torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in draws])
            sent = mean + noise * (0.5 * spread).exp()
        else:
            cost = sent.abs().sum(-1)
        error = (net.update(nodes, sent) - graphs.accelerations[pick]).abs().sum(-1)
        # a full penalty from the start can switch all messages off before any is of use
        weight = PENALTIES[penalty] * min(1.0, 2 * number / updates)
        loss = error.mean((1, 2)) + weight * cost.mean((1, 2))
        optimiser.zero_grad()
        loss.sum().backward()  # members share nothing, so the gradient of the sum is that of each
        optimiser.step()
        cycle.step()
    return net.requires_grad_(False)


def leading(messages: Float[Tensor, "samples L"], count: int = DIMENSIONS) -> tuple[Int[Tensor, " count"], float]:
    """The components that vary most, and their share of the variance of all.

    Args:
        messages: one row an edge.
        count: how many components.

    Returns:
        their numbers, the first varying most, and the share.
    """
    variance = messages.var(0)
    order = variance.argsort(descending=True)[:count]
    return order, (variance[order].sum() / variance.sum()).item()


def linear_r2(messages: Float[Tensor, "samples K"], forces: Float[Tensor, "samples 2"]) -> Float[Tensor, " K"]:
    """Share of each message's variance that is linear in the force.

    Args:
        messages: a few components, one row an edge.
        forces: true force of each edge.

    Returns:
        coefficient of determination of each component's regression on both force components and a constant; 0 for a
        component that does not vary.

    Raises:
        ValueError: if an argument is empty, not finite or of the wrong shape.
    """
    finite(messages=messages, forces=forces)
    samples = shaped("messages", messages, ("samples", "components"))["samples"]
    shaped("forces", forces, (samples, DIMENSIONS))
    centred, cause = (array.double() - array.double().mean(0) for array in (messages, forces))
    rest = centred - cause @ torch.linalg.lstsq(cause, centred).solution
    total = centred.square().sum(0)
    return torch.where(total > 0, 1 - rest.square().sum(0) / total, 0.0).float()


@dataclass(frozen=True)
class FormulaModel:
    r"""An explicit law :math:`a_i=m_i^sq_i^t\sum_jW\,f(i,j)` with the terms f of a formula.

    Attributes:
        law: of the message.
        prefactor: s and t.
        weights: of the columns of the law's terms and the number of neighbours, for each direction.
    """

    law: Law
    prefactor: tuple[float, float]
    weights: Float[np.ndarray, "columns 2"]

    def __call__(self, nodes: Float[Tensor, "graphs n 6"]) -> Float[Tensor, "graphs n 2"]:
        """Accelerations of any number of particles."""
        return torch.from_numpy(node_columns(nodes, self.law, self.prefactor) @ self.weights).float()

    def exponents(self) -> list[tuple[tuple[float, ...], str]]:
        """Exponents of receiver's mass, sender's mass, receiver's charge, sender's charge in the acceleration, and g(r)."""
        found = []
        for (a, b, c, d), radial in self.law.structure:
            found.append(((a + self.prefactor[0], b, (c + self.prefactor[1]) % 2, d), radial))
        return found


def node_columns(
    nodes: Float[Tensor, "graphs n 6"], law: Law, prefactor: tuple[float, float]
) -> Float[np.ndarray, "graphs n columns"]:
    """What a node's formula is linear in: the sums over senders of the law's terms, times the prefactor."""
    graphs, count = nodes.shape[:2]
    edges = terms(pair_variables(nodes), law.structure)
    sums = edges.reshape(graphs, count, count - 1, -1).sum(2)
    own = nodes.double().numpy()
    factor = own[..., 5] ** prefactor[0] * own[..., 4] ** prefactor[1]
    return sums * factor[..., None]


def distil(net: GraphNet, member: int, graphs: Graphs, samples: int = 5000) -> tuple[FormulaModel, list[Law]]:
    r"""Replace a network by formulas: one for its leading message, one for its node perceptron.

    The structure is read off the network alone; the true force is not used. The last step refits the constants, in the sense
    of least absolute errors, to the accelerations in the data.

    Args:
        net: a trained stack.
        member: which of its networks.
        graphs: data, of which as many are used as give the samples.
        samples: messages shown to the search.

    Returns:
        the explicit model, and the front of formulas for the message, from simple to accurate.

    Raises:
        ValueError: if the graphs are empty or not finite.
    """
    finite(nodes=graphs.nodes, accelerations=graphs.accelerations)
    particles = graphs.nodes.shape[1]
    few = graphs.nodes[: -(-samples // (particles * (particles - 1)))]
    stacked = few.expand(net.edge.weights[0].shape[0], *few.shape)
    with torch.no_grad():
        messages = net.messages(stacked)[..., : net.count]
        outputs = net.update(stacked, messages)[member].flatten(0, 1).double().numpy()
    sent = messages[member].flatten(0, 1)
    top = sent[:, leading(sent, 1)[0][0]].double().numpy()
    front = power_laws(top, pair_variables(few))
    law = select(front)
    # the node model: powers of the receiver's mass and charge in front of a linear image of the summed formula
    options = [(s, t) for s in (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0) for t in (0.0, 1.0)]
    columns = np.stack([node_columns(few, law, option).reshape(len(outputs), -1) for option in options])
    errors = sum(absolute_fit(columns, outputs[:, axis])[1] for axis in range(DIMENSIONS))
    best = options[int(np.argmin(errors * (1 + 1e-3 * np.abs(np.array(options)).sum(1))))]
    many = graphs.nodes[: 4 * len(few)]
    columns = node_columns(many, law, best).reshape(1, many.shape[0] * particles, -1)
    truth = graphs.accelerations[: len(many)].flatten(0, 1).double().numpy()
    weights = np.stack([absolute_fit(columns, truth[:, axis])[0][0] for axis in range(DIMENSIONS)], 1)
    return FormulaModel(law, best, weights), front
