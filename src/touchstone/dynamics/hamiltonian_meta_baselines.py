"""A Hamiltonian network without a graph (Greydanus et al., 2019, arXiv:1906.01563), for systems of one body.

Joint pre-training is :func:`touchstone.dynamics.hamiltonian_meta.meta_train` without inner steps, and a random start is
:func:`touchstone.dynamics.hamiltonian_graph.init_graph`: the same networks, adapted in the same way.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from touchstone.dynamics.hamiltonian_graph import States, Weights
from touchstone.nn.networks import generators, glorot


def init_plain(seeds: Sequence[int], width: int = 64, depth: int = 4) -> Weights:
    """Glorot weights and zero biases of a perceptron of one body's state.

    Args:
        seeds: one network for each.
        width: of a hidden layer.
        depth: number of hidden layers.
    """
    draws, sizes = generators(seeds, 1), [4, *[width] * depth, 1]
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [tensor for pair in pairs for tensor in (glorot(draws, *pair), torch.zeros(len(draws), 1, pair[1]))]


def plain_energy(weights: Weights, states: States) -> Float[torch.Tensor, "nets points"]:
    """The perceptron's energy.

    Args:
        weights: of :func:`init_plain`.
        states: of one body.

    Raises:
        ValueError: if there are several bodies.
    """
    if states.shape[2] != 1:
        raise ValueError(f"states has {states.shape[2]} bodies: the network without a graph takes one")
    hidden = states[:, :, 0]
    for number in range(0, len(weights), 2):
        hidden = torch.baddbmm(weights[number + 1], torch.tanh(hidden) if number else hidden, weights[number])
    return hidden[..., 0]
