"""How a method of this part meets a problem: the solver's signature and the shared training loop.

Every method trains by the same lines, :func:`train`, and differs in which points it chooses, how it weights their
residuals, or which network it trains. The default :class:`Recipe` is the head-to-head budget of this part.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget
from touchstone.nn.networks import MLP, generators, uniform
from touchstone.pinns.problems import Problem


@dataclass(frozen=True)
class Recipe:
    """Points, steps and rates of a training run; the defaults are the head-to-head budget.

    Attributes:
        steps: optimiser steps, where no time budget is given.
        collocation: collocation points a step.
        initial: points on the initial line, evenly spaced.
        boundary: points on the boundary, as many on each side, evenly spaced.
        first_rate: learning rate of Adam at the start.
        last_rate: learning rate at the end.
        decay: ``exponential`` or ``cosine``, from the first to the last rate.
        initial_weight: weight of the initial and boundary losses against the residual loss.
    """

    steps: int = 6000
    collocation: int = 512
    initial: int = 128
    boundary: int = 64
    first_rate: float = 5e-3
    last_rate: float = 6e-4
    decay: str = "exponential"
    initial_weight: float = 100.0

    def __post_init__(self):
        for name in ("steps", "collocation", "initial", "boundary"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: a training run needs at least 1")

    def count(self, condition: str) -> int:
        """Points on the part of the edge where a condition of that name holds."""
        return self.initial if condition == "initial" else self.boundary

    def rate(self, progress: float) -> float:
        """Learning rate after the share ``progress`` (0 to 1) of the run.

        Raises:
            ValueError: for an unknown ``decay``.
        """
        if self.decay == "exponential":
            return self.first_rate * (self.last_rate / self.first_rate) ** progress
        if self.decay == "cosine":
            return self.last_rate + (self.first_rate - self.last_rate) * (1 + math.cos(math.pi * progress)) / 2
        raise ValueError(f"decay is {self.decay!r}: choose 'exponential' or 'cosine'")


@dataclass
class State:
    """What the hooks of :func:`train` see.

    Attributes:
        problem: the problem being solved.
        network: the stack of networks being trained.
        recipe: points, steps and rates.
        draws: one generator a seed, for everything random after initialisation.
        step: steps taken so far.
        progress: share of the steps or of the time budget used so far.
        points: collocation points ``[seeds, points, dims]``; before the first choice ``None``.
        residual: residuals at ``points`` without gradient, ``[seeds, points, equations]``, or ``None``.
        terms: this step's loss terms before weighting, by name, ``[seeds]`` each and without gradient.
    """

    problem: Problem
    network: nn.Module
    recipe: Recipe
    draws: list[torch.Generator]
    step: int = 0
    progress: float = 0.0
    points: Tensor | None = None
    residual: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)


class TrainingDiverged(FloatingPointError):
    """A loss became NaN or infinite; ``state`` holds the run, its network set back to the last finite loss."""

    def __init__(self, message: str, state: State):
        super().__init__(message)
        self.state = state


def uniform_points(state: State) -> Float[Tensor, "seeds points dims"]:
    """New uniform collocation points at every step."""
    return state.problem.scale(uniform(state.draws, state.recipe.collocation, len(state.problem.low)))


def fixed_points(state: State) -> Float[Tensor, "seeds points dims"]:
    """Uniform collocation points, drawn once."""
    return uniform_points(state) if state.points is None else state.points


def default_network(problem: Problem, seeds: Sequence[int], width: int = 32, depth: int = 4) -> MLP:
    """The multilayer perceptron of the head-to-head budget, behind the problem's features."""
    return MLP(problem.inputs, problem.outputs, seeds, width, depth, problem.embed)


def edge_loss(problem: Problem, network: nn.Module, recipe: Recipe, seeds: int) -> dict[str, Float[Tensor, " seeds"]]:
    """Mean squared misfit of what is known on the edges, one term a condition.

    Args:
        problem: gives the conditions.
        network: the stack of networks.
        recipe: gives the number of points.
        seeds: size of the stack.

    Returns:
        the terms, for example ``initial`` and ``boundary``.
    """
    terms, kind = {}, next(network.parameters()).dtype
    for condition in problem.conditions:
        place = problem.scale(condition.place(recipe.count(condition.name)).to(kind)).expand(seeds, -1, -1)
        misfit = condition.misfit(problem.solution(network, place, condition.orders), place)
        terms[condition.name] = misfit.square().sum(-1).mean(1)
    return terms


def weighted_sum(terms: Mapping[str, Tensor], recipe: Recipe) -> Float[Tensor, " seeds"]:
    """The loss of every seed: the residual term, and the others times ``recipe.initial_weight``."""
    return sum(term if name == "residual" else recipe.initial_weight * term for name, term in terms.items())


Balance = Callable[[State, dict[str, Tensor]], Mapping[str, Tensor]]


def train(
    problem: Problem,
    network: nn.Module,
    seeds: Sequence[int],
    recipe: Recipe | None = None,
    budget: Budget | None = None,
    choose: Callable[[State], Tensor] = uniform_points,
    weigh: Callable[[State], Tensor] | None = None,
    balance: Balance | None = None,
    watch: Callable[[State], bool | None] | None = None,
) -> State:
    """Train a stack of networks, one a seed, on the residual and on what is known on the edges.

    Args:
        problem: the equation and its data.
        network: stack of networks with one network a seed; trained in place.
        seeds: the seeds, which draw the points.
        recipe: points, steps and rates; the head-to-head budget by default.
        budget: a time budget that replaces ``recipe.steps``: anything whose ``fraction()`` runs from 0 to 1.
        choose: returns the collocation points of this step; sees the last step's points and residuals.
        weigh: returns one factor a point, ``[seeds, points]``, on this step's squared residuals; no gradient flows through it.
        balance: returns one factor a term, ``[seeds]`` each, in place of ``recipe.initial_weight``; may differentiate the terms.
        watch: called after every step; training ends early when it returns true.

    Returns:
        the last state.

    Raises:
        TrainingDiverged: when a loss becomes NaN or infinite, naming the step, the term and the seeds.
        ValueError: when ``choose`` returns points outside the domain.
    """
    recipe = recipe or Recipe()
    state = State(problem, network, recipe, generators(seeds, stream=1))
    weights = list(network.parameters())
    kept = [weight.detach().clone() for weight in weights]  # as of the last finite loss
    optimiser = torch.optim.Adam(weights, lr=recipe.first_rate, fused=True)
    while (progress := state.step / recipe.steps if budget is None else budget.fraction()) < 1:
        state.progress = progress
        optimiser.param_groups[0]["lr"] = recipe.rate(progress)
        with torch.no_grad():
            state.points = choose(state)
        if state.step == 0:
            problem.check(state.points)
        residual = problem.residual(network, state.points)
        state.residual = residual.detach()
        squared = residual.square().sum(-1)
        if weigh is not None:
            with torch.no_grad():
                factors = weigh(state)
            squared = factors * squared
        terms = {"residual": squared.mean(1)} | edge_loss(problem, network, recipe, len(seeds))
        state.terms = {name: term.detach() for name, term in terms.items()}
        if balance is None:
            loss = weighted_sum(terms, recipe)
        else:
            loss = sum(factor * terms[name] for name, factor in balance(state, terms).items())
        if not torch.isfinite(loss).all():
            for weight, value in zip(weights, kept, strict=True):
                weight.data.copy_(value)
            raise TrainingDiverged(_broken(state.terms, state.step, seeds), state)
        torch._foreach_copy_(kept, [weight.detach() for weight in weights])
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        state.step += 1
        if watch is not None and watch(state):
            break
    return state


def _broken(terms: dict[str, Tensor], step: int, seeds: Sequence[int]) -> str:
    """Say which term of the loss broke down, when, and for which seeds."""
    broken = {
        name: [int(seed) for seed, value in zip(seeds, term, strict=True) if not torch.isfinite(value)]
        for name, term in terms.items()
    }
    which = "; ".join(f"{name} (seeds {found})" for name, found in broken.items() if found) or "the weighted sum"
    return f"loss is NaN or infinite at step {step}, term {which}: lower the learning rate"


def predictor(problem: Problem, network: nn.Module) -> Callable[[Tensor], Float[Tensor, "seeds points outputs"]]:
    """The trained stack as a function of test points.

    Args:
        problem: gives the exact initial values where they are built in.
        network: the trained stack.

    Returns:
        a function from points ``[points, dims]`` of the domain to values ``[seeds, points, outputs]``.
    """
    weight = next(network.parameters())
    seeds, kind = weight.shape[0], weight.dtype

    def predict(points: Tensor) -> Tensor:
        problem.check(points)
        with torch.no_grad():
            return problem.solution(network, points.to(kind).expand(seeds, -1, -1), (0,) * points.shape[-1]).value

    return predict


def relative_error(problem: Problem, network: nn.Module) -> Float[np.ndarray, " seeds"]:
    """Relative L2 error of every seed's network on the problem's test grid."""
    return problem.error(predictor(problem, network))


@dataclass(frozen=True)
class Solution:
    """What a solver hands back.

    Attributes:
        predict: maps points ``[points, dims]`` to values ``[points, outputs]``.
        rel_l2: relative L2 error on the test grid.
        steps: optimiser steps taken.
    """

    predict: Callable[[Tensor], Tensor]
    rel_l2: float
    steps: int


def hand_back(problem: Problem, state: State) -> Solution:
    """Package a finished run of a single seed as a :class:`Solution`."""
    predict = predictor(problem, state.network)
    return Solution(lambda points: predict(points)[0], float(problem.error(predict)[0]), state.step)


class Solver(Protocol):
    """What competes in the ring of this part."""

    def __call__(self, problem: Problem, budget: Budget, seed: int) -> Solution:
        """Solve ``problem`` within ``budget`` (CPU seconds), everything random drawn from ``seed``."""
        ...
