r"""What neural ODEs are compared with, the spirals, and a meter of the memory that a backward pass needs.

Back-propagation through the solver's steps is :func:`touchstone.dynamics.odeint.odeint` itself.

Sources: planar flows, D. J. Rezende, S. Mohamed, 2015, arXiv:1505.05770, appendix A.1; the others as in R. T. Q. Chen et
al., 2018, arXiv:1806.07366.
"""

import math
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.neural_ode_models import GatedUnits, Perceptrons, standard_normal
from touchstone.nn.networks import generators


class ResidualBlock(nn.Module):
    """Input plus a tanh network of two layers: one Euler step of a field that belongs to this block only."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, state: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The state after the block."""
        return state + self.outer(torch.tanh(self.inner(state)))


def residual_classifier(inputs: int, classes: int, width: int = 32, blocks: int = 6) -> nn.Sequential:
    """The classifier with residual blocks, each with its own weights, in place of the ODE.

    Args:
        inputs: features of an example.
        classes: logits.
        width: features in the blocks.
        blocks: how many.

    Returns:
        the untrained network.
    """
    stack = [ResidualBlock(width, width) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(inputs, width), *stack, nn.Linear(width, classes))


class GapGRU(nn.Module):
    """A recurrent network that is told the time gaps: it reads an observation and the gap before it, and a gap ahead, and
    says by how much the next observation will differ. Several seeds, stacked.

    Args:
        seeds: one model each.
        dim: entries of an observation.
        units: recurrent units.
        hidden: units of the read-out.
    """

    def __init__(self, seeds: Sequence[int], dim: int = 2, units: int = 28, hidden: int = 20):
        super().__init__()
        draws = generators(seeds)
        self.cells, self.readout = GatedUnits(draws, dim + 1, units), Perceptrons(draws, [units + 1, hidden, dim])

    def remember(self, values: Tensor, when: Tensor) -> Float[Tensor, "seeds batch seen units"]:
        """The memory after every observation."""
        gaps = when.diff(dim=-1, prepend=torch.zeros_like(when[..., :1]))
        inputs = torch.cat([values, gaps[..., None]], -1)
        memory, memories = values.new_zeros(*values.shape[:2], self.cells.units), []
        for index in range(values.shape[2]):
            memory = self.cells(inputs[:, :, index], memory)
            memories.append(memory)
        return torch.stack(memories, 2)

    def ahead(self, memory: Tensor, values: Tensor, gap: Tensor) -> Tensor:
        """What is expected a gap after an observation; all axes between seeds and features are alike."""
        features = torch.cat([memory, gap[..., None]], -1)
        return values + self.readout(features.flatten(1, -2)).unflatten(1, gap.shape[1:])

    def loss(
        self,
        values: Float[Tensor, "seeds batch seen dim"],
        index: Int[Tensor, "seeds batch seen"],
        times: Float[Tensor, "times"],
    ) -> Float[Tensor, "seeds"]:
        """Mean squared error of the prediction of each observation from those before it.

        Args:
            values: observations.
            index: which of the times each of them was made at, increasing.
            times: the times common to all series.

        Returns:
            one loss a seed.

        Raises:
            ValueError: if the observations are empty, not finite or do not fit the index.
        """
        finite(values=values, times=times)
        shaped("index", index, values.shape[:3])
        when = times[index]
        memories = self.remember(values[:, :, :-1], when[..., :-1])
        error = self.ahead(memories, values[:, :, :-1], when.diff(dim=-1)) - values[:, :, 1:]
        return error.square().mean((1, 2, 3))

    @torch.no_grad()
    def predict(
        self,
        values: Float[Tensor, "seeds batch seen dim"],
        index: Int[Tensor, "seeds batch seen"],
        times: Float[Tensor, "times"],
        inside: int,
    ) -> Float[Tensor, "seeds batch times dim"]:
        """The curve at all times.

        Within the observed range a time is predicted from the observations before it, across the gap since the last; up
        to the first observation the answer is that observation. Beyond, predictions are fed back one after the other.

        Args:
            values: observations.
            index: which of the times each of them was made at, increasing.
            times: the times common to all series, and later ones.
            inside: how many of the times are in the observed range.

        Returns:
            one curve a series.
        """
        when = times[index]
        memories = self.remember(values, when)
        before = (index[..., None, :] < torch.arange(inside)[:, None]).sum(-1) - 1  # last observation before each time
        last = before.clamp(min=0)

        def at(quantity: Tensor) -> Tensor:
            return quantity.gather(2, last[..., None].expand(*last.shape, quantity.shape[-1]))

        past, seen = at(memories), at(values)
        gap = times[:inside] - when.gather(2, last)
        curve = torch.where((before < 0)[..., None], seen, self.ahead(past, seen, gap))
        memory, value, latest, later = memories[:, :, -1], values[:, :, -1], when[:, :, -1], []
        for time in times[inside:]:
            gap = time - latest
            value = self.ahead(memory, value, gap)
            memory = self.cells(torch.cat([value, gap[..., None]], -1), memory)
            latest = torch.full_like(latest, float(time))
            later.append(value)
        return torch.cat([curve, *([torch.stack(later, 2)] if later else [])], 2)


class PlanarFlow(nn.Module):
    r"""A planar normalising flow from the data to a standard normal, :math:`f(x)=x+\hat u\tanh(w^\top x+b)` a layer.

    Args:
        seed: of the weights.
        layers: how many.
        dim: entries of a point.
    """

    def __init__(self, seed: int, layers: int = 32, dim: int = 2):
        super().__init__()
        draw = generators([seed])[0]
        self.u = nn.Parameter(0.1 * torch.randn(layers, dim, generator=draw))
        self.w = nn.Parameter(torch.randn(layers, dim, generator=draw))
        self.b = nn.Parameter(torch.zeros(layers))

    def carried(self, points: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """The points after all layers, and the logarithm of the determinant of the map there."""
        inner = (self.w * self.u).sum(1)
        # keeps w.u above -1, without which a layer is not invertible, and leaves it at 0 where it is 0
        kept = nn.functional.softplus(inner + math.log(math.e - 1)) - 1
        shift = self.u + ((kept - inner) / self.w.square().sum(1))[:, None] * self.w
        slope, total = (self.w * shift).sum(1), points.new_zeros(len(points))
        for u, w, b, rate in zip(shift, self.w, self.b, slope, strict=True):
            activity = torch.tanh(points @ w + b)
            points = points + activity[:, None] * u
            total = total + torch.log1p(rate * (1 - activity.square()))
        return points, total

    def log_density(self, points: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """Logarithm of the density at points, in nats."""
        finite(points=points)
        origin, change = self.carried(points)
        return standard_normal(origin) + change


class Spirals(NamedTuple):
    """Clean curves at common times, and what was observed of them."""

    times: Float[Tensor, "times"]
    curves: Float[Tensor, "seeds batch times dim"]
    index: Int[Tensor, "seeds batch seen"]
    values: Float[Tensor, "seeds batch seen dim"]


def spirals(seeds: Sequence[int], count: int, seen: int, inside: int = 100, beyond: int = 33) -> Spirals:
    r"""Archimedean spirals :math:`r=\theta/4\pi`, every other one clockwise, that start at an angle between 0.5 and 2.5 pi.

    Irregular times cover 1.5 turns (one unit of time is a radian) and half a turn more; they are the same for all series
    and seeds. Each series is observed at its own random times of the first part, with Gaussian noise 0.1.

    Args:
        seeds: of starts, observation times and noise.
        count: series a seed.
        seen: observations a series.
        inside: times in the observed range.
        beyond: times after it.

    Returns:
        times, curves and observations.

    Raises:
        ValueError: if a series cannot have that many observations.
    """
    if not 2 <= seen <= inside:
        raise ValueError(f"seen is {seen}: a series has between 2 observations and one at each of {inside} times")
    clock = torch.Generator().manual_seed(0)
    early = torch.rand(inside, generator=clock).sort().values * 3 * math.pi
    late = 3 * math.pi + torch.rand(beyond, generator=clock).sort().values * math.pi
    times, parts = torch.cat([early, late]), []
    for draw in generators(seeds, stream=2):
        angle = math.pi * (0.5 + 2 * torch.rand(count, 1, generator=draw)) + times
        turn = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)[:, None]
        curves = (angle / (4 * math.pi))[..., None] * torch.stack([angle.cos(), turn * angle.sin()], -1)
        index = torch.rand(count, inside, generator=draw).argsort(1)[:, :seen].sort(1).values
        values = curves.gather(1, index[..., None].expand(-1, -1, 2))
        parts.append((curves, index, values + 0.1 * torch.randn(values.shape, generator=draw)))
    return Spirals(times, *(torch.stack(part) for part in zip(*parts, strict=True)))


class Box:
    """Holds a saved tensor, and can be watched."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class SavedMemory:
    """Counts the bytes that autograd keeps for a backward pass while it is entered; each storage counts once.

    Attributes:
        now: bytes kept at present.
        peak: most bytes that were kept at once.
    """

    def __init__(self):
        self.now, self.peak, self._uses = 0, 0, {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda box: box.tensor)

    def _keep(self, tensor: Tensor) -> Box:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        self._uses[key] = self._uses.get(key, 0) + 1
        if self._uses[key] == 1:
            self.now += size
            self.peak = max(self.peak, self.now)
        box = Box(tensor.detach())  # the tensor itself may be the graph's output, and would hold the graph
        weakref.finalize(box, self._release, key, size)  # when the graph drops it
        return box

    def _release(self, key: int, size: int) -> None:
        self._uses[key] -= 1
        if not self._uses[key]:
            self.now -= size

    def __enter__(self) -> "SavedMemory":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._hooks.__exit__(*error)
