"""Rivals of the information-shaped Koopman autoencoder: two linear regressions and a variational autoencoder.

Sources: dynamic mode decomposition, P. J. Schmid, 2010; its extension by a dictionary (EDMD), M. O. Williams, I. G. Kevrekidis,
C. W. Rowley, 2015, arXiv:1408.4408; variational autoencoder, D. P. Kingma, M. Welling, 2014, arXiv:1312.6114, here with a
trained matrix that advances the latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.information_koopman import KoopmanAutoencoder
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.dynamics.recurrent import clipped
from touchstone.dynamics.sindy import monomial_exponents, monomials
from touchstone.nn.networks import generators


@dataclass(frozen=True)
class LinearForecast:
    """Features that a matrix advances and another reads out.

    Attributes:
        features: from observations to features.
        operator: one-step matrix, from the right.
        readout: from features to observations, from the right.
    """

    features: Callable[[np.ndarray], np.ndarray]
    operator: Float[np.ndarray, "features features"]
    readout: Float[np.ndarray, "features channels"]

    def run(self, start: Float[np.ndarray, "runs channels"], steps: int) -> Float[np.ndarray, "runs steps channels"]:
        """Observations after 1, 2, ... steps."""
        state, orbit = self.features(start), []
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                state = state @ self.operator
                orbit.append(state @ self.readout)
        return np.stack(orbit, 1)


def _regress(inputs: np.ndarray, outputs: np.ndarray, ridge: float) -> np.ndarray:
    gram = inputs.T @ inputs / len(inputs) + ridge * np.eye(inputs.shape[1])
    return np.linalg.solve(gram, inputs.T @ outputs / len(inputs))


def _principal(series: np.ndarray, count: int) -> np.ndarray:
    flat = series.reshape(-1, series.shape[-1])
    return np.linalg.eigh(flat.T @ flat)[1][:, ::-1][:, :count]


def fit_dmd(series: Float[np.ndarray, "runs time channels"], rank: int, ridge: float = 1e-8) -> LinearForecast:
    """Dynamic mode decomposition: a matrix for the scores of the leading principal components, and a constant.

    Args:
        series: standardised observations.
        rank: components kept.
        ridge: penalty, for each pair.

    Returns:
        the forecaster.

    Raises:
        ValueError: if the series is not finite or of the wrong shape, or the rank is out of range.
    """
    finite(series=series)
    channels = shaped("series", series, ("runs", "time", "channels"))["channels"]
    if not 1 <= rank <= channels:
        raise ValueError(f"rank is {rank}: there are {channels} channels")
    basis = _principal(series, rank)

    def features(observed: np.ndarray) -> np.ndarray:
        return np.pad(observed @ basis, [(0, 0)] * (observed.ndim - 1) + [(0, 1)], constant_values=1.0)

    before, after = (features(part).reshape(-1, rank + 1) for part in (series[:, :-1], series[:, 1:]))
    return LinearForecast(features, _regress(before, after, ridge), np.pad(basis.T, ((0, 1), (0, 0))))


def fit_edmd(
    series: Float[np.ndarray, "runs time channels"], ridge: float, scores: int = 6, degree: int = 3
) -> LinearForecast:
    """Extended dynamic mode decomposition with monomials of principal scores; observations are read out linearly.

    Args:
        series: standardised observations.
        ridge: penalty, for each pair.
        scores: principal components that enter the monomials.
        degree: of the monomials.

    Returns:
        the forecaster.

    Raises:
        ValueError: if the series is not finite or of the wrong shape.
    """
    finite(series=series)
    shaped("series", series, ("runs", "time", "channels"))
    basis, exponents = _principal(series, scores), monomial_exponents(scores, degree)
    basis = basis / (series @ basis).std((0, 1))

    def features(observed: np.ndarray) -> np.ndarray:
        return monomials(observed @ basis, exponents)

    every = features(series)
    before, after = (part.reshape(-1, len(exponents)) for part in (every[:, :-1], every[:, 1:]))
    readout = _regress(every.reshape(-1, len(exponents)), series.reshape(-1, series.shape[-1]), ridge)
    return LinearForecast(features, _regress(before, after, ridge), readout)


def choose(
    fit: Callable[[np.ndarray, float], LinearForecast],
    values: Sequence[int] | Sequence[float],
    series: Float[np.ndarray, "runs time channels"],
    horizon: int = 50,
) -> LinearForecast:
    """The forecaster whose free runs on the last fifth of the training runs are best, fitted again to all of them.

    Args:
        fit: from a series and a value to a forecaster.
        values: ranks or penalties to choose among.
        series: training observations.
        horizon: steps forecast from the first sample.

    Returns:
        the forecaster.
    """
    cut = int(0.8 * len(series))
    held, errors = series[cut:], []
    for value in values:
        run = fit(series[:cut], value).run(held[:, 0], horizon)
        errors.append(np.median(np.nan_to_num(((run - held[:, 1 : horizon + 1]) ** 2).mean((1, 2)), nan=np.inf)))
    return fit(series, values[int(np.argmin(errors))])


class LinearVAE(nn.Module):
    """A stack of variational autoencoders whose latents a trained matrix advances; sizes as the Koopman autoencoder's.

    Args:
        seeds: one model for each.
        channels: observed channels.
        latent: dimension of the latent space.
        width: units of a hidden layer.
    """

    def __init__(self, seeds: Sequence[int], channels: int, latent: int = 16, width: int = 64):
        super().__init__()
        draws, silu = generators(seeds), nn.functional.silu
        self.encoder = Perceptrons(draws, [channels, width, width, 2 * latent], silu)
        self.decoder = Perceptrons(draws, [latent, width, width, channels], silu)
        self.operator = nn.Parameter(torch.eye(latent).repeat(len(seeds), 1, 1))

    def encode(self, observed: Float[Tensor, "models *batch channels"]) -> Float[Tensor, "models *batch latent"]:
        """Means of the latent states."""
        return self.encoder(observed.flatten(1, -2)).unflatten(1, observed.shape[1:-1]).chunk(2, -1)[0]

    decode = KoopmanAutoencoder.decode

    def loss(
        self, windows: Float[Tensor, "models batch points channels"], noise: Tensor, divergence: float = 1e-3
    ) -> Float[Tensor, "models"]:
        """Squared errors of reconstruction and of one step, and the divergence of the latents from a standard normal."""
        coded = self.encoder(windows[:, :, :-1].flatten(1, 2)).unflatten(1, noise.shape[1:3])
        mean, log_variance = coded.chunk(2, -1)
        latents = mean + noise * (0.5 * log_variance).exp()
        decoded = self.decode(torch.cat([latents @ self.operator[:, None], latents], 2))
        error = (decoded - torch.cat([windows[:, :, 1:], windows[:, :, :-1]], 2)).square().mean(3).sum(2).mean(1)
        away = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(3).sum(2).mean(1)
        return error + divergence * away


def train_vae(
    model: LinearVAE,
    series: Float[Tensor, "runs time channels"],
    seeds: Sequence[int],
    updates: int,
    pairs: int = 16,
    batch: int = 32,
    rate: float = 1e-3,
    decay: tuple[float, int] = (0.8, 750),
) -> LinearVAE:
    """Train as :func:`touchstone.dynamics.information_koopman.train` does; same arguments, no weights."""
    finite(series=series)
    shaped("series", series, ("runs", "time", "channels"))
    draws, latent = generators(seeds, stream=1), model.operator.shape[-1]
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, decay[1], decay[0])
    within = torch.arange(pairs + 1)
    for _ in range(updates):
        run = torch.stack([torch.randint(len(series), (batch, 1), generator=draw) for draw in draws])
        last = series.shape[1] - pairs
        first = torch.stack([torch.randint(last, (batch, 1), generator=draw) for draw in draws])
        noise = torch.stack([torch.randn(batch, pairs, latent, generator=draw) for draw in draws])
        optimiser.zero_grad()
        model.loss(series[run, first + within], noise).sum().backward()
        for parameter, gradient in zip(
            model.parameters(), clipped([p.grad for p in model.parameters()], 1.0), strict=True
        ):
            parameter.grad = gradient
        optimiser.step()
        schedule.step()
    return model
