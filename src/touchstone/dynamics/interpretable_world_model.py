r"""A video model whose latents are the physical state, held there by known equations and by coarse intervals.

An encoder reads the state :math:`\mu_t` off two successive frames, a decoder draws them, and in between the state is advanced
by one Runge-Kutta step of equations whose form is known and whose constants :math:`\psi` are not. There are no labels of the
state, only intervals :math:`[l_t,u_t]` that contain it:

.. math::
    L = |\hat y_t-y_t|^2 + \beta\,\mathrm{KL} + \lambda_1\big[(l_t-\mu_t)_+^2+(\mu_t-u_t)_+^2\big]
        + \lambda_2|\hat x_{t+k}-\mathrm{sg}(\mu_{t+k})|^2 + \lambda_3|\mathrm{dec}(\hat x_{t+k})-y_{t+k}|^2 .

Latents are states in units of their half range about its centre, so that 1 means the edge of the range in every coordinate.

Source: Z. Mao, I. Ruchkin, 2024, arXiv:2412.12870.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.odeint import rk4_step

Field = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]  # constants, state, push: time derivative
# latents, push and what is remembered: latents a frame later, and what to remember
Dynamics = Callable[[Tensor, Tensor, tuple | None], tuple[Tensor, tuple | None]]


def draw_intervals(
    states: Float[Tensor, "*batch dim"], spans: Float[Tensor, "dim"], width: float, seed: int
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dim"]]:
    """Intervals that contain the states, each with the state at a place of its own, uniform between the two ends.

    Args:
        states: what is to be contained.
        spans: range of each coordinate.
        width: of the intervals, as a share of the range; 0 gives the states themselves, infinity no bounds at all.
        seed: of the places.

    Returns:
        lower and upper ends.

    Raises:
        ValueError: if the states are empty or not finite, the spans do not fit them, or the width is negative.
    """
    finite(states=states, spans=spans)
    shaped("spans", spans, (states.shape[-1],))
    if not width >= 0:
        raise ValueError(f"width is {width}: give a share of the range, 0 or more")
    if math.isinf(width):
        return torch.full_like(states, -math.inf), torch.full_like(states, math.inf)
    place = torch.rand(states.shape, generator=torch.Generator().manual_seed(seed), dtype=states.dtype)
    return states - width * spans * place, states + width * spans * (1 - place)


def interval_loss(
    means: Float[Tensor, "*batch dim"], lower: Float[Tensor, "*batch dim"], upper: Float[Tensor, "*batch dim"]
) -> Float[Tensor, ""]:
    r"""Squared distance to the intervals, :math:`(l-\mu)_+^2+(\mu-u)_+^2`, summed over coordinates, mean over the batch.

    Args:
        means: encoded states.
        lower: lower ends, in the same units.
        upper: upper ends.
    """
    return (torch.relu(lower - means).square() + torch.relu(means - upper).square()).sum(-1).mean()


class Physics(nn.Module):
    r"""Known equations with unknown positive constants, one Runge-Kutta step a frame.

    The constants are :math:`\psi=\psi_0\,\mathrm{softplus}(\rho)/\ln2`, a multiple of the first guess, so that one learning
    rate serves constants of any size.

    Args:
        field: the equations.
        guess: the constants at the start, in their own units.
        centre: of the range of each coordinate.
        half: half its range.
        step: time between frames (s).

    Raises:
        ValueError: if the guess, the step or half a range is not positive and finite.
    """

    def __init__(
        self, field: Field, guess: Sequence[float], centre: Sequence[float], half: Sequence[float], step: float
    ):
        super().__init__()
        if not all(0 < value < math.inf for value in (*guess, *half, step)):
            raise ValueError(f"guess, half and step must be positive and finite, got {guess}, {half} and {step}")
        self.field, self.step = field, step
        self.raw = nn.Parameter(torch.zeros(len(guess)))
        for name, values in {"guess": guess, "centre": centre, "scale": half}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.get_default_dtype()))

    @property
    def constants(self) -> Float[Tensor, "constants"]:
        """The constants as they are now, in their own units."""
        return self.guess * nn.functional.softplus(self.raw) / math.log(2)

    def forward(
        self, latents: Float[Tensor, "runs dim"], push: Float[Tensor, "runs"], memory: tuple | None = None
    ) -> tuple[Float[Tensor, "runs dim"], None]:
        """Latents a frame later."""
        constants = self.constants.unbind()
        state = torch.addcmul(self.centre, self.scale, latents)
        state = rk4_step(lambda _, x: self.field(constants, x, push), 0.0, state, self.step)
        return (state - self.centre) / self.scale, None


def rollout(
    dynamics: Dynamics, latents: Float[Tensor, "runs dim"], pushes: Float[Tensor, "runs steps"]
) -> Float[Tensor, "runs steps dim"]:
    """Latents after 1, 2, ... frames.

    Args:
        dynamics: advances them.
        latents: to start from.
        pushes: from each frame to the next.
    """
    orbit, memory = [], None
    for push in pushes.unbind(1):
        latents, memory = dynamics(latents, push, memory)
        orbit.append(latents)
    return torch.stack(orbit, 1)


class WorldModel(nn.Module):
    """Variational autoencoder of pairs of frames, with dynamics between its latents.

    Args:
        dim: number of states.
        dynamics: advances latents by a frame; its ``constants`` are kept while training.
        seed: of the initial weights.
        size: pixels along an edge, a multiple of 8.
        width: channels of the first convolution.

    Raises:
        ValueError: if the size is no multiple of 8.
    """

    def __init__(self, dim: int, dynamics: nn.Module, seed: int, size: int = 16, width: int = 16):
        super().__init__()
        if size < 8 or size % 8:
            raise ValueError(f"size is {size}: give a multiple of 8 pixels")
        wide, quarter = 2 * width, size // 4
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                *(nn.Conv2d(2, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, wide, 4, 2, 1), nn.ReLU()),
                *(nn.Conv2d(wide, wide, 4, 2, 1), nn.ReLU(), nn.Conv2d(wide, 4 * width, size // 8), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(4 * width, 2 * dim)),
            )
            self.decoder = nn.Sequential(
                *(nn.Linear(dim, 4 * width), nn.ReLU(), nn.Linear(4 * width, wide * quarter**2), nn.ReLU()),
                *(nn.Unflatten(-1, (wide, quarter, quarter)), nn.ConvTranspose2d(wide, width, 4, 2, 1), nn.ReLU()),
                nn.ConvTranspose2d(width, 2, 4, 2, 1),
            )
        with torch.no_grad():  # or samples drown the small first codes, and the decoder learns to ignore them
            self.encoder[-1].bias[dim:] -= 4.0
        self.dynamics = dynamics

    def encode(self, pairs: Float[Tensor, "*batch 2 size size"]) -> tuple[Tensor, Tensor]:
        """Means and logarithmic variances of the latents of pairs of frames; they belong to the later frame."""
        code = self.encoder(pairs.flatten(0, -4)).unflatten(0, pairs.shape[:-3])
        return code.chunk(2, -1)

    def decode(self, latents: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch 2 size size"]:
        """Pairs of frames."""
        return self.decoder(latents.flatten(0, -2)).unflatten(0, latents.shape[:-1])


@dataclass(frozen=True)
class Weights:
    """Weights of the terms of the loss beside the reconstruction, which is summed over pixels.

    Attributes:
        kl: of the divergence from the prior, beta.
        interval: of the distance to the intervals, lambda 1.
        dynamics: of the error of predicted latents, lambda 2.
        pictures: of the error of predicted pictures, lambda 3.
    """

    kl: float = 0.01
    interval: float = 100.0
    dynamics: float = 10.0
    pictures: float = 1.0


def pairs_of(frames: Float[Tensor, "*batch time size size"]) -> Float[Tensor, "*batch times 2 size size"]:
    """Each frame but the first, with its predecessor before it."""
    return torch.stack([frames[..., :-1, :, :], frames[..., 1:, :, :]], -3)


def loss_terms(
    model: WorldModel,
    pairs: Float[Tensor, "windows times 2 size size"],
    pushes: Float[Tensor, "windows times"],
    lower: Float[Tensor, "windows times dim"],
    upper: Float[Tensor, "windows times dim"],
    horizon: int,
    noise: Float[Tensor, "windows times dim"],
) -> dict[str, Float[Tensor, ""]]:
    """Terms of the loss, unweighted. Rollouts of latents start everywhere; those of the first are drawn as well.

    Args:
        model: encoder, decoder and dynamics.
        pairs: observations.
        pushes: from each time to the next.
        lower: lower ends of the intervals, in units of the latents.
        upper: upper ends.
        horizon: frames predicted, at least 1 and less than there are times.
        noise: standard normal numbers, which sample the latents.

    Returns:
        reconstruction, kl, interval, dynamics and pictures; the squared errors of pictures are summed over pixels.

    Raises:
        ValueError: if the horizon does not fit the windows.
    """
    windows, times = pairs.shape[:2]
    if not 1 <= horizon < times:
        raise ValueError(f"horizon is {horizon}: windows of {times} times allow 1 to {times - 1}")
    means, spread = model.encode(pairs)
    starts = times - horizon
    ahead = pushes.unfold(1, horizon, 1)[:, :starts].flatten(0, 1)
    predicted = rollout(model.dynamics, means[:, :starts].flatten(0, 1), ahead).unflatten(0, (windows, starts))
    targets = means.detach()[:, 1:].unfold(1, horizon, 1).movedim(-1, 2)
    # one call of the decoder draws the present and what was predicted from the first time
    drawn = model.decode(torch.cat([means + noise * (spread / 2).exp(), predicted[:, 0]], 1))
    errors = (drawn - torch.cat([pairs, pairs[:, 1 : horizon + 1]], 1)).square().sum((-3, -2, -1))
    return {
        "reconstruction": errors[:, :times].mean(),
        "kl": 0.5 * (means.square() + spread.exp() - 1 - spread).sum(-1).mean(),
        "interval": interval_loss(means, lower, upper),
        "dynamics": (predicted - targets).square().sum(-1).mean(),
        "pictures": errors[:, times:].mean(),
    }


def train(
    model: WorldModel,
    frames: Float[Tensor, "episodes time size size"],
    pushes: Float[Tensor, "episodes time"],
    lower: Float[Tensor, "episodes time dim"],
    upper: Float[Tensor, "episodes time dim"],
    seed: int,
    updates: int = 800,
    weights: Weights = Weights(),
    rates: tuple[float, float] = (3e-3, 3e-2),
    batch: int = 16,
    horizon: int = 10,
) -> Float[Tensor, "updates constants"]:
    """Fit a model to windows of video; the horizon grows from 1 frame to its last value over the first half.

    Args:
        model: is changed in place.
        frames: pictures.
        pushes: from each frame to the next.
        lower: lower ends of the intervals at each frame, in units of the latents; minus infinity where there are none.
        upper: upper ends.
        seed: of the windows and of the samples.
        updates: of Adam; its rates fall to zero as a cosine.
        weights: of the terms.
        rates: first ones, of the networks and of the constants.
        batch: windows an update.
        horizon: frames predicted at the end; windows hold one time more.

    Returns:
        the constants after every update.

    Raises:
        ValueError: if arguments are empty, of shapes that do not fit, or too short, or pictures or pushes are not finite.
        FloatingPointError: if the loss stops being finite.
    """
    finite(frames=frames, pushes=pushes)
    axes = shaped("frames", frames, ("episodes", "time", "size", "size"))
    shaped("pushes", pushes, (axes["episodes"], axes["time"]))
    shaped("lower", lower, (axes["episodes"], axes["time"], "dim"))
    shaped("upper", upper, lower.shape)
    if axes["time"] < horizon + 2:
        raise ValueError(f"frames holds {axes['time']} times: a horizon of {horizon} needs {horizon + 2}")
    draw = torch.Generator().manual_seed(1_000_003 + seed)
    slow = [value for name, value in model.named_parameters() if name != "dynamics.raw"]
    fast = [value for name, value in model.named_parameters() if name == "dynamics.raw"]
    groups = [{"params": group, "lr": rate} for group, rate in zip((slow, fast), rates, strict=True) if group]
    optimiser = torch.optim.Adam(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    within, history = torch.arange(horizon + 2), []
    for update in range(updates):
        episode = torch.randint(len(frames), (batch, 1), generator=draw)
        time = torch.randint(axes["time"] - horizon - 1, (batch, 1), generator=draw) + within
        later, reach = time[:, 1:], 1 + min(horizon - 1, 2 * update * horizon // updates)
        noise = torch.randn(*later.shape, lower.shape[-1], generator=draw)
        window = pushes[episode, later], lower[episode, later], upper[episode, later]
        terms = loss_terms(model, pairs_of(frames[episode, time]), *window, reach, noise)
        loss = terms["reconstruction"] + sum(value * terms[name] for name, value in vars(weights).items())
        if not torch.isfinite(loss):
            raise FloatingPointError("loss is NaN or infinite: lower the rates")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        history.append(model.dynamics.constants.detach().clone())
    return torch.stack(history)
