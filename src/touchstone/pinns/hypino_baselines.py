"""What HyPINO is measured against: a U-Net from the same input to the solution's values, and two starts for fine-tuning."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import RectBivariateSpline
from torch import Tensor, nn
from torch.nn import functional as F

from touchstone.checks import finite, shaped
from touchstone.nn.networks import glorot
from touchstone.pinns.hypino import Layers, _waves, draw_batches, fit, shapes
from touchstone.pinns.hypino_problems import Batch


class Block(nn.Module):
    """Two convolutions with a norm between them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.two(F.gelu(self.norm(self.one(x)))))


class UNet(nn.Module):
    """From coefficients and channels to values on the grid; it sees the same Fourier features of them as the hypernetwork does.

    Args:
        channels: at each of its levels, the finest first; multiples of 4.
    """

    def __init__(self, channels: tuple[int, ...] = (24, 48, 96, 168)):
        super().__init__()
        inputs = 2 + 3 * 11 + 5 * 11 + 2
        pairs = list(zip(channels[:-1], channels[1:], strict=True))
        self.enter = nn.Conv2d(inputs, channels[0], 1)
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((channels[0], *channels), channels, strict=False))
        self.up = nn.ModuleList(Block(a + b, a) for a, b in reversed(pairs))
        self.last = nn.Conv2d(channels[0], 1, 1)

    def forward(
        self, coefficients: Float[Tensor, "batch 5"], channels: Float[Tensor, "batch 5 grid grid"]
    ) -> Float[Tensor, "batch grid grid"]:
        """The solution on the grid.

        Args:
            coefficients: of u, u_x, u_y, u_xx, u_yy.
            channels: Dirichlet mask, Neumann mask, Dirichlet values, Neumann values, source.

        Returns:
            values at the nodes.

        Raises:
            ValueError: if an argument has the wrong shape or is not finite.
        """
        batch = shaped("coefficients", coefficients, ("batch", 5))["batch"]
        grid = shaped("channels", channels, (batch, 5, "grid", "grid"))["grid"]
        finite(coefficients=coefficients, channels=channels)
        source = channels[:, 4:].sign() * channels[:, 4:].abs().log1p()
        values = _waves(torch.cat([channels[:, 2:4], source], 1).movedim(1, -1)).movedim(-1, 1)
        equation = _waves(coefficients)[..., None, None].expand(-1, -1, grid, grid)
        axis = torch.linspace(-1, 1, grid, dtype=channels.dtype)
        place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).expand(batch, -1, -1, -1)
        x, skipped = self.enter(torch.cat([channels[:, :2], values, equation, place], 1)), []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.avg_pool2d(x, 2))
            skipped.append(x)
        for block, skip in zip(self.up, reversed(skipped[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[-2:], mode="bilinear"), skip], 1))
        return self.last(x)[:, 0]


def at_points(
    field: Float[Tensor, "batch grid grid"], points: Float[Tensor, "batch points 2"]
) -> Float[Tensor, "batch points 1"]:
    """Values between the nodes of a grid, by cubic splines; carries no gradient."""
    axis = np.linspace(-1, 1, field.shape[-1])
    rows = [
        RectBivariateSpline(axis, axis, values).ev(*place.T)
        for values, place in zip(field.detach().numpy(), points.numpy(), strict=True)
    ]
    return torch.as_tensor(np.stack(rows), dtype=field.dtype)[..., None]


def train_unet(
    seed: int, steps: int, batch: int = 16, sizes: tuple[int, int, int] = (32, 128, 64), rate: float = 5e-4
) -> tuple[UNet, list[float]]:
    """Train the U-Net on the labelled problems of the hypernetwork's stream, with its value loss at every node.

    Args:
        seed: draws initial values and problems.
        steps: optimiser steps.
        batch: problems a step, of which the labelled half is used.
        sizes: grid nodes a side, and points, which only keep the stream the same.
        rate: highest learning rate.

    Returns:
        the U-Net, and the loss of every step.
    """
    torch.manual_seed(seed)
    network = UNet()

    def loss(problems: Batch) -> Tensor:
        known = problems[problems.labelled]
        found = network(known.coefficients, known.channels) * known.inside
        return F.huber_loss(found, known.field)

    return network, fit(network, draw_batches(seed, steps, batch, sizes), steps, loss, rate)


def random_layers(seed: int) -> Layers:
    """Glorot weights and zero biases for one network of the shape that the hypernetwork writes."""
    draw = torch.Generator().manual_seed(5_000_011 + seed)
    return [(glorot([draw], a, b), torch.zeros(1, 1, b)) for a, b in shapes()]


def repeated(layers: Layers, count: int) -> Layers:
    """The same network for several problems."""
    return [(weight.expand(count, -1, -1), bias.expand(count, -1, -1)) for weight, bias in layers]


def reptile(
    layers: Layers,
    stream: Iterable[Batch],
    tune: Callable[[Layers, Batch], Layers],
    steps: int,
    rate: float = 0.5,
) -> Layers:
    r"""Reptile (Nichol, Achiam and Schulman, 2018, arXiv:1803.02999): :math:`\theta\leftarrow\theta+\epsilon(\overline{\theta_i}-\theta)`.

    Args:
        layers: one network, :math:`\theta`.
        stream: batches of problems.
        tune: trains copies on a batch of problems for a few steps, giving :math:`\theta_i`.
        steps: number of batches.
        rate: :math:`\epsilon` at the start; falls linearly to zero.

    Returns:
        the trained start.
    """
    for step, batch in enumerate(stream):
        share = rate * (1 - step / steps)
        tuned = tune(repeated(layers, len(batch)), batch)
        layers = [
            tuple(old + share * (new.mean(0, keepdim=True) - old) for old, new in zip(before, after, strict=True))
            for before, after in zip(layers, tuned, strict=True)
        ]
    return layers
