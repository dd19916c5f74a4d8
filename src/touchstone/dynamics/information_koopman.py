r"""Koopman autoencoder with two information terms: temporal mutual information and von Neumann entropy of its latents.

An encoder :math:`\phi` and a decoder :math:`\psi` are trained so that a matrix advances the latents,
:math:`\hat z_{t+1} = z_t K`. With :math:`L_{MI}` a contrastive bound, small when latents share much information with their
neighbours in time, and :math:`S` the entropy of the latent covariance, large when many modes are alive,

.. math:: L = L_{pred} + \lambda_r L_{rec} + \alpha L_{MI} - \beta S, \qquad
          S = -\mathrm{tr}\,\rho\log\rho, \quad \rho = \Sigma / \mathrm{tr}\,\Sigma .

K is a ridge regression within each window, averaged over the batch, through which no gradient flows; after training it is
fitted once more to all pairs. Without the two terms this is a plain Koopman autoencoder.

Source: X. Cheng, W. Yuan, Y. Yang, Y. Zhang, S. Cheng, Y. He, Z. Sun, 2025, arXiv:2510.13025. The public code adds the
entropy with the other sign.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.dynamics.recurrent import clipped
from touchstone.nn.networks import generators


def von_neumann_entropy(latents: Float[Tensor, "*models samples latent"]) -> Float[Tensor, "*models"]:
    r"""Entropy of the centred covariance, scaled to trace one.

    Args:
        latents: samples of the latent state.

    Returns:
        S in nats, from 0 (one mode) to the logarithm of the latent dimension; its exponential is the effective rank.

    Raises:
        ValueError: if there are fewer than two samples.
    """
    if latents.shape[-2] < 2:
        raise ValueError(f"latents hold {latents.shape[-2]} samples: a covariance needs two")
    centred = latents - latents.mean(-2, keepdim=True)
    centred = centred / centred.square().mean((-2, -1), keepdim=True).clamp(min=1e-30).sqrt()
    covariance = centred.mT @ centred
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).clamp(min=1e-30)
    share = (torch.linalg.eigvalsh(covariance) / trace).clamp(min=1e-12)
    return -(share * share.log()).sum(-1)


def info_nce(
    latents: Float[Tensor, "*batch time latent"], neighbours: int = 3, temperature: float = 0.07
) -> Float[Tensor, "*batch"]:
    """Contrastive loss along windows; minimising it raises a lower bound of the information between neighbours in time.

    Anchors are the times that have all their neighbours in the window. Positives are the neighbours on both sides,
    negatives all other times of the same window. Similarity is the cosine over a temperature.

    Args:
        latents: windows of latent states.
        neighbours: k, how many on either side count as positive.
        temperature: divides the cosine.

    Returns:
        the loss of each window, mean over anchors, 0 or more.

    Raises:
        ValueError: if no time of the window has all its neighbours, or there are no negatives.
    """
    time = latents.shape[-2]
    if not 1 <= neighbours or time < 2 * neighbours + 2:
        raise ValueError(f"neighbours is {neighbours}: a window of {time} needs 1 to {(time - 2) // 2}")
    direction = nn.functional.normalize(latents, dim=-1)
    anchors = slice(neighbours, time - neighbours)
    similarity = direction[..., anchors, :] @ direction.mT / temperature
    apart = (torch.arange(time)[anchors, None] - torch.arange(time)).abs()
    others = similarity.masked_fill(apart == 0, -torch.inf).logsumexp(-1)
    positive = similarity.masked_fill((apart == 0) | (apart > neighbours), -torch.inf).logsumexp(-1)
    return (others - positive).mean(-1)


def ridge_operator(
    before: Float[Tensor, "*batch samples latent"], after: Float[Tensor, "*batch samples latent"], ridge: float = 0.1
) -> Float[Tensor, "*batch latent latent"]:
    r"""The matrix :math:`K = (Z^\top Z + \lambda I)^{-1} Z^\top Z'`, which acts from the right.

    Args:
        before: latent states.
        after: the same a step later.
        ridge: the penalty, not multiplied by the number of samples.

    Returns:
        one matrix a batch entry.
    """
    gram = before.mT @ before + ridge * torch.eye(before.shape[-1], dtype=before.dtype)
    return torch.linalg.solve(gram, before.mT @ after)


class KoopmanAutoencoder(nn.Module):
    """A stack of encoders and decoders with two hidden layers each.

    Args:
        seeds: one model for each; equal seeds start equal.
        channels: observed channels.
        latent: d, dimension of the latent space.
        width: units of a hidden layer.
    """

    def __init__(self, seeds: Sequence[int], channels: int, latent: int = 16, width: int = 64):
        super().__init__()
        draws, silu = generators(seeds), nn.functional.silu
        self.encoder = Perceptrons(draws, [channels, width, width, latent], silu)
        self.decoder = Perceptrons(draws, [latent, width, width, channels], silu)

    def encode(self, observed: Float[Tensor, "models *batch channels"]) -> Float[Tensor, "models *batch latent"]:
        """Latent states of observations."""
        return self.encoder(observed.flatten(1, -2)).unflatten(1, observed.shape[1:-1])

    def decode(self, latents: Float[Tensor, "models *batch latent"]) -> Float[Tensor, "models *batch channels"]:
        """Observations of latent states."""
        return self.decoder(latents.flatten(1, -2)).unflatten(1, latents.shape[1:-1])

    def loss(
        self,
        windows: Float[Tensor, "models batch points channels"],
        alpha: Float[Tensor, "models"],
        beta: Float[Tensor, "models"],
        ridge: float = 0.1,
        reconstruction: float = 0.1,
    ) -> dict[str, Float[Tensor, "models"]]:
        """The loss and its parts; squared errors are means over batch and channels and sums over the window.

        Args:
            windows: standardised observations, one point more than there are pairs.
            alpha: weight of the mutual-information term.
            beta: weight of the entropy.
            ridge: of the matrix within a window.
            reconstruction: weight of the reconstruction error.

        Returns:
            ``total``, ``prediction``, ``reconstruction``, ``information`` and ``entropy`` of each model.
        """
        latents = self.encode(windows)
        before = latents[:, :, :-1]
        with torch.no_grad():
            operator = ridge_operator(before, latents[:, :, 1:], ridge).mean(1, keepdim=True)
        decoded = self.decode(torch.cat([before @ operator, before], 2))
        error = (decoded - torch.cat([windows[:, :, 1:], windows[:, :, :-1]], 2)).square().mean((1, 3))
        prediction, again = (part.sum(1) for part in error.chunk(2, 1))
        information, entropy = info_nce(before).mean(1), von_neumann_entropy(before.flatten(1, 2))
        total = prediction + reconstruction * again + alpha * information - beta * entropy
        parts = {"prediction": prediction, "reconstruction": again, "information": information, "entropy": entropy}
        return {"total": total, **parts}


def train(
    model: KoopmanAutoencoder,
    series: Float[Tensor, "runs time channels"],
    seeds: Sequence[int],
    alpha: Sequence[float],
    beta: Sequence[float],
    updates: int,
    pairs: int = 16,
    batch: int = 32,
    rate: float = 1e-3,
    decay: tuple[float, int] = (0.8, 750),
) -> KoopmanAutoencoder:
    """Train a stack on random windows; equal seeds see the same windows.

    Args:
        model: untrained, changed in place.
        series: standardised observations, one series a run.
        seeds: one seed a model.
        alpha: weight of the mutual-information term, one a model.
        beta: weight of the entropy, one a model; negative weights lower it.
        updates: number of Adam updates.
        pairs: T, successive pairs in a window.
        batch: windows an update.
        rate: first learning rate.
        decay: factor on the rate, and after how many updates it is applied each time.

    Returns:
        the trained model.

    Raises:
        ValueError: if the series is not finite or shorter than a window, or the weights are not one a model.
    """
    finite(series=series)
    shaped("series", series, ("runs", "time", "channels"))
    if series.shape[1] < pairs + 1:
        raise ValueError(f"series has {series.shape[1]} times a run: a window of {pairs} pairs needs {pairs + 1}")
    if not len(seeds) == len(alpha) == len(beta):
        raise ValueError(
            f"alpha has {len(alpha)} and beta {len(beta)} entries: give one for each of {len(seeds)} seeds"
        )
    weights = torch.tensor(alpha, dtype=series.dtype), torch.tensor(beta, dtype=series.dtype)
    draws = generators(seeds, stream=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, decay[1], decay[0])
    within = torch.arange(pairs + 1)
    for _ in range(updates):
        run = torch.stack([torch.randint(len(series), (batch, 1), generator=draw) for draw in draws])
        last = series.shape[1] - pairs
        first = torch.stack([torch.randint(last, (batch, 1), generator=draw) for draw in draws])
        optimiser.zero_grad()
        model.loss(series[run, first + within], *weights)["total"].sum().backward()
        for parameter, gradient in zip(
            model.parameters(), clipped([p.grad for p in model.parameters()], 1.0), strict=True
        ):
            parameter.grad = gradient
        optimiser.step()
        schedule.step()
    return model


@torch.no_grad()
def refit(
    model: KoopmanAutoencoder, series: Float[Tensor, "runs time channels"], ridge: float = 0.1
) -> tuple[Float[Tensor, "models latent latent"], Float[Tensor, "models samples latent"]]:
    """One matrix from all pairs of a series, with the encoder as it is.

    Args:
        model: trained stack.
        series: standardised observations to fit to; never those the model is judged on.
        ridge: penalty.

    Returns:
        the matrices, and the latent states of the series.

    Raises:
        ValueError: if the series is not finite or of the wrong shape.
    """
    finite(series=series)
    shaped("series", series, ("runs", "time", "channels"))
    models = len(model.encoder.weights[0])
    latents = model.encode(series.expand(models, *series.shape))
    operator = ridge_operator(latents[:, :, :-1].flatten(1, 2), latents[:, :, 1:].flatten(1, 2), ridge)
    return operator, latents.flatten(1, 2)


@torch.no_grad()
def latent_run(
    operator: Float[Tensor, "models latent latent"], start: Float[Tensor, "models runs latent"], steps: int
) -> Float[Tensor, "models runs steps latent"]:
    """Latent states after 1, 2, ... steps of the matrix."""
    orbit = []
    for _ in range(steps):
        start = start @ operator
        orbit.append(start)
    return torch.stack(orbit, 2)
