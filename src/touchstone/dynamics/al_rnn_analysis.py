r"""What an almost-linear network has learnt, read off its parameters: symbols, regions, graph, fixed points, cycles.

The signs of the :math:`P` rectified units are the symbol of a state. In the region :math:`\Omega` of one symbol the map
is affine, :math:`z \mapsto (A + W D_\Omega) z + h`, with ones on the diagonal of :math:`D_\Omega` for linear units and
bits for the others. A cycle through given regions is therefore the solution of one linear system; it exists if its
states really lie in these regions. A fixed point is a cycle of length 1.

Source: M. Brenner, C. J. Hemmer, Z. Monfared, D. Durstewitz, 2024, arXiv:2410.14240.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.al_rnn import AlmostLinearRNN
from touchstone.metrics.attractors import Advance


def symbols(orbit: Float[Tensor, "*runs latent"], rectified: int) -> Int[Tensor, "*runs"]:
    """The symbol of each state: signs of the rectified units read as a binary number, the first of them lowest.

    Args:
        orbit: latent states.
        rectified: number of rectified units, at most 62.

    Returns:
        integers from 0 to 2^P - 1.

    Raises:
        ValueError: if the number does not fit the states.
    """
    if not 0 <= rectified <= min(62, orbit.shape[-1]):
        raise ValueError(f"rectified is {rectified}, expected 0 to {min(62, orbit.shape[-1])}")
    bits = orbit[..., orbit.shape[-1] - rectified :] > 0
    return (bits * 2 ** torch.arange(rectified)).sum(-1)


def occupancy(codes: Int[Tensor, "*runs"]) -> tuple[Int[Tensor, "regions"], Float[Tensor, "regions"]]:
    """Visited regions and the share of time spent in each, most visited first.

    Args:
        codes: symbols of free runs.

    Returns:
        symbols, and shares that sum to 1.
    """
    finite(codes=codes)
    regions, counts = codes.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return regions[order], counts[order] / codes.numel()


def regions_holding(shares: Float[Tensor, "regions"], part: float) -> int:
    """The smallest number of regions that together hold a part of the time.

    Args:
        shares: of time, in falling order.
        part: of the time, from 0 to 1.

    Returns:
        number of regions.
    """
    return int((shares.double().cumsum(0) < part - 1e-9).sum()) + 1


def transitions(codes: Int[Tensor, "runs time"]) -> tuple[Int[Tensor, "regions"], Int[Tensor, "regions regions"]]:
    """The transition graph: how often each region follows each in free runs, staying included.

    Args:
        codes: symbols of free runs, at least two a run.

    Returns:
        symbols in rising order, and counts from (row) one to (column) the next.
    """
    finite(codes=codes[:, 1:])
    regions, index = codes.unique(return_inverse=True)
    size = len(regions)
    pairs = index[:, :-1] * size + index[:, 1:]
    return regions, torch.bincount(pairs.flatten(), minlength=size**2).view(size, size)


def topological_entropy(counts: Int[Tensor, "regions regions"]) -> float:
    r"""Entropy of all sequences that the graph admits, :math:`\log\rho` of its adjacency matrix, in nats a step.

    It bounds the entropy of the map from above: a path in the graph need not be an orbit.

    Args:
        counts: from :func:`transitions`.

    Returns:
        entropy; 0 for a single cycle, minus infinity for a graph without one.
    """
    finite(counts=counts)
    shaped("counts", counts, ("regions", "regions"))
    return torch.linalg.eigvals((counts > 0).double()).abs().max().log().item()


def cyclic_words(codes: Int[Tensor, "runs time"], length: int) -> Int[Tensor, "words length"]:
    """Words of free runs that can be read in a circle: candidates for cycles.

    The last symbol may be followed by the first somewhere in the runs. Rotations of a word count once, and repetitions of
    shorter words are left out.

    Args:
        codes: symbols of free runs.
        length: of the words.

    Returns:
        distinct words.
    """
    finite(codes=codes)
    if not 1 <= length < codes.shape[1]:
        raise ValueError(f"length is {length}, expected 1 to {codes.shape[1] - 1}, the length of the runs less 1")
    if length == 1:
        return codes.unique()[:, None]
    regions, counts = transitions(codes)
    windows = codes.unfold(1, length, 1).flatten(0, 1)
    # every word with two symbols has a rotation that starts just after a change: the others need not be looked at
    windows = windows[windows[:, 0] != windows[:, -1]].unique(dim=0)
    first, last = (torch.searchsorted(regions, windows[:, end].contiguous()) for end in (0, -1))
    found = set()
    for word in map(tuple, windows[counts[last, first] > 0].tolist()):
        rotations = {word[i:] + word[:i] for i in range(length)}
        if len(rotations) == length:
            found.add(min(rotations))
    return torch.tensor(sorted(found), dtype=codes.dtype).view(-1, length)


@dataclass
class Cycles:
    """Periodic orbits of an almost-linear network.

    Args:
        words: the symbols that an orbit passes through.
        orbits: its states.
        growth: largest modulus of the eigenvalues of the map over one period; the orbit is stable below 1.
    """

    words: Int[Tensor, "cycles length"]
    orbits: Float[Tensor, "cycles length latent"]
    growth: Float[Tensor, "cycles"]


def cycles(model: AlmostLinearRNN, words: Int[Tensor, "words length"], tolerance: float = 1e-9) -> Cycles:
    """The cycles along given words; fixed points for words of length 1.

    Args:
        model: stack of one network; it is evaluated in float64.
        words: symbols, one candidate a row.
        tolerance: how far an orbit may be from closing after one period.

    Returns:
        the cycles that exist: each state lies in the region that its word names, and the orbit closes.

    Raises:
        ValueError: if the stack holds several networks, or a word is empty.
    """
    if len(model.A) != 1:
        raise ValueError(f"model holds {len(model.A)} networks: select one, for example model[0]")
    if words.ndim != 2 or words.shape[1] == 0:
        raise ValueError(f"words has shape {tuple(words.shape)}, expected (words, length) with at least one symbol")
    model = model.to(torch.float64)
    rectified, latent = model.rectified[0], model.A.shape[1]
    bits = (words[..., None] >> torch.arange(rectified)) & 1
    gate = torch.cat([torch.ones(*words.shape, latent - rectified), bits], -1).double()
    product = torch.eye(latent).double().expand(len(words), -1, -1)
    shift = torch.zeros(len(words), latent, 1).double()
    for time in range(words.shape[1]):
        matrix = model.A[0].diag() + model.W * gate[:, time, None]
        product, shift = matrix @ product, matrix @ shift + model.h[0, :, None]
    state, failed = torch.linalg.solve_ex(torch.eye(latent).double() - product, shift)
    state, orbit = state[None, ..., 0], []
    for _ in range(words.shape[1] + 1):
        orbit.append(state[0])
        state = model.step(state)
    orbits = torch.stack(orbit[:-1], 1)
    closed = (orbit[-1] - orbit[0]).abs().amax(-1) < tolerance
    kept = closed & (failed == 0) & (symbols(orbits, rectified) == words).all(-1)
    return Cycles(words[kept], orbits[kept], torch.linalg.eigvals(product[kept]).abs().amax(-1))


def tangent_map(model: AlmostLinearRNN) -> Advance:
    """The map together with its linearisation, for :func:`touchstone.metrics.attractors.lyapunov_exponents`.

    Args:
        model: stack of one network.

    Returns:
        a function that moves latent states and perturbations by one step, in float64.
    """
    diagonal, weights, bias, floor = (
        value[0].detach().double().numpy() for value in (model.A, model.W, model.h, model.floor)
    )

    def advance(states: np.ndarray, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = diagonal * states + np.maximum(states, floor) @ weights.T + bias
        open_ = (states > floor)[..., None]
        return moved, diagonal[:, None] * tangents + weights @ (open_ * tangents)

    return advance
