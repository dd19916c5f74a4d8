r"""PINNsFormer: each collocation point becomes a short sequence of later times whose members attend to one another.

A pointwise network is told nothing about the moment before. Here the point :math:`(t, x)` is replaced by the
pseudo-sequence :math:`(t, x), (t+\Delta t, x), \dots, (t+(k-1)\Delta t, x)`. A transformer with one encoder and one
decoder layer maps the sequence to :math:`k` values, every one of which has to obey the equation; the initial values are
asked of the first member at :math:`t=0` only. Its activation is the *Wavelet*, :math:`\omega_1\sin x+\omega_2\cos x`.

Source: Zhao, Ding and Prakash (2023), arXiv:2307.11833. Derivatives exist in the two kinds described at
:meth:`PINNsFormer.members`; that the consistent kind can be carried forward as a jet is added here.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import generators, uniform
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, State, hand_back

INNER = 20  # iterations between two looks at the budget and at the numbers


def pseudo_sequence(
    points: Float[Tensor, "seeds points dims"], length: int, step: float
) -> Float[Tensor, "seeds members dims"]:
    r"""Each point followed by the same place at :math:`t+\Delta t,\dots,t+(k-1)\Delta t`, the members of a point side by side.

    Args:
        points: coordinates, time first.
        length: :math:`k`.
        step: :math:`\Delta t`, in the problem's unit of time.

    Returns:
        the members of all points; member j of point i is row ``i * length + j``.

    Raises:
        ValueError: if ``points`` is empty, not finite or of another shape, ``length`` is below 1 or ``step`` is negative.
    """
    shaped("points", points, ("seeds", "points", "dims"))
    finite(points=points)
    if length < 1:
        raise ValueError(f"length is {length}: a sequence has at least 1 member")
    if step < 0:
        raise ValueError(f"step is {step}: members lie at later times")
    members = points.repeat_interleave(length, 1)
    members[..., 0] += step * torch.arange(length, dtype=points.dtype).repeat(points.shape[1])
    return members


class Linear(nn.Module):
    """An affine layer for each seed, acting on a jet; Xavier-uniform weights, biases 0.01."""

    def __init__(self, draws: Sequence[torch.Generator], inputs: int, outputs: int):
        super().__init__()
        reach = (6 / (inputs + outputs)) ** 0.5
        self.weight = nn.Parameter(reach * (2 * uniform(draws, inputs, outputs) - 1))
        self.bias = nn.Parameter(torch.full((len(draws), 1, outputs), 0.01))

    def forward(self, jet: Jet) -> Jet:
        """Apply it to all streams."""
        return jets.linear(jet, self.weight, self.bias)


class Wavelet(nn.Module):
    r"""The activation :math:`\omega_1\sin x+\omega_2\cos x`, two trainable numbers a use and seed, 1 at the start."""

    def __init__(self, seeds: int):
        super().__init__()
        self.omega = nn.Parameter(torch.ones(seeds, 2))

    def forward(self, jet: Jet) -> Jet:
        """Apply it to every feature, and its derivatives to the other streams."""
        sine, cosine = jet.value.sin(), jet.value.cos()
        first, second = self.omega[:, :1, None], self.omega[:, 1:, None]
        wave, slope = first * sine + second * cosine, first * cosine - second * sine
        return jets.compose(jet, [wave, slope, -wave, -slope, wave])


class Tanh(nn.Module):
    """The hyperbolic tangent, for comparison."""

    def __init__(self, seeds: int):
        super().__init__()

    def forward(self, jet: Jet) -> Jet:
        """Apply it to every feature."""
        return jets.tanh(jet)


Activation = Callable[[int], nn.Module]


def perceptron(draws: Sequence[torch.Generator], sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Affine layers with activations between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [Linear(draws, inputs, outputs), activation(len(draws))]
    return nn.Sequential(*layers[:-1])


def _leibniz(a: list[Tensor], b: list[Tensor], orders: Sequence[int], multiply: Callable) -> list[Tensor]:
    """The streams of a bilinear product, to second order."""
    streams, start = [multiply(a[0], b[0])], 1
    for highest in orders:
        if highest >= 1:
            streams.append(multiply(a[start], b[0]) + multiply(a[0], b[start]))
        if highest >= 2:
            bend = multiply(a[start + 1], b[0]) + multiply(a[0], b[start + 1])
            streams.append(bend + 2 * multiply(a[start], b[start]))
        start += highest
    return streams


def _softmax(scores: list[Tensor], orders: Sequence[int]) -> list[Tensor]:
    """The streams of a softmax over the members attended to, the axis before the points: with g = s' - <s'>, p' = p g and p'' = p (s'' + g^2 - <s'' + g^2>)."""
    share = torch.softmax(scores[0], -2)
    streams, start = [share], 1
    for highest in orders:
        if highest >= 1:
            above = scores[start] - (share * scores[start]).sum(-2, keepdim=True)
            streams.append(share * above)
        if highest >= 2:
            bend = scores[start + 1] + above * above
            streams.append(share * (bend - (share * bend).sum(-2, keepdim=True)))
        start += highest
    return streams


class Attention(nn.Module):
    """Softmax attention among the members of one sequence, without positions or mask, on jets of up to second order.

    Args:
        draws: one generator a seed.
        width: features of a member.
        heads: number of heads.
        length: members of a sequence.
        mixing: whether members see one another; otherwise each sees only itself.

    Raises:
        ValueError: if the heads do not divide the width.
    """

    def __init__(self, draws: Sequence[torch.Generator], width: int, heads: int, length: int, mixing: bool = True):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads is {heads}, which does not divide the width {width}")
        self.heads, self.length, self.mixing = heads, length, mixing and length > 1
        self.query, self.key, self.value, self.out = (Linear(draws, width, width) for _ in range(4))

    def forward(self, x: Jet, memory: Jet) -> Jet:
        """Let the members in ``x`` read from those in ``memory``."""
        value = self.value(memory)
        if not self.mixing:  # a softmax over one member is 1
            return self.out(value)

        def heads(jet: Jet) -> list[Tensor]:  # each stream as [seeds, heads, features, members, points]
            split = jet.streams.unflatten(2, (-1, self.length)).unflatten(-1, (self.heads, -1))
            return list(split.permute(0, 1, 4, 5, 3, 2).contiguous().unbind(1))

        query, key, value = heads(self.query(x)), heads(self.key(memory)), heads(value)
        scale = query[0].shape[2] ** -0.5
        scores = _leibniz(query, key, x.orders, lambda q, k: scale * (q[:, :, :, :, None] * k[:, :, :, None]).sum(2))
        shares = _softmax(scores, x.orders)
        mixed = _leibniz(shares, value, x.orders, lambda p, v: (p[:, :, None] * v[:, :, :, None]).sum(4))
        joined = torch.stack(mixed, 1).permute(0, 1, 5, 4, 2, 3).flatten(4).flatten(2, 3)
        return self.out(Jet(joined, x.orders))


class Layer(nn.Module):
    """Attention, then a feed-forward network, each behind an activation and added to what came in."""

    def __init__(self, draws, width: int, heads: int, hidden: int, length: int, activation: Activation, mixing: bool):
        super().__init__()
        self.before, self.attention = activation(len(draws)), Attention(draws, width, heads, length, mixing)
        self.between = activation(len(draws))
        self.feed_forward = perceptron(draws, [width, hidden, hidden, width], activation)

    def forward(self, x: Jet, memory: Jet | None = None) -> Jet:
        """Attend to ``memory``, or to itself."""
        read = self.before(x)
        x = _add(x, self.attention(read, read if memory is None else memory))
        return _add(x, self.feed_forward(self.between(x)))


def _add(a: Jet, b: Jet) -> Jet:
    return Jet(a.streams + b.streams, a.orders)


class PINNsFormer(nn.Module):
    r"""A stack of transformers over pseudo-sequences, one a seed.

    Args:
        outputs: components of the solution.
        seeds: one network for each.
        length: :math:`k`, members of a sequence.
        step: :math:`\Delta t`, in the problem's unit of time.
        kind: of derivatives, ``published`` or ``consistent``; see :meth:`members`.
        width: features of a member.
        heads: number of attention heads.
        hidden: units of the feed-forward networks.
        reach: units of the output network.
        activation: makes an activation for a number of seeds.
        mixing: whether members see one another.
        inputs: number of coordinates.

    Raises:
        ValueError: for an unknown kind, a length below 1 or heads that do not divide the width.
    """

    def __init__(
        self,
        outputs: int,
        seeds: Sequence[int],
        length: int = 5,
        step: float = 1e-4,
        kind: str = "published",
        width: int = 16,
        heads: int = 2,
        hidden: int = 32,
        reach: int = 64,
        activation: Activation = Wavelet,
        mixing: bool = True,
        inputs: int = 2,
    ):
        super().__init__()
        if kind not in ("published", "consistent"):
            raise ValueError(f"kind is {kind!r}: choose 'published' or 'consistent'")
        if length < 1:
            raise ValueError(f"length is {length}: a sequence has at least 1 member")
        self.length, self.step, self.kind = length, step, kind
        draws = generators(seeds)
        self.mixer = Linear(draws, inputs, width)
        self.encoder = Layer(draws, width, heads, hidden, length, activation, mixing)
        self.decoder = Layer(draws, width, heads, hidden, length, activation, mixing)
        self.encoded, self.decoded = activation(len(draws)), activation(len(draws))
        self.head = perceptron(draws, [width, reach, reach, outputs], activation)

    def read(self, sequence: Float[Tensor, "seeds members dims"], orders: Sequence[int]) -> Jet:
        """The jet of all members when time or place of whole sequences is shifted.

        Args:
            sequence: from :func:`pseudo_sequence`.
            orders: highest derivative wanted along each coordinate, at most 2.

        Returns:
            a jet with one value a member.

        Raises:
            ValueError: for orders above 2.
        """
        if max(orders) > 2:
            raise ValueError(f"orders are {tuple(orders)}: shifts are carried to second order; take kind='published'")
        mixed = self.mixer(jets.coordinates(sequence, orders))
        return self.head(self.decoded(self.decoder(mixed, self.encoded(self.encoder(mixed)))))

    def members(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        r"""Values and derivatives of all members of the points' sequences.

        With member values :math:`\hat u_j` at times :math:`t_j`, the published code differentiates the sum of all outputs, so that
        member i has :math:`\sum_j\partial\hat u_j/\partial t_i`. The derivative of a member's own value when its whole sequence
        is shifted is :math:`\sum_i\partial\hat u_j/\partial t_i` (kind ``consistent``); it is what a test along a line sees.

        Args:
            points: coordinates, time first.
            orders: highest derivative wanted along each coordinate.

        Returns:
            a jet with ``length`` rows a point, in the order of :func:`pseudo_sequence`.
        """
        sequence = pseudo_sequence(points, self.length, self.step)
        if self.kind == "consistent" or not any(orders):
            return self.read(sequence, orders)
        return jets.by_autograd(lambda places: self.read(places, (0,) * len(orders)).value, sequence, orders)

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """The first member of each point's sequence, which is the solution there."""
        return Jet(self.members(points, orders).streams[:, :, :: self.length], tuple(orders))


def training_grid(problem: Problem, size: int) -> Float[Tensor, "1 points 2"]:
    """A square grid with the edges of the domain on it, time slowest, in float64."""
    unit = torch.linspace(0, 1, size, dtype=torch.float64)
    return problem.scale(torch.cartesian_prod(unit, unit))[None]


def sequential_loss(problem: Problem, network: nn.Module, size: int) -> dict[str, Float[Tensor, " seeds"]]:
    """The terms of the loss on a grid: residual and boundary averaged over all members, initial values on the first one.

    The grid holds initial line and walls, and sequences do not interact, so one evaluation serves all terms. A periodic problem
    asks for equal values at both ends (and equal slopes, where the equation has a second derivative).

    Args:
        problem: in time and one coordinate, with an initial condition.
        network: has ``members``, ``length`` and ``step``.
        size: points along each coordinate.

    Returns:
        ``residual``, ``initial`` and ``boundary``.

    Raises:
        ValueError: if the problem is not of that kind, or ``size`` is below 2.
    """
    if len(problem.low) != 2 or all(condition.name != "initial" for condition in problem.conditions):
        raise ValueError(f"problem {problem.name!r} is not one of time and one coordinate with an initial condition")
    if size < 2:
        raise ValueError(f"size is {size}: a grid with both ends on it has at least 2 points a side")
    points = training_grid(problem, size).to(next(network.parameters()).dtype)
    places = pseudo_sequence(points, network.length, network.step)
    jet = network.members(points, problem.orders)
    streams, where = (z.unflatten(-2, (size, size, network.length)) for z in (jet.streams, places))
    low, high = Jet(streams[:, :, :, 0].flatten(2, 3), jet.orders), Jet(streams[:, :, :, -1].flatten(2, 3), jet.orders)
    squared = {"residual": problem.equation(jet, places).square()}
    for condition in problem.conditions:
        if condition.name == "initial":
            squared["initial"] = condition.misfit(Jet(streams[:, :, 0, :, 0], jet.orders), where[:, 0, :, 0]).square()
        else:
            sides = zip((low, high), (where[:, :, 0], where[:, :, -1]), strict=True)
            squared["boundary"] = sum(condition.misfit(side, at.flatten(1, 2)).square() for side, at in sides)
    if problem.period is not None:
        gaps = [low.d(1, order) - high.d(1, order) for order in range(max(1, problem.orders[1]))]
        squared["boundary"] = torch.cat(gaps, -1).square()
    return {name: term.sum(-1).mean(1) for name, term in squared.items()}


def train_on_grid(
    problem: Problem,
    network: nn.Module,
    size: int,
    iterations: int,
    budget: Budget | None = None,
    watch: Callable[[State], None] | None = None,
) -> State:
    """Minimise the sum of the loss terms (weights 1) by full-batch L-BFGS with a strong Wolfe search, in the network's own precision.

    Args:
        problem: in time and one coordinate.
        network: a stack of one network, trained in place; a PINNsFormer or one that has its ``members``.
        size: grid points along each coordinate.
        iterations: at most so many L-BFGS iterations, in calls of up to 20; a call that lowers the loss no more ends the training.
        budget: a time budget that replaces the number of iterations.
        watch: called after every call.

    Returns:
        the last state; its ``step`` counts iterations, its ``terms`` are the lowest reached, to which the network is set.

    Raises:
        ValueError: if ``iterations`` is below 1, or the problem has no initial condition or more than two coordinates.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: give at least 1")
    state, weights = State(problem, network, Recipe(), generators([0])), list(network.parameters())
    optimiser = torch.optim.LBFGS(weights, max_iter=INNER, history_size=100, line_search_fn="strong_wolfe")
    lowest, best = torch.inf, [weight.detach().clone() for weight in weights]

    def loss() -> Tensor:
        nonlocal lowest, best
        if budget is not None and budget.exhausted():
            raise _Spent
        optimiser.zero_grad()
        terms = sequential_loss(problem, network, size)
        total = sum(terms.values()).sum()
        if total.detach() < lowest:
            lowest, best = float(total.detach()), [weight.detach().clone() for weight in weights]
            state.terms = {name: term.detach() for name, term in terms.items()}
        total.backward()
        return total.detach()

    progress = True
    while progress and (budget is not None or state.step < iterations):
        if budget is None:
            optimiser.param_groups[0]["max_iter"] = min(INNER, iterations - state.step)
        start = lowest
        try:
            optimiser.step(loss)
        except _Spent:
            break
        state.step, progress = optimiser.state[weights[0]]["n_iter"], lowest < start
        if watch is not None:
            watch(state)
    state.step = optimiser.state[weights[0]].get("n_iter", 0)
    # a line search may end above the lowest loss, or leave the finite numbers
    for weight, value in zip(weights, best, strict=True):
        weight.data.copy_(value)
    return state


class _Spent(Exception):
    """The time budget is used up."""


@entrant("pinns", "pinnsformer")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with consistent derivatives and steps of 0.01; declines what is not time and one coordinate or beyond second order."""
    if max(problem.orders) > 2:
        raise ValueError(f"problem {problem.name!r} has derivatives of order {max(problem.orders)}: 2 at most")
    network = PINNsFormer(problem.outputs, [seed], step=1e-2, kind="consistent")
    return hand_back(problem, train_on_grid(problem, network, 21, 1, budget))
