r"""Derivatives of a network carried forward with its value (Taylor mode), for several seeds at once.

A residual such as :math:`u_t - \nu u_{xx}` needs derivatives of the network with respect to its inputs. Nested
reverse-mode differentiation builds them from ever longer graphs. A *jet* instead holds :math:`u` and its pure
derivatives side by side and pushes all of them through each layer: a linear layer acts on every stream alike (one
batched matrix product), and a nonlinearity mixes them by the chain rule (Faa di Bruno). Reverse mode is then needed
once, for the gradient with respect to the parameters.

Which derivatives are carried is written as ``orders``, one integer a coordinate: ``(1, 2)`` for :math:`(t, x)`
means :math:`u, u_t, u_x, u_{xx}`. Orders up to 4 are supported; mixed derivatives are not.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

HIGHEST_ORDER = 4


class Jet:
    """A function's values and pure derivatives at a set of points, for every seed.

    Args:
        streams: value first, then for each coordinate its derivatives of order 1, 2, ...
        orders: the highest order carried for each coordinate.

    Raises:
        ValueError: if an order is outside 0..4 or the number of streams does not fit.
    """

    __slots__ = ("streams", "orders")

    def __init__(self, streams: Float[Tensor, "seeds streams points features"], orders: tuple[int, ...]):
        if any(not 0 <= order <= HIGHEST_ORDER for order in orders):
            raise ValueError(f"orders are {orders}: each must lie in 0..{HIGHEST_ORDER}")
        count, needed = streams.shape[1], 1 + sum(orders)
        if count != needed:
            raise ValueError(f"streams has {count} streams, orders {orders} need {needed}")
        self.streams, self.orders = streams, orders

    @property
    def value(self) -> Float[Tensor, "seeds points features"]:
        """The function itself."""
        return self.streams[:, 0]

    def d(self, axis: int, order: int = 1) -> Float[Tensor, "seeds points features"]:
        """The pure derivative of the given order with respect to coordinate ``axis``.

        Args:
            axis: index of the coordinate.
            order: order of the derivative, 0 for the value.

        Returns:
            the derivative at every point.

        Raises:
            ValueError: if this jet does not carry that derivative.
        """
        if order == 0:
            return self.value
        if not 0 <= axis < len(self.orders) or not 1 <= order <= self.orders[axis]:
            raise ValueError(f"order {order} along axis {axis} is not carried: this jet has orders {self.orders}")
        return self.streams[:, _index(self.orders, axis, order)]


def _index(orders: Sequence[int], axis: int, order: int) -> int:
    """Position of a derivative in the stack of streams (order 0 is the value)."""
    return 0 if order == 0 else sum(orders[:axis]) + order


def coordinates(
    points: Float[Tensor, "seeds points dims"],
    orders: Sequence[int],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> Jet:
    """The jet of the coordinates themselves, where every network starts, or of the coordinates rescaled to [-1, 1].

    Args:
        points: where to evaluate.
        orders: highest derivative wanted along each coordinate.
        low: what becomes -1 in each coordinate; with ``high``, or not at all.
        high: what becomes 1 in each coordinate.

    Returns:
        a jet with one feature a coordinate; its derivatives are with respect to ``points``.

    Raises:
        ValueError: if ``orders`` does not name one order for each coordinate.
    """
    if len(orders) != points.shape[-1]:
        raise ValueError(f"orders has {len(orders)} entries, points have {points.shape[-1]} coordinates")
    streams = points.new_zeros(points.shape[0], 1 + sum(orders), *points.shape[1:])
    if low is None or high is None:
        slopes = [1.0] * len(orders)
        streams[:, 0] = points
    else:
        slopes = [2 / (b - a) for a, b in zip(low, high, strict=True)]
        streams[:, 0] = (points - points.new_tensor(low)) * points.new_tensor(slopes) - 1
    for axis, order in enumerate(orders):
        if order:
            streams[:, _index(orders, axis, 1), :, axis] = slopes[axis]
    return Jet(streams, tuple(orders))


def periodic(
    points: Float[Tensor, "seeds points dims"],
    orders: Sequence[int],
    axis: int,
    period: float,
    harmonics: int,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
) -> Jet:
    r"""Coordinates with one of them replaced by :math:`\cos(2\pi m x/P), \sin(2\pi m x/P)`, :math:`m = 1..M`.

    Whatever a network makes of these features is periodic in that coordinate, with all its derivatives.

    Args:
        points: where to evaluate.
        orders: highest derivative wanted along each coordinate.
        axis: the periodic coordinate.
        period: :math:`P`, in the unit of that coordinate.
        harmonics: :math:`M`.
        low: with ``high``: rescale the other coordinates, as in :func:`coordinates`.
        high: see ``low``.

    Returns:
        a jet whose features are the other coordinates, then the cosines, then the sines.
    """
    plain = coordinates(points, orders, low, high).streams
    others = torch.cat([plain[..., :axis], plain[..., axis + 1 :]], -1)
    waves = plain.new_zeros(*plain.shape[:-1], 2 * harmonics)
    frequency = 2 * math.pi / period * torch.arange(1, harmonics + 1, dtype=points.dtype, device=points.device)
    angle = points[..., axis : axis + 1] * frequency
    for order in range(orders[axis] + 1):  # each derivative is a factor and a quarter turn
        shifted = angle + order * math.pi / 2
        wave = torch.cat([shifted.cos(), shifted.sin()], -1) * frequency.pow(order).repeat(2)
        waves[:, _index(orders, axis, order)] = wave
    return Jet(torch.cat([others, waves], -1), tuple(orders))


def fourier(
    points: Float[Tensor, "seeds points dims"], orders: Sequence[int], frequencies: Float[Tensor, "seeds dims features"]
) -> Jet:
    r"""Fourier features :math:`\cos(Bx), \sin(Bx)` (Tancik et al., 2020, arXiv:2006.10739), each seed with its own :math:`B`.

    Args:
        points: where to evaluate.
        orders: highest derivative wanted along each coordinate.
        frequencies: :math:`B`, in radians per unit of each coordinate.

    Returns:
        a jet whose features are the cosines, then the sines.
    """
    angle = torch.bmm(points, frequencies)
    streams = [torch.cat([angle.cos(), angle.sin()], -1)]
    for axis, highest in enumerate(orders):
        rate = frequencies[:, axis : axis + 1].repeat(1, 1, 2)
        for order in range(1, highest + 1):
            shifted = angle + order * math.pi / 2
            streams.append(torch.cat([shifted.cos(), shifted.sin()], -1) * rate**order)
    return Jet(torch.stack(streams, 1), tuple(orders))


def by_autograd(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "seeds points dims"], orders: Sequence[int]
) -> Jet:
    """The jet of any function by nested reverse-mode differentiation: slower, for networks that carry no jets themselves.

    Args:
        function: maps points ``[seeds, points, dims]`` to values ``[seeds, points, features]``, each point for itself.
        points: where to evaluate.
        orders: highest derivative wanted along each coordinate.

    Returns:
        the function's jet, differentiable with respect to the function's parameters.

    Raises:
        ValueError: if ``orders`` does not name one order for each coordinate.
    """
    if len(orders) != points.shape[-1]:
        raise ValueError(f"orders has {len(orders)} entries, points have {points.shape[-1]} coordinates")
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        value = function(points)
        streams = [value]
        slopes = {}  # the first derivatives of a feature come together, from one backward pass
        for axis, highest in enumerate(orders):
            columns = list(value.unbind(-1))
            for order in range(1, highest + 1):
                for feature, column in enumerate(columns):
                    key = (feature, axis, order) if order > 1 else (feature,)
                    if key not in slopes:
                        slopes[key] = _slope(column, points)
                    columns[feature] = slopes[key][..., axis]
                streams.append(torch.stack(columns, -1))
    return Jet(torch.stack(streams, 1), tuple(orders))


def _slope(column: Tensor, points: Tensor) -> Tensor:
    """Gradient of each entry of a column with respect to its own point; zero where the column does not depend on it."""
    if not column.requires_grad:
        return torch.zeros_like(points)
    (slope,) = torch.autograd.grad(column.sum(), points, create_graph=True, allow_unused=True)
    return torch.zeros_like(points) if slope is None else slope


class _Affine(torch.autograd.Function):
    """``x W`` for all streams and ``+ b`` for the value only; written out because it saves a copy of the streams."""

    generate_vmap_rule = True

    @staticmethod
    def forward(streams, weight, bias):
        seeds, count, points, _ = streams.shape
        mapped = torch.bmm(streams.flatten(1, 2), weight).view(seeds, count, points, -1)
        mapped[:, 0] += bias
        return mapped

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad):
        streams, weight = ctx.saved_tensors
        flat = grad.flatten(1, 2)
        back = torch.bmm(flat, weight.mT).view(streams.shape) if ctx.needs_input_grad[0] else None
        return back, torch.bmm(streams.flatten(1, 2).mT, flat), grad[:, 0].sum(1, keepdim=True)


def linear(jet: Jet, weight: Float[Tensor, "seeds inputs outputs"], bias: Float[Tensor, "seeds 1 outputs"]) -> Jet:
    """An affine layer, each seed with its own weights: one batched product for all streams."""
    return Jet(_Affine.apply(jet.streams, weight, bias), jet.orders)


class _Tanh(torch.autograd.Function):
    """The chain rule of tanh to second order and its gradient, in as few passes over memory as it takes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z, orders):
        y = torch.tanh(z[:, 0])
        first = 1 - y * y
        out = torch.cat([y[:, None], first[:, None] * z[:, 1:]], 1)
        for k in _second_orders(orders):
            out[:, k + 1] -= 2 * y * first * z[:, k] * z[:, k]
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        z, ctx.orders = inputs
        ctx.save_for_backward(z, output)

    @staticmethod
    def backward(ctx, grad):
        z, out = ctx.saved_tensors
        y = out[:, 0]
        first = 1 - y * y
        second = -2 * y * first
        lead = grad[:, 0] * first
        if z.shape[1] > 1:
            lead = lead + second * (grad[:, 1:] * z[:, 1:]).sum(1)
        rest = first[:, None] * grad[:, 1:]
        for k in _second_orders(ctx.orders):
            bent = grad[:, k + 1] * z[:, k]
            lead = lead + first * (6 * y * y - 2) * bent * z[:, k]
            rest[:, k - 1] += 2 * second * bent
        return torch.cat([lead[:, None], rest], 1), None


class _Product(torch.autograd.Function):
    """Leibniz' rule to second order and its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b, orders):
        out = a[:, :1] * b
        out[:, 1:] += a[:, 1:] * b[:, :1]
        for k in _second_orders(orders):
            out[:, k + 1] += 2 * a[:, k] * b[:, k]
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, b, ctx.orders = inputs
        ctx.save_for_backward(a, b)

    @staticmethod
    def backward(ctx, grad):
        def towards(other):
            lead = (grad * other).sum(1, keepdim=True)
            rest = grad[:, 1:] * other[:, :1]
            for k in _second_orders(ctx.orders):
                rest[:, k - 1] += 2 * grad[:, k + 1] * other[:, k]
            return torch.cat([lead, rest], 1)

        a, b = ctx.saved_tensors
        return towards(b), towards(a), None


def _second_orders(orders: Sequence[int]) -> list[int]:
    """Positions of the first derivatives that are followed by a second one."""
    return [_index(orders, axis, 1) for axis, order in enumerate(orders) if order >= 2]


def compose(jet: Jet, derivatives: Sequence[Tensor]) -> Jet:
    r"""A function of a jet, feature by feature, by the chain rule (Faa di Bruno).

    Args:
        jet: the inner function :math:`z`.
        derivatives: :math:`f(z), f'(z), f''(z), \dots` at the jet's value, as many as its highest order needs.

    Returns:
        the jet of :math:`f(z)`.

    Raises:
        ValueError: if there are too few derivatives.
    """
    highest = max(jet.orders, default=0)
    if len(derivatives) <= highest:
        raise ValueError(f"derivatives has {len(derivatives)} entries, orders {jet.orders} need {highest + 1}")
    z = jet.streams
    if highest == 0:
        return Jet(derivatives[0][:, None], jet.orders)
    first, second, third, fourth = (derivatives[k] if k < len(derivatives) else None for k in range(1, 5))
    chained = list((first[:, None] * z[:, 1:]).unbind(1))  # the linear term that every derivative has
    for axis, order in enumerate(jet.orders):
        start = _index(jet.orders, axis, 1)
        z1, z2, z3 = (z[:, start + k] if k < order else None for k in range(3))
        if order >= 2:
            squared = z1 * z1
            chained[start] = chained[start] + second * squared
        if order >= 3:
            chained[start + 1] = chained[start + 1] + (third * squared + 3 * second * z2) * z1
        if order >= 4:
            chained[start + 2] = (
                chained[start + 2]
                + (fourth * squared + 6 * third * z2) * squared
                + second * (3 * z2 * z2 + 4 * z1 * z3)
            )
    return Jet(torch.stack([derivatives[0], *chained], 1), jet.orders)


def tanh(jet: Jet) -> Jet:
    r"""The hyperbolic tangent of a jet by the chain rule.

    With :math:`y=\tanh z`: :math:`y'=1-y^2`, :math:`y''=-2yy'`, :math:`y'''=y'(6y^2-2)`, :math:`y''''=8yy'(2-3y^2)`.
    """
    if max(jet.orders, default=0) <= 2:
        return Jet(_Tanh.apply(jet.streams, jet.orders), jet.orders)
    y = torch.tanh(jet.value)
    first = 1 - y * y
    return compose(jet, [y, first, -2 * y * first, first * (6 * y * y - 2), 8 * y * first * (2 - 3 * y * y)])


def sine(jet: Jet) -> Jet:
    """The sine of a jet by the chain rule."""
    y, slope = jet.value.sin(), jet.value.cos()
    return compose(jet, [y, slope, -y, -slope, y])


def product(left: Jet, right: Jet) -> Jet:
    r"""The pointwise product of two jets by Leibniz' rule, :math:`(ab)^{(n)}=\sum_k \binom nk a^{(k)}b^{(n-k)}`.

    Args:
        left: first factor.
        right: second factor, with the same orders; features must agree or be 1.

    Returns:
        the product's jet.

    Raises:
        ValueError: if the orders differ.
    """
    if left.orders != right.orders:
        raise ValueError(f"right has orders {right.orders}, left has {left.orders}: they must agree")
    a, b = left.streams, right.streams
    if max(left.orders, default=0) <= 2 and a.shape == b.shape:
        return Jet(_Product.apply(a, b, left.orders), left.orders)
    streams = [a[:, 0] * b[:, 0]]
    for axis, highest in enumerate(left.orders):
        at = [_index(left.orders, axis, order) for order in range(highest + 1)]
        for n in range(1, highest + 1):
            streams.append(sum(math.comb(n, k) * a[:, at[k]] * b[:, at[n - k]] for k in range(n + 1)))
    return Jet(torch.stack(streams, 1), left.orders)
