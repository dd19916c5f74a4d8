r"""How far a set of generated samples is from a set of real ones.

No distance between two finite samples of the same law is zero, so each number is read against its floor: the mean
of the same distance between independent real samples of the same sizes.
"""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.data.digits import digits


def energy_distance(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> Float[Tensor, ""]:
    r"""The V-statistic of :math:`2 E|X-Y| - E|X-X'| - E|Y-Y'|` (Szekely and Rizzo, 2013), never negative.

    Args:
        x: one set of points.
        y: the other.

    Returns:
        the distance, in the unit of the points.

    Raises:
        ValueError: if a set is empty, holds NaN, or the dimensions differ.
    """
    _comparable(x, y)
    x, y = x.double(), y.double()
    return 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()


def sliced_wasserstein(
    x: Float[Tensor, "n dim"], y: Float[Tensor, "n dim"], projections: int = 256
) -> Float[Tensor, ""]:
    r"""The sliced 2-Wasserstein distance :math:`(\mathrm{mean}_\theta W_2^2(\theta^\top x, \theta^\top y))^{1/2}`.

    Args:
        x: one set of points.
        y: the other, of the same size.
        projections: number of directions; they are the same at every call.

    Returns:
        the distance, in the unit of the points.

    Raises:
        ValueError: if a set is empty, holds NaN, or the shapes differ.
    """
    _comparable(x, y)
    if len(x) != len(y):
        raise ValueError(f"y holds {len(y)} points and x {len(x)}: sorted projections need equally many")
    directions = torch.randn(x.shape[1], projections, generator=torch.Generator().manual_seed(0)).to(x.dtype)
    directions = directions / directions.norm(dim=0)
    gap = (x @ directions).sort(dim=0).values - (y @ directions).sort(dim=0).values
    return gap.square().mean().sqrt()


def frechet_distance(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> Float[Tensor, ""]:
    r"""The squared 2-Wasserstein distance of the Gaussians with the moments of two sets.

    .. math:: |\mu_x-\mu_y|^2 + \mathrm{tr}(\Sigma_x + \Sigma_y - 2(\Sigma_x\Sigma_y)^{1/2})

    Args:
        x: features of one set.
        y: features of the other.

    Returns:
        the distance, in squared units of the features.

    Raises:
        ValueError: if a set is empty, holds NaN, or the dimensions differ.
    """
    _comparable(x, y)
    x, y = x.double(), y.double()
    cov_x, cov_y = torch.atleast_2d(torch.cov(x.T)), torch.atleast_2d(torch.cov(y.T))
    # the trace of the matrix root is the sum of the roots of the eigenvalues, which are real and not negative
    root_trace = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt().sum()
    return (x.mean(0) - y.mean(0)).square().sum() + cov_x.trace() + cov_y.trace() - 2 * root_trace


@cache
def _digit_classifier() -> torch.nn.Sequential:
    """The fixed 64-128-32-10 tanh classifier, trained once on the training digits from seed 0."""
    data, generator = digits(), torch.Generator().manual_seed(0)
    hidden = [torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 32), torch.nn.Tanh()]
    model = torch.nn.Sequential(*hidden, torch.nn.Linear(32, 10))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
            layer.bias.zero_()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
    with torch.enable_grad():
        for _ in range(100):
            loss = torch.nn.functional.cross_entropy(model(data.train), data.train_labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.requires_grad_(False)


def digit_features(images: Float[Tensor, "n 64"]) -> Float[Tensor, "n 32"]:
    """The 32 penultimate features of the fixed classifier, each in [-1, 1]."""
    return _digit_classifier()[:4](images)


def digit_fid(images: Float[Tensor, "n 64"]) -> Float[Tensor, ""]:
    """Frechet distance between the features of generated digits and those of the 500 held-out ones.

    Args:
        images: generated digits, pixels in [-1, 1]; values outside are clipped.

    Returns:
        the distance, dimensionless; it has its own scale and is not comparable with an Inception FID.

    Raises:
        ValueError: if ``images`` is empty, holds NaN or does not have 64 columns.
    """
    finite(images=images)
    shaped("images", images, ("n", 64))
    return frechet_distance(digit_features(images.clamp(-1, 1)), digit_features(digits().held_out))


def floor(
    distance: Callable[[Tensor, Tensor], Tensor], draw: Callable[[int], Tensor], pairs: int = 20, seed: int = 1_000_000
) -> float:
    """The mean distance between independent real samples.

    Args:
        distance: of two samples.
        draw: from a seed to a real sample.
        pairs: number of independent pairs; a single one varies twofold.
        seed: of the first sample; each sample takes the next one.

    Returns:
        the floor.
    """
    values = [distance(draw(seed + 2 * pair), draw(seed + 2 * pair + 1)) for pair in range(pairs)]
    return float(torch.stack(values).mean())


def digit_fid_floor(count: int = 2000, pairs: int = 20) -> float:
    """The mean digit-FID of ``count`` training images, drawn with replacement: what perfect samples would score."""
    train = digits().train
    generators = [torch.Generator().manual_seed(seed) for seed in range(pairs)]
    values = [digit_fid(train[torch.randint(len(train), (count,), generator=g)]) for g in generators]
    return float(torch.stack(values).mean())


def _comparable(x: Tensor, y: Tensor) -> None:
    finite(x=x, y=y)
    dimension = shaped("x", x, ("n", "dim"))["dim"]
    shaped("y", y, ("m", dimension))
