r"""Physics-informed Gaussians (PIG): features carried by Gaussians that move and stretch, read by a light network.

Feature vectors sit on trainable Gaussians. At a point their weighted sum is the input of a network with one hidden layer,
whose output is the solution. Means and widths are trained with everything else by the equation's loss, so that resolution
goes where the solution needs it, without a fixed grid.

Source: Kang, Oh, Hong and Park (2024), arXiv:2412.05994. One set of Gaussians shared by all feature channels is the
paper's formula; the authors' code gives every channel its own, which is the option ``own``.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget, entrant
from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.nn.networks import generators, glorot, uniform
from touchstone.pinns.problems import Problem
from touchstone.pinns.protocol import Recipe, Solution, State, edge_loss, hand_back, uniform_points, weighted_sum

INNER = 20  # iterations between two looks at the budget and at the numbers


def gaussian_jet(
    points: Float[Tensor, "seeds points dims"],
    means: Float[Tensor, "seeds n dims"],
    precision: Float[Tensor, "seeds n dims dims"],
    orders: Sequence[int],
) -> Jet:
    r"""Gaussians :math:`G_i(x)=\exp(-\tfrac12\delta^\top P_i\delta)`, :math:`\delta=x-\mu_i`, with derivatives in closed form.

    Along axis :math:`a`, with :math:`y=(P\delta)_a` and :math:`p=P_{aa}`: :math:`\partial_a^nG=(-1)^nH_nG`, where
    :math:`H_0=1`, :math:`H_1=y`, :math:`H_{n+1}=yH_n-npH_{n-1}` (Hermite polynomials).

    Args:
        points: where to evaluate.
        means: :math:`\mu_i`.
        precision: :math:`P_i`, symmetric and positive definite: the inverse covariance.
        orders: highest derivative wanted along each coordinate.

    Returns:
        a jet with one feature a Gaussian.

    Raises:
        ValueError: if an argument is empty, not finite, or of a shape that does not fit the others.
    """
    sizes = shaped("points", points, ("seeds", "points", "dims"))
    count = shaped("means", means, (sizes["seeds"], "n", sizes["dims"]))["n"]
    shaped("precision", precision, (sizes["seeds"], count, sizes["dims"], sizes["dims"]))
    finite(points=points, means=means, precision=precision)
    if len(orders) != sizes["dims"]:
        raise ValueError(f"orders has {len(orders)} entries, points have {sizes['dims']} coordinates")
    return _jet(points, means, precision, orders)


def _jet(points: Tensor, means: Tensor, precision: Tensor, orders: Sequence[int]) -> Jet:
    """The recursion itself; the derivatives obey it with y replaced by -y."""
    axes = range(points.shape[-1])
    gaps = [points[..., a, None] - means[:, None, :, a] for a in axes]
    slopes = [sum(precision[:, None, :, a, b] * gaps[b] for b in axes) for a in axes]
    value = torch.exp(-0.5 * sum(gap * slope for gap, slope in zip(gaps, slopes, strict=True)))
    streams = [value]
    for a, highest in enumerate(orders):
        before, now = value, -slopes[a] * value
        for order in range(1, highest + 1):
            streams.append(now)
            if order < highest:
                before, now = now, -slopes[a] * now - order * precision[:, None, :, a, a] * before
    return Jet(torch.stack(streams, 1), tuple(orders))


def _weighted_sums(points: Tensor, means: Tensor, precision: Tensor, features: Tensor, orders: Sequence[int]) -> Tensor:
    r"""The streams of :math:`\sum_if_iG_i` for axis-parallel Gaussians, to second order, as two matrix products.

    The exponent and the factors of :math:`G_i` in its derivatives are polynomials in x whose coefficients depend on i: only the
    exponential itself is taken for every pair of a point and a Gaussian, which makes a step about four times as fast.
    """
    monomials = torch.cat([points.square(), points, torch.ones_like(points[..., :1])], -1)
    drift = precision * means
    exponent = torch.cat([-0.5 * precision, drift, -0.5 * (drift * means).sum(-1, keepdim=True)], -1)
    values = torch.exp(torch.bmm(monomials, exponent.mT))
    table = [features]
    for a, highest in enumerate(orders):
        p, q = precision[..., a : a + 1], drift[..., a : a + 1]
        table += [p * features, q * features] if highest else []
        table += [p * p * features, p * q * features, (q * q - p) * features] if highest == 2 else []
    sums = torch.bmm(values, torch.cat(table, -1)).split(features.shape[-1], -1)
    streams, place = [sums[0]], 1
    for a, highest in enumerate(orders):
        x = points[..., a : a + 1]
        if highest:
            streams.append(sums[place + 1] - x * sums[place])
        if highest == 2:
            streams.append(x * (x * sums[place + 2] - 2 * sums[place + 3]) + sums[place + 4])
        place += (0, 2, 5)[highest]
    return torch.stack(streams, 1)


class Gaussians(nn.Module):
    r"""The embedding :math:`\Phi(x)=\sum_if_iG_i(x)`, one a seed, on the domain rescaled to [-1, 1].

    Args:
        problem: gives the domain, and the period of the second coordinate where there is one.
        seeds: one embedding for each.
        count: :math:`N`, number of Gaussians (of a channel, if every channel has its own).
        channels: :math:`k`, length of a feature vector.
        width: :math:`\sigma` at the start, in units of half the domain.
        full: Gaussians may rotate: :math:`P=R\,\mathrm{diag}(\sigma^{-2})R^\top`.
        own: every channel has its own Gaussians.
    """

    def __init__(
        self,
        problem: Problem,
        seeds: Sequence[int],
        count: int,
        channels: int = 4,
        width: float = 0.1,
        full: bool = False,
        own: bool = False,
    ):
        super().__init__()
        dims, draws, total = len(problem.low), generators(seeds), count * channels if own else count
        self.low, self.high = problem.low, problem.high
        self.period = None if problem.period is None else 2 * problem.period / (problem.high[1] - problem.low[1])
        self.means = nn.Parameter(2 * uniform(draws, total, dims) - 1)
        self.widths = nn.Parameter(torch.full((len(draws), total, dims), width))
        size = (count, channels)
        self.features = nn.Parameter(0.01 * torch.stack([torch.randn(*size, generator=draw) for draw in draws]))
        self.turns = nn.Parameter(torch.zeros(len(draws), total, dims * (dims - 1) // 2)) if full else None
        self.own = own

    def precision(self) -> Float[Tensor, "seeds n dims dims"]:
        """The inverse covariances."""
        inverse = torch.diag_embed(self.widths**-2)
        if self.turns is None:
            return inverse
        dims = self.widths.shape[-1]
        upper = torch.triu_indices(dims, dims, 1)
        skew = self.turns.new_zeros(*self.turns.shape[:-1], dims, dims)
        skew[..., upper[0], upper[1]] = -self.turns
        rotation = torch.matrix_exp(skew - skew.mT)
        return rotation @ inverse @ rotation.mT

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """The embedding's jet, with derivatives with respect to ``points``."""
        rates = [2 / (b - a) for a, b in zip(self.low, self.high, strict=True)]
        unit = (points - points.new_tensor(self.low)) * points.new_tensor(rates) - 1
        means, precision = self.means, self.precision()
        features = torch.diag_embed(self.features).flatten(1, 2) if self.own else self.features
        if self.period is not None:  # a Gaussian and its images one period to either side
            shift = means.new_tensor([[0.0, m * self.period] for m in (-1, 0, 1)])
            means = (means[:, None] + shift[:, None]).flatten(1, 2)
            precision, features = precision.repeat(1, 3, 1, 1), features.repeat(1, 3, 1)
        if self.turns is None and max(orders) <= 2:
            streams = _weighted_sums(unit, means, precision.diagonal(dim1=-2, dim2=-1), features, orders)
        else:
            jet = _jet(unit, means, precision, orders)
            streams = torch.bmm(jet.streams.flatten(1, 2), features).unflatten(1, jet.streams.shape[1:3])
        scale = [1.0] + [rate**n for rate, highest in zip(rates, orders, strict=True) for n in range(1, highest + 1)]
        return Jet(streams * streams.new_tensor(scale)[:, None, None], tuple(orders))


class PIG(nn.Module):
    r"""The solution :math:`u(x)=W_2\tanh(W_1\Phi(x)+b_1)+b_2` on any embedding, a stack with one network a seed.

    Args:
        embedding: maps points and orders to the jet of :math:`\Phi`.
        outputs: components of the solution.
        seeds: one network for each.
        channels: features that the embedding delivers.
        hidden: hidden units; 0 for no network, :math:`u=\Phi`, which needs as many channels as outputs.

    Raises:
        ValueError: if there is no network and channels and outputs differ.
    """

    def __init__(self, embedding: nn.Module, outputs: int, seeds: Sequence[int], channels: int = 4, hidden: int = 16):
        super().__init__()
        if not hidden and channels != outputs:
            raise ValueError(f"channels is {channels}: without a network it must equal the {outputs} outputs")
        self.embedding, draws = embedding, generators(seeds, stream=2)
        sizes = [(channels, hidden), (hidden, outputs)] if hidden else []
        self.weights = nn.ParameterList(glorot(draws, a, b) for a, b in sizes)
        self.biases = nn.ParameterList(torch.zeros(len(draws), 1, b) for _, b in sizes)

    def forward(self, points: Float[Tensor, "seeds points dims"], orders: Sequence[int]) -> Jet:
        """Value and derivatives at the points, with ``outputs`` features."""
        jet = self.embedding(points, orders)
        if not self.weights:
            return jet
        jet = jets.tanh(jets.linear(jet, self.weights[0], self.biases[0]))
        return jets.linear(jet, self.weights[1], self.biases[1])


def gaussian_network(problem: Problem, seeds: Sequence[int], count: int = 150, channels: int = 4, **options) -> PIG:
    """A PIG for a problem; ``options`` are those of :class:`Gaussians`."""
    return PIG(Gaussians(problem, seeds, count, channels, **options), problem.outputs, seeds, channels)


def train_in_calls(
    problem: Problem,
    network: nn.Module,
    seed: int,
    recipe: Recipe,
    calls: int,
    budget: Budget | None = None,
    redraw: int = 5,
    watch: Callable[[State], None] | None = None,
) -> State:
    """L-BFGS with a strong Wolfe search in calls of 20 iterations, in float64; points are redrawn between some calls.

    The curvature memory goes on across draws, as in the authors' code. They redraw ten thousand points after every call; the
    gradient of a thousand points jumps more at a new draw, and so the draws here are rarer.

    Args:
        problem: the equation and its data.
        network: a stack of one network, turned into float64 and trained in place.
        seed: draws the points.
        recipe: number of points, and the weight of the edges (the paper's residual weight is its inverse).
        calls: number of calls.
        budget: a time budget that replaces the number of calls.
        redraw: calls between two draws of the collocation points; 0 keeps the first ones.
        watch: called after every call.

    Returns:
        the last state; its ``step`` counts iterations.

    Raises:
        ValueError: if ``calls`` is below 1.
    """
    if calls < 1:
        raise ValueError(f"calls is {calls}: give at least 1")
    network.double()
    state = State(problem, network, recipe, generators([seed], stream=1))
    weights = [weight for weight in network.parameters() if weight.requires_grad]

    def fresh() -> torch.optim.LBFGS:
        return torch.optim.LBFGS(weights, max_iter=INNER, history_size=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        state.residual = problem.residual(network, state.points)
        terms = {"residual": state.residual.square().sum(-1).mean(1)} | edge_loss(problem, network, recipe, 1)
        total = weighted_sum(terms, recipe).sum()
        total.backward()
        return total.detach()

    call, optimiser = 0, fresh()
    while call < calls if budget is None else not budget.exhausted():
        if call == 0 or (redraw and call % redraw == 0):
            state.points = uniform_points(state).double()
        kept = [weight.detach().clone() for weight in weights]
        optimiser.step(loss)
        if not all(torch.isfinite(weight).all() for weight in weights):  # a line search that left the finite numbers
            for weight, value in zip(weights, kept, strict=True):
                weight.data.copy_(value)
            optimiser = fresh()
        call, state.step = call + 1, state.step + INNER
        if watch is not None:
            watch(state)
    return state


@entrant("pinns", "pig")
def solve(problem: Problem, budget: Budget, seed: int) -> Solution:
    """Enter the ring with 200 Gaussians; domains of more than three dimensions are refused, since Gaussians cannot fill them."""
    if len(problem.low) > 3 or problem.ball:
        raise ValueError(
            f"problem {problem.name!r} has {len(problem.low)} coordinates: local Gaussians cannot fill more than 3"
        )
    recipe = Recipe(collocation=1024, boundary=128)
    return hand_back(problem, train_in_calls(problem, gaussian_network(problem, [seed], 200), seed, recipe, 1, budget))
