r"""The house baselines of this part, which every method has to beat.

*Plain*: Raissi, Perdikaris and Karniadakis, "Physics Informed Deep Learning (Part I)", 2017 (arXiv:1711.10561). A tanh
network is trained with Adam on the mean squared residual plus the weighted mean squared misfit of initial and boundary
values. The collocation points are drawn anew at every step, the stronger of the two simple choices (the other draws
them once). *Adam, then L-BFGS* polishes that network in float64 on fixed points. *Gradient norms* weights the terms so
that their gradients are equally long (Wang, Sankaran, Wang and Perdikaris, 2023, arXiv:2308.08468).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.checks import finite
from touchstone.nn.networks import single
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import (
    Recipe,
    Solution,
    State,
    default_network,
    edge_loss,
    hand_back,
    train,
    uniform_points,
    weighted_sum,
)

STRETCH = 1e8  # PyTorch's L-BFGS forgets curvature whose product y.s is below 1e-10, so a small loss has to be enlarged


def plain_pinn(
    problem: Problem, seeds: Sequence[int], recipe: Recipe | None = None, budget: Budget | None = None
) -> State:
    """Train the plain network for several seeds at once.

    Args:
        problem: the equation and its data.
        seeds: one network for each.
        recipe: points, steps and rates; the head-to-head budget by default.
        budget: a time budget that replaces the recipe's steps.

    Returns:
        the last state of the training, with the network in it.
    """
    return train(problem, default_network(problem, seeds), seeds, recipe, budget)


class Share(Budget):
    """The first part of a budget, itself a budget.

    Args:
        budget: the whole.
        end: where this share ends, as a fraction of the whole.
    """

    def __init__(self, budget: Budget, end: float):
        super().__init__(end * budget.seconds)
        self._start = budget._start


def lbfgs(
    problem: Problem,
    network: nn.Module,
    points: Float[Tensor, "seeds points dims"],
    recipe: Recipe,
    iterations: int,
    budget: Budget | None = None,
) -> int:
    """Minimise the weighted loss on fixed points with PyTorch's L-BFGS (strong Wolfe line search), one seed after the other.

    Args:
        problem: the equation and its data.
        network: stack of networks, turned into float64 and trained in place.
        points: collocation points of every seed.
        recipe: gives the points on the edges and their weight.
        iterations: at most so many for every seed.
        budget: also ends the work, looked at every 20 iterations.

    Returns:
        the largest number of iterations that a seed took.

    Raises:
        ValueError: if points are missing or not finite.
    """
    finite(points=points)
    network.double()
    longest = 0
    for number, place in enumerate(points.double().split(1)):
        alone = single(network, number)
        optimiser = torch.optim.LBFGS(alone.parameters(), max_iter=20, history_size=50, line_search_fn="strong_wolfe")

        def loss(alone=alone, place=place, optimiser=optimiser) -> Tensor:
            optimiser.zero_grad()
            terms = {"residual": problem.residual(alone, place).square().sum(-1).mean(1)}
            value = STRETCH * weighted_sum(terms | edge_loss(problem, alone, recipe, 1), recipe).sum()
            value.backward()
            return value.detach()

        taken, before = 0, torch.inf
        while taken < iterations and (budget is None or not budget.exhausted()):
            kept = [parameter.detach().clone() for parameter in alone.parameters()]
            now = float(optimiser.step(loss))
            if not now < torch.inf:  # the line search left the finite numbers: stay where it was
                for parameter, value in zip(alone.parameters(), kept, strict=True):
                    parameter.data.copy_(value)
                break
            taken += 20
            if now >= before:
                break
            before = now
        for parameter, polished in zip(network.parameters(), alone.parameters(), strict=True):
            parameter.data[number] = polished.data[0]
        longest = max(longest, taken)
    return longest


def adam_lbfgs_pinn(
    problem: Problem,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    budget: Budget | None = None,
    iterations: int = 500,
    network: nn.Module | None = None,
) -> State:
    """Train with Adam, then polish with L-BFGS in float64 on fixed points, four times as many as Adam sees at a step.

    Args:
        problem: the equation and its data.
        seeds: one network for each.
        recipe: points, steps and rates of the first phase.
        budget: a time budget that replaces steps and iterations; Adam takes the first half.
        iterations: of L-BFGS, where no budget is given.
        network: stack of networks; that of the head-to-head budget by default.

    Returns:
        the state after the second phase, with the float64 network in it.
    """
    recipe = recipe or Recipe()
    network = default_network(problem, seeds) if network is None else network
    state = train(problem, network, seeds, recipe, None if budget is None else Share(budget, 0.5))
    points = torch.cat([uniform_points(state) for _ in range(4)], 1)
    state.step += lbfgs(problem, network, points, recipe, iterations if budget is None else 10**9, budget)
    return state


class GradientNorms:
    r"""Weights :math:`\lambda_i\leftarrow\alpha\lambda_i+(1-\alpha)\sum_j\|\nabla L_j\|/\|\nabla L_i\|`, the ``balance`` hook of :func:`train`.

    Args:
        every: steps between two updates of the weights.
        memory: :math:`\alpha`.
    """

    def __init__(self, every: int = 100, memory: float = 0.9):
        self.every, self.memory = every, memory
        self.weights: dict[str, Tensor] = {}

    def __call__(self, state: State, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of this step, one a seed and term."""
        if not self.weights or state.step % self.every == 0:
            lengths = {name: gradient_norm(term, state.network) for name, term in terms.items()}
            total = sum(lengths.values())
            for name, length in lengths.items():
                new = total / length.clamp(min=1e-12)
                old = self.weights.get(name, new)
                self.weights[name] = self.memory * old + (1 - self.memory) * new
        return self.weights


def gradient_norm(term: Float[Tensor, " seeds"], network: nn.Module) -> Float[Tensor, " seeds"]:
    """Euclidean length of a loss term's gradient with respect to all parameters, seed by seed.

    Args:
        term: one value a seed, attached to the network's graph.
        network: stack of networks.

    Returns:
        one length a seed.
    """
    gradients = torch.autograd.grad(term.sum(), list(network.parameters()), retain_graph=True, allow_unused=True)
    return sum(g.flatten(1).square().sum(1) for g in gradients if g is not None).sqrt()


def gradient_norm_pinn(
    problem: Problem, seeds: Sequence[int], recipe: Recipe | None = None, budget: Budget | None = None
) -> State:
    """Train the plain network with terms weighted by :class:`GradientNorms`.

    Args:
        problem: the equation and its data.
        seeds: one network for each.
        recipe: points, steps and rates; the head-to-head budget by default.
        budget: a time budget that replaces the recipe's steps.

    Returns:
        the last state of the training.
    """
    return train(problem, default_network(problem, seeds), seeds, recipe, budget, balance=GradientNorms())


@entrant("pinns", "plain")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with the plain network."""
    return hand_back(problem, plain_pinn(problem, [seed], budget=budget))


@entrant("pinns", "plain-lbfgs")
def solve_with_lbfgs(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with Adam, then L-BFGS."""
    return hand_back(problem, adam_lbfgs_pinn(problem, [seed], budget=budget))


@entrant("pinns", "gradient-norms")
def solve_with_gradient_norms(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with weights by gradient norms."""
    return hand_back(problem, gradient_norm_pinn(problem, [seed], budget=budget))
