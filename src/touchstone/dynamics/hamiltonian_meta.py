r"""Meta-learning one Hamiltonian graph network over many kinds of systems.

Systems with other force laws still share :math:`\dot q = \partial_p H, \dot p = -\partial_q H`. A task is a handful of
trajectories of one kind, split into support points :math:`D_s` and query points :math:`D_q`. The start :math:`\theta` is learned
so that a few gradient steps on the support make a good model of the query (MAML, Finn, Abbeel and Levine, arXiv:1703.03400),

.. math:: \min_\theta \sum_{\text{tasks}} L(\theta_k; D_q), \qquad
          \theta_{i+1} = \theta_i - \eta \nabla L(\theta_i; D_s), \quad \theta_0 = \theta, \qquad
          L(\theta; D) = \frac1{|D|} \sum_{x \in D} |\hat{\dot x}_\theta(x) - \dot x|^2 .

The first-order variant takes the gradient of the query loss at :math:`\theta_k` as if it were one at :math:`\theta`. A kind that was never seen
is learned from a few points by Adam, from the same start.

Seeds train side by side as the first dimension of every tensor; tasks are the second.

Source: Y. Song, H. Jeong, 2022, arXiv:2212.01168.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.hamiltonian_graph import Energy, Weights, field, graph_energy, init_graph
from touchstone.nn.networks import generators


@dataclass(frozen=True)
class Kind:
    """Trajectories of one kind of system.

    Args:
        states: positions and momenta of the bodies, each seed its own.
        rates: their time derivatives.
        active: 1 for coordinates that the system has and 0 for those that stay at 0 (the second of a motion on a line).
    """

    states: Float[Tensor, "seeds runs time bodies 4"]
    rates: Float[Tensor, "seeds runs time bodies 4"]
    active: Float[Tensor, "4"]

    def __post_init__(self) -> None:
        finite(states=self.states, rates=self.rates)
        shaped("rates", self.rates, self.states.shape)


@dataclass(frozen=True)
class Points:
    """Points of several tasks with equally many bodies; ``active`` as in :class:`Kind`, for each task."""

    states: Float[Tensor, "seeds tasks points bodies 4"]
    rates: Float[Tensor, "seeds tasks points bodies 4"]
    active: Float[Tensor, "tasks 4"]

    def first(self, points: int) -> "Points":
        """The first points of each task."""
        return replace(self, states=self.states[:, :, :points], rates=self.rates[:, :, :points])


def sample(
    kinds: Sequence[Kind], draws: Sequence[torch.Generator], support: int = 50, query: int = 50, runs: int = 10
) -> tuple[Points, Points]:
    """One task of each kind: different points of a few of its trajectories, to adapt to and to be judged on.

    Args:
        kinds: all with the same number of bodies.
        draws: one generator a seed.
        support: points to adapt to.
        query: points to be judged on.
        runs: trajectories that a task is drawn from.

    Returns:
        support and query.

    Raises:
        ValueError: if the trajectories hold fewer points than are asked for, or are fewer than ``runs``.
    """
    _, own, time = kinds[0].states.shape[:3]
    if min(support, query, runs) < 1 or runs > own or support + query > runs * time:
        raise ValueError(
            f"support {support} and query {query} must be positive and fit {runs} runs of {time} points, of {own} runs"
        )
    picked = []
    for seed, draw in enumerate(draws):
        for kind in kinds:
            few = torch.randperm(own, generator=draw)[:runs]
            order = torch.randperm(runs * time, generator=draw)[: support + query]
            place = few[order // time], order % time
            picked.append((kind.states[seed][place], kind.rates[seed][place]))
    states, rates = (torch.stack(part).unflatten(0, (len(draws), len(kinds))) for part in zip(*picked, strict=True))
    active = torch.stack([kind.active for kind in kinds])
    both = Points(states, rates, active)
    return both.first(support), replace(both, states=states[:, :, support:], rates=rates[:, :, support:])


def for_tasks(start: Weights, tasks: int) -> Weights:
    """The same start for each task: ``[seeds, ...]`` becomes ``[seeds * tasks, ...]``; gradients add up over tasks."""
    return [tensor[:, None].expand(-1, tasks, -1, -1).flatten(0, 1) for tensor in start]


def task_losses(
    weights: Weights, points: Points, energy: Energy = graph_energy, graph: bool = False
) -> Float[Tensor, "nets"]:
    """Squared error of the rates, summed over coordinates, mean over points.

    Args:
        weights: of each seed and task, as from :func:`for_tasks`.
        points: of the tasks.
        energy: the model's.
        graph: keep the way back to the weights.

    Returns:
        one loss a network.
    """
    found = field(weights, points.states.flatten(0, 1), energy, graph)
    active = points.active.repeat(points.states.shape[0], 1)[:, None, None]
    return (active * found - points.rates.flatten(0, 1)).square().sum((2, 3)).mean(1)


def inner_steps(
    weights: Weights,
    support: Points,
    steps: int,
    rate: float,
    second_order: bool = False,
    energy: Energy = graph_energy,
) -> Weights:
    """Weights after some gradient steps on the support; gradients pass back to where they started.

    Args:
        weights: of each seed and task.
        support: points of the tasks.
        steps: how many.
        rate: of gradient descent.
        second_order: differentiate through the gradients of the steps too.
        energy: the model's.

    Returns:
        weights of each seed and task.
    """
    for _ in range(steps):
        loss = task_losses(weights, support, energy, graph=True).sum()
        # messages play no part with one body: their weights have no slope
        slopes = torch.autograd.grad(
            loss, weights, create_graph=second_order, allow_unused=True, materialize_grads=True
        )
        weights = [tensor - rate * slope for tensor, slope in zip(weights, slopes, strict=True)]
    return weights


def meta_loss(
    start: Weights,
    support: Points,
    query: Points,
    steps: int = 5,
    rate: float = 0.002,
    second_order: bool = False,
    energy: Energy = graph_energy,
) -> Float[Tensor, "seeds"]:
    """Query loss after the inner steps, summed over tasks.

    Args:
        start: weights before adaptation, one network a seed.
        support: points to adapt to.
        query: points to be judged on.
        steps: of the inner loop; with 0 it is the loss of joint training.
        rate: of the inner loop.
        second_order: differentiate through the gradients of the inner steps.
        energy: the model's.

    Returns:
        one loss a seed.
    """
    seeds, tasks = support.states.shape[:2]
    adapted = inner_steps(for_tasks(start, tasks), support, steps, rate, second_order, energy)
    return task_losses(adapted, query, energy, graph=True).view(seeds, tasks).sum(1)


def meta_train(
    kinds: Sequence[Kind],
    seeds: Sequence[int],
    updates: int = 400,
    tasks: int = 4,
    steps: int = 5,
    inner_rate: float = 0.002,
    rate: float = 1e-3,
    second_order: bool = False,
    start: Weights | None = None,
    energy: Energy = graph_energy,
) -> Weights:
    """Learn a start from many kinds of systems, by Adam on the query loss with a rate that falls to zero as a cosine.

    Args:
        kinds: of systems; they take turns, so that all are met equally often.
        seeds: one network for each.
        updates: of Adam.
        tasks: in an update, each of 50 support and 50 query points.
        steps: of the inner loop; 0 is joint training on all kinds, without adaptation.
        inner_rate: of the inner loop.
        rate: the first one of Adam.
        second_order: differentiate through the gradients of the inner steps.
        start: untrained weights; a graph network of width 64 by default.
        energy: the model's.

    Returns:
        the learned start.

    Raises:
        ValueError: if there are no kinds, or their seeds do not fit.
    """
    if not kinds or any(kind.states.shape[0] != len(seeds) for kind in kinds):
        raise ValueError(f"kinds must hold at least one system, and trajectories for each of the {len(seeds)} seeds")
    start = [tensor.clone().requires_grad_() for tensor in (init_graph(seeds) if start is None else start)]
    draws = generators(seeds, 2)
    optimiser = torch.optim.Adam(start, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for update in range(updates):
        turn = [kinds[(update * tasks + task) % len(kinds)] for task in range(tasks)]
        optimiser.zero_grad()
        for bodies in sorted({kind.states.shape[3] for kind in turn}):  # equally many bodies fit into one stack
            alike = [kind for kind in turn if kind.states.shape[3] == bodies]
            support, query = sample(alike, draws)
            (meta_loss(start, support, query, steps, inner_rate, second_order, energy).sum() / tasks).backward()
        optimiser.step()
        schedule.step()
    return [tensor.detach() for tensor in start]


def adapt(
    start: Weights, support: Points, rate: float, steps: Sequence[int], energy: Energy = graph_energy
) -> list[Weights]:
    """Weights for new tasks after some steps of Adam on their support.

    Args:
        start: learned, one network a seed.
        support: points of the new tasks.
        rate: of Adam.
        steps: increasing numbers of steps after which weights are wanted.
        energy: the model's.

    Returns:
        for each number of steps the weights of each seed and task.

    Raises:
        ValueError: if the support is empty or not finite, or the steps do not increase.
    """
    finite(support=support.states)
    if list(steps) != sorted(set(steps)) or not steps or steps[0] < 0:
        raise ValueError(f"steps is {list(steps)}: give increasing numbers, 0 or more")
    weights = [tensor.detach().clone().requires_grad_() for tensor in for_tasks(start, support.states.shape[1])]
    optimiser, found = torch.optim.Adam(weights, rate), []
    for step in range(steps[-1] + 1):
        if step in steps:
            found.append([tensor.detach().clone() for tensor in weights])
        if step < steps[-1]:
            optimiser.zero_grad()
            task_losses(weights, support, energy, graph=True).sum().backward()
            optimiser.step()
    return found


def linear_cka(first: Float[Tensor, "nets points a"], second: Float[Tensor, "nets points b"]) -> Float[Tensor, "nets"]:
    r"""Linear centred kernel alignment of two representations of the same points.

    :math:`\|Y^\top X\|_F^2 / (\|X^\top X\|_F \|Y^\top Y\|_F)` with centred columns (Kornblith et al., 2019, arXiv:1905.00414).

    Args:
        first: features of the points, X.
        second: other features of them, Y.

    Returns:
        1 where one is a rotation and scaling of the other, 0 where they are uncorrelated.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other.
    """
    finite(first=first, second=second)
    shaped("second", second, (*first.shape[:2], "features"))
    x, y = (part.double() - part.double().mean(1, keepdim=True) for part in (first, second))
    cross, own, other = (torch.linalg.matrix_norm(a.mT @ b) for a, b in ((y, x), (x, x), (y, y)))
    return (cross.square() / (own * other)).to(first.dtype)
