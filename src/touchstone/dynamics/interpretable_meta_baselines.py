r"""Meta-learners that adapt by gradient steps: MAML, ANIL, CoDA, and a network per task.

* MAML (Finn, Abbeel and Levine, 2017, arXiv:1703.03400) learns weights from which a few gradient steps on all of them fit
  a new task; gradients are taken through the inner steps.
* ANIL (Raghu et al., 2019, arXiv:1909.09157) takes the inner steps on the last layer only. Here that layer is the task vector of
  the same context-affine model, so that it differs from the page's method in training and adaptation, not in the network.
* CoDA (Kirchmeyer et al., 2022, arXiv:2202.01889) makes all weights affine in a context, :math:`\theta_t = \theta_c + W \xi_t`,
  and fits the context of a new task by gradient steps.

Each has ``adapt(points, targets)``, which returns a state, and ``predict(state, points)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.dynamics.interpretable_meta import (
    ContextAffine,
    Weights,
    combine,
    init_context_affine,
    perceptron,
    perceptron_weights,
)
from touchstone.nn.networks import generators

Points = Float[Tensor, "seeds tasks points dim"]
Targets = Float[Tensor, "seeds tasks points out"]


@dataclass
class MAML:
    """Weights from which a few steps of gradient descent fit a task.

    Args:
        weights: the start.
        rate: of the inner steps.
    """

    weights: Weights
    rate: float

    def parameters(self) -> list[Tensor]:
        """What training changes."""
        return [tensor for layer in self.weights for tensor in layer]

    def adapt(self, points: Points, targets: Targets, steps: int = 10, graph: bool = False) -> Weights:
        """Weights of each task after some steps; ``graph`` keeps the way back to the start."""
        flat = [tensor[:, None].expand(-1, points.shape[1], -1, -1) for tensor in self.parameters()]
        if not graph:
            flat = [tensor.detach().requires_grad_() for tensor in flat]
        for _ in range(steps):
            loss = (perceptron(_paired(flat), points) - targets).square().mean((2, 3)).sum()
            slopes = torch.autograd.grad(loss, flat, create_graph=graph)
            flat = [tensor - self.rate * slope for tensor, slope in zip(flat, slopes, strict=True)]
            if not graph:
                flat = [tensor.detach().requires_grad_() for tensor in flat]
        return _paired(flat if graph else [tensor.detach() for tensor in flat])

    def predict(self, state: Weights, points: Points) -> Targets:
        """Outputs of the adapted networks."""
        return perceptron(state, points)


@dataclass
class ANIL:
    """A context-affine model whose task vector is found by a few steps of gradient descent from a learned start.

    Args:
        model: its ``vectors`` hold the start, ``[seeds, 1, rank]``.
        rate: of the inner steps.
    """

    model: ContextAffine
    rate: float

    def parameters(self) -> list[Tensor]:
        """What training changes."""
        return [*(t for layer in [*self.model.common, *self.model.features] for t in layer), self.model.vectors]

    def adapt(
        self, points: Points, targets: Targets, steps: int = 10, graph: bool = False
    ) -> Float[Tensor, "seeds tasks rank"]:
        """Vectors of each task after some steps; the gradient of the squared error is written out."""
        with torch.set_grad_enabled(graph):
            common, features = self.model.parts(points)
            vectors = self.model.vectors.expand(-1, points.shape[1], -1)
            for _ in range(steps):
                errors = common + combine(features, vectors) - targets
                slope = 2 * (features * errors[:, :, :, None]).sum((2, 4)) / errors[0, 0].numel()
                vectors = vectors - self.rate * slope
        return vectors

    def predict(self, state: Float[Tensor, "seeds tasks rank"], points: Points) -> Targets:
        """Outputs for the adapted vectors."""
        return self.model.predict(state, points)


def train_by_descent(
    kind: str,
    points: Points,
    targets: Targets,
    seeds: Sequence[int],
    inner_rate: float,
    rank: int = 0,
    updates: int = 2000,
    rate: float = 5e-3,
    steps: int = 5,
    support: int = 20,
    width: int = 64,
) -> MAML | ANIL:
    """Train MAML or ANIL: at each update the points of a task are split anew into those for the inner steps and the others.

    Args:
        kind: ``MAML`` or ``ANIL``.
        points: inputs of the training tasks.
        targets: outputs there, of about unit variance.
        seeds: one model for each.
        inner_rate: of the inner steps.
        rank: length of ANIL's task vector.
        updates: of Adam.
        rate: its first rate; it falls to zero as a cosine.
        steps: inner steps.
        support: points for the inner steps.
        width: of a hidden layer.

    Raises:
        ValueError: for an unknown kind, or if arguments are empty, not finite, do not fit each other, or leave no points
            to compare with.
    """
    _checked(points, targets, seeds)
    if not 0 < support < points.shape[2]:
        raise ValueError(f"support is {support}: give between 1 and {points.shape[2] - 1} of the points")
    inputs, outputs = points.shape[-1], targets.shape[-1]
    if kind == "MAML":
        learner = MAML(perceptron_weights(generators(seeds, 1), [inputs, width, width, outputs]), inner_rate)
    elif kind == "ANIL":
        learner = ANIL(init_context_affine(seeds, 1, inputs, outputs, rank, width), inner_rate)
    else:
        raise ValueError(f"kind is {kind}: give MAML or ANIL")
    parameters = [tensor.requires_grad_() for tensor in learner.parameters()]
    draws = generators(seeds, 4)
    optimiser = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        orders = [torch.randperm(points.shape[2], generator=draw) for draw in draws]
        x = torch.stack([own[:, order] for own, order in zip(points, orders, strict=True)])
        y = torch.stack([own[:, order] for own, order in zip(targets, orders, strict=True)])
        optimiser.zero_grad()
        state = learner.adapt(x[:, :, :support], y[:, :, :support], steps, graph=True)
        errors = learner.predict(state, x[:, :, support:]) - y[:, :, support:]
        errors.square().mean((1, 2, 3)).sum().backward()
        optimiser.step()
        schedule.step()
    for tensor in parameters:
        tensor.requires_grad_(False)
    return learner


@dataclass
class CoDA:
    """Networks whose weights are affine in a context.

    Args:
        centre: weights for the context 0, ``[seeds, in, out]``.
        directions: what each entry of a context adds, ``[seeds, rank, in, out]``.
        contexts: of the training tasks.
        rate: of the gradient steps on the context of a new task (Adam).
        penalty: on the squared context.
    """

    centre: Weights
    directions: Weights
    contexts: Float[Tensor, "seeds tasks rank"]
    rate: float = 0.1
    penalty: float = 1e-4

    def predict(self, state: Float[Tensor, "seeds tasks rank"], points: Points) -> Targets:
        """Outputs for given contexts."""
        weights = [
            tuple(
                (c[:, None] + torch.einsum("str,srio->stio", state, d)) for c, d in zip(centre, direction, strict=True)
            )
            for centre, direction in zip(self.centre, self.directions, strict=True)
        ]
        return perceptron(weights, points)

    def loss(self, contexts: Tensor, points: Points, targets: Targets) -> Float[Tensor, "seeds tasks"]:
        """Mean squared error of each task, and the penalty on its context."""
        errors = (self.predict(contexts, points) - targets).square().mean((2, 3))
        return errors + self.penalty * contexts.square().sum(-1)

    def adapt(self, points: Points, targets: Targets, steps: int = 100) -> Float[Tensor, "seeds tasks rank"]:
        """Contexts of new tasks, by Adam from 0 with a rate that falls to zero as a cosine."""
        contexts = self.contexts.new_zeros(*points.shape[:2], self.contexts.shape[-1]).requires_grad_()
        optimiser = torch.optim.Adam([contexts], self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            contexts.grad = None
            self.loss(contexts, points, targets).sum().backward()
            optimiser.step()
            schedule.step()
        return contexts.detach()


def train_coda(
    points: Points,
    targets: Targets,
    seeds: Sequence[int],
    rank: int,
    updates: int = 2000,
    rate: float = 5e-3,
    width: int = 64,
) -> CoDA:
    """Train centre, directions and contexts together.

    Args:
        points: inputs of the training tasks.
        targets: outputs there, of about unit variance.
        seeds: one model for each.
        rank: length of the context.
        updates: of Adam.
        rate: its first rate; it falls to zero as a cosine.
        width: of a hidden layer.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other.
    """
    _checked(points, targets, seeds)
    sizes = [points.shape[-1], width, width, targets.shape[-1]]
    draws = generators(seeds, 2)
    # directions a third as large as the centre: contexts of order one then change the network, but do not replace it
    ways = [perceptron_weights(draws, sizes) for _ in range(rank)]
    directions = [
        (torch.stack([way[k][0] for way in ways], 1) / 3, torch.stack([way[k][1] for way in ways], 1)) for k in range(3)
    ]
    model = CoDA(
        perceptron_weights(generators(seeds, 1), sizes), directions, torch.zeros(len(seeds), points.shape[1], rank)
    )
    weights = [tensor for layer in [*model.centre, *model.directions] for tensor in layer]
    parameters = [tensor.requires_grad_() for tensor in [*weights, model.contexts]]
    optimiser = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        optimiser.zero_grad()
        model.loss(model.contexts, points, targets).mean(1).sum().backward()
        optimiser.step()
        schedule.step()
    for tensor in parameters:
        tensor.requires_grad_(False)
    return model


def train_alone(
    points: Points, targets: Targets, seeds: Sequence[int], updates: int = 500, rate: float = 5e-3, width: int = 64
) -> Weights:
    """A network for each task, trained on that task's points only.

    Args:
        points: inputs.
        targets: outputs there.
        seeds: one first network for each, the same for all its tasks.
        updates: of Adam.
        rate: its first rate; it falls to zero as a cosine.
        width: of a hidden layer.

    Returns:
        weights with a dimension for the tasks, for :func:`~touchstone.dynamics.interpretable_meta.perceptron`.

    Raises:
        ValueError: if arguments are empty, not finite or do not fit each other.
    """
    _checked(points, targets, seeds)
    first = perceptron_weights(generators(seeds, 1), [points.shape[-1], width, width, targets.shape[-1]])
    flat = [t[:, None].repeat(1, points.shape[1], 1, 1).requires_grad_() for layer in first for t in layer]
    optimiser = torch.optim.Adam(flat, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        optimiser.zero_grad()
        (perceptron(_paired(flat), points) - targets).square().mean((2, 3)).sum().backward()
        optimiser.step()
        schedule.step()
    return _paired([tensor.detach() for tensor in flat])


def _paired(flat: list[Tensor]) -> Weights:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _checked(points: Tensor, targets: Tensor, seeds: Sequence[int]) -> None:
    finite(points=points, targets=targets)
    shaped("points", points, (len(seeds), "tasks", "points", "dim"))
    shaped("targets", targets, (*points.shape[:3], "out"))
