r"""Causal training: a time slice counts only once all earlier slices are solved.

S. Wang, S. Sankaran and P. Perdikaris, "Respecting causality is all you need for training physics-informed neural networks",
2022 (arXiv:2203.07404).

A network trained on all times at once can lower late residuals before the early solution is right, and then settles on a wrong
trajectory. Here slice :math:`i` has the weight :math:`w_i = \exp(-\epsilon\,\Delta t\sum_{k<i} L_k)`, with :math:`L_k` the mean
squared residual of an earlier slice. The factor :math:`\Delta t = T/N_t` is ours: with it the sum approximates an integral over
time and :math:`\epsilon` means the same for any number of slices. The paper's sum carries no such factor.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.arena import Budget, entrant
from touchstone.checks import finite
from touchstone.nn.jets import Jet
from touchstone.nn.networks import ModifiedMLP, uniform
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, State, default_network, hand_back, train


def causal_exponent(losses: Float[Tensor, "*batch slices"], spacing: float) -> Float[Tensor, "*batch slices"]:
    r"""Residual collected before each slice, :math:`\Delta t\sum_{k<i} L_k`: the exponent of the weights at :math:`\epsilon=1`.

    Args:
        losses: mean squared residual of each slice, in the order of time.
        spacing: :math:`\Delta t`, length of a slice in units of time.

    Returns:
        the exponent, zero for the first slice and never falling.

    Raises:
        ValueError: if ``losses`` is empty, holds NaN or is negative somewhere, or ``spacing`` is not above zero.
    """
    finite(losses=losses)
    if losses.ndim == 0 or (losses < 0).any():
        raise ValueError("losses must be a list of mean squares, one a slice, none below zero")
    if not spacing > 0:
        raise ValueError(f"spacing is {spacing}: a slice needs a length above zero")
    return spacing * (losses.cumsum(-1) - losses).clamp(min=0)


def causal_weights(
    losses: Float[Tensor, "*batch slices"], epsilon: float | Float[Tensor, "*batch 1"], spacing: float
) -> Float[Tensor, "*batch slices"]:
    r"""Causal weights (the paper's equation 3.6), without gradient.

    Args:
        losses: mean squared residual of each slice, in the order of time.
        epsilon: steepness; 0 gives the plain loss.
        spacing: :math:`\Delta t`, length of a slice in units of time.

    Returns:
        weights in [0, 1], 1 for the first slice and never rising.

    Raises:
        ValueError: for losses or a spacing that :func:`causal_exponent` rejects.
    """
    return torch.exp(-epsilon * causal_exponent(losses.detach(), spacing))


class CausalWeighting:
    r"""The weights during a training run, with the schedule of :math:`\epsilon`.

    Each seed moves to the next :math:`\epsilon` when its smallest weight exceeds :math:`\delta`, or when its share of the steps is
    used. Weights that all exceed :math:`\delta` at the last :math:`\epsilon` are the stopping test, kept in ``certified``.

    Args:
        slices: number of time slices :math:`N_t`; the collocation points come slice by slice.
        epsilons: the schedule, in units of the inverse of the residual's integral over time. (The paper's values 0.01 to 100
            multiply a plain sum over 32 to 256 slices: in our units they begin at about 0.3.)
        delta: how near to 1 the smallest weight must come.
    """

    def __init__(self, slices: int, epsilons: Sequence[float] = (0.1, 1.0, 10.0, 100.0), delta: float = 0.99):
        self.slices, self.epsilons, self.delta = slices, torch.tensor(epsilons), delta
        self.level: Tensor | None = None  # position in the schedule, one a seed
        self.weights: Tensor | None = None  # of the latest step, [seeds, slices]
        self.certified: Tensor | None = None  # whether the stopping test is passed, one a seed

    def __call__(self, state: State) -> Float[Tensor, "seeds points"]:
        """Weights of this step's points; moves the schedule on."""
        squared = state.residual.square().sum(-1)
        losses = squared.unflatten(1, (self.slices, -1)).mean(2)
        if self.level is None:
            self.level = torch.zeros(len(losses), dtype=torch.long)
        spacing = (state.problem.high[0] - state.problem.low[0]) / self.slices
        self.weights = causal_weights(losses, self.epsilons[self.level, None], spacing)
        passed, last = self.weights.amin(1) > self.delta, len(self.epsilons) - 1
        self.certified = passed & (self.level == last)
        self.level = (self.level + passed).clamp(min=int(state.progress * len(self.epsilons)), max=last)
        return self.weights.repeat_interleave(squared.shape[1] // self.slices, 1)


def jittered_slices(slices: int) -> Callable[[State], Tensor]:
    """Points in time slices: one uniform draw of the time in each slice, new at every step, sorted by construction.

    Fixed times would let a small network fit the residual there and be wrong between them.

    Args:
        slices: number of time slices, which must divide the number of collocation points.

    Returns:
        a function that chooses the points of a step, ``[seeds, points, dims]``, slice by slice.

    Raises:
        ValueError: if ``slices`` is below 1, or, at the first step, if the points do not fill the slices evenly.
    """
    if slices < 1:
        raise ValueError(f"slices is {slices}: give at least one")

    def choose(state: State) -> Tensor:
        count, dims = state.recipe.collocation, len(state.problem.low)
        if count % slices:
            raise ValueError(f"slices is {slices}: it must divide the {count} collocation points")
        time = (torch.arange(slices)[:, None] + uniform(state.draws, slices, 1)) / slices
        time = time.repeat_interleave(count // slices, 1)
        return state.problem.scale(torch.cat([time, uniform(state.draws, count, dims - 1)], -1))

    return choose


def causal_pinn(
    problem: Problem,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    budget: Budget | None = None,
    slices: int = 32,
    network: torch.nn.Module | None = None,
    epsilons: Sequence[float] = (0.1, 1.0, 10.0, 100.0),
) -> tuple[State, CausalWeighting]:
    """Train with causal weights, several seeds at once.

    Args:
        problem: the equation and its data.
        seeds: one network for each.
        recipe: points, steps and rates; the head-to-head budget by default.
        budget: CPU seconds that replace the recipe's steps.
        slices: number of time slices.
        network: the stack of networks; the multilayer perceptron of the head-to-head budget by default.
        epsilons: the schedule of :class:`CausalWeighting`.

    Returns:
        the last state of the training and the weighting, whose ``certified`` tells which seeds passed the stopping test.
    """
    network = default_network(problem, seeds) if network is None else network
    weighting = CausalWeighting(slices, epsilons)
    state = train(problem, network, seeds, recipe, budget, choose=jittered_slices(slices), weigh=weighting)
    return state, weighting


def modified_network(problem: Problem, seeds: Sequence[int], width: int = 48, depth: int = 4) -> ModifiedMLP:
    """The paper's gated network, behind the problem's periodic features where it has them."""
    return ModifiedMLP(problem.inputs, problem.outputs, seeds, width, depth, problem.embed)


class InUnits(torch.nn.Module):
    """A stack of networks whose output is read in units of ``size``, for solutions that are far from 1.

    Args:
        network: the stack.
        size: typical magnitude of the solution.
    """

    def __init__(self, network: torch.nn.Module, size: float):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives at the points, times ``size``."""
        jet = self.network(points, orders)
        return Jet(self.size * jet.streams, jet.orders)


@entrant("pinns", "causal-pinn")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring: the plain network and points of the head-to-head budget, with causal weights on 32 slices."""
    return hand_back(problem, causal_pinn(problem, [seed], budget=budget)[0])
