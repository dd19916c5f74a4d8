r"""FD-Net: an evolution equation learned as a repeated difference stencil, trained by a Hessian-free trust-region method.

One block applies two two-tap convolutions in a row along each axis, whose composition reaches as far as a second
difference, and adds a multiple of the result to the field: an Euler step whose stencil is learned. Between two observed
times the same block is applied several times. These *auxiliary steps* have no data of their own, but they let each
application be a small, stable step, and they widen the stencil without a single new parameter.

Some ten parameters are few enough for a second-order method. The trust-region Newton step is computed by conjugate
gradients (Steihaug, 1983), which need the Hessian only in products with vectors: two passes of automatic differentiation.

Source: Gulgec, Shi, Deshmukh, Pakzad and Takac (2019), arXiv:1910.12680. The block's layout is a reading of the abstract
and of the later paper by three of the authors and others (arXiv:2006.01892).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from touchstone.checks import finite, shaped


class FDNet(nn.Module):
    r"""The block, applied ``auxiliary`` times between two observed times.

    .. math:: u\leftarrow u+\sum_a\bigl(w_a\,b_a*(a_a*u)+w'_a\,a_a*u\bigr)+c\,s+d\tanh(gu)

    Fields are given with their boundary values, which are kept as they are.

    Args:
        dims: 1 or 2 axes.
        auxiliary: number :math:`m` of applications.
        forced: take a source :math:`s` as second input, with weight :math:`c`.
        reactive: add the pointwise layer :math:`d\tanh(gu)`.
        seed: of the random initial values.

    Raises:
        ValueError: for other ``dims`` or no application at all.
    """

    def __init__(self, dims: int = 1, auxiliary: int = 4, forced: bool = False, reactive: bool = False, seed: int = 0):
        super().__init__()
        if dims not in (1, 2):
            raise ValueError(f"dims is {dims}: choose 1 or 2")
        if auxiliary < 1:
            raise ValueError(f"auxiliary is {auxiliary}: at least one application is needed")
        self.dims, self.auxiliary = dims, auxiliary
        draw = torch.Generator().manual_seed(seed)
        random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)  # noqa: E731
        self.taps = nn.Parameter(0.5 * random(dims, 2, 2))
        self.weights = nn.Parameter(0.1 * random(dims, 2))
        self.source_weight = nn.Parameter(0.1 * random(1)) if forced else None
        self.reaction = nn.Parameter(0.1 * random(2)) if reactive else None

    def forward(self, field: Tensor, source: Tensor | None = None) -> Tensor:
        """The field one observed time later.

        Args:
            field: ``[..., points]`` or ``[..., points, points]``, boundary values included.
            source: source in the same layout, for a forced network.

        Returns:
            a field of the same shape.
        """
        for _ in range(self.auxiliary):
            field = self._apply(field, source)
        return field

    def _apply(self, field: Tensor, source: Tensor | None) -> Tensor:
        change = 0.0
        for axis in range(self.dims):
            (left, right), (back, ahead) = self.taps[axis]
            along = axis - self.dims
            inner = field if self.dims == 1 else field.narrow(-1 - axis, 1, field.shape[-1 - axis] - 2)
            n = field.shape[along]
            # the first convolution looks one point ahead, the second one point back: together -1, 0, 1
            first = left * inner.narrow(along, 0, n - 1) + right * inner.narrow(along, 1, n - 1)
            here = first.narrow(along, 1, n - 2)
            second = back * first.narrow(along, 0, n - 2) + ahead * here
            change = change + self.weights[axis, 0] * second + self.weights[axis, 1] * here
        middle = _interior(field, self.dims)
        if self.source_weight is not None:
            change = change + self.source_weight * _interior(source, self.dims)
        if self.reaction is not None:
            change = change + self.reaction[0] * torch.tanh(self.reaction[1] * middle)
        return _with_boundary(field, middle + change, self.dims)

    def stencil(self) -> Float[Tensor, "dims 3"]:
        r"""What one application adds for each axis: factors of :math:`u_{j-1},u_j,u_{j+1}`, without the field itself."""
        left, right, back, ahead = self.taps.flatten(1).unbind(1)
        w, v = self.weights.unbind(1)
        return torch.stack([w * back * left, w * (back * right + ahead * left) + v * left, (w * ahead + v) * right], 1)

    def composed(self) -> Float[Tensor, " width"]:
        r"""The stencil of all applications together in one dimension, :math:`2m+1` wide, with the field itself."""
        one = self.stencil()[0] + torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        whole = one
        for _ in range(self.auxiliary - 1):
            whole = nn.functional.conv1d(whole[None, None], one.flip(0)[None, None], padding=2)[0, 0]
        return whole

    def diffusion_number(self) -> Float[Tensor, ""]:
        r"""The learned :math:`\alpha\Delta t/h^2` between observed times: half the second moment of the composed stencil."""
        whole = self.composed()
        place = torch.arange(len(whole), dtype=whole.dtype) - len(whole) // 2
        return (whole * place**2).sum() / 2


def _interior(field: Tensor, dims: int) -> Tensor:
    return field[..., 1:-1] if dims == 1 else field[..., 1:-1, 1:-1]


def _with_boundary(field: Tensor, inside: Tensor, dims: int) -> Tensor:
    """New interior values between the old boundary values."""
    if dims == 2:
        inside = torch.cat([field[..., 1:-1, :1], inside, field[..., 1:-1, -1:]], -1)
        return torch.cat([field[..., :1, :], inside, field[..., -1:, :]], -2)
    return torch.cat([field[..., :1], inside, field[..., -1:]], -1)


def rollout(
    network: Callable[..., Tensor], field: Tensor, steps: int, source: Tensor | None = None
) -> Float[Tensor, "steps ..."]:
    """Predict ``steps`` observed times ahead, each from the prediction before.

    Args:
        network: maps a field, and a source if there is one, to the field one observed time later.
        field: where to start.
        steps: how far.
        source: given to the network at every time.

    Returns:
        the predictions, first axis time.
    """
    path = []
    for _ in range(steps):
        field = network(field) if source is None else network(field, source)
        path.append(field)
    return torch.stack(path)


def flat_loss(
    network: nn.Module, trajectories: Float[Tensor, "batch times ..."], ahead: int = 3, source: Tensor | None = None
) -> tuple[Float[Tensor, " parameters"], Callable[[Tensor], Tensor]]:
    """The mean squared error of 1 to ``ahead`` steps from every observed time, as a function of one parameter vector.

    Args:
        network: the network; any module with parameters.
        trajectories: observed fields.
        ahead: how many observed times a rollout covers.
        source: one field a trajectory, ``[batch, ...]``, for a forced network.

    Returns:
        the network's present parameters as a vector, and the loss.

    Raises:
        ValueError: if trajectories are empty, not finite or shorter than a rollout.
    """
    finite(trajectories=trajectories)
    starts = trajectories.shape[1] - ahead
    if ahead < 1 or starts < 1:
        raise ValueError(
            f"trajectories has {trajectories.shape[1]} times: a rollout of {ahead} needs at least {ahead + 1}"
        )
    first = trajectories[:, :starts]
    goal = torch.stack([trajectories[:, k : k + starts] for k in range(1, ahead + 1)])
    if source is not None:
        source = source[:, None].expand_as(first)
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    flat = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([math.prod(shape) for shape in shapes.values()])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        path = rollout(lambda *fields: functional_call(network, named, fields), first, ahead, source)
        return (path - goal).square().mean()

    return flat, loss


def load(network: nn.Module, vector: Float[Tensor, " parameters"]) -> nn.Module:
    """Write a parameter vector of :func:`flat_loss` back into the network, and return it."""
    nn.utils.vector_to_parameters(vector.detach(), network.parameters())
    return network


def steihaug(
    gradient: Float[Tensor, " n"], product: Callable[[Tensor], Tensor], radius: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], int]:
    r"""Minimise :math:`g^\top p+\tfrac12p^\top Hp` over :math:`\lVert p\rVert\le\delta` by conjugate gradients.

    They stop at the first direction of negative curvature and at the boundary, in both cases with a step as long as the radius,
    or when the residual is at most :math:`\min(\tfrac12,\sqrt{\lVert g\rVert})\lVert g\rVert`.

    Args:
        gradient: :math:`g`.
        product: maps a vector to :math:`H` times it.
        radius: :math:`\delta`.

    Returns:
        the step :math:`p`, the product :math:`Hp`, and the number of products taken.

    Raises:
        ValueError: if the gradient is empty or not finite, or the radius not positive.
    """
    shaped("gradient", gradient, ("n",))
    finite(gradient=gradient)
    if not radius > 0:
        raise ValueError(f"radius is {radius}: give a positive number")
    step, acted = torch.zeros_like(gradient), torch.zeros_like(gradient)
    residual, direction = gradient.clone(), -gradient
    length = float(gradient.norm())
    tolerance = min(0.5, math.sqrt(length)) * length
    for taken in range(1, 2 * len(gradient) + 1):  # rounding may cost more than the n products of theory
        bent = product(direction)
        curvature = float(direction @ bent)
        squared = float(residual @ residual)
        reach = squared / curvature if curvature > 0 else math.inf
        if reach == math.inf or float((step + reach * direction).norm()) >= radius:
            reach = _to_boundary(step, direction, radius)
            return step + reach * direction, acted + reach * bent, taken
        step, acted = step + reach * direction, acted + reach * bent
        residual = residual + reach * bent
        if float(residual.norm()) <= tolerance:
            break
        direction = -residual + float(residual @ residual) / squared * direction
    return step, acted, taken


def _to_boundary(step: Tensor, direction: Tensor, radius: float) -> float:
    """The positive multiple of the direction that leads from the step to the boundary."""
    a, b, c = float(direction @ direction), 2 * float(step @ direction), float(step @ step) - radius**2
    return (-b + math.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)


@dataclass
class Descent:
    """A minimisation.

    Attributes:
        vector: the parameters with the lowest loss.
        costs: gradient-equivalents spent when each loss was known; a loss with its gradient counts 1, a Hessian-vector product 2.
        losses: the lowest loss up to then.
    """

    vector: Tensor
    costs: list[int]
    losses: list[float]


def trust_region(
    loss: Callable[[Tensor], Tensor], start: Float[Tensor, " n"], budget: int = 2000, radius: float = 1.0
) -> Descent:
    r"""Minimise with trust-region Newton steps by :func:`steihaug` (TRCG).

    With :math:`\rho` the actual over the predicted decrease: accept the step if :math:`\rho>10^{-4}`, quarter the radius if
    :math:`\rho<\tfrac14`, double it if :math:`\rho>\tfrac34` and the step ends on the boundary.

    Args:
        loss: twice differentiable function of a vector.
        start: where to begin.
        budget: gradient-equivalents to spend; the last step may exceed it.
        radius: :math:`\delta` at the start.

    Returns:
        the descent.

    Raises:
        ValueError: if ``start`` is empty or not finite.
    """
    shaped("start", start, ("n",))
    finite(start=start)

    def evaluate(vector: Tensor) -> tuple[Tensor, float, Tensor]:
        vector = vector.detach().requires_grad_()
        value = loss(vector)
        (gradient,) = torch.autograd.grad(value, vector, create_graph=True)
        return vector, float(value.detach()), gradient

    vector, value, gradient = evaluate(start)
    costs, losses = [1], [value]
    while costs[-1] < budget and radius > 1e-14 and float(gradient.detach().norm()) > 1e-14:
        here, slope = vector, gradient
        product = lambda v: hessian_product(slope, here, v)  # noqa: E731, B023
        step, acted, taken = steihaug(slope.detach(), product, radius)
        predicted = -float(slope.detach() @ step + step @ acted / 2)
        trial = evaluate(here.detach() + step)
        ratio = (value - trial[1]) / predicted if predicted > 0 and math.isfinite(trial[1]) else -math.inf
        if ratio < 0.25:
            radius = radius / 4
        elif ratio > 0.75 and float(step.norm()) > 0.999 * radius:
            radius = 2 * radius
        if ratio > 1e-4:
            vector, value, gradient = trial
        costs.append(costs[-1] + 2 * taken + 1)
        losses.append(value)
    return Descent(vector.detach(), costs, losses)


def hessian_product(
    gradient: Float[Tensor, " n"], vector: Float[Tensor, " n"], direction: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The Hessian times a direction, by differentiating the gradient's product with it.

    Args:
        gradient: gradient at ``vector``, with its graph.
        vector: where it was taken.
        direction: what the Hessian is multiplied with.

    Returns:
        the product, without a graph.
    """
    (product,) = torch.autograd.grad(gradient @ direction, vector, retain_graph=True)
    return product
