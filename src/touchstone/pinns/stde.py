r"""Stochastic Taylor derivative estimator (STDE): differential operators in many dimensions from a few random jets.

Follow a network along a curve :math:`g(\tau)=x+v^{(1)}\tau+v^{(2)}\tau^2/2+\dots`. The derivatives of
:math:`\tau\mapsto u(g(\tau))` at 0 are contractions of the derivative tensors of :math:`u` with the tangents:
:math:`\nabla u[v^{(1)}]` first, :math:`\nabla^2u[v^{(1)},v^{(1)}]+\nabla u[v^{(2)}]` second, and so on. They come out of one
forward pass that carries Taylor coefficients through the layers, at a cost that does not depend on the dimension. With
random tangents the contraction is an unbiased estimate of an operator: :math:`d\,\nabla^2u[e_j,e_j]` with a random
coordinate :math:`j` has mean :math:`\Delta u`, and :math:`\nabla^4u[v,v,v,v]/3` with normal :math:`v` has mean
:math:`\Delta^2u`. The gradient with respect to the parameters is one reverse pass.

Source: Shi, Hu, Lin and Kawaguchi (2024), arXiv:2412.00088, section 4.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import HIGHEST_ORDER, Jet
from touchstone.nn.networks import MLP, generators, uniform
from touchstone.pinns.problems import Problem, zero_on_sphere
from touchstone.pinns.protocol import Recipe, Solution, State, default_network, hand_back

Tangents = Int[Tensor, "seeds directions"] | Float[Tensor, "seeds slots directions dims"]


class _Tanh(torch.autograd.Function):
    r"""Taylor coefficients of :math:`y=\tanh z` from :math:`y'=wz'` and :math:`w=1-y^2`, order by order.

    Matching powers of :math:`\tau` gives :math:`k\,y_k=\sum_{j=1}^k j\,z_jw_{k-j}` and :math:`w_k=-\sum_iy_iy_{k-i}`.
    The reverse pass walks the same recurrences backwards, so that only :math:`z` and :math:`y` are kept.
    """

    @staticmethod
    def forward(streams, order):
        z, out = _split(streams, order), torch.empty_like(streams)
        y = _split(out, order)
        torch.tanh(z[0], out=y[0])
        w = [1 - y[0] * y[0]]
        for k in range(1, order + 1):
            torch.mul(z[k], w[0], out=y[k])
            for j in range(1, k):
                y[k].addcmul_(z[j], w[k - j], value=j / k)
            if k < order:
                w.append(_next(y, k))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        streams, ctx.order = inputs
        ctx.save_for_backward(streams, output)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        order = ctx.order
        streams, out = ctx.saved_tensors
        z, y, gy, back = _split(streams, order), _split(out, order), _split(grad.clone(), order), torch.zeros_like(grad)
        gz = _split(back, order)
        w = [1 - y[0] * y[0]] + [_next(y, k) for k in range(1, order)]
        gw = [torch.zeros_like(y[0])] + [torch.zeros_like(y[k]) for k in range(1, order)]
        for k in range(order, 0, -1):
            if k < order:  # w_k depends on y_0 ... y_k
                gy[0].sub_((gw[k] * y[k]).sum(1, keepdim=True), alpha=2)
                for i in range(1, k + 1):
                    gy[i].addcmul_(gw[k], y[k - i], value=-2)
            gz[k].addcmul_(gy[k], w[0])
            gw[0] += (gy[k] * z[k]).sum(1, keepdim=True)
            for j in range(1, k):
                gz[j].addcmul_(gy[k], w[k - j], value=j / k)
                gw[k - j].addcmul_(gy[k], z[j], value=j / k)
        torch.mul(gy[0] - 2 * gw[0] * y[0], w[0], out=gz[0])
        return back, None


def _split(streams: Tensor, order: int) -> list[Tensor]:
    """Views of the coefficients: the value ``[seeds, 1, ...]``, then one ``[seeds, directions, ...]`` for each order."""
    return [streams[:, :1], *streams[:, 1:].chunk(order, 1)]


def _next(y: list[Tensor], k: int) -> Tensor:
    """The coefficient of order ``k`` of one minus the square of a series."""
    total = -2 * y[0] * y[k]
    for i in range(1, k):
        total.addcmul_(y[i], y[k - i], value=-1)
    return total


def _contract(tangents: Tensor, matrix: Tensor) -> Tensor:
    """Tangents times a matrix ``[seeds, dims, n]``, as Taylor coefficients ``[seeds, slots, directions, n]``; a basis vector picks a row."""
    if not tangents.is_floating_point():
        rows = tangents[..., None].expand(-1, -1, matrix.shape[-1])
        return matrix.gather(1, rows)[:, None]
    slots = tangents.shape[1]
    factorials = tangents.new_tensor([math.factorial(k + 1) for k in range(slots)])
    return (tangents.flatten(1, 2) @ matrix).unflatten(1, (slots, -1)) / factorials[:, None, None]


def _sphere_factor(points: Tensor, tangents: Tensor, order: int) -> list[Tensor]:
    r"""Taylor coefficients of :math:`1-\lVert g(\tau)\rVert^2`."""
    crossed = _contract(tangents, points.mT)[..., None]
    slots, count = crossed.shape[1:3]
    if tangents.is_floating_point():
        scaled = tangents / tangents.new_tensor([math.factorial(k + 1) for k in range(slots)])[:, None, None]
        gram = torch.einsum("sidn,sjdn->sijd", scaled, scaled)
    else:
        gram = points.new_ones(points.shape[0], 1, 1, count)
    factor = [1 - points.square().sum(-1, keepdim=True)[:, None]]
    for k in range(1, order + 1):
        term = -2 * crossed[:, k - 1] if k <= slots else torch.zeros_like(crossed[:, 0])
        for i in range(max(1, k - slots), min(slots, k - 1) + 1):
            term = term - gram[:, i - 1, k - i - 1][..., None, None]
        factor.append(term)
    return factor


def derivatives(
    network: MLP,
    points: Float[Tensor, "seeds points dims"],
    tangents: Tangents,
    order: int = 2,
    vanish_on_sphere: bool = False,
) -> Float[Tensor, "seeds orders directions points outputs"]:
    r"""Derivatives of :math:`\tau\mapsto u(g(\tau))` at 0 along several curves, for a tanh network of the coordinates themselves.

    Args:
        network: a stack of multilayer perceptrons without an embedding.
        points: where the curves start.
        tangents: either the numbers of coordinates, then :math:`v^{(1)}` runs over those basis vectors; or vectors
            :math:`v^{(1)},v^{(2)},\dots` along the second axis. Those not given are zero.
        order: highest derivative, 1 to 4.
        vanish_on_sphere: differentiate :math:`(1-\lVert x\rVert^2)N(x)` in place of the network :math:`N`.

    Returns:
        value (repeated for each direction), first derivative, and so on along the second axis.

    Raises:
        ValueError: if an argument is empty, not finite or of a shape that does not fit, or the order is not supported.
    """
    sizes = shaped("points", points, ("seeds", "points", "dims"))
    if tangents.is_floating_point():
        slots = shaped("tangents", tangents, (sizes["seeds"], "slots", "directions", sizes["dims"]))["slots"]
    else:
        slots = 1 if shaped("tangents", tangents, (sizes["seeds"], "directions")) else 0
    finite(points=points, tangents=tangents)
    if not slots <= order <= HIGHEST_ORDER:
        raise ValueError(f"order is {order}: give {slots} (the slots of tangents) to {HIGHEST_ORDER}")
    layers = list(zip(network.weights, network.biases, strict=True))
    value = torch.baddbmm(layers[0][1], points, layers[0][0])[:, None]
    along = _contract(tangents, layers[0][0])[:, :, :, None].expand(-1, -1, -1, points.shape[1], -1).flatten(1, 2)
    count = along.shape[1] // slots
    empty = along.new_zeros(along.shape[0], (order - slots) * count, *along.shape[2:])
    streams = torch.cat([value, along, empty], 1)
    for weight, bias in layers[1:]:  # the bias of an affine layer shifts the value alone, which is what `linear` does
        streams = jets.linear(Jet(_Tanh.apply(streams, order), (order,) * count), weight, bias).streams
    series = _split(streams, order)
    if vanish_on_sphere:
        factor = _sphere_factor(points, tangents, order)
        series = [sum(factor[i] * series[k - i] for i in range(k + 1)) for k in range(order + 1)]
    return torch.stack([math.factorial(k) * part.expand(-1, count, -1, -1) for k, part in enumerate(series)], 1)


def coordinate_subset(draws: Sequence[torch.Generator], dims: int, count: int) -> Int[Tensor, "seeds directions"]:
    """Coordinates drawn without replacement, each seed its own: the sparse tangents.

    Args:
        draws: one generator a seed.
        dims: number of coordinates.
        count: how many of them.

    Returns:
        their numbers.

    Raises:
        ValueError: if ``count`` is not between 1 and ``dims``.
    """
    if not 1 <= count <= dims:
        raise ValueError(f"count is {count}: draw 1 to {dims} of {dims} coordinates")
    return torch.stack([torch.randperm(dims, generator=draw)[:count] for draw in draws])


def dense_directions(
    draws: Sequence[torch.Generator], dims: int, count: int, law: str = "rademacher"
) -> Float[Tensor, "seeds 1 directions dims"]:
    """Random vectors with the identity as covariance, as the first tangents: the dense tangents.

    Args:
        draws: one generator a seed.
        dims: number of coordinates.
        count: number of vectors.
        law: ``rademacher`` (entries -1 and 1, least variance for second derivatives) or ``normal`` (needed for the fourth).

    Returns:
        the vectors.

    Raises:
        ValueError: for another law.
    """
    if law == "rademacher":
        return (uniform(draws, 1, count, dims) < 0.5) * 2.0 - 1
    if law == "normal":
        return torch.stack([torch.randn(1, count, dims, generator=draw) for draw in draws])
    raise ValueError(f"law is {law!r}: choose 'rademacher' or 'normal'")


def laplacian(
    network: MLP, points: Float[Tensor, "seeds points dims"], tangents: Tangents, vanish_on_sphere: bool = False
) -> tuple[Float[Tensor, "seeds points outputs"], Float[Tensor, "seeds points outputs"]]:
    r"""The solution and an unbiased estimate of its Laplacian.

    Args:
        network: a stack of multilayer perceptrons without an embedding.
        points: where to evaluate.
        tangents: from :func:`coordinate_subset`, for :math:`\frac d{|J|}\sum_{j\in J}\partial_j^2u`, exact with all
            coordinates; or from :func:`dense_directions`, for :math:`\frac1V\sum v^\top\nabla^2u\,v`.
        vanish_on_sphere: as in :func:`derivatives`.

    Returns:
        value and estimate; the value does not depend on the draw.
    """
    jet = derivatives(network, points, tangents, 2, vanish_on_sphere)
    factor = 1 if tangents.is_floating_point() else points.shape[-1]
    return jet[:, 0, 0], factor * jet[:, 2].mean(1)


def biharmonic(
    network: MLP,
    points: Float[Tensor, "seeds points dims"],
    normals: Float[Tensor, "seeds 1 directions dims"],
    vanish_on_sphere: bool = False,
) -> Float[Tensor, "seeds directions points outputs"]:
    r"""One unbiased estimate of :math:`\Delta^2u` for each normal vector, :math:`\tfrac13\nabla^4u[v,v,v,v]`."""
    return derivatives(network, points, normals, 4, vanish_on_sphere)[:, 4] / 3


def mixed_third(
    network: MLP,
    points: Float[Tensor, "seeds points dims"],
    twice: Float[Tensor, "seeds directions dims"],
    once: Float[Tensor, "seeds directions dims"],
) -> Float[Tensor, "seeds directions points outputs"]:
    r"""The third derivative :math:`\nabla^3u[a,a,b]` from two slots of a fourth-order jet.

    With :math:`v^{(1)}=a,\ v^{(2)}=b` the fourth derivative along the curve is
    :math:`\nabla^4u[a,a,a,a]+6\nabla^3u[a,a,b]+3\nabla^2u[b,b]`; turning :math:`b` round leaves only the middle term in
    the difference, which is 12 times the result.

    Args:
        network: a stack of multilayer perceptrons without an embedding.
        points: where to evaluate.
        twice: :math:`a`, one vector a direction.
        once: :math:`b`.

    Returns:
        one value a direction. With random :math:`a` of unit covariance its mean is :math:`b\cdot\nabla\Delta u`.
    """
    there, back = (derivatives(network, points, torch.stack([twice, b], 1), 4)[:, 4] for b in (once, -once))
    return (there - back) / 12


def ball_points(draws: Sequence[torch.Generator], count: int, dims: int) -> Float[Tensor, "seeds count dims"]:
    """Points of the unit ball with uniform radius and direction; uniform ones would all lie next to the sphere, where the solution vanishes."""
    normal = torch.stack([torch.randn(count, dims, generator=draw) for draw in draws])
    return normal / normal.norm(dim=-1, keepdim=True) * uniform(draws, count, 1)


Residuals = Callable[[Tensor], tuple[Tensor, Tensor]]


def train(
    network: MLP,
    residuals: Residuals,
    choose: Callable[[], Tensor],
    steps: int = 10_000,
    rate: float = 1e-3,
    budget: Budget | None = None,
    watch: Callable[[int], None] | None = None,
) -> int:
    r"""Adam with a linearly falling rate on the mean of :math:`r_1r_2`, two residuals from independent draws.

    Given the point, the product has the mean :math:`r^2`; the square of one residual has :math:`r^2` plus the
    estimator's variance, and so has another minimum.

    Args:
        network: stack of networks, trained in place.
        residuals: maps points to two residuals of equal shape, the same one twice where the operator is exact.
        choose: draws a step's points.
        steps: number of steps, where no budget is given.
        rate: learning rate at the start.
        budget: a time budget that replaces ``steps``.
        watch: called with the number of steps taken, after each.

    Returns:
        the number of steps taken.

    Raises:
        FloatingPointError: when the loss becomes NaN or infinite.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
    step = 0
    while (progress := step / steps if budget is None else budget.fraction()) < 1:
        optimiser.param_groups[0]["lr"] = rate * (1 - progress)
        first, second = residuals(choose())
        loss = (first * second).flatten(1).mean(1).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is NaN or infinite at step {step}: lower the learning rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if watch is not None:
            watch(step)
    return step


def sampled_residuals(problem: Problem, network: MLP, draws: Sequence[torch.Generator], count: int) -> Residuals:
    """Two estimates of a problem's residual, for an equation that is affine in derivatives along single coordinates.

    The equation is handed a jet in which the drawn coordinates' derivatives are scaled by dims/count and the others are zero.

    Args:
        problem: posed on the unit ball, with second derivatives along every coordinate and a solution that vanishes on the sphere.
        network: stack of networks.
        draws: one generator a seed.
        count: coordinates a draw.

    Returns:
        the function that :func:`train` expects.
    """
    dims = len(problem.low)

    def residuals(points: Tensor) -> tuple[Tensor, Tensor]:
        sets = torch.cat([coordinate_subset(draws, dims, count) for _ in range(2)], 1)
        jet, pair = derivatives(network, points, sets, 2, vanish_on_sphere=True), []
        for chosen, part in zip(sets.split(count, 1), jet.split(count, 2), strict=True):
            streams = part.new_zeros(len(points), 1 + 2 * dims, *part.shape[3:])
            streams[:, 0] = part[:, 0, 0]
            for seed, axes in enumerate(chosen):
                streams[seed, 1 + 2 * axes] = dims / count * part[seed, 1]
                streams[seed, 2 + 2 * axes] = dims / count * part[seed, 2]
            pair.append(problem.equation(Jet(streams, problem.orders), points))
        return pair[0], pair[1]

    return residuals


@entrant("pinns", "stde")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with two draws of half the coordinates, 16 at most.

    Raises:
        ValueError: for problems other than those on the unit ball. With two coordinates there is nothing to sample, and
            features of the coordinates (periodic ones) would need jets of their own.
    """
    if problem.ansatz is not zero_on_sphere or set(problem.orders) != {2}:
        raise ValueError(
            f"problem {problem.name!r} is not one for stde: it samples the coordinates of a second-order operator on the "
            "unit ball; along the two coordinates of the other problems there is nothing to sample"
        )
    dims, network, draws = len(problem.low), default_network(problem, [seed]), generators([seed], stream=1)
    pair = sampled_residuals(problem, network, draws, min(16, dims // 2))
    steps = train(network, pair, lambda: problem.scale(uniform(draws, 64, dims)), budget=budget)
    return hand_back(problem, State(problem, network, Recipe(), draws, steps))
