r"""Shallow piecewise-linear recurrent networks (shPLRNN), stacked and trained by hand-written back-propagation in time.

The clipped shPLRNN is the map

.. math:: z_t = A z_{t-1} + W_1 [\phi(W_2 z_{t-1} + h_2) - \phi(W_2 z_{t-1})] + h_1, \qquad \phi = \max(0, \cdot),

with diagonal :math:`A`. The bracket lies between 0 and :math:`h_2`, so orbits stay bounded when :math:`|A_{ii}| < 1`.
Several models (seeds, variants) form one stack and train together: every product is a batched matrix product.
Which part of the model state is replaced by data is a schedule of forcing strengths :math:`\alpha_t`,

.. math:: \tilde z_t = (1 - \alpha_t) z_t + \alpha_t d_t,

so that free-running training (0), full teacher forcing (1), sparse teacher forcing (1 now and then) and everything
between share the code below. The latent dimension is the observed one and the data are the states :math:`d_t`.

Source: F. Hess, Z. Monfared, M. Brenner, D. Durstewitz, 2023, arXiv:2306.04406.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped


@dataclass
class ShallowPLRNN:
    r"""Parameters of a stack of clipped shallow PLRNNs.

    Args:
        A: diagonal of the linear part.
        W1: read-out of the hidden layer.
        W2: read-in of the hidden layer.
        h1: bias of the state.
        h2: bias of the hidden layer.
    """

    A: Float[Tensor, "models dim"]
    W1: Float[Tensor, "models dim hidden"]
    W2: Float[Tensor, "models hidden dim"]
    h1: Float[Tensor, "models dim"]
    h2: Float[Tensor, "models hidden"]

    def tensors(self) -> list[Tensor]:
        """The parameters in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    def to(self, dtype: torch.dtype) -> "ShallowPLRNN":
        """A copy with another floating-point type."""
        return ShallowPLRNN(*(value.detach().to(dtype).clone() for value in self.tensors()))

    def __getitem__(self, model: int) -> "ShallowPLRNN":
        """The stack that holds one of the models only."""
        return ShallowPLRNN(*(value[model : model + 1] for value in self.tensors()))


def init_plrnn(seeds: Sequence[int], dim: int, hidden: int) -> ShallowPLRNN:
    """A stack of untrained networks, one for each seed; a seed gives the same network in every stack.

    Args:
        seeds: one seed a model.
        dim: number of states.
        hidden: number of hidden units.

    Returns:
        float32 parameters.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, bound: float, generator: torch.Generator = generator) -> Tensor:
            return bound * (2 * torch.rand(*shape, generator=generator) - 1)

        drawn.append(
            (
                torch.full((dim,), 0.8),
                uniform(dim, hidden, bound=hidden**-0.5),
                uniform(hidden, dim, bound=dim**-0.5),
                torch.zeros(dim),
                uniform(hidden, bound=0.5),  # a zero bias would switch its clipped unit off
            )
        )
    return ShallowPLRNN(*(torch.stack(values) for values in zip(*drawn, strict=True)))


def step(model: ShallowPLRNN, states: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models batch dim"]:
    """One step of the free-running map.

    Args:
        model: stack of networks.
        states: current states.

    Returns:
        next states.
    """
    drive = torch.bmm(states, model.W2.mT)
    bracket = torch.relu(drive + model.h2[:, None]) - torch.relu(drive)
    return model.A[:, None] * states + torch.bmm(bracket, model.W1.mT) + model.h1[:, None]


def jacobian(model: ShallowPLRNN, states: Float[Tensor, "models batch dim"]) -> Float[Tensor, "models batch dim dim"]:
    r"""Jacobian of :func:`step`, :math:`J = A + W_1\, \mathrm{diag}(1[W_2 z + h_2 > 0] - 1[W_2 z > 0])\, W_2`.

    Args:
        model: stack of networks.
        states: points at which the map is linearised.

    Returns:
        one matrix a point.
    """
    drive = torch.bmm(states, model.W2.mT)
    gate = (drive + model.h2[:, None] > 0).to(drive) - (drive > 0).to(drive)
    outer = model.W1[:, :, :, None] * model.W2[:, None]  # models, out, hidden, in
    flat = outer.transpose(1, 2).flatten(2)  # models, hidden, out * in
    products = torch.bmm(gate, flat).unflatten(-1, (states.shape[-1],) * 2)
    return products + torch.diag_embed(model.A)[:, None]


@torch.no_grad()
def free_run(
    model: ShallowPLRNN, start: Float[Tensor, "models batch dim"], steps: int
) -> Float[Tensor, "models batch steps dim"]:
    """Free runs: no data after the start.

    Args:
        model: stack of networks.
        start: first states; they are not part of the result.
        steps: number of steps.

    Returns:
        the states after 1, 2, ... steps.
    """
    finite(start=start)
    shaped("start", start, (model.A.shape[0], "batch", model.A.shape[1]))
    orbit = start.new_empty(steps, *start.shape)
    for time in range(steps):
        start = orbit[time] = step(model, start)
    return orbit.permute(1, 2, 0, 3)


def loss_and_gradients(
    model: ShallowPLRNN,
    windows: Float[Tensor, "points models batch dim"],
    alpha: Float[Tensor, "points models"],
) -> tuple[Float[Tensor, "models"], list[Tensor]]:
    r"""Mean squared error before forcing, and its gradients by back-propagation through time, written out.

    The state starts on the data, :math:`\tilde z_0 = d_0`; :math:`z_t` is compared with :math:`d_t` for every
    :math:`t \geq 1` and only then forced.

    Args:
        model: stack of networks.
        windows: data, time first.
        alpha: forcing strength at every time; the first and the last row have no effect.

    Returns:
        the loss of each model, and gradients in the order of ``model.tensors()``. Models do not influence each other.

    Raises:
        ValueError: if an argument is empty, not finite, or has the wrong shape.
    """
    finite(windows=windows, alpha=alpha)
    shaped("windows", windows, ("points", *model.A.shape[:1], "batch", model.A.shape[1]))
    shaped("alpha", alpha, windows.shape[:2])
    points, models, batch, dim = windows.shape
    hidden, strength = model.h2.shape[1], alpha[:, :, None, None]
    # relu(u + h) - relu(u) = sign(h) clamp(u, min(-h, 0), max(-h, 0)) + relu(h): one operation a step in place of three
    low, high = (-model.h2).clamp(max=0)[:, None], (-model.h2).clamp(min=0)[:, None]
    signed = (model.W1 * model.h2.sign()[:, None]).mT.contiguous()
    shift = (model.h1 + torch.einsum("smh,sh->sm", model.W1, model.h2.relu()))[:, None].expand(-1, batch, -1)
    read_in, diagonal = model.W2.mT.contiguous(), model.A[:, None].expand(-1, batch, -1)

    drive = windows.new_empty(points - 1, models, batch, hidden)
    forced, states = windows.clone(), torch.empty_like(windows)  # forced[0] stays on the data
    for time in range(1, points):
        torch.bmm(forced[time - 1], read_in, out=drive[time - 1])
        linear = torch.addcmul(shift, diagonal, forced[time - 1])
        torch.baddbmm(linear, drive[time - 1].clamp(low, high), signed, out=states[time])
        torch.lerp(states[time], windows[time], strength[time], out=forced[time])

    error = states[1:] - windows[1:]
    loss = error.square().mean((0, 2, 3))
    error *= 2 / ((points - 1) * batch * dim)
    opened = drive > -model.h2[:, None]
    gate = opened.to(drive) - (drive > 0).to(drive)
    back = torch.empty_like(drive)  # W1^T dL/dz_t
    total = error  # becomes dL/dz_t in place
    keep = 1 - strength
    for time in range(points - 2, -1, -1):
        torch.bmm(total[time], model.W1, out=back[time])
        if time:
            through = torch.addcmul(torch.bmm(back[time] * gate[time], model.W2), diagonal, total[time])
            total[time - 1].addcmul_(keep[time], through)

    bracket = (drive + model.h2[:, None]).relu_() - drive.relu()

    def summed(left: Tensor, right: Tensor) -> Tensor:
        """Sum of outer products over time and batch."""
        return torch.bmm(left.transpose(0, 1).flatten(1, 2).mT, right.transpose(0, 1).flatten(1, 2))

    return loss, [
        (total * forced[:-1]).sum((0, 2)),
        summed(total, bracket),
        summed(back * gate, forced[:-1]),
        total.sum((0, 2)),
        (back * opened).sum((0, 2)),
    ]


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


Forcing = Callable[[int, ShallowPLRNN, Tensor], Tensor]


def train(
    series: Float[Tensor, "time dim"],
    seeds: Sequence[int],
    forcing: Forcing,
    hidden: int,
    updates: int,
    points: int = 65,
    batch: int = 16,
    rates: tuple[float, float] = (2e-2, 5e-4),
    clip: float = 1.0,
) -> ShallowPLRNN:
    """Train one network a seed on windows of a series; seeds draw their own start and their own windows.

    Args:
        series: standardised observations.
        seeds: one seed a model of the stack.
        forcing: called with the update's number, the stack and the windows; returns strengths (points, models).
        hidden: number of hidden units.
        updates: number of RAdam updates.
        points: observations in a window, the starting point included.
        batch: windows in an update.
        rates: first and last learning rate; it falls geometrically.
        clip: largest gradient norm of a model.

    Returns:
        the trained stack.

    Raises:
        ValueError: if the series is not finite, or shorter than a window.
    """
    finite(series=series)
    shaped("series", series, ("time", "dim"))
    if len(series) < points:
        raise ValueError(f"series has {len(series)} time steps, fewer than one window of {points} points")
    model = init_plrnn(seeds, series.shape[1], hidden)
    starts = torch.stack([draw_starts(seed, len(series) - points, updates, batch) for seed in seeds], 1)
    optimiser = torch.optim.RAdam(model.tensors(), lr=rates[0])
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, (rates[1] / rates[0]) ** (1 / updates))
    within = torch.arange(points)[:, None, None]
    for update in range(updates):
        windows = series[starts[update] + within]
        loss, gradients = loss_and_gradients(model, windows, forcing(update, model, windows))
        norm = sum(gradient.flatten(1).square().sum(1) for gradient in gradients).sqrt()
        scale = torch.where(norm.isfinite(), (clip / norm).clamp(max=1.0), 0.0)
        for tensor, gradient in zip(model.tensors(), gradients, strict=True):  # an overflow stops its own model only
            tensor.grad = torch.nan_to_num(gradient) * scale.view(-1, *[1] * (gradient.ndim - 1))
        optimiser.step()
        schedule.step()
    return model


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
