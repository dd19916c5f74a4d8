r"""A multilayer perceptron that knows the time, with several independently seeded copies stacked in one tensor.

Small networks are bound by the interpreter and not by arithmetic, so the seeds of one configuration are trained
together: every weight carries a leading ``seeds`` axis and every layer is one batched matrix product. The copies
never mix, and each is initialised from its own generator, so a seed means the same alone as in company.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def sinusoidal_embedding(time: Float[Tensor, "*batch"], features: int = 32) -> Float[Tensor, "*batch features"]:
    r"""Sines and cosines of the time at geometrically spaced frequencies.

    Args:
        time: times, usually in :math:`[0, 1]`.
        features: even number of features; half of them sines, half cosines, at angular frequencies from 1 to 100.

    Returns:
        the features along a new last axis.

    Raises:
        ValueError: if ``features`` is odd or not positive.
    """
    if features < 2 or features % 2:
        raise ValueError(f"features is {features}: it must be a positive even number")
    frequencies = torch.logspace(0, 2, features // 2, dtype=time.dtype, device=time.device)
    angles = time[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeMLP(nn.Module):
    """A SiLU network :math:`v(x, t)` from points and times to vectors of the same dimension, one copy a seed.

    Args:
        dimension: dimension of the points.
        seeds: one independent copy for each; the order is that of the leading axis.
        width: hidden width.
        depth: number of hidden layers.
        features: size of the sinusoidal time embedding, concatenated to the point.
    """

    def __init__(
        self, dimension: int, seeds: Sequence[int] = (0,), width: int = 128, depth: int = 3, features: int = 32
    ):
        super().__init__()
        self.features = features
        sizes = [dimension + features] + [width] * depth + [dimension]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            bound = fan_in**-0.5  # the default of torch.nn.Linear, for weights and biases alike
            draw = [torch.rand(fan_in + 1, fan_out, generator=g).mul(2 * bound).sub(bound) for g in generators]
            stacked = torch.stack(draw)
            self.weights.append(nn.Parameter(stacked[:, :-1].clone()))
            self.biases.append(nn.Parameter(stacked[:, -1:].clone()))

    def forward(
        self, points: Float[Tensor, "seeds batch dim"], time: Float[Tensor, "..."]
    ) -> Float[Tensor, "seeds batch dim"]:
        """Evaluate every copy on its own batch.

        Args:
            points: one batch a seed.
            time: a single time, or one a point.

        Returns:
            one vector a point.
        """
        embedded = sinusoidal_embedding(time, self.features).expand(*points.shape[:-1], self.features)
        hidden = torch.cat([points, embedded], dim=-1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if index < last:
                hidden = nn.functional.silu(hidden)
        return hidden
