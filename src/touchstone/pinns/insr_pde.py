r"""Implicit neural spatial representations: the field lives in the weights of a small network, time is stepped classically.

A classical solver keeps the field on a grid and advances it with a time integrator. Here the grid is replaced and the
integrator kept: at each step the weights of a sine network are optimised until the network fulfils the time-discrete
equation, from the weights of the step before. The weights are the state. Where the solution is steep the optimisation
puts the resolution, with no mesh to adapt.

Source: Chen, Wu, Grinspun, Zheng and Chen (2022), arXiv:2210.00124, section 3; the optimiser is Levenberg-Marquardt in
place of Adam, because networks of a few hundred weights allow it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jacrev, vmap

from touchstone.checks import finite, shaped

SCHEMES = {"midpoint": 0.5, "implicit Euler": 1.0, "explicit Euler": 0.0}
Rows = Callable[[Tensor], tuple[Tensor, Tensor]]
Field = Callable[..., Tensor]  # (weights, points, orders) to streams [streams, points, outputs], as Siren does it


class Siren:
    r"""A sine network :math:`x\mapsto W_L\sin(\omega_0(W_{L-1}\cdots\sin(\omega_0(W_0x+b_0))\cdots))+b_L` with its derivatives.

    Args:
        sizes: features of every layer, input first.
        frequency: the :math:`\omega_0`.

    Raises:
        ValueError: if there are fewer than three sizes.
    """

    def __init__(self, sizes: Sequence[int], frequency: float = 10.0):
        if len(sizes) < 3:
            raise ValueError(f"sizes is {tuple(sizes)}: give an input, at least one hidden layer and an output")
        self.sizes, self.frequency = tuple(sizes), frequency
        self.pairs = list(zip(sizes[:-1], sizes[1:], strict=True))

    @property
    def size(self) -> int:
        """Number of weights, biases included."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.pairs)

    def start(self, generator: torch.Generator) -> Float[Tensor, " weights"]:
        """Initial weights as Sitzmann et al. (2020, arXiv:2006.09661) draw them, in float64."""
        parts = []
        for number, (inputs, outputs) in enumerate(self.pairs):
            bound = 1 / inputs if number == 0 else math.sqrt(6 / inputs) / self.frequency
            shift = 1 / math.sqrt(inputs)
            parts.append((2 * torch.rand(inputs * outputs, generator=generator, dtype=torch.float64) - 1) * bound)
            parts.append((2 * torch.rand(outputs, generator=generator, dtype=torch.float64) - 1) * shift)
        return torch.cat(parts)

    def __call__(
        self, weights: Float[Tensor, " weights"], points: Float[Tensor, "points dims"], orders: int = 0
    ) -> Float[Tensor, "streams points outputs"]:
        """The field and its derivatives, carried forward through the layers.

        Args:
            weights: all weights in one vector.
            points: where to evaluate.
            orders: 0 for the value, 1 for the gradient as well, 2 for the pure second derivatives as well.

        Returns:
            value, first derivatives along each coordinate, second derivatives along each coordinate.

        Raises:
            ValueError: if ``weights`` does not have the network's size, or ``points`` its inputs.
        """
        shaped("weights", weights, (self.size,))
        shaped("points", points, ("points", self.sizes[0]))
        dims = points.shape[1]
        unit = torch.eye(dims, dtype=points.dtype)[:, None].expand(dims, len(points), dims)
        streams = torch.cat([points[None], unit, torch.zeros_like(unit)][: 1 + orders])
        place = 0
        for number, (inputs, outputs) in enumerate(self.pairs):
            matrix = weights[place : place + inputs * outputs].view(inputs, outputs)
            shift = weights[place + inputs * outputs : place + (inputs + 1) * outputs]
            place += (inputs + 1) * outputs
            streams = streams @ matrix
            streams = torch.cat([streams[:1] + shift, streams[1:]])
            if number < len(self.pairs) - 1:
                angle = self.frequency * streams[:1]
                wave, slope = angle.sin(), self.frequency * angle.cos()
                first, second = streams[1 : 1 + dims], streams[1 + dims :]
                parts = [wave, slope * first] if orders else [wave]
                if orders == 2:
                    parts.append(slope * second - self.frequency**2 * wave * first**2)
                streams = torch.cat(parts)
        return streams


def jittered(points_per_side: int, low: Sequence[float], high: Sequence[float], generator: torch.Generator) -> Tensor:
    """Fresh random points, one in each cell of a regular grid, so that no gap is wider than two cells.

    Args:
        points_per_side: cells along each coordinate.
        low: smallest coordinates.
        high: largest coordinates.
        generator: source of the points.

    Returns:
        points in float64, ``[points_per_side ** dims, dims]``.
    """
    dims = len(low)
    axes = torch.meshgrid(*[torch.arange(points_per_side, dtype=torch.float64)] * dims, indexing="ij")
    corner = torch.stack(axes, -1).view(-1, dims)
    unit = (corner + torch.rand(corner.shape, generator=generator, dtype=torch.float64)) / points_per_side
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    return low + unit * (high - low)


def pointwise_rows(
    field: Field,
    points: Float[Tensor, "points dims"],
    residual: Callable[..., Tensor],
    known: tuple[Tensor, ...] = (),
    orders: int = 0,
    weight: float = 1.0,
) -> Rows:
    r"""Least-squares rows :math:`\sqrt{\lambda/M}\,r(x_m)` and their Jacobian, for :func:`levenberg_marquardt`.

    Args:
        field: the spatial representation.
        points: the :math:`x_m`.
        residual: maps streams ``[streams, points, outputs]``, points and what is known there to rows ``[points, rows]``.
        known: tensors with the points as leading dimension, such as old values: constants of the optimisation.
        orders: derivatives that the residual needs.
        weight: the :math:`\lambda` of these rows.

    Returns:
        a function from weights to rows and Jacobian.
    """
    finite(points=points)
    scale = math.sqrt(weight / len(points))

    def one(weights, point, *there):
        rows = residual(field(weights, point[None], orders), point[None], *(value[None] for value in there))[0]
        return scale * rows, scale * rows

    def rows(weights: Tensor) -> tuple[Tensor, Tensor]:
        jacobian, value = vmap(jacrev(one, has_aux=True), (None, *[0] * (1 + len(known))))(weights, points, *known)
        return value.flatten(), jacobian.flatten(0, 1)

    return rows


def levenberg_marquardt(
    weights: Float[Tensor, " weights"], rows: Sequence[Rows], iterations: int = 8, damping: float = 1e-6
) -> Float[Tensor, " weights"]:
    """Minimise the sum of squared rows by damped normal equations, accepting a step only if the sum falls.

    Args:
        weights: where to start, which is where the last time step ended.
        rows: blocks of the problem.
        iterations: most trial steps.
        damping: initial damping relative to the largest diagonal entry of the normal equations.

    Returns:
        the weights found.

    Raises:
        ValueError: if the weights are empty or not finite.
    """
    finite(weights=weights)

    def stacked(at):
        values, jacobians = zip(*(block(at) for block in rows), strict=True)
        return torch.cat(values), torch.cat(jacobians)

    value, jacobian = stacked(weights)
    gram, pull = jacobian.mT @ jacobian, jacobian.mT @ value
    for _ in range(iterations):
        if not bool(pull.any()):
            break
        damped = gram + damping * gram.diagonal().max() * torch.eye(len(weights), dtype=weights.dtype)
        change = torch.linalg.solve(damped, pull)
        trial, trial_jacobian = stacked(weights - change)
        if trial.square().sum() < value.square().sum():
            weights, value, jacobian, damping = weights - change, trial, trial_jacobian, damping / 5
            gram, pull = jacobian.mT @ jacobian, jacobian.mT @ value
        else:
            damping = damping * 10
    return weights


def adam(
    weights: Float[Tensor, " weights"], rows: Sequence[Rows], iterations: int = 2000, rate: float = 1e-3
) -> Float[Tensor, " weights"]:
    """The paper's optimiser on the same rows, for comparison: Adam with a rate that decays to a hundredth.

    Args:
        weights: where to start.
        rows: blocks of the problem; only their gradient is used.
        iterations: updates.
        rate: initial rate.

    Returns:
        the weights with the smallest sum of squares that was seen.
    """
    best, least = weights, math.inf
    weights = weights.clone()
    optimiser = torch.optim.Adam([weights], lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1 / max(iterations, 1)))
    for _ in range(iterations):
        blocks = [block(weights) for block in rows]
        cost = sum(float(value.square().sum()) for value, _ in blocks)
        if cost < least:
            best, least = weights.clone(), cost
        weights.grad = 2 * sum(jacobian.mT @ value for value, jacobian in blocks)
        optimiser.step()
        schedule.step()
    return best


def known_values(
    field: Field, points: Float[Tensor, "points dims"], values: Float[Tensor, "points outputs"], weight: float = 1.0
) -> Rows:
    r"""Rows :math:`N(x)-g(x)`: initial fits, boundary values, semi-Lagrangian advection.

    Args:
        field: the spatial representation.
        points: where values are known.
        values: the :math:`g`.
        weight: factor of the mean square.

    Returns:
        rows for the optimiser.
    """
    shaped("values", values, (len(points), "outputs"))
    finite(values=values)
    return pointwise_rows(field, points, lambda streams, _, value: streams[0] - value, (values,), weight=weight)


def time_step(
    field: Field,
    weights: Float[Tensor, " weights"],
    right_side: Callable[[Tensor, Tensor], Tensor],
    points: Float[Tensor, "points dims"],
    dt: float,
    scheme: str = "midpoint",
    orders: int = 1,
    edges: Sequence[Rows] = (),
    optimise: Callable[[Tensor, Sequence[Rows]], Tensor] = levenberg_marquardt,
) -> Float[Tensor, " weights"]:
    r"""One step of :math:`u_t=F[u]`: minimise :math:`\overline{R^2}` over the weights (section 3.2).

    .. math:: R = N(x;\theta) - u^n - \Delta t\,F[\alpha N + (1-\alpha)u^n],\qquad u^n=N(x;\theta^n)\ \text{held fixed}

    Args:
        field: the spatial representation.
        weights: the :math:`\theta^n`, also where the optimisation starts.
        right_side: the :math:`F`, from streams ``[streams, points, outputs]`` and points to ``[points, outputs]``.
        points: fresh collocation points, more than there are weights.
        dt: time step.
        scheme: ``midpoint`` (:math:`\alpha=1/2`), ``implicit Euler`` (1) or ``explicit Euler`` (0).
        orders: derivatives that :math:`F` needs.
        edges: rows of the boundary values at the new time.
        optimise: from weights and rows to weights.

    Returns:
        the :math:`\theta^{n+1}`.

    Raises:
        ValueError: for an unknown scheme, or weights or points that are empty or not finite.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}: use one of {', '.join(SCHEMES)}")
    finite(weights=weights, points=points)
    share = SCHEMES[scheme]
    old = field(weights, points, orders).transpose(0, 1)

    def residual(streams, place, before):
        before = before.transpose(0, 1)
        mixed = share * streams + (1 - share) * before
        return streams[0] - before[0] - dt * right_side(mixed, place)

    return optimise(weights, [pointwise_rows(field, points, residual, (old,), orders), *edges])


def divergence(streams: Float[Tensor, "streams points dims"]) -> Float[Tensor, " points"]:
    """Divergence of a vector field from its value and gradient."""
    return sum(streams[1 + axis, :, axis] for axis in range(streams.shape[2]))


def project(
    velocity: Field,
    weights: Float[Tensor, " weights"],
    pressure: Field,
    pressure_weights: Float[Tensor, " other"],
    points: Float[Tensor, "points dims"],
    walls: Float[Tensor, "walls dims"],
    normals: Float[Tensor, "walls dims"],
    optimise: Callable[[Tensor, Sequence[Rows]], Tensor] = levenberg_marquardt,
) -> tuple[Float[Tensor, " weights"], Float[Tensor, " other"]]:
    r"""Make a velocity field free of divergence inside impermeable walls (section 4.3).

    First :math:`\Delta p=\nabla\cdot u^\ast` with :math:`\partial_np=u^\ast\cdot n`, then :math:`u=u^\ast-\nabla p` with
    :math:`u\cdot n=0`, both in least squares.

    Args:
        velocity: represents :math:`u`.
        weights: the weights of :math:`u^\ast`.
        pressure: represents :math:`p`.
        pressure_weights: where its optimisation starts.
        points: collocation points inside.
        walls: points on the boundary.
        normals: outward unit normals there.
        optimise: from weights and rows to weights.

    Returns:
        weights of the projected velocity, and of the pressure.
    """
    before, at_walls = velocity(weights, points, 1), velocity(weights, walls)[0]
    dims = points.shape[1]

    def poisson(streams, _, source):
        return streams[1 + dims :].sum(0) - source

    def flux(streams, _, outward, inflow):
        return (streams[1:, :, 0] * outward.T).sum(0)[:, None] - inflow

    source, inflow = divergence(before)[:, None], (at_walls * normals).sum(1, keepdim=True)
    pressure_weights = optimise(
        pressure_weights,
        [
            pointwise_rows(pressure, points, poisson, (source,), 2),
            pointwise_rows(pressure, walls, flux, (normals, inflow), 1),
        ],
    )
    gradient = pressure(pressure_weights, points, 1)[1:, :, 0].T

    def through(streams, _, outward):
        return (streams[0] * outward).sum(1, keepdim=True)

    rows = [known_values(velocity, points, before[0] - gradient), pointwise_rows(velocity, walls, through, (normals,))]
    return optimise(weights, rows), pressure_weights
