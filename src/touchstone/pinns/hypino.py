r"""HyPINO: a hypernetwork that reads a linear differential equation and writes the weights of a small network that solves it.

The equation comes as five coefficients and five images (masks, edge values and source on a grid). It is trained on
*manufactured* problems, whose solutions and derivatives are known exactly, and on problems without labels, through the
residual. Its answer is a network of coordinates, which has derivatives: what is left of source and edge data can be fed
back for a correction (:func:`refine`), and training can go on from the written weights (:func:`fine_tune`).

Source: Bischof, Piovarči, Kraus, Mishra and Bickel (2025), arXiv:2509.05117. The paper's encoder is a Swin transformer
on 224 by 224 nodes with about 77 million parameters; here four stages of convolutions read 32 by 32 nodes.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.checks import finite, shaped
from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns.hypino_problems import FIRST, SECOND, Batch, apply_operator, manufactured, together, unlabelled

WIDTH, HIDDEN, OCTAVES = 24, 2, 5  # of the network that is written; the paper's has 3 hidden layers of 32
FEATURES = 4 * OCTAVES + 2
Layers = list[tuple[Tensor, Tensor]]  # weight [batch, in, out] and bias [batch, 1, out] of every layer


def shapes(width: int = WIDTH, hidden: int = HIDDEN) -> list[tuple[int, int]]:
    """Inputs and outputs of every layer of the written network: two gates and the first layer, hidden layers, output."""
    return [(FEATURES, width)] * 3 + [(width, width)] * hidden + [(width, 1)]


def written(layers: Layers, points: Float[Tensor, "batch points 2"], orders: Sequence[int] = SECOND) -> Jet:
    r"""The written networks: :math:`h\leftarrow\tanh(W(u\odot h+v\odot(1-h))+b)` behind Fourier features, one network a problem.

    Args:
        layers: weights and biases, in the order of :func:`shapes`.
        points: coordinates, each network its own.
        orders: highest derivative wanted along each coordinate, at most 2.

    Returns:
        the networks' jet, with one feature.

    Raises:
        ValueError: if points are not finite or not two-dimensional.
    """
    shaped("points", points, ("batch", "points", 2))
    finite(points=points)
    rates = 0.2 * math.pi * 2.0 ** torch.arange(OCTAVES, dtype=points.dtype)
    frequencies = torch.block_diag(rates[None], rates[None]).expand(len(points), -1, -1)
    waves, straight = jets.fourier(points, orders, frequencies), jets.coordinates(points, orders)
    features = Jet(torch.cat([waves.streams, straight.streams], -1), tuple(orders))
    weight, bias = (torch.cat(parts, -1) for parts in zip(*layers[:3], strict=True))
    u, v, h = jets.tanh(jets.linear(features, weight, bias)).streams.chunk(3, -1)
    gap = Jet(u - v, features.orders)
    for weight, bias in layers[3:-1]:
        mixed = jets.product(Jet(h, features.orders), gap).streams + v  # u h + v (1 - h)
        h = jets.tanh(jets.linear(Jet(mixed, features.orders), weight, bias)).streams
    return jets.linear(Jet(h, features.orders), *layers[-1])


def summed(networks: Sequence[Layers], points: Tensor, orders: Sequence[int] = SECOND) -> Jet:
    """The sum of several written networks: a first answer and its corrections."""
    return Jet(sum(written(layers, points, orders).streams for layers in networks), tuple(orders))


def _waves(values: Tensor) -> Tensor:
    """Sines, cosines and the values themselves, for the last dimension."""
    angle = values[..., None] * (0.2 * math.pi * 2.0 ** torch.arange(OCTAVES))
    return torch.cat([angle.sin().flatten(-2), angle.cos().flatten(-2), values], -1)


class Stage(nn.Module):
    """A strided convolution, two convolutions around which the input is carried, and FiLM by the problem's embedding."""

    def __init__(self, inputs: int, outputs: int, stride: int, embedding: int):
        super().__init__()
        self.enter = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm = nn.GroupNorm(4, outputs)
        self.one, self.two = (nn.Conv2d(outputs, outputs, 3, padding=1) for _ in range(2))
        self.film = nn.Linear(embedding, 2 * outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.two(F.gelu(self.one(F.gelu(self.norm(x)))))
        scale, shift = self.film(embedding)[..., None, None].chunk(2, 1)
        return (1 + scale) * x + shift


class Pooling(nn.Module):
    """Attention from learned queries, one for every tensor to be written, to the places of one stage."""

    def __init__(self, queries: int, channels: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, channels))
        self.attention = nn.MultiheadAttention(channels, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).mT
        return self.attention(self.queries.expand(len(x), -1, -1), places, places, need_weights=False)[0]


class HyPINO(nn.Module):
    """The hypernetwork.

    Args:
        channels: of the four stages; multiples of 4.
        width: units of a layer of the written network.
        hidden: its hidden layers behind the first.
        head: units of the hidden layer of the heads that write a weight matrix.
    """

    def __init__(
        self, channels: Sequence[int] = (32, 64, 96, 128), width: int = WIDTH, hidden: int = HIDDEN, head: int = 64
    ):
        super().__init__()
        self.shapes, half, embedding = shapes(width, hidden), channels[0] // 2, 64
        per_value = 2 * OCTAVES + 1
        self.mask_shift, self.mask_gate = (nn.Conv2d(2, half, 3, 2, 1) for _ in range(2))
        self.edge = nn.Conv2d(2 * per_value, half, 3, 2, 1)
        self.source = nn.Conv2d(per_value, half, 3, 2, 1)
        self.coefficients, self.statistics = nn.Linear(5 * per_value, embedding), nn.Linear(12 * per_value, embedding)
        strides = (1, *[2] * (len(channels) - 1))
        sizes = zip((2 * half + 2, *channels[:-1]), channels, strides, strict=True)
        self.stages = nn.ModuleList(Stage(*size, 2 * embedding) for size in sizes)
        self.pools = nn.ModuleList(Pooling(2 * len(self.shapes), count) for count in channels)
        self.heads = nn.ModuleList(self._head(sum(channels), head, a, b) for a, b in self.shapes)
        self.bias_heads = nn.ModuleList(self._head(sum(channels), head // 2, 0, b) for _, b in self.shapes)

    @staticmethod
    def _head(features: int, units: int, inputs: int, outputs: int) -> nn.Sequential:
        """Two layers; at the start they write Glorot weights of which a third depends on the problem, and nearly zero biases."""
        last = nn.Linear(units, max(inputs, 1) * outputs)
        deviation = (2 / (inputs + outputs)) ** 0.5 if inputs else 0.1
        nn.init.normal_(last.weight, std=0.3 * deviation / units**0.5)
        nn.init.normal_(last.bias, std=deviation) if inputs else nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(features, units), nn.GELU(), nn.GroupNorm(4, units), last)

    def forward(self, coefficients: Float[Tensor, "batch 5"], channels: Float[Tensor, "batch 5 grid grid"]) -> Layers:
        """Write one network for each problem.

        Args:
            coefficients: of u, u_x, u_y, u_xx, u_yy.
            channels: Dirichlet mask, Neumann mask, Dirichlet values, Neumann values, source.

        Returns:
            weights and biases of the networks, in the order of :func:`shapes`.

        Raises:
            ValueError: if an argument has the wrong shape or is not finite.
        """
        batch = shaped("coefficients", coefficients, ("batch", 5))["batch"]
        shaped("channels", channels, (batch, 5, "grid", "grid"))
        finite(coefficients=coefficients, channels=channels)
        masks, values = channels[:, :2], channels[:, 2:]
        source = values[:, 2:].sign() * values[:, 2:].abs().log1p()
        values = torch.cat([values[:, :2], source], 1)
        flat = values.flatten(2)
        statistics = torch.cat([flat.mean(2), flat.amax(2), flat.amin(2), flat.std(2)], -1)
        embedding = torch.cat([self.coefficients(_waves(coefficients)), self.statistics(_waves(statistics))], -1)
        embedding = F.gelu(embedding)

        edge, source = (_waves(part.movedim(1, -1)).movedim(-1, 1) for part in (values[:, :2], source))
        known = F.gelu(self.mask_shift(masks)) + torch.tanh(self.mask_gate(masks)) * F.gelu(self.edge(edge))
        axis = torch.linspace(-1, 1, known.shape[-1], dtype=known.dtype)
        place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(batch, -1, -1, -1)
        x, pooled = torch.cat([known, F.gelu(self.source(source)), place], 1), []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = stage(x, embedding)
            pooled.append(pool(x))
        pooled, count = torch.cat(pooled, -1), len(self.shapes)
        return [
            (
                self.heads[k](pooled[:, k]).view(batch, *self.shapes[k]),
                self.bias_heads[k](pooled[:, count + k])[:, None],
            )
            for k in range(count)
        ]


WEIGHTS = {"residual": 0.25, "derivatives": 0.25, "value": 1.0, "Dirichlet": 10.0, "Neumann": 1.0}


def losses(batch: Batch, layers: Layers, labels: bool = True) -> dict[str, Tensor]:
    """The five Huber losses, averaged over the problems that have the quantity in question.

    Args:
        batch: problems.
        layers: a network for each.
        labels: use values and derivatives where they are known.

    Returns:
        the terms before weighting.
    """
    jet, edge = written(layers, batch.points), written(layers, batch.edge, FIRST)
    slope = edge.d(0) * batch.edge_normals[..., :1] + edge.d(1) * batch.edge_normals[..., 1:]
    terms = {
        "residual": F.huber_loss(apply_operator(batch.coefficients, jet), batch.source),
        "Dirichlet": F.huber_loss(edge.value * batch.fixed, batch.values),
        "Neumann": F.huber_loss(slope * batch.sloped, batch.slopes),
    }
    if labels and batch.labelled.any():
        found, known = jet.streams[batch.labelled], batch.labels[batch.labelled]
        terms["value"] = F.huber_loss(found[:, 0], known[:, 0])
        terms["derivatives"] = F.huber_loss(found[:, 1:], known[:, 1:])
    return terms


def draw_batches(seed: int, steps: int, batch: int, sizes: tuple[int, int, int], chunk: int = 16):
    """The stream of training problems of a seed: half of each batch manufactured, half without labels.

    Args:
        seed: gives the same stream every time.
        steps: number of batches.
        batch: problems in one, an even number.
        sizes: grid nodes a side, collocation points, points on the edge.
        chunk: batches drawn at once, which saves time.

    Yields:
        batches, the labelled problems first.

    Raises:
        ValueError: if ``batch`` is odd or below 2.
    """
    if batch < 2 or batch % 2:
        raise ValueError(f"batch is {batch}: give an even number, half of it is labelled")
    draw = torch.Generator().manual_seed(1_000_003 + seed)
    for start in range(0, steps, chunk):
        count = min(chunk, steps - start)
        pools = [make(count * batch // 2, draw, sizes) for make in (manufactured, unlabelled)]
        for number in range(count):
            part = slice(number * batch // 2, (number + 1) * batch // 2)
            yield together([pool[part] for pool in pools])


def fit(network: nn.Module, stream, steps: int, loss: Callable[[Batch], Tensor], rate: float = 5e-4) -> list[float]:
    """Train on a stream of problems with AdamW: warm-up over the first twentieth of the steps, then cosine decay.

    Args:
        network: trained in place.
        stream: batches of problems.
        steps: how many there are.
        loss: of one batch.
        rate: highest learning rate.

    Returns:
        the loss of every step.
    """
    optimiser, history = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4, fused=True), []
    for step, batch in enumerate(stream):
        progress, warm = step / steps, min(1.0, (step + 1) / (0.05 * steps))
        optimiser.param_groups[0]["lr"] = rate * warm * max(0.5 + 0.5 * math.cos(math.pi * progress), 1e-3)
        optimiser.zero_grad()
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        history.append(float(value.detach()))
    return history


def train(
    seed: int,
    steps: int,
    batch: int = 16,
    sizes: tuple[int, int, int] = (32, 128, 64),
    labels: bool = True,
    rate: float = 5e-4,
    **options,
) -> tuple[HyPINO, list[float]]:
    """Train a hypernetwork; ``options`` are those of :class:`HyPINO`.

    Args:
        seed: draws initial values and problems.
        steps: optimiser steps.
        batch: problems a step.
        sizes: grid nodes a side, collocation points, points on the edge.
        labels: mixed supervision; without it, only residuals and edges are learnt from, on the same problems.
        rate: highest learning rate.

    Returns:
        the hypernetwork, and the loss of every step.
    """
    torch.manual_seed(seed)
    network = HyPINO(**options)

    def loss(problems: Batch) -> Tensor:
        terms = losses(problems, network(problems.coefficients, problems.channels), labels)
        return sum(WEIGHTS[name] * term for name, term in terms.items())

    return network, fit(network, draw_batches(seed, steps, batch, sizes), steps, loss, rate)


def remaining(batch: Batch, jet: Jet) -> Float[Tensor, "batch 5 grid grid"]:
    r"""The channels of the problem that is left: :math:`g_D-u`, :math:`g_N-\partial_\nu u` and :math:`f-\mathcal Lu`, where they are known.

    Args:
        batch: problems.
        jet: an approximate solution at ``batch.places``.

    Returns:
        channels for the next round; the masks stay as they are.
    """
    slope = (jet.d(0) * batch.normals[..., :1] + jet.d(1) * batch.normals[..., 1:]).view_as(batch.inside)
    done = torch.stack(
        [
            batch.channels[:, 0] * jet.value.view_as(batch.inside),
            batch.channels[:, 1] * slope,
            batch.inside * apply_operator(batch.coefficients, jet).view_as(batch.inside),
        ],
        1,
    )
    return torch.cat([batch.channels[:, :2], batch.channels[:, 2:] - done], 1)


@torch.no_grad()
def refine(network: Callable[[Tensor, Tensor], Layers], batch: Batch, rounds: int = 3) -> list[Layers]:
    r"""Iterative refinement: :math:`u\leftarrow u+H(c,\,g_D-u,\,g_N-\partial_\nu u,\,f-\mathcal Lu)`, forward passes only.

    Args:
        network: the hypernetwork.
        batch: problems.
        rounds: corrections after the first answer.

    Returns:
        the first answer and its corrections, to be added up by :func:`summed`.

    Raises:
        ValueError: if ``rounds`` is negative.
    """
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}: give 0 or more")
    networks = [network(batch.coefficients, batch.channels)]
    for _ in range(rounds):
        left = remaining(batch, summed(networks, batch.places))
        networks.append(network(batch.coefficients, left))
    return networks


def fine_tune(
    layers: Layers,
    batch: Batch,
    steps: int,
    draw: torch.Generator,
    rate: float = 2e-3,
    drawn: tuple[int, int] = (128, 64),
    watch: Callable[[int, Layers], Tensor] | None = None,
) -> Layers:
    """Ordinary physics-informed training of the written networks, side by side, with Adam and a cosine decay.

    Args:
        layers: where to start; left as they are.
        batch: problems, with a pool of points from which every step takes some.
        steps: optimiser steps.
        draw: takes the points.
        rate: highest learning rate.
        drawn: collocation points and edge points a step.
        watch: called before each step and at the end; returns which problems go on, the others stay as they are.

    Returns:
        the trained layers.
    """
    layers = [(weight.detach().clone(), bias.detach().clone()) for weight, bias in layers]
    flat = [tensor.requires_grad_() for layer in layers for tensor in layer]
    optimiser = torch.optim.Adam(flat, lr=rate, betas=(0.9, 0.99), fused=True)
    for step in range(steps + 1):
        going = None if watch is None else watch(step, layers)
        if step == steps or (going is not None and not going.any()):
            break
        optimiser.param_groups[0]["lr"] = rate * max(0.5 + 0.5 * math.cos(math.pi * step / steps), 1e-2)
        inner = torch.randint(batch.points.shape[1], drawn[:1], generator=draw)
        outer = torch.randint(batch.edge.shape[1], drawn[1:], generator=draw)
        optimiser.zero_grad()
        physics(batch, layers, inner, outer).sum().backward()
        optimiser.step()
    return [(weight.detach(), bias.detach()) for weight, bias in layers]


def physics(batch: Batch, layers: Layers, inner: Tensor, outer: Tensor) -> Float[Tensor, " batch"]:
    r"""A hundredth of the mean squared residual, ten times that of known values, and that of known slopes, for each problem.

    Args:
        batch: problems.
        layers: a network for each.
        inner: which collocation points count.
        outer: which points on the edge.

    Returns:
        one loss a problem.
    """
    jet, edge = written(layers, batch.points[:, inner]), written(layers, batch.edge[:, outer], FIRST)
    normal = batch.edge_normals[:, outer]
    slope = edge.d(0) * normal[..., :1] + edge.d(1) * normal[..., 1:]
    misses = (
        apply_operator(batch.coefficients, jet) - batch.source[:, inner],
        edge.value * batch.fixed[:, outer] - batch.values[:, outer],
        slope * batch.sloped[:, outer] - batch.slopes[:, outer],
    )
    residual, fixed, sloped = (miss.square().mean((1, 2)) for miss in misses)
    return 0.01 * residual + 10 * fixed + sloped
