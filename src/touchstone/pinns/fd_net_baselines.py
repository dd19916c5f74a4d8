"""What FD-Net is measured on and against: exact heat trajectories, other optimisers, a plain CNN, and two fixed stencils."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.pinns.fd_net import Descent

ALPHA = 0.05  # diffusivity, in squares of the domain's length a unit of time


@dataclass(frozen=True)
class Heat:
    r"""Trajectories of :math:`u_t=\alpha\Delta u+f` on the unit interval or square, 0 on the boundary.

    Attributes:
        fields: exact values, ``[batch, times, points]`` or ``[batch, times, points, points]``.
        source: the field :math:`\Delta t\,f`, one a trajectory; None without forcing.
        number: :math:`\alpha\Delta t/h^2` between two observed times.
    """

    fields: Tensor
    source: Tensor | None
    number: float


def heat_trajectories(
    seed: int,
    number: float,
    times: int,
    batch: int = 16,
    points: int = 64,
    dims: int = 1,
    modes: int = 8,
    forced: bool = False,
) -> Heat:
    """Random sine series as initial values, each mode carried on exactly.

    Args:
        seed: of the amplitudes, which are standard normal.
        number: the diffusion number between two observed times.
        times: observed times, the first included.
        batch: number of trajectories.
        points: grid points a side, boundary included.
        dims: 1 or 2.
        modes: highest mode a side.
        forced: add a steady source, a random sine series as well.

    Returns:
        the trajectories in float64.

    Raises:
        ValueError: if ``number`` is not positive or there are fewer than two times.
    """
    if not number > 0:
        raise ValueError(f"number is {number}: give a positive diffusion number")
    if times < 2:
        raise ValueError(f"times is {times}: a trajectory needs at least 2")
    draw = torch.Generator().manual_seed(seed)
    x = torch.linspace(0, 1, points, dtype=torch.float64)
    wave = math.pi * torch.arange(1, modes + 1, dtype=torch.float64)
    basis = torch.sin(wave[:, None] * x)
    basis[:, -1] = 0.0
    step = number / (points - 1) ** 2 / ALPHA
    shape = (batch, *[modes] * dims)
    amplitude = torch.randn(shape, generator=draw, dtype=torch.float64)
    push = (
        torch.randn(shape, generator=draw, dtype=torch.float64) if forced else torch.zeros(shape, dtype=torch.float64)
    )
    rate = ALPHA * wave**2 if dims == 1 else ALPHA * (wave[:, None] ** 2 + wave**2)
    decay = torch.exp(-rate * step * torch.arange(times, dtype=torch.float64).view(-1, *[1] * dims))
    series = amplitude[:, None] * decay + push[:, None] / rate * (1 - decay)
    expand = "btm,mx->btx" if dims == 1 else "btmn,mx,ny->btxy"
    fields = torch.einsum(expand, series, *[basis] * dims)
    source = torch.einsum(expand, push[:, None], *[basis] * dims)[:, 0] * step if forced else None
    return Heat(fields, source, number)


def reacting_trajectories(
    seed: int, number: float, times: int, batch: int = 16, points: int = 64, strength: float = 10.0
) -> Heat:
    r"""Trajectories of :math:`u_t=\alpha u_{xx}+\beta(u-u^3)`, 0 at both ends, computed on a grid four times as fine.

    Args:
        seed: of the initial sine series of modes 1 to 8 with normal amplitudes of variance 1/8.
        number: the diffusion number between two observed times.
        times: observed times, the first included.
        batch: number of trajectories.
        points: grid points, boundary included.
        strength: :math:`\beta`.

    Returns:
        the trajectories in float64.
    """
    start = heat_trajectories(seed, number, 2, batch, 4 * (points - 1) + 1).fields[:, 0].numpy() / math.sqrt(8)
    spacing = 1 / (start.shape[1] - 1)

    def change(_: float, flat: np.ndarray) -> np.ndarray:
        u = flat.reshape(start.shape)
        out = strength * (u - u**3)
        out[:, 1:-1] += ALPHA * (u[:, 2:] - 2 * u[:, 1:-1] + u[:, :-2]) / spacing**2
        out[:, [0, -1]] = 0
        return out.ravel()

    moments = np.arange(times) * number / (points - 1) ** 2 / ALPHA
    band = [start.size, 1, 1]
    solved = solve_ivp(
        change, (0, moments[-1]), start.ravel(), "LSODA", moments, rtol=1e-6, atol=1e-8, lband=band[1], uband=band[2]
    )
    fields = solved.y.T.reshape(times, *start.shape)[..., ::4]
    return Heat(torch.as_tensor(fields.swapaxes(0, 1).copy()), None, number)


def observed(
    trajectories: Float[Tensor, "batch times ..."], noise: float, seed: int
) -> Float[Tensor, "batch times ..."]:
    """Trajectories with normal noise, as a share of their root mean square; the boundary stays exact.

    Args:
        trajectories: exact fields.
        noise: standard deviation over root mean square.
        seed: of the noise.

    Returns:
        what is observed.
    """
    draw = torch.Generator().manual_seed(10_000 + seed)
    size = noise * trajectories.square().mean().sqrt()
    disturbed = trajectories + size * torch.randn(trajectories.shape, generator=draw, dtype=trajectories.dtype)
    return torch.where(_edge(trajectories), trajectories, disturbed)


def _edge(trajectories: Tensor) -> Tensor:
    """Where the boundary is, as a mask of one field."""
    mask = torch.zeros(trajectories.shape[2:], dtype=torch.bool)
    for axis in range(mask.ndim):
        mask.index_fill_(axis, torch.tensor([0, mask.shape[axis] - 1]), True)
    return mask


def adam(loss: Callable[[Tensor], Tensor], start: Float[Tensor, " n"], rate: float, budget: int = 2000) -> Descent:
    """Adam with a constant rate; a step costs one gradient-equivalent.

    Args:
        loss: function of a vector.
        start: where to begin.
        rate: learning rate.
        budget: gradient-equivalents to spend.

    Returns:
        the descent; losses are the lowest so far, and a loss that is not finite ends it.
    """
    vector = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([vector], rate)
    best, keeper, losses = math.inf, start.clone(), []
    for _ in range(budget):
        optimiser.zero_grad()
        value = loss(vector)
        if not torch.isfinite(value):
            break
        if float(value.detach()) < best:
            best, keeper = float(value.detach()), vector.detach().clone()
        losses.append(best)
        value.backward()
        optimiser.step()
    return Descent(keeper, list(range(1, len(losses) + 1)), losses)


def lbfgs(loss: Callable[[Tensor], Tensor], start: Float[Tensor, " n"], budget: int = 2000) -> Descent:
    """L-BFGS with a strong Wolfe line search; every evaluation of the line search costs one gradient-equivalent.

    Args:
        loss: function of a vector.
        start: where to begin.
        budget: gradient-equivalents to spend.

    Returns:
        the descent; losses are the lowest so far.
    """
    vector = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [vector], max_iter=budget, max_eval=budget, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    best, keeper, losses = math.inf, start.clone(), []

    def evaluate() -> Tensor:
        nonlocal best, keeper
        optimiser.zero_grad()
        value = loss(vector)
        value.backward()
        if float(value.detach()) < best:
            best, keeper = float(value.detach()), vector.detach().clone()
        losses.append(best)
        return value

    optimiser.step(evaluate)
    return Descent(keeper, list(range(1, len(losses) + 1)), losses)


class PlainCNN(nn.Module):
    """Three convolutions of width 3 with tanh between them, added to the field; boundary values are kept.

    Args:
        channels: hidden channels; 16 make 897 parameters.
        seed: of the random initial values.
    """

    def __init__(self, channels: int = 16, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Conv1d(a, b, 3, padding=1) for a, b in ((1, channels), (channels, channels), (channels, 1))]
        self.net = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2]).double()

    def forward(self, field: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch points"]:
        """The field one observed time later."""
        change = self.net(field.reshape(-1, 1, field.shape[-1])).view(field.shape)
        return torch.cat([field[..., :1], (field + change)[..., 1:-1], field[..., -1:]], -1)


class FixedStencil(nn.Module):
    """A given three-point stencil, applied once between two observed times.

    Args:
        stencil: factors of the left neighbour, the point itself, the right neighbour.
    """

    def __init__(self, stencil: Sequence[float]):
        super().__init__()
        self.stencil = [float(value) for value in stencil]

    def forward(self, field: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch points"]:
        """The field one observed time later."""
        left, middle, right = self.stencil
        inside = left * field[..., :-2] + middle * field[..., 1:-1] + right * field[..., 2:]
        return torch.cat([field[..., :1], inside, field[..., -1:]], -1)


def forward_euler(number: float) -> FixedStencil:
    """The true stencil at the observed step, which is unstable for a diffusion number above one half."""
    return FixedStencil([number, 1 - 2 * number, number])


def least_squares_stencil(trajectories: Float[Tensor, "batch times points"]) -> FixedStencil:
    """The three-point stencil that best predicts one observed time ahead, in closed form.

    Args:
        trajectories: observed fields.

    Returns:
        the stencil.

    Raises:
        ValueError: if trajectories are empty, not finite or of another shape.
    """
    shaped("trajectories", trajectories, ("batch", "times", "points"))
    finite(trajectories=trajectories)
    before, after = trajectories[:, :-1], trajectories[:, 1:, 1:-1]
    columns = torch.stack([before[..., :-2], before[..., 1:-1], before[..., 2:]], -1).reshape(-1, 3)
    return FixedStencil(torch.linalg.lstsq(columns, after.reshape(-1, 1)).solution[:, 0].tolist())
