r"""A gravity field learned from accelerations: the physics-informed gravity model, third generation.

The network represents the potential, and its exact gradient is fitted to measured accelerations, so that the field has no
curl. Three measures keep its output of order one at all radii: features that are bounded, a factor :math:`r_e^p` that
carries the decay, and a known part of the field (point mass and flattening) that is added rather than learned. Far
beyond the data the learned part is switched off.

Units: lengths in body radii, gravitational parameter 1. All parameters have the seeds as their leading dimension.

Source: Martin and Schaub (2023), arXiv:2312.10257, section 3; constants as in the authors' public code where the paper
gives none.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators, glorot

Features = Callable[[Tensor], Tensor]


def spherical_features(points: Float[Tensor, "seeds points 3"]) -> Float[Tensor, "seeds points 4"]:
    """Radius and direction cosines :math:`(r, x/r, y/r, z/r)`, which have no singularity at the poles."""
    r = points.norm(dim=-1, keepdim=True)
    return torch.cat([r, points / r], -1)


def bounded_features(points: Float[Tensor, "seeds points 3"]) -> Float[Tensor, "seeds points 5"]:
    r"""The third generation's features :math:`(r_i, r_e, x/r, y/r, z/r)`, none larger than 1.

    .. math:: r_i=\min(r,1),\qquad r_e=\min(1/r,1)

    Args:
        points: coordinates in body radii, not the origin.

    Returns:
        inner radius, outer inverse radius, direction cosines.
    """
    r = points.norm(dim=-1, keepdim=True)
    return torch.cat([r.clamp(max=1), (1 / r).clamp(max=1), points / r], -1)


def known_potential(points: Float[Tensor, "*batch 3"], c20: float) -> Float[Tensor, "*batch 1"]:
    r"""The part of the potential that is known: point mass and flattening, continued into the unit sphere.

    .. math::
        U_a=\begin{cases}-\frac1r\bigl[1+\bar C_{20}P(u)\,r^{-2}\bigr]&r\ge1\\
        \frac{r^2}2-\frac32-\bar C_{20}P(u)\,r^2&r<1\end{cases},\qquad P(u)=\tfrac{\sqrt5}2(3u^2-1),\; u=z/r

    The inner branch is the potential of a homogeneous sphere; the two meet at :math:`r=1`.

    Args:
        points: coordinates in body radii.
        c20: normalised zonal coefficient :math:`\bar C_{20}` for the reference radius 1.

    Returns:
        potential, negative.
    """
    r = points.norm(dim=-1, keepdim=True)
    flattening = c20 * math.sqrt(5) / 2 * (3 * (points[..., 2:] / r) ** 2 - 1)
    far = r.clamp(min=1)  # the branch that is not taken must stay finite, and so must its gradient
    outer = -(1 + flattening / far**2) / far
    inner = r**2 / 2 - 1.5 - flattening * r**2
    return torch.where(r < 1, inner, outer)


class GatedNetwork(nn.Module):
    r"""A stack of gated networks: two encodings of the features are mixed anew in every layer.

    .. math:: h\leftarrow(1-z)\odot U+z\odot V,\qquad z=\mathrm{GELU}(hW+b)

    The last layer starts at zero.

    Args:
        features: turns points into features.
        inputs: number of features.
        outputs: number of outputs.
        seeds: one network for each.
        depth: hidden layers.
        width: units of a layer.
    """

    def __init__(
        self, features: Features, inputs: int, outputs: int, seeds: Sequence[int], depth: int = 3, width: int = 16
    ):
        super().__init__()
        draws = generators(seeds)
        self.features, self.width = features, width
        # both encoders and the first layer see the features: one product for the three
        self.entry = nn.Parameter(torch.cat([glorot(draws, inputs, width) for _ in range(3)], -1))
        self.shift = nn.Parameter(torch.zeros(len(seeds), 1, 3 * width))
        self.weights = nn.ParameterList(glorot(draws, width, width) for _ in range(depth - 1))
        self.biases = nn.ParameterList(torch.zeros(len(seeds), 1, width) for _ in range(depth - 1))
        self.last = nn.Parameter(torch.zeros(len(seeds), width, outputs))
        self.offset = nn.Parameter(torch.zeros(len(seeds), 1, outputs))

    def forward(self, points: Float[Tensor, "seeds points 3"]) -> Float[Tensor, "seeds points outputs"]:
        """Outputs at the points, each seed's own."""
        mixed = gelu(torch.baddbmm(self.shift, self.features(points), self.entry))
        u, v, z = mixed.split(self.width, -1)
        span = v - u
        hidden = u + z * span
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = u + gelu(torch.baddbmm(bias, hidden, weight)) * span
        return torch.baddbmm(self.offset, hidden, self.last)


class GravityModel(nn.Module):
    r"""The potential of generation III around a network :math:`N`; without its parts, that of its predecessors.

    .. math::
        U&=N\,r_e^{\,p}+h\,U_a, & h&=\tfrac12(1+\tanh k r)\\
        U_{model}&=(1-H)\,U+H\,U_a, & H&=\tfrac12(1+\tanh k_b(r-r_b))

    Args:
        network: outputs one number a point.
        c20: of the known potential.
        power: the :math:`p`; 0 leaves the network's output as it is.
        fused: whether the known potential is added.
        blended: whether the known potential replaces everything far away.
        boundary: start of the trainable :math:`r_b`, in body radii.
        steepness: start of the trainable :math:`k_b`, and the fixed :math:`k`.
    """

    def __init__(
        self,
        network: GatedNetwork,
        c20: float,
        power: int = 3,
        fused: bool = True,
        blended: bool = True,
        boundary: float = 10.0,
        steepness: float = 0.5,
    ):
        super().__init__()
        self.network, self.c20, self.power, self.fused, self.blended = network, c20, power, fused, blended
        self.steepness = steepness
        if blended:
            seeds = len(network.offset)
            self.boundary = nn.Parameter(torch.full((seeds, 1, 1), float(boundary)))
            self.edge = nn.Parameter(torch.full((seeds, 1, 1), float(steepness)))

    def potential(self, points: Float[Tensor, "seeds points 3"]) -> Float[Tensor, "seeds points 1"]:
        """Potential at the points, in body units."""
        r = points.norm(dim=-1, keepdim=True)
        total = self.network(points)
        if self.power:
            total = total * (1 / r).clamp(max=1) ** self.power
        if self.fused or self.blended:
            known = known_potential(points, self.c20)
        if self.fused:
            total = total + torch.sigmoid(2 * self.steepness * r) * known  # (1 + tanh x) / 2 = sigmoid(2 x)
        if self.blended:
            # the learned share 1 - H, from a sigmoid of its own: it goes to 0 without cancellation
            learned = torch.sigmoid(2 * self.edge * (self.boundary - r))
            total = learned * total + torch.sigmoid(2 * self.edge * (r - self.boundary)) * known
        return total

    def forward(self, points: Float[Tensor, "seeds points 3"]) -> Float[Tensor, "seeds points 3"]:
        r"""Acceleration :math:`-\nabla U` at the points by automatic differentiation."""
        keep = self.training or points.requires_grad
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_()
            return -torch.autograd.grad(self.potential(points).sum(), points, create_graph=keep)[0]


def acceleration_loss(
    predicted: Float[Tensor, "seeds points 3"], measured: Float[Tensor, "seeds points 3"], percent: bool = True
) -> Float[Tensor, "seeds"]:
    r"""Mean over points of :math:`\lVert\hat a-a\rVert+\lVert\hat a-a\rVert/\lVert a\rVert`.

    The first term counts absolute errors, which are largest near the surface; the second gives weak samples, high above
    it, the same say.

    Args:
        predicted: accelerations of the model.
        measured: accelerations to be met.
        percent: whether the second term is there.

    Returns:
        one loss a seed.

    Raises:
        ValueError: if an argument is empty, not finite, or the shapes differ, or a measured acceleration is zero.
    """
    shaped("predicted", predicted, ("seeds", "points", 3))
    shaped("measured", measured, tuple(predicted.shape))
    finite(predicted=predicted, measured=measured)
    _nonzero("measured", measured, percent)
    return _loss(predicted, measured, percent)


def _nonzero(name: str, accelerations: Tensor, percent: bool) -> None:
    """Refuse accelerations that have no percent error."""
    zeros = int((accelerations.norm(dim=-1) == 0).sum())
    if percent and zeros:
        raise ValueError(f"{name} holds {zeros} vectors of length zero, which have no percent error: remove them")


def _loss(predicted: Tensor, measured: Tensor, percent: bool) -> Tensor:
    """The loss itself, for the training loop, whose data have been checked."""
    error = (predicted - measured).norm(dim=-1)
    return (error + error / measured.norm(dim=-1) if percent else error).mean(-1)


def fit(
    model: nn.Module,
    points: Float[Tensor, "seeds samples 3"],
    accelerations: Float[Tensor, "seeds samples 3"],
    seeds: Sequence[int],
    steps: int,
    batch: int = 512,
    percent: bool = True,
    rate: float = 5e-3,
) -> nn.Module:
    """Train with Adam on batches of the samples, each seed on its own; the rate falls to zero along a cosine.

    Args:
        model: maps points to accelerations.
        points: where accelerations were measured, in body radii.
        accelerations: what was measured, in body units.
        seeds: of the batches.
        steps: optimiser steps.
        batch: samples of a step.
        percent: see :func:`acceleration_loss`.
        rate: Adam's first rate.

    Returns:
        the same model, trained.

    Raises:
        ValueError: if the samples are empty, not finite, zero where a percent error is needed, or do not fit together.
    """
    shaped("points", points, (len(seeds), "samples", 3))
    shaped("accelerations", accelerations, tuple(points.shape))
    finite(points=points, accelerations=accelerations)
    _nonzero("accelerations", accelerations, percent)
    draws = generators(seeds, stream=1)
    which = torch.arange(len(seeds))[:, None]
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(steps):
        pick = torch.stack([torch.randint(points.shape[1], (batch,), generator=draw) for draw in draws])
        loss = _loss(model(points[which, pick]), accelerations[which, pick], percent).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()
