r"""Continual learning by multifidelity networks: each new domain adds a network that corrects the previous one.

A network that is trained on one domain after another forgets the earlier ones. Here the old network is frozen, and the
new one learns how its own output is related to the old output,

.. math:: N_i(x)=N^l_i\bigl(N_{i-1}(x)\bigr)+N^{nl}_i\bigl(x,N_{i-1}(x)\bigr),

a linear branch that sees nothing but the old output, and a nonlinear branch whose weights are kept small. If the law is
the same on all domains, the relation is simple, and it disturbs little where it was not trained. The last network answers
everywhere; it is never told which domain a point belongs to.

Values and derivatives are carried forward together (:mod:`touchstone.nn.jets`). All parameters have the seeds as their
leading dimension.

Source: Howard, Fu and Stinis (2023), arXiv:2304.03894, sections 2 and 3.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import Embedding, generators, glorot

Anchor = tuple[Float[Tensor, "seeds parameters"], Float[Tensor, "seeds parameters"]]  # importances, values


class Perceptron(nn.Module):
    """A stack of perceptrons from jet to jet, one a seed; without an activation a product of matrices."""

    def __init__(self, draws: Sequence[torch.Generator], sizes: Sequence[int], activated: bool = True):
        super().__init__()
        self.weights = nn.ParameterList(glorot(draws, *pair) for pair in zip(sizes[:-1], sizes[1:], strict=True))
        self.biases = nn.ParameterList(torch.zeros(len(draws), 1, size) for size in sizes[1:])
        self.activated = activated

    def forward(self, jet: Jet) -> Jet:
        """The outputs' jet."""
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            jet = jets.linear(jet, weight, bias)
            if self.activated and layer < last:
                jet = jets.tanh(jet)
        return jet


class Correction(nn.Module):
    """One level: a linear branch of the previous output plus a nonlinear branch of the point and that output."""

    def __init__(
        self, draws: Sequence[torch.Generator], features: int, outputs: int, width: int, depth: int, linear: int
    ):
        super().__init__()
        self.linear = Perceptron(draws, [outputs, linear, outputs], activated=False)
        self.nonlinear = Perceptron(draws, [features + outputs, *[width] * depth, outputs])

    def forward(self, place: Jet, previous: Jet) -> Jet:
        """The level's output, from the features of the points and the output of the level below."""
        both = Jet(torch.cat([place.streams, previous.streams], -1), place.orders)
        return Jet(self.linear(previous).streams + self.nonlinear(both).streams, place.orders)


class Multifidelity(nn.Module):
    """A chain of networks, of which only the last one learns.

    Args:
        features: features that the embedding delivers.
        outputs: components of the solution.
        seeds: one chain for each.
        width: units of a hidden layer, of the first network and of each nonlinear branch.
        depth: their hidden layers.
        linear: units of the linear branch.
        embedding: turns points into a jet of features.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        seeds: Sequence[int],
        width: int = 32,
        depth: int = 3,
        linear: int = 20,
        embedding: Embedding = jets.coordinates,
    ):
        super().__init__()
        draws = generators(seeds)
        self.first = Perceptron(draws, [features, *[width] * depth, outputs])
        self.levels = nn.ModuleList()
        self.embedding = embedding
        self._new = lambda: Correction(draws, features, outputs, width, depth, linear)

    def grow(self) -> None:
        """Freeze all networks and add one, which starts from the weights of the last (the first one from new weights)."""
        self.requires_grad_(False)
        level = copy.deepcopy(self.levels[-1]) if len(self.levels) else self._new()
        self.levels.append(level.requires_grad_(True))

    @property
    def learner(self) -> nn.Module:
        """The network that learns: the first one, or the last level."""
        return self.levels[-1] if len(self.levels) else self.first

    def frozen(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> tuple[Jet, ...]:
        """What the learner gets to see at fixed points, to be computed once: the features, and the output below it."""
        with torch.no_grad():
            place = self.embedding(points, orders)
            if not len(self.levels):
                return (place,)
            output = self.first(place)
            for level in self.levels[:-1]:
                output = level(place, output)
            return place, output

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives of the last network; gradients reach its own parameters only."""
        return self.learner(*self.frozen(points, orders))

    def penalty(self) -> Float[Tensor, "seeds"]:
        """Sum of the squared parameters of the learner's nonlinear branch, which pulls the correction to a linear one."""
        if not len(self.levels):
            return self.first.weights[0].new_zeros(len(self.first.weights[0]))
        return sum(p.square().flatten(1).sum(1) for p in self.learner.nonlinear.parameters())


def flat(network: nn.Module) -> Float[Tensor, "seeds parameters"]:
    """The trainable parameters of a stack in one row a seed."""
    return torch.cat([p.flatten(1) for p in network.parameters() if p.requires_grad], 1)


def memory_aware_importances(
    network: nn.Module, points: Float[Tensor, "seeds points dims"]
) -> Float[Tensor, "seeds parameters"]:
    r"""How much each parameter matters for what the network says (Aljundi et al., 2018, arXiv:1711.09601).

    .. math:: \Omega_k=\frac1n\sum_x\left|\frac{\partial\lVert N(x)\rVert^2}{\partial\theta_k}\right|

    Args:
        network: maps points and orders to a jet.
        points: where it has learned.

    Returns:
        one importance for each trainable parameter.

    Raises:
        ValueError: if the points are empty, not finite, or not one set a seed.
    """
    shaped("points", points, ("seeds", "points", "dims"))
    finite(points=points)
    parameters = [p for p in network.parameters() if p.requires_grad]
    total = torch.zeros_like(flat(network))
    for point in points.split(1, dim=1):  # the absolute value is taken point by point
        size = network(point, (0,) * points.shape[-1]).value.square().sum()
        total += torch.cat([g.flatten(1) for g in torch.autograd.grad(size, parameters)], 1).abs()
    return total / points.shape[1]


def drift(parameters: Float[Tensor, "seeds parameters"], anchors: Sequence[Anchor]) -> Float[Tensor, "seeds"]:
    r"""Penalty on leaving what earlier tasks needed, :math:`\tfrac12\sum_j\sum_k\Omega^{(j)}_k(\theta_k-\theta^{(j)}_k)^2`.

    Args:
        parameters: the present ones.
        anchors: importances and parameters at the end of each earlier task.

    Returns:
        one penalty a seed; zero without anchors.

    Raises:
        ValueError: if an anchor does not have the parameters' shape.
    """
    total = parameters.new_zeros(len(parameters))
    for importance, value in anchors:
        shaped("anchors", importance, tuple(parameters.shape))
        shaped("anchors", value, tuple(parameters.shape))
        total = total + 0.5 * (importance * (parameters - value) ** 2).sum(1)
    return total


def learn(
    network: nn.Module,
    answer: Callable[[], Jet],
    values: Float[Tensor, "seeds known outputs"],
    residual: Callable[[Jet], Tensor] | None,
    steps: int,
    rate: float = 5e-3,
    residual_weight: float = 0.1,
    shrink: Callable[[], Tensor] | None = None,
    anchors: Sequence[Anchor] = (),
    strength: float = 0.0,
) -> Float[Tensor, "seeds"]:
    r"""Train on one task with Adam; the rate falls tenfold along an exponential.

    The loss is the mean squared error at the points with known values (data, an initial or a matching condition), plus
    ``residual_weight`` times the mean squared residual at the others, plus the penalties.

    Args:
        network: whose trainable parameters learn.
        answer: its jet at the task's points, those with known values first.
        values: the known values.
        residual: of the equation, from the jet at the other points; None where there are only data.
        steps: optimiser steps.
        rate: Adam's first rate.
        residual_weight: of the equation.
        shrink: penalty of the multifidelity network, already weighted.
        anchors: see :func:`drift`.
        strength: weight of the drift.

    Returns:
        the last loss of every seed.

    Raises:
        ValueError: if the values are empty or not finite, or ``steps`` is below 1.
    """
    known = shaped("values", values, ("seeds", "known", "outputs"))["known"]
    finite(values=values)
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least one is needed")
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    for _ in range(steps):
        jet = answer()
        loss = (jet.value[:, :known] - values).square().sum(-1).mean(-1)
        if residual is not None:
            rest = residual(Jet(jet.streams[:, :, known:], jet.orders))
            loss = loss + residual_weight * rest.square().sum(-1).mean(-1)
        if shrink is not None:
            loss = loss + shrink()
        if anchors:
            loss = loss + strength * drift(flat(network), anchors)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()
    return loss.detach()
