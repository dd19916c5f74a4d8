r"""A graph network whose sum read-out is an energy, and the Hamiltonian vector field of that energy.

Bodies are nodes with features :math:`(q_i, p_i) \in \mathbb R^4`, every pair is joined. With :math:`h_i` an embedding of the
features, each round adds what a body hears from the others,

.. math:: m_i = \sum_{j \neq i} \tanh(R h_i + S h_j + b), \qquad h_i \leftarrow h_i + V \tanh(A h_i + B m_i + c) + d,

and :math:`H = \sum_i r(h_i)` with a perceptron :math:`r`. (:math:`B` stands for the product of the edge network's output layer
and the node network's input layer, which are both linear.) The field is
:math:`\dot q = \partial H / \partial p, \dot p = -\partial H / \partial q`: it keeps :math:`H` and has no divergence.
With one body there are no messages, and the energy is a perceptron of that body's state.

Weights are a list of tensors whose first dimension counts networks side by side: seeds, or seeds times tasks.

Sources: Y. Song, H. Jeong, 2022, arXiv:2212.01168; S. Greydanus, M. Dzamba, J. Yosinski, 2019, arXiv:1906.01563.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import shaped
from touchstone.nn.networks import generators, glorot

Weights = list[Tensor]
States = Float[Tensor, "nets points bodies 4"]
Energy = Callable[[Weights, Tensor], Tensor]
EMBEDDING, ROUND, READOUT = 4, 8, 4  # tensors of each stage


def init_graph(seeds: Sequence[int], width: int = 64, rounds: int = 2) -> Weights:
    """Glorot weights and zero biases of the graph network.

    Args:
        seeds: one network for each.
        width: of embeddings and messages.
        rounds: of messages.

    Returns:
        weights ``[seeds, in, out]`` and biases ``[seeds, 1, out]``: those of the embedding (two layers), of each round
        (R, S, b, A, B, c, V, d) and of the read-out (two layers).

    Raises:
        ValueError: if a size is not positive.
    """
    if width < 1 or rounds < 1:
        raise ValueError(f"width and rounds must be at least 1, got {width} and {rounds}")
    draws = generators(seeds, 1)

    def matrix(inputs: int, outputs: int) -> Tensor:
        return glorot(draws, inputs, outputs)

    def bias(outputs: int) -> Tensor:
        return torch.zeros(len(draws), 1, outputs)

    weights = [matrix(4, width), bias(width), matrix(width, width), bias(width)]
    for _ in range(rounds):
        weights += [matrix(width, width), matrix(width, width), bias(width)]
        weights += [matrix(width, width), matrix(width, width), bias(width), matrix(width, width), bias(width)]
    return [*weights, matrix(width, width), bias(width), matrix(width, 1), bias(1)]


def node_embeddings(weights: Weights, states: States) -> Float[Tensor, "nets points bodies width"]:
    """Embeddings of the bodies after the last round.

    Args:
        weights: of :func:`init_graph`.
        states: positions and momenta of the bodies.
    """
    nets, points, bodies, _ = states.shape
    first, first_bias, second, second_bias = weights[:EMBEDDING]
    hidden = torch.baddbmm(second_bias, torch.tanh(torch.baddbmm(first_bias, states.flatten(1, 2), first)), second)
    for start in range(EMBEDDING, len(weights) - READOUT, ROUND):
        receive, send, heard_bias, own, heard, own_bias, out, out_bias = weights[start : start + ROUND]
        inner = torch.baddbmm(own_bias, hidden, own)
        if bodies > 1:
            ours = torch.baddbmm(heard_bias, hidden, receive).view(nets, points, bodies, -1)
            theirs = (hidden @ send).view(nets, points, bodies, -1)
            # turning the ring of bodies by 1, 2, ... pairs each with every other once, and never with itself
            messages = sum(torch.tanh(ours + theirs.roll(turn, 2)) for turn in range(1, bodies))
            inner = torch.baddbmm(inner, messages.flatten(1, 2), heard)
        hidden = hidden + torch.baddbmm(out_bias, torch.tanh(inner), out)
    return hidden.view(nets, points, bodies, -1)


def graph_energy(weights: Weights, states: States) -> Float[Tensor, "nets points"]:
    """The learned Hamiltonian.

    Args:
        weights: of :func:`init_graph`.
        states: positions and momenta of the bodies.
    """
    hidden, hidden_bias, out, out_bias = weights[-READOUT:]
    nodes = node_embeddings(weights, states).flatten(1, 2)
    parts = torch.baddbmm(out_bias, torch.tanh(torch.baddbmm(hidden_bias, nodes, hidden)), out)
    return parts.view(*states.shape[:3]).sum(2)


def field(weights: Weights, states: States, energy: Energy = graph_energy, graph: bool = False) -> States:
    """Hamiltonian vector field of an energy.

    Args:
        weights: of the energy.
        states: positions and momenta of the bodies.
        energy: function of weights and states.
        graph: keep the way back to the weights (and to states that ask for gradients), for training.

    Returns:
        rates of positions and momenta.

    Raises:
        ValueError: if the states do not fit the weights.
    """
    shaped("states", states, (weights[0].shape[0], "points", "bodies", 4))
    with torch.enable_grad():
        states = states if states.requires_grad else states.detach().requires_grad_()
        (slope,) = torch.autograd.grad(energy(weights, states).sum(), states, create_graph=graph)
    return torch.cat([slope[..., 2:], -slope[..., :2]], -1)
