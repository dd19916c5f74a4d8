"""What PV-RNN is tried on: a probabilistic finite-state machine, and primitives that such a machine switches."""

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from touchstone.checks import finite

# NEXT[state][symbol] = (next state, probability): A is deterministic, B and C branch 70/30
MACHINE: dict[int, dict[int, tuple[int, float]]] = {
    0: {1: (1, 1.0)},
    1: {0: (2, 0.7), 1: (0, 0.3)},
    2: {0: (0, 0.7), 1: (1, 0.3)},
}


def transition_matrices(machine: dict = MACHINE) -> Float[ndarray, "symbols states states"]:
    """Probability of emitting a symbol and moving from one state (row) to another (column).

    Args:
        machine: for each state, the next state and the probability of every symbol that it may emit.

    Returns:
        one matrix a symbol; they sum to a stochastic matrix.
    """
    symbols = 1 + max(symbol for moves in machine.values() for symbol in moves)
    matrices = np.zeros((symbols, len(machine), len(machine)))
    for state, moves in machine.items():
        for symbol, (following, chance) in moves.items():
            matrices[symbol, state, following] = chance
    return matrices


def stationary(machine: dict = MACHINE) -> Float[ndarray, "states"]:
    """Share of time that the machine spends in each state."""
    values, vectors = np.linalg.eig(transition_matrices(machine).sum(0).T)
    vector = vectors[:, values.real.argmax()].real
    return vector / vector.sum()


def entropy_rate(machine: dict = MACHINE) -> float:
    """Entropy of a symbol given the whole past, in nats; right because state and symbol name the next state."""
    chances = transition_matrices(machine).sum(2)
    return float(-(stationary(machine) * (chances * np.log(np.where(chances > 0, chances, 1.0)))).sum())


def run_machine(
    random: np.random.Generator, runs: int, steps: int, machine: dict = MACHINE
) -> tuple[Int[ndarray, "runs steps"], Int[ndarray, "runs steps"]]:
    """Symbols and states of independent runs from the stationary distribution.

    Args:
        random: generator of the draws.
        runs: how many.
        steps: symbols of each.
        machine: the machine.

    Returns:
        the symbols, and the state that emitted each.
    """
    symbols, states = np.empty((2, runs, steps), int)
    share = stationary(machine)
    for run in range(runs):
        state = int(random.choice(len(machine), p=share))
        for step in range(steps):
            moves = machine[state]
            symbol = int(random.choice(list(moves), p=[chance for _, chance in moves.values()]))
            symbols[run, step], states[run, step] = symbol, state
            state = moves[symbol][0]
    return symbols, states


def true_words(length: int = 8, machine: dict = MACHINE) -> Float[ndarray, "words"]:
    """Probability of every binary word of a length, in the order of the numbers that they spell."""
    matrices, chances = transition_matrices(machine), []
    for word in itertools.product((0, 1), repeat=length):
        weight = stationary(machine)
        for symbol in word:
            weight = weight @ matrices[symbol]
        chances.append(weight.sum())
    return np.array(chances)


def word_divergence(
    symbols: Int[ndarray, "runs steps"], length: int = 8, machine: dict = MACHINE, pseudo: float = 0.5
) -> float:
    """KL divergence of generated words from the machine's, KL(machine || generated), in nats.

    Args:
        symbols: generated binary sequences.
        length: of the words.
        machine: the machine.
        pseudo: count added to each of the ``2 ** length`` words, so that one that is never generated costs a finite amount.

    Returns:
        the divergence.

    Raises:
        ValueError: if the sequences are shorter than a word or not binary.
    """
    if symbols.shape[-1] < length or not np.isin(symbols, (0, 1)).all():
        raise ValueError(f"symbols (shape {symbols.shape}) must be 0 or 1 in sequences of at least {length}")
    windows = np.lib.stride_tricks.sliding_window_view(symbols, length, -1)
    counts = np.bincount((windows @ (1 << np.arange(length)[::-1])).ravel(), minlength=2**length) + pseudo
    truth, share = true_words(length, machine), counts / counts.sum()
    seen = truth > 0
    return float((truth[seen] * np.log(truth[seen] / share[seen])).sum())


def one_hot(symbols: Int[ndarray, "runs steps"]) -> Float[Tensor, "steps runs 1 2"]:
    """Codes of binary sequences, time first."""
    return torch.nn.functional.one_hot(torch.from_numpy(symbols).T, 2).float()[:, :, None]


PERIOD = 24  # steps of a primitive


def lissajous(
    random: np.random.Generator, runs: int, primitives: int, noise: float = 0.02
) -> Float[ndarray, "runs steps 2"]:
    """Sequences of three closed curves, one for each state of the machine; all begin and end at the origin.

    Args:
        random: generator of the draws.
        runs: how many sequences.
        primitives: curves in each, of 24 steps.
        noise: standard deviation of what is added to each coordinate.

    Returns:
        points in the plane; the curves fill the square from -1 to 1.
    """
    angle = 2 * np.pi * np.arange(1, PERIOD + 1) / PERIOD
    one, two, three = np.sin(angle), np.sin(2 * angle), np.sin(3 * angle)
    curves = np.stack([np.stack(pair, 1) for pair in ((one, two), (two, -one), (-one, three))])
    _, states = run_machine(random, runs, primitives)
    points = curves[states].reshape(runs, primitives * PERIOD, 2)
    return points + noise * random.standard_normal(points.shape)


CENTRES = torch.linspace(-1.5, 1.5, 11)


def encode(points: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim bins"]:
    """Spread each coordinate over eleven bins from -1.5 to 1.5 (softmax of squared distances, one bin wide).

    Args:
        points: coordinates between about -1.2 and 1.2.

    Returns:
        a distribution over the bins for each coordinate.

    Raises:
        ValueError: if a coordinate is not finite.
    """
    finite(points=points)
    return (-0.5 * ((points[..., None] - CENTRES.to(points)) / (CENTRES[1] - CENTRES[0])) ** 2).softmax(-1)


def decode(codes: Float[Tensor, "*batch dim bins"]) -> Float[Tensor, "*batch dim"]:
    """Coordinates as the means of the distributions over the bins.

    Args:
        codes: distributions.

    Returns:
        coordinates; within 0.01 of what was encoded between -1 and 1.
    """
    return codes @ CENTRES.to(codes)
