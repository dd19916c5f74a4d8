"""The plain physics-informed network: the baseline that every method of this part has to beat.

Raissi, Perdikaris and Karniadakis, "Physics Informed Deep Learning (Part I)", 2017 (arXiv:1711.10561). A tanh network is
trained with Adam on the mean squared residual plus the weighted mean squared misfit of initial and boundary values. The
collocation points are drawn anew at every step, the stronger of the two simple choices (the other draws them once).
"""

from collections.abc import Sequence

from touchstone.arena import Budget, entrant
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, State, default_network, hand_back, train


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


@entrant("pinns", "plain")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with the plain network."""
    return hand_back(problem, plain_pinn(problem, [seed], budget=budget))
