r"""Where a physics-informed network looks: the samplers of collocation points that R3 is compared with.

Each sampler is a ``choose`` hook of :func:`touchstone.pinns.protocol.train`: it sees the last step's points and
residuals and returns the points of this step, for all seeds at once. Fixed and uniform points are in the protocol. The
four here look, every 100 steps, at a fresh pool of uniform points, 20 for every collocation point, and evaluate the
residual there.

Sources: Lu, Meng, Mao and Karniadakis (2021), arXiv:1907.04502 (RAR-G); Wu, Zhu, Tan, Kartha and Lu (2022),
arXiv:2207.10289 (RAD, RAR-D). Taking the worst points of the pool is the :math:`L^\infty` sampler of Daw et al.
(2022), arXiv:2207.02338.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from touchstone.checks import finite, shaped
from touchstone.nn.networks import uniform
from touchstone.pinns.protocol import State, fixed_points, uniform_points

POOL_FACTOR = 20  # pool points for every collocation point
EVERY = 100  # steps between two looks at a pool
ADDED = 5  # points that the two RAR samplers add at every look


def magnitude(residual: Float[Tensor, "seeds points equations"]) -> Float[Tensor, "seeds points"]:
    """Size of the residual at every point: its absolute value, or the norm over several equations.

    Args:
        residual: one column an equation.

    Returns:
        one number a point, never negative.
    """
    return residual[..., 0].abs() if residual.shape[-1] == 1 else torch.linalg.vector_norm(residual, dim=-1)


def draw_probability(
    size: Float[Tensor, "seeds pool"], power: float = 1.0, floor: float = 1.0
) -> Float[Tensor, "seeds pool"]:
    r"""Probability with which RAD and RAR-D draw the points of a pool (Wu et al. 2022, eq. 2).

    .. math:: p(x) \propto \frac{|r(x)|^k}{\mathbb{E}\,|r|^k} + c

    Args:
        size: absolute residual at the pool points.
        power: the exponent :math:`k`.
        floor: the constant :math:`c`; a large one gives uniform sampling.

    Returns:
        probabilities that sum to one for every seed.

    Raises:
        ValueError: if ``size`` is empty, not finite, or not of shape (seeds, pool).
    """
    shaped("size", size, ("seeds", "pool"))
    finite(size=size)
    raised = size**power
    # A residual that vanishes everywhere prefers no point: the tiny number turns 0/0 into a uniform draw.
    weight = (raised + 1e-30) / (raised.mean(dim=1, keepdim=True) + 1e-30) + floor
    return weight / weight.sum(dim=1, keepdim=True)


def draw(
    probability: Float[Tensor, "seeds pool"], count: int, draws: Sequence[torch.Generator]
) -> Int[Tensor, "seeds {count}"]:
    """Numbers of pool points, drawn without replacement, each seed from its own generator.

    Args:
        probability: for every pool point.
        count: how many to draw for every seed, at most the size of the pool.
        draws: one generator a seed.

    Returns:
        the numbers of the drawn points.
    """
    rows = zip(probability, draws, strict=True)
    return torch.stack([torch.multinomial(row, count, generator=generator) for row, generator in rows])


def take(points: Float[Tensor, "seeds pool dims"], numbers: Int[Tensor, "seeds n"]) -> Float[Tensor, "seeds n dims"]:
    """The points with the given numbers, seed by seed.

    Args:
        points: the pool.
        numbers: which of them, for every seed.

    Returns:
        the chosen points.
    """
    return points.gather(1, numbers[..., None].expand(-1, -1, points.shape[2]))


def look(state: State) -> tuple[Float[Tensor, "seeds pool dims"], Float[Tensor, "seeds pool"]]:
    """A fresh pool of uniform points and the size of the residual there, for one more forward pass of the network.

    Args:
        state: the training so far.

    Returns:
        the pool's points and their absolute residuals.
    """
    pool = state.problem.scale(uniform(state.draws, POOL_FACTOR * state.recipe.collocation, len(state.problem.low)))
    return pool, magnitude(state.problem.residual(state.network, pool))


def rar_g(state: State) -> Float[Tensor, "seeds points dims"]:
    """Greedy residual-based refinement: at every look, add the 5 worst points of the pool."""
    if state.points is None or state.step % EVERY:
        return fixed_points(state)
    pool, size = look(state)
    return torch.cat([state.points, take(pool, size.topk(ADDED, dim=1).indices)], dim=1)


def rad(state: State) -> Float[Tensor, "seeds points dims"]:
    """Residual-based adaptive distribution: at every look, redraw all points by residual (k = 1, c = 1)."""
    if state.points is None or state.step % EVERY:
        return fixed_points(state)
    pool, size = look(state)
    return take(pool, draw(draw_probability(size, 1.0, 1.0), state.points.shape[1], state.draws))


def rar_d(state: State) -> Float[Tensor, "seeds points dims"]:
    """Refinement with a distribution: at every look, add 5 points drawn by squared residual (k = 2, c = 0)."""
    if state.points is None or state.step % EVERY:
        return fixed_points(state)
    pool, size = look(state)
    return torch.cat([state.points, take(pool, draw(draw_probability(size, 2.0, 0.0), ADDED, state.draws))], dim=1)


def l_infinity(state: State) -> Float[Tensor, "seeds points dims"]:
    """The worst points of the pool and no others, renewed at every look."""
    if state.points is None or state.step % EVERY:
        return fixed_points(state)
    pool, size = look(state)
    return take(pool, size.topk(state.points.shape[1], dim=1).indices)


SAMPLERS = {
    "fixed": fixed_points,
    "uniform": uniform_points,
    "RAR-G": rar_g,
    "RAD": rad,
    "RAR-D": rar_d,
    "L-infinity": l_infinity,
}
