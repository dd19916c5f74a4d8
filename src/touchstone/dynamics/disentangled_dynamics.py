r"""Supervised disentanglement: a forecasting autoencoder, some of whose latents must encode the system's parameters.

A window of n states of d coordinates is encoded as a Gaussian over latents z, from which the next n states are decoded;
longer forecasts feed outputs back. While training, the q parameters :math:`\xi` of each simulated system are known.
Scaled to the unit interval over the training range, they supervise the means of the first latents:

.. math:: \frac1{nd}\sum|\hat x-x| + \frac{\beta}{nd}\,\mathrm{KL}\big(\mathcal N(\mu,\sigma^2)\,\|\,\mathcal N(0,1)\big)
    + \frac{\delta}{q}\sum_{i\le q}|\mu_i-\bar\xi_i| .

Forecasts need no parameters. The plain autoencoder (:math:`\delta=0`), perceptrons with a deterministic bottleneck and one
that is told the true parameters differ in four numbers, so all of them, for all seeds, train as the members of one stack.

Source: S. Fotiadis and others, 2021, arXiv:2108.11684.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from touchstone.checks import finite, shaped
from touchstone.dynamics.disentangled_dynamics_domains import Trajectories
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.nn.networks import generators


@dataclass(frozen=True)
class Variant:
    """What a member of the stack does.

    Args:
        beta: weight of the Kullback-Leibler divergence.
        delta: weight of the supervision of the first latents.
        sampled: whether latents are drawn while training; forecasts always decode the means.
        told: whether the true parameters are inputs of the encoder.
    """

    beta: float = 0.0
    delta: float = 0.0
    sampled: bool = False
    told: bool = False


def reconstruction(
    forecast: Float[Tensor, "members batch window dim"], target: Float[Tensor, "members batch window dim"]
) -> Float[Tensor, "members"]:
    """Mean absolute error."""
    return (forecast - target).abs().mean((1, 2, 3))


def divergence(
    mean: Float[Tensor, "members batch latent"], logvar: Float[Tensor, "members batch latent"]
) -> Float[Tensor, "members"]:
    """Kullback-Leibler divergence of N(mean, exp(logvar)) from N(0, 1), summed over latents, mean over the batch."""
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(-1).mean(1)


def supervision(
    mean: Float[Tensor, "members batch latent"], labels: Float[Tensor, "members batch parameters"]
) -> Float[Tensor, "members"]:
    """Mean absolute difference of the first latents' means and the scaled parameters; linear, so it extrapolates."""
    return (mean[..., : labels.shape[-1]] - labels).abs().mean((1, 2))


class Forecasters(nn.Module):
    """A stack of autoencoders, one for every variant and seed; variants of a seed start from the same weights.

    Args:
        variants: by name.
        seeds: one member of each variant for each.
        dim: coordinates of a state.
        parameters: of the system.
        window: states that are seen, and states that are forecast at once.
        latent: number of latents, supervised ones included; the same for all variants.
        hidden: units of the encoder's layers; the decoder mirrors them.

    Raises:
        ValueError: if there is no variant or no seed, or there are fewer latents than parameters.
    """

    def __init__(
        self,
        variants: Mapping[Hashable, Variant],
        seeds: Sequence[int],
        dim: int,
        parameters: int,
        window: int = 10,
        latent: int = 16,
        hidden: tuple[int, ...] = (400, 200),
    ):
        super().__init__()
        if not variants:
            raise ValueError("variants is empty: give at least one")
        if latent < parameters:
            raise ValueError(f"latent is {latent}: {parameters} parameters need as many latents at least")
        self.variants, self.seeds, self.window, self.dim = dict(variants), list(seeds), window, dim
        self.members = [(name, seed) for name in variants for seed in seeds]
        encoder, decoder = ([draw for _ in variants for draw in generators(seeds, stream)] for stream in (1, 2))
        self.encoder = Perceptrons(encoder, [window * dim + parameters, *hidden, 2 * latent], functional.leaky_relu)
        self.decoder = Perceptrons(decoder, [latent, *hidden[::-1], window * dim], functional.leaky_relu)
        for name in ("beta", "delta", "sampled", "told"):
            numbers = [float(getattr(variant, name)) for variant in variants.values() for _ in seeds]
            self.register_buffer(name, torch.tensor(numbers))

    def encode(
        self, windows: Float[Tensor, "members batch window dim"], labels: Float[Tensor, "members batch parameters"]
    ) -> tuple[Float[Tensor, "members batch latent"], Float[Tensor, "members batch latent"]]:
        """Means and log variances of the latents; labels reach only members that are told."""
        inputs = torch.cat([windows.flatten(2), self.told[:, None, None] * labels], -1)
        mean, logvar = self.encoder(inputs).chunk(2, -1)
        return mean, logvar

    def decode(self, latents: Float[Tensor, "members batch latent"]) -> Float[Tensor, "members batch window dim"]:
        """The next window."""
        return self.decoder(latents).unflatten(-1, (self.window, self.dim))

    def loss(
        self,
        windows: Float[Tensor, "members batch window dim"],
        targets: Float[Tensor, "members batch window dim"],
        labels: Float[Tensor, "members batch parameters"],
        noise: Float[Tensor, "members batch latent"],
        anneal: float = 1.0,
    ) -> Float[Tensor, "members"]:
        """Training loss of each member.

        Args:
            windows: what is seen.
            targets: what follows.
            labels: scaled parameters.
            noise: standard normal numbers with which latents are drawn.
            anneal: share of beta that counts.
        """
        mean, logvar = self.encode(windows, labels)
        latents = mean + self.sampled[:, None, None] * noise * (0.5 * logvar).exp()
        weight = anneal * self.beta / (self.window * self.dim)
        fit = reconstruction(self.decode(latents), targets)
        return fit + weight * divergence(mean, logvar) + self.delta * supervision(mean, labels)

    @torch.no_grad()
    def forecast(
        self,
        past: Float[Tensor, "members runs window dim"],
        labels: Float[Tensor, "members runs parameters"],
        steps: int,
    ) -> Float[Tensor, "members runs steps dim"]:
        """Continue windows by decoding means and feeding the outputs back.

        Args:
            past: the last ``window`` states.
            labels: scaled parameters; only members that are told look at them.
            steps: how many states to append.

        Raises:
            ValueError: if an argument is empty, not finite or of another shape.
        """
        finite(past=past, labels=labels)
        shaped("past", past, (len(self.members), "runs", self.window, self.dim))
        pieces = [past]
        while self.window * (len(pieces) - 1) < steps:
            pieces.append(self.decode(self.encode(pieces[-1], labels)[0]))
        return torch.cat(pieces[1:], 2)[:, :, :steps]


def draw_windows(
    data: Trajectories, length: int, batch: int, draws: Sequence[torch.Generator]
) -> tuple[Float[Tensor, "seeds batch length dim"], Float[Tensor, "seeds batch parameters"]]:
    """Pieces of the observed trajectories at random places, and the labels of their systems.

    Args:
        data: trajectories.
        length: states of a piece.
        batch: pieces a seed.
        draws: one generator a seed.
    """
    seeds, runs, time = data.observed.shape[:3]
    run = torch.stack([torch.randint(runs, (batch,), generator=draw) for draw in draws])
    first = torch.stack([torch.randint(time - length + 1, (batch,), generator=draw) for draw in draws])
    row = torch.arange(seeds)[:, None]
    pieces = data.observed[row[..., None], run[..., None], first[..., None] + torch.arange(length)]
    return pieces, data.labels[row, run]


def forecast_windows(
    data: Trajectories, window: int, steps: int
) -> tuple[Float[Tensor, "seeds runs window dim"], Float[Tensor, "seeds runs steps dim"]]:
    """One forecast a trajectory: its noisy past and clean future, from places spread over the trajectories.

    Args:
        data: trajectories.
        window: states before the forecast.
        steps: states of the forecast.

    Raises:
        ValueError: if trajectories are shorter than ``window + steps``.
    """
    runs, time = data.states.shape[1:3]
    spare = time - window - steps
    if spare < 0:
        raise ValueError(f"steps is {steps}: trajectories of {time} states leave {time - window} after the window")
    row = torch.arange(runs)[:, None]
    first = row * spare // max(runs - 1, 1)
    past = data.observed[:, row, first + torch.arange(window)]
    return past, data.states[:, row, first + window + torch.arange(steps)]


def errors(model: nn.Module, data: Trajectories, steps: int) -> Float[Tensor, "members steps"]:
    """Absolute error of forecasts at every step, mean over trajectories and coordinates.

    Args:
        model: with ``members``, ``seeds``, ``window`` and ``forecast`` as :class:`Forecasters`.
        data: one set of trajectories a seed.
        steps: of the forecast.

    Returns:
        errors in standard deviations of the training states; infinite where a forecast is not finite.
    """
    copies = len(model.members) // len(model.seeds)
    past, future = forecast_windows(data, model.window, steps)
    forecast = model.forecast(past.repeat(copies, 1, 1, 1), data.labels.repeat(copies, 1, 1), steps)
    return (forecast - future.repeat(copies, 1, 1, 1)).abs().mean((1, 3)).nan_to_num(torch.inf, torch.inf)


def train(
    model: Forecasters,
    data: Trajectories,
    validation: Trajectories,
    updates: int = 3000,
    batch: int = 32,
    rates: tuple[float, float] = (1e-3, 1e-5),
    clip: float = 1.0,
    horizon: int = 50,
    checks: int = 20,
) -> Forecasters:
    """Adam with a rate that falls geometrically; each member keeps its weights with the best forecasts in range.

    Args:
        model: the stack, changed in place.
        data: training trajectories, one set a seed.
        validation: in-range trajectories to choose the weights by; their noisy states are the truth.
        updates: of Adam; beta grows from zero over the first third.
        batch: windows an update.
        rates: first and last learning rate.
        clip: largest norm of a member's gradient.
        horizon: steps of the forecasts on the validation trajectories.
        checks: how often these are made.

    Returns:
        the model.

    Raises:
        ValueError: if data are not finite or too short, or ``updates`` or ``batch`` is not positive.
    """
    finite(observed=data.observed, labels=data.labels)
    if min(updates, batch) < 1:
        raise ValueError(f"updates and batch are {updates} and {batch}: give positive numbers")
    if data.observed.shape[2] < 2 * model.window:
        raise ValueError(f"data has {data.observed.shape[2]} states a run: {2 * model.window} are needed at least")
    copies, seen = len(model.variants), Trajectories(validation.observed, validation.observed, validation.labels)
    places, noises = generators(model.seeds, 3), generators(model.seeds, 4)
    parameters = list(model.parameters())
    best, kept = torch.full((len(model.members),), torch.inf), [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, rates[0], fused=True)
    latent = model.decoder.weights[0].shape[1]
    for update in range(updates):
        progress = update / updates
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** progress
        pieces, labels = draw_windows(data, 2 * model.window, batch, places)
        noise = torch.stack([torch.randn(batch, latent, generator=draw) for draw in noises]).repeat(copies, 1, 1)
        windows, targets = pieces.repeat(copies, 1, 1, 1).split(model.window, 2)
        losses = model.loss(windows, targets, labels.repeat(copies, 1, 1), noise, min(1.0, 3 * progress))
        optimiser.zero_grad()
        losses.sum().backward()
        clip_members(parameters, clip)
        optimiser.step()
        if (update + 1) % max(1, updates // checks) == 0:
            score = errors(model, seen, horizon).mean(1)
            better = score < best
            best[better] = score[better]
            for keep, parameter in zip(kept, parameters, strict=True):
                keep[better] = parameter.detach()[better]
    with torch.no_grad():
        for keep, parameter in zip(kept, parameters, strict=True):
            parameter.copy_(keep)
    return model


def clip_members(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Shorten each member's gradient to a norm, over all parameters together.

    Args:
        parameters: with members along the first axis.
        largest: norm.
    """
    norm = sum(p.grad.flatten(1).square().sum(1) for p in parameters).sqrt()
    scale = (largest / (norm + 1e-12)).clamp(max=1.0)
    for p in parameters:
        p.grad.mul_(scale.view(-1, *[1] * (p.ndim - 1)))


def read_parameters(
    model: Forecasters, data: Trajectories, windows: int = 1
) -> tuple[Float[Tensor, "members runs parameters"], Float[Tensor, "members runs parameters"]]:
    """Means of the supervised latents for each trajectory, and the true scaled parameters.

    Args:
        model: the stack.
        data: one set of trajectories a seed.
        windows: noisy windows of a trajectory over which the latents are averaged, spread over it; if it is 1, a
            trajectory's window lies at the place that :func:`forecast_windows` gives it.

    Raises:
        ValueError: if ``windows`` is not positive.
    """
    if windows < 1:
        raise ValueError(f"windows is {windows}: read one at least")
    copies, time = len(model.variants), data.observed.shape[2]
    labels = data.labels.repeat(copies, 1, 1)
    firsts = torch.linspace(0, time - model.window, windows).long().tolist()
    pasts = [data.observed[:, :, first : first + model.window] for first in firsts]
    if windows == 1:
        pasts = [forecast_windows(data, model.window, 0)[0]]
    with torch.no_grad():
        means = [model.encode(past.repeat(copies, 1, 1, 1), labels)[0] for past in pasts]
    return torch.stack(means).mean(0)[..., : labels.shape[-1]], labels


def determination(
    read: Float[Tensor, "members runs parameters"], true: Float[Tensor, "members runs parameters"]
) -> Float[Tensor, "members"]:
    r"""Coefficient of determination :math:`R^2`, mean over parameters.

    Args:
        read: estimates.
        true: what they estimate.
    """
    finite(read=read, true=true)
    spread = (true - true.mean(1, keepdim=True)).square().sum(1)
    return (1 - (read - true).square().sum(1) / spread).mean(-1)
