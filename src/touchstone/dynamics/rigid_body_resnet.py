r"""A residual network from the first state of colliding bodies to their places and orientations after a fixed time.

.. math:: h_0 = W_{in} x + b, \qquad h \leftarrow \mathrm{ReLU}\big(h + W_2\,\mathrm{ReLU}(\mathrm{BN}(W_1 h)) + b_2\big), \qquad y = W_{out} h + b .

Inputs are state, mass and radius of every body, a flag for slots that are occupied, gravity, drag and the duration; outputs are a
displacement and a quaternion for each slot. Since the numbering of the bodies means nothing, the slots are shuffled in training.
Seeds are trained together; the seed is the first dimension of every tensor.

Source: A. F. Oketunji, 2024, arXiv:2407.18798.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators, uniform


@dataclass(frozen=True)
class Examples:
    """What a network learns from; each seed has its own.

    Attributes:
        bodies: state, mass, radius and flag of each slot, scaled to order one; zero in empty slots.
        world: gravity, three coefficients of drag, duration, scaled.
        targets: displacement (m) and quaternion of each slot.
        present: 1 for occupied slots, 0 for empty ones.
    """

    bodies: Float[Tensor, "seeds scenarios slots 16"]
    world: Float[Tensor, "seeds scenarios 5"]
    targets: Float[Tensor, "seeds scenarios slots 7"]
    present: Float[Tensor, "seeds scenarios slots"]


class BatchNorm(nn.Module):
    """Batch normalisation of a stack of networks: over the batch while training, with running averages otherwise."""

    def __init__(self, seeds: int, width: int, momentum: float = 0.1):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(seeds, 1, width))
        self.shift = nn.Parameter(torch.zeros(seeds, 1, width))
        self.register_buffer("mean", torch.zeros(seeds, 1, width))
        self.register_buffer("variance", torch.ones(seeds, 1, width))
        self.momentum = momentum

    def forward(self, hidden: Float[Tensor, "seeds batch width"]) -> Float[Tensor, "seeds batch width"]:
        """Normalise every feature."""
        if self.training:
            variance, mean = torch.var_mean(hidden, 1, correction=0, keepdim=True)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        else:
            mean, variance = self.mean, self.variance
        slope = self.scale * (variance + 1e-5).rsqrt()
        return torch.addcmul(self.shift - mean * slope, hidden, slope)


class Linear(nn.Module):
    """A linear layer of a stack of networks; weights and biases are uniform within one over the root of the inputs."""

    def __init__(self, draws: Sequence[torch.Generator], inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(bound * (2 * uniform(draws, inputs, outputs) - 1))
        self.bias = nn.Parameter(bound * (2 * uniform(draws, 1, outputs) - 1))

    def forward(self, hidden: Float[Tensor, "seeds batch inputs"]) -> Float[Tensor, "seeds batch outputs"]:
        """Weights times inputs, plus biases."""
        return torch.baddbmm(self.bias, hidden, self.weight)


class Block(nn.Module):
    """Two layers, around which the input is led by the skip connection."""

    def __init__(self, draws: Sequence[torch.Generator], width: int, skip: bool):
        super().__init__()
        self.first, self.second = Linear(draws, width, width), Linear(draws, width, width)
        self.norm, self.skip = BatchNorm(len(draws), width), skip

    def forward(self, hidden: Float[Tensor, "seeds batch width"]) -> Float[Tensor, "seeds batch width"]:
        """The block's output."""
        change = self.second(torch.relu(self.norm(self.first(hidden))))
        return torch.relu(hidden + change if self.skip else change)


class BodyNetwork(nn.Module):
    """A stack of networks, one a seed.

    Args:
        seeds: one network for each.
        blocks: number of blocks of two layers.
        width: units of a layer.
        skip: lead the input around each block; False gives the plain network of the same layers.
        slots: of a scenario.

    Raises:
        ValueError: if ``blocks`` or ``width`` is below 1.
    """

    def __init__(self, seeds: Sequence[int], blocks: int = 6, width: int = 256, skip: bool = True, slots: int = 5):
        super().__init__()
        if blocks < 1 or width < 1:
            raise ValueError(f"blocks is {blocks} and width {width}: give at least 1 of each")
        draws = generators(seeds)
        self.inlet = Linear(draws, 16 * slots + 5, width)
        self.blocks = nn.ModuleList(Block(draws, width, skip) for _ in range(blocks))
        self.outlet = Linear(draws, width, 7 * slots)

    def trunk(self, inputs: Float[Tensor, "seeds batch inputs"]) -> Float[Tensor, "seeds batch width"]:
        """What the last block delivers."""
        hidden = self.inlet(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def forward(
        self, bodies: Float[Tensor, "seeds batch slots 16"], world: Float[Tensor, "seeds batch 5"]
    ) -> Float[Tensor, "seeds batch slots 7"]:
        """Displacement (m) and unit quaternion of each slot.

        Args:
            bodies: as in :class:`Examples`.
            world: as in :class:`Examples`.
        """
        hidden = self.trunk(torch.cat([bodies.flatten(2), world], -1))
        outputs = self.outlet(hidden).unflatten(-1, (bodies.shape[2], 7))
        return torch.cat([outputs[..., :3], nn.functional.normalize(outputs[..., 3:], dim=-1)], -1)


def squared_errors(
    predicted: Float[Tensor, "*batch 7"], targets: Float[Tensor, "*batch 7"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Mean squared error of a body's position and of its quaternion.

    A quaternion and its negative are the same rotation: the nearer of the two counts.

    Args:
        predicted: displacement and unit quaternion.
        targets: the same.

    Returns:
        error of the position (m²) and of the quaternion, means over components.
    """
    position = (predicted[..., :3] - targets[..., :3]).square().mean(-1)
    same = (predicted[..., 3:] - targets[..., 3:]).square().mean(-1)
    turned = (predicted[..., 3:] + targets[..., 3:]).square().mean(-1)
    return position, torch.minimum(same, turned)


def body_mean(
    values: Float[Tensor, "seeds batch slots"], present: Float[Tensor, "seeds batch slots"]
) -> Float[Tensor, "seeds"]:
    """Mean over the bodies that are there."""
    return (values * present).sum((1, 2)) / present.sum((1, 2)).clamp(min=1)


def train(
    network: BodyNetwork, examples: Examples, seeds: Sequence[int], epochs: int, rate: float = 1e-3, batch: int = 128
) -> BodyNetwork:
    """Minimise the error of positions plus that of quaternions, with Adam and a rate that falls to zero as a cosine.

    Args:
        network: is changed.
        examples: to learn from.
        seeds: of the order of the batches and of the slots.
        epochs: passes over the examples.
        rate: the first one.
        batch: scenarios a step.

    Returns:
        the network, in evaluation mode.

    Raises:
        ValueError: if examples are empty, not finite or do not fit the seeds, or are fewer than a batch.
    """
    finite(bodies=examples.bodies, world=examples.world, targets=examples.targets)
    count = shaped("bodies", examples.bodies, (len(seeds), "scenarios", "slots", 16))["scenarios"]
    shaped("targets", examples.targets, (*examples.bodies.shape[:3], 7))
    if not 1 < batch <= count:
        raise ValueError(f"batch is {batch}: give between 2 and {count} scenarios")
    draws, rows = generators(seeds, 1), torch.arange(len(seeds))[:, None]
    optimiser = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * (count // batch))
    network.train()
    for _ in range(epochs):
        orders = torch.stack([torch.randperm(count, generator=draw) for draw in draws])
        for chosen in orders[:, : count // batch * batch].split(batch, 1):
            shuffle = uniform(draws, batch, examples.bodies.shape[2]).argsort(-1)
            bodies, targets = (
                torch.take_along_dim(part[rows, chosen], shuffle[..., None], 2)
                for part in (examples.bodies, examples.targets)
            )
            optimiser.zero_grad()
            predicted = network(bodies, examples.world[rows, chosen])
            present = torch.take_along_dim(examples.present[rows, chosen], shuffle, 2)
            errors = squared_errors(predicted, targets)
            sum(body_mean(error, present).sum() for error in errors).backward()
            optimiser.step()
            schedule.step()
    return network.eval()
