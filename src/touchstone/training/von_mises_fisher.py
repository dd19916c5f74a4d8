r"""Samples of the von Mises-Fisher distribution, the Gaussian's counterpart on the unit sphere."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped


def sample_von_mises_fisher(
    mean: Float[Tensor, "dims"], kappa: float, count: int, generator: np.random.Generator
) -> Float[Tensor, "count dims"]:
    r"""Unit vectors with density proportional to :math:`e^{\kappa\mu^Ty}`, by Wood's rejection method.

    The cosine to the mean direction is drawn from a Beta envelope that is accepted at a rate bounded away from 0 in any dimension;
    the rest of the vector is uniform on the sphere orthogonal to the mean (Wood 1994, Communications in Statistics 23).

    Args:
        mean: mean direction :math:`\mu`, a unit vector.
        kappa: concentration, positive.
        count: number of samples.
        generator: source of randomness.

    Returns:
        ``count`` unit vectors in float64.

    Raises:
        ValueError: if ``mean`` is not a finite unit vector of two dimensions or more, or ``kappa`` or ``count`` is not positive.
    """
    dims = shaped("mean", mean, ("dims",))["dims"]
    finite(mean=mean, kappa=torch.tensor(float(kappa)))
    if dims < 2 or abs(mean.double().norm() - 1) > 1e-5:
        raise ValueError(f"mean must be a unit vector of at least two dimensions, got length {mean.norm():.4g}")
    if kappa <= 0 or count < 1:
        raise ValueError(f"kappa and count must be positive, got kappa={kappa}, count={count}")
    n = dims - 1
    b = n / (2 * kappa + np.sqrt(4 * kappa**2 + n**2))
    centre = (1 - b) / (1 + b)
    bound = kappa * centre + n * np.log1p(-(centre**2))
    cosines = np.empty(0)
    while len(cosines) < count:
        beta = generator.beta(n / 2, n / 2, size=count)
        cosine = (1 - (1 + b) * beta) / (1 - (1 - b) * beta)
        accepted = kappa * cosine + n * np.log1p(-centre * cosine) - bound >= np.log(generator.uniform(size=count))
        cosines = np.concatenate([cosines, cosine[accepted]])
    cosine = torch.as_tensor(cosines[:count])[:, None]
    direction = mean.double() / mean.double().norm()
    tangent = torch.as_tensor(generator.standard_normal((count, dims)))
    tangent -= (tangent @ direction)[:, None] * direction
    return cosine * direction + (1 - cosine**2).clamp(min=0).sqrt() * tangent / tangent.norm(dim=1, keepdim=True)
