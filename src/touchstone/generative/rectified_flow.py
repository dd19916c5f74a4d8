r"""Rectified flow: learn a velocity along straight lines between paired points, then straighten it on its own pairs.

Take any coupling of a start law and a target law. Points move from :math:`X_0` to :math:`X_1` along straight lines,
and those lines cross; an ordinary differential equation cannot cross itself, so the best velocity averages over the
lines through a point. Its flow keeps the law at every time and untangles the crossings: no convex transport cost
rises. Flowing start points through it gives a new coupling; training again on that ("reflow") gives straighter paths,
until a single Euler step follows them.

Source: X. Liu, C. Gong, Q. Liu, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow"
(2022), arXiv:2209.03003.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.generative.couplings import Couple, Streams
from touchstone.generative.fitting import fit
from touchstone.generative.samplers import Velocity, heun, rk45


def rectify(model: nn.Module, couple: Couple, streams: Streams, steps: int, batch: int = 256) -> nn.Module:
    r"""Learn the velocity of the rectified flow of a coupling (equation 1).

    .. math:: \min_v \int_0^1 E\,\|(X_1 - X_0) - v(X_t, t)\|^2\,dt, \qquad X_t = t X_1 + (1-t) X_0

    Args:
        model: network :math:`v(x, t)` with a leading seeds axis; for a reflow, the previous flow.
        couple: from a batch size to start and end points, each of shape (seeds, batch, dim).
        streams: for the times.
        steps: number of training steps.
        batch: batch size.

    Returns:
        the trained velocity; the given model is not changed.
    """

    def loss(model: nn.Module) -> Tensor:
        start, end = couple(batch)
        time = streams.uniform(batch)
        between = torch.lerp(start, end, time[..., None])
        # summed over seeds: the copies share no weight, so each sees the gradient of its own loss
        return (model(between, time) - (end - start)).square().sum(-1).mean(-1).sum()

    return fit(model, loss, steps)


def rectified_pairs(
    velocity: Velocity, start: Float[Tensor, "seeds n dim"]
) -> tuple[Float[Tensor, "seeds n dim"], Float[Tensor, "seeds n dim"]]:
    r"""The coupling :math:`(Z_0, Z_1)` that a flow induces, solved accurately: the training set of the next reflow.

    Args:
        velocity: of the flow.
        start: fresh points :math:`Z_0` of the start law.

    Returns:
        the start points and where the flow takes them, to a tolerance of 1e-5.

    Raises:
        ValueError: if ``start`` is empty, holds NaN or does not have three axes.
    """
    finite(start=start)
    shaped("start", start, ("seeds", "n", "dim"))
    return start, rk45(velocity, start, tolerance=1e-5).end


def distil(model: nn.Module, couple: Couple, steps: int, batch: int = 256) -> nn.Module:
    r"""Fine-tune the one-step map :math:`\hat T(z) = z + v(z, 0)` on the pairs of a flow.

    Args:
        model: the flow.
        couple: batches of its pairs, see ``rectified_pairs``.
        steps: number of training steps.
        batch: batch size.

    Returns:
        a velocity that is meant for a single Euler step from time 0.
    """

    def loss(model: nn.Module) -> Tensor:
        start, end = couple(batch)
        return (start + model(start, torch.zeros(())) - end).square().sum(-1).mean(-1).sum()

    return fit(model, loss, steps)


def straightness(velocity: Velocity, start: Float[Tensor, "seeds n dim"], steps: int = 100) -> Float[Tensor, "seeds"]:
    r"""How far the paths of a flow are from straight lines run at constant speed; zero when they are.

    .. math:: S = \int_0^1 E\,\|(Z_1 - Z_0) - \dot Z_t\|^2\,dt

    Args:
        velocity: of the flow.
        start: points of the start law.
        steps: Heun steps; the integral over time is the trapezoidal rule on their boundaries.

    Returns:
        :math:`S`, in squared units of the points, one value a seed.

    Raises:
        ValueError: if ``start`` is empty, holds NaN or does not have three axes.
    """
    finite(start=start)
    shaped("start", start, ("seeds", "n", "dim"))
    flow = heun(velocity, start, steps)
    times = torch.linspace(0, 1, steps + 1, dtype=start.dtype)
    with torch.no_grad():
        gaps = [
            (flow.end - start - velocity(state, time)).square().sum(-1).mean(-1)
            for state, time in zip(flow.path, times, strict=True)
        ]
    return torch.trapezoid(torch.stack(gaps), times, dim=0)


def transport_cost(
    start: Float[Tensor, "seeds n dim"], end: Float[Tensor, "seeds n dim"], power: int | float
) -> Float[Tensor, "seeds"]:
    r"""The convex cost :math:`E\,|Z_1 - Z_0|^p` of a coupling.

    Args:
        start: start points.
        end: their partners.
        power: :math:`p`, at least 1.

    Returns:
        the cost, one value a seed.

    Raises:
        ValueError: if an argument is empty or holds NaN, the shapes differ, or ``power`` is below 1 (not convex).
    """
    finite(start=start, end=end)
    shaped("start", start, ("seeds", "n", "dim"))
    shaped("end", end, tuple(start.shape))
    if power < 1:
        raise ValueError(f"power is {power}: the cost is convex only from 1 on")
    return (end - start).norm(dim=-1).pow(power).mean(-1)


def gaussian_velocity(
    points: Float[Tensor, "n dim"], time: float, moments: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Float[Tensor, "n dim"]:
    r"""The exact rectified velocity between two independent Gaussians, linear in the point.

    .. math::
        E[X_1 - X_0 \mid X_t = x] = m_1 - m_0
        + (t\Sigma_1 - (1-t)\Sigma_0)\,(t^2\Sigma_1 + (1-t)^2\Sigma_0)^{-1}(x - m_t)

    Args:
        points: where to evaluate it.
        time: :math:`t` in [0, 1].
        moments: mean and covariance of the start law, mean and covariance of the target law.

    Returns:
        one velocity a point.

    Raises:
        ValueError: if ``points`` is empty or holds NaN, or does not fit the moments.
    """
    mean_0, cov_0, mean_1, cov_1 = moments
    finite(points=points)
    shaped("points", points, ("n", len(mean_0)))
    cross = time * cov_1 - (1 - time) * cov_0
    cov_t = time**2 * cov_1 + (1 - time) ** 2 * cov_0
    centred = points - (time * mean_1 + (1 - time) * mean_0)
    return mean_1 - mean_0 + centred @ torch.linalg.solve(cov_t, cross.T)  # solve gives the transpose of the product
