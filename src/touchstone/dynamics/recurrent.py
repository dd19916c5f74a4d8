r"""Train recurrent reconstructors: a stack of models, windows of a series, a forcing schedule, and one visible loop.

A *stack* holds the parameters of several models (seeds, variants) of one family along its first axis, so that every
product is a batched matrix product. A family says how the map steps (:meth:`Stack.step`) and how the loss over a window
and its gradients are computed (:meth:`Stack.loss_and_gradients`); its hand-written back-propagation takes the place of
autograd, which keeps one graph node for every small operation of every step. *Forcing* replaces a share
:math:`\alpha_t` of the model's observed states by data :math:`d_t`, after they have been compared,

.. math:: \tilde z_t = (1 - \alpha_t) z_t + \alpha_t d_t ,

so that free-running training (0), full (1), sparse (1 now and then) and generalized teacher forcing (between) are
schedules of one number.

Source of the protocol: F. Hess et al., 2023, arXiv:2306.04406; M. Brenner et al., 2024, arXiv:2410.14240.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped


class Stack:
    """Base of a family: a dataclass of tensors whose first axis counts models; the first field is (models, state).

    A field with ``metadata={"fixed": True}`` belongs to the models but is not trained.
    """

    def tensors(self) -> list[Tensor]:
        """The trained parameters in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self) if not field.metadata.get("fixed")]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Stack":
        """A stack of the same family with every field changed."""
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))

    def to(self, dtype: torch.dtype) -> "Stack":
        """A copy with another floating-point type."""
        return self.each(lambda value: value.detach().to(dtype).clone())

    def __getitem__(self, model: int) -> "Stack":
        """The stack that holds one of the models only."""
        return self.each(lambda value: value[model : model + 1])

    def step(self, states: Float[Tensor, "models batch state"]) -> Float[Tensor, "models batch state"]:
        """One step of the free-running map."""
        raise NotImplementedError

    def loss_and_gradients(
        self, windows: Float[Tensor, "points models batch dim"], alpha: Float[Tensor, "points models"]
    ) -> tuple[Float[Tensor, "models"], list[Tensor]]:
        """Mean squared error of each model before forcing, and its gradients in the order of :meth:`tensors`."""
        raise NotImplementedError


@torch.no_grad()
def free_run(
    model: Stack, start: Float[Tensor, "models batch state"], steps: int
) -> Float[Tensor, "models batch steps state"]:
    """Free runs: no data after the start.

    Args:
        model: stack of networks.
        start: first states of the model; they are not part of the result.
        steps: number of steps.

    Returns:
        the states after 1, 2, ... steps.

    Raises:
        ValueError: if the start is empty, not finite or of the wrong shape.
    """
    finite(start=start)
    models, state = model.tensors()[0].shape[:2]
    shaped("start", start, (models, "batch", state))
    orbit = start.new_empty(steps, *start.shape)
    for time in range(steps):
        start = orbit[time] = model.step(start)
    return orbit.permute(1, 2, 0, 3)


def sparse_forcing(points: int, interval: int, models: int) -> Float[Tensor, "points models"]:
    """Sparse teacher forcing: the state is replaced by the data every so many steps and runs freely in between.

    Args:
        points: length of the windows.
        interval: steps between two replacements.
        models: size of the stack.

    Returns:
        forcing strengths, 1 at multiples of the interval and 0 elsewhere.
    """
    return (torch.arange(points) % interval == 0).float()[:, None].expand(-1, models).clone()


Forcing = Callable[[int, Stack, Tensor], Tensor]


def draw_starts(seed: int, last: int, updates: int, batch: int) -> Int[Tensor, "updates batch"]:
    """First indices of the training windows, uniform on 0 to ``last``, from a seed's own stream.

    Args:
        seed: the model's seed.
        last: largest first index.
        updates: number of updates.
        batch: windows in an update.

    Returns:
        the indices.
    """
    return torch.randint(last + 1, (updates, batch), generator=torch.Generator().manual_seed(1_000_003 + seed))


class WindowNoise:
    """Gaussian noise added to windows; models with the same seed hear the same noise, whatever stack they are in.

    Args:
        seeds: one seed a model.
        size: standard deviation, in the units of the series.
    """

    def __init__(self, seeds: Sequence[int], size: float):
        self.size = size
        self.streams = {seed: torch.Generator().manual_seed(2_000_003 + seed) for seed in seeds}
        self.model = torch.tensor([list(self.streams).index(seed) for seed in seeds])

    def __call__(self, windows: Float[Tensor, "points models batch dim"]) -> Float[Tensor, "points models batch dim"]:
        shape = (windows.shape[0], *windows.shape[2:])
        drawn = torch.stack([torch.randn(shape, generator=stream) for stream in self.streams.values()], 1)
        return torch.add(windows, drawn[:, self.model], alpha=self.size)


def clipped(gradients: Sequence[Tensor], limit: float) -> list[Tensor]:
    """Gradients whose norm over all parameters of a model is at most a limit; an overflow stops its own model only.

    Args:
        gradients: one tensor a parameter, models along the first axis.
        limit: largest norm.

    Returns:
        the gradients, scaled; zero for a model whose norm is not finite.
    """
    norm = sum(gradient.flatten(1).square().sum(1) for gradient in gradients).sqrt()
    scale = torch.where(norm.isfinite(), (limit / norm).clamp(max=1.0), 0.0)
    return [torch.nan_to_num(gradient) * scale.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]


def outer_sum(
    left: Float[Tensor, "time models batch rows"], right: Float[Tensor, "time models batch columns"]
) -> Float[Tensor, "models rows columns"]:
    """Sum of outer products over time and batch: the gradient of a matrix that was used at every step.

    Args:
        left: gradients with respect to the matrix's output.
        right: the matrix's input.

    Returns:
        one matrix a model.
    """
    return torch.bmm(left.transpose(0, 1).flatten(1, 2).mT, right.transpose(0, 1).flatten(1, 2))


def train(
    model: Stack,
    series: Float[Tensor, "time dim"],
    seeds: Sequence[int],
    forcing: Forcing,
    updates: int,
    points: int = 65,
    batch: int = 16,
    rates: tuple[float, float] = (2e-2, 5e-4),
    clip: float = 1.0,
    noise: float = 0.0,
) -> Stack:
    """Train a stack on windows of a series; seeds draw their own windows.

    Args:
        model: stack of untrained networks, changed in place.
        series: standardised observations.
        seeds: one seed a model; models with the same seed see the same windows.
        forcing: called with the update's number, the stack and the windows; returns strengths (points, models).
        updates: number of RAdam updates.
        points: observations in a window, the starting point included.
        batch: windows in an update.
        rates: first and last learning rate; it falls geometrically.
        clip: largest gradient norm of a model.
        noise: standard deviation of noise added to every window, to the inputs and the targets.

    Returns:
        the trained stack.

    Raises:
        ValueError: if the series is not finite, or shorter than a window, or the seeds are not one a model.
    """
    finite(series=series)
    shaped("series", series, ("time", "dim"))
    if len(series) < points:
        raise ValueError(f"series has {len(series)} time steps, fewer than one window of {points} points")
    if len(seeds) != len(model.tensors()[0]):
        raise ValueError(
            f"seeds has {len(seeds)} entries, the stack {len(model.tensors()[0])} models: give one a model"
        )
    starts = torch.stack([draw_starts(seed, len(series) - points, updates, batch) for seed in seeds], 1)
    disturb = WindowNoise(seeds, noise)
    optimiser = torch.optim.RAdam(model.tensors(), lr=rates[0])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, (rates[1] / rates[0]) ** (1 / updates))
    within = torch.arange(points)[:, None, None]
    for update in range(updates):
        windows = series[starts[update] + within]
        if noise:
            windows = disturb(windows)
        loss, gradients = model.loss_and_gradients(windows, forcing(update, model, windows))
        for tensor, gradient in zip(model.tensors(), clipped(gradients, clip), strict=True):
            tensor.grad = gradient
        optimiser.step()
        schedule.step()
    return model
