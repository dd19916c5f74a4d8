r"""Forward invariance of neural ODEs: a specification is kept by the smallest change of weights or inputs.

A state that starts in the set :math:`h(x)\ge0` stays there if :math:`\nabla h^\top\dot x+\kappa h\ge0` all along its way,
since then :math:`h(t)\ge h(0)e^{-\kappa t}` (a control barrier condition). In :math:`\dot x=W\sigma(x)+c` the condition is
linear in the last layer W, in :math:`\dot x=f(x)+g(x)u` it is linear in the input u; at every evaluation of the field the
nearest W or u that meets it takes the place of the learned one. Weights deeper inside are reached by the next derivative
of h (:func:`raised`).

Source: W. Xiao et al., On the Forward Invariance of Neural ODEs, 2022, arXiv:2210.04763; high-order barriers: W. Xiao,
C. Belta, 2019, arXiv:1903.04706.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from touchstone.checks import finite, shaped

MOST = 8  # constraints that `project` solves by going through all sets of active ones
TINY = 1e-24  # squared normals below this are zero: the constraint does not depend on what is changed
FLAT = 1e-6  # where the square of the changeable part of a gradient falls below this, the way back into a set fades


@dataclass(frozen=True)
class Specification:
    r"""A set :math:`h(x)\ge0`, and how fast states may approach its border.

    Args:
        value: h, from states (..., n) to (...).
        slope: its gradient, from states (..., n) to (..., n).
        gain: :math:`\kappa` of :math:`\dot h\ge-\kappa h`, per unit time; a positive number or tensor.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    gain: float | Tensor = 1.0


def project(
    start: Float[Tensor, "*batch n"], normals: Float[Tensor, "*batch m n"], offsets: Float[Tensor, "*batch m"]
) -> Float[Tensor, "*batch n"]:
    r"""The nearest vector that meets linear constraints, :math:`\min|w-w_0|^2` subject to :math:`a_j^\top w+b_j\ge0`.

    One constraint has the closed form :math:`w_0+\max(0,-(a^\top w_0+b))\,a/|a|^2`. For several, every set of at most n
    active ones is solved as equations, and the nearest of the points that meet all constraints is taken. Gradients pass
    through the sets that are active.

    Args:
        start: w0.
        normals: the a, one row a constraint, at most 8 rows; a row of zeros constrains nothing.
        offsets: the b.

    Returns:
        the nearest vector, w0 itself where it meets the constraints; where nothing does, the candidate that violates them
        least.

    Raises:
        ValueError: if an argument is empty or not finite, the shapes do not fit, or there are more than 8 constraints.
    """
    finite(start=start, normals=normals, offsets=offsets)
    if normals.ndim < 2 or not 1 <= normals.shape[-2] <= MOST:
        raise ValueError(f"normals has shape {tuple(normals.shape)}: give 1 to {MOST} rows, one a constraint")
    shaped("normals", normals, (*start.shape[:-1], normals.shape[-2], start.shape[-1]))
    shaped("offsets", offsets, normals.shape[:-1])
    return _nearest(start, normals, offsets)


def _nearest(start: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """:func:`project` without the checks, which would cost as much as the projection at every solver stage."""
    slack = (normals * start.unsqueeze(-2)).sum(-1) + offsets
    size = normals.square().sum(-1)
    if normals.shape[-2] == 1:
        change = torch.relu(-slack) / size.clamp_min(TINY) * (size > TINY)
        return start + change * normals[..., 0, :]
    points, rows = [start.unsqueeze(-2)], range(normals.shape[-2])
    for active in range(1, min(normals.shape[-2:]) + 1):
        sets = torch.tensor(list(itertools.combinations(rows, active)))
        chosen = normals[..., sets, :]  # (*batch, sets, active, n)
        gram = chosen @ chosen.mT
        ridge = 1e-14 * gram.diagonal(dim1=-2, dim2=-1).sum(-1) + TINY  # parallel rows must not stop the solve
        gram = gram + ridge[..., None, None] * torch.eye(active, dtype=gram.dtype)
        force = torch.linalg.solve(gram, -slack[..., sets].unsqueeze(-1))
        points.append(start.unsqueeze(-2) + (chosen.mT @ force).squeeze(-1))
    candidates = torch.cat(points, -2)
    length = size.clamp_min(TINY).sqrt().unsqueeze(-2)
    violation = torch.relu(-(candidates @ normals.mT + offsets.unsqueeze(-2)) / length * (length > TINY**0.5)).amax(-1)
    distance = (candidates - start.unsqueeze(-2)).norm(dim=-1)
    tolerance = 100 * torch.finfo(start.dtype).eps * (1 + start.norm(dim=-1, keepdim=True) + distance)
    best = torch.where(violation <= tolerance, distance, 1e12 * (1 + violation)).argmin(-1)
    return candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, start.shape[-1])).squeeze(-2)


def _conditions(
    rate: Tensor, state: Tensor, specifications: Sequence[Specification], reach: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "*batch m changed"], Float[Tensor, "*batch m"]]:
    r"""The part of the gradients that can be acted on, and what :math:`\nabla h^\top\dot x+\kappa h` amounts to.

    Where the solver's error has led outside, the condition asks h back at the rate :math:`\kappa|h|`. This takes a change
    of :math:`\kappa|h|/|a|`, which has no bound where the normal a vanishes, as at the turning points of a pendulum.
    So outside the set, of which the theorem does not speak, the demand is multiplied by :math:`|a|^2/(|a|^2+10^{-6})`.
    """
    if not specifications:
        raise ValueError("specifications is empty: give at least one")
    slopes = torch.stack([each.slope(state) for each in specifications], -2)
    allowed = torch.stack([each.gain * each.value(state) for each in specifications], -1)
    normals = reach(slopes)
    size = normals.square().sum(-1)
    allowed = torch.where(allowed < 0, allowed * size / (size + FLAT), allowed)
    return normals, (slopes * rate.unsqueeze(-2)).sum(-1) + allowed


def safe_rate(
    rate: Float[Tensor, "*batch n"],
    state: Float[Tensor, "*batch n"],
    specifications: Sequence[Specification],
    known: int = 0,
) -> Float[Tensor, "*batch n"]:
    r"""The rate of change under the nearest last layer that meets the conditions.

    The nearest W differs from the learned one by :math:`\lambda\nabla h\,\sigma^\top`, and the features drop out of what it
    yields: the nearest rate to the learned one. So this is :func:`safe_last_layer` without forming a layer for each state.

    Args:
        rate: what the network gives.
        state: where.
        specifications: one or more sets to stay in.
        known: leading coordinates whose rate is not the network's (positions, whose rate is the velocity) and stays.

    Returns:
        the rate, unchanged where the conditions hold.

    Raises:
        ValueError: if there are no specifications.
    """
    normals, slack = _conditions(rate, state, specifications, lambda slopes: slopes[..., known:])
    change = _nearest(torch.zeros_like(rate[..., known:]), normals, slack)
    return rate + torch.nn.functional.pad(change, (known, 0))


def safe_last_layer(
    weight: Float[Tensor, "outputs features"],
    features: Float[Tensor, "*batch features"],
    rest: Float[Tensor, "*batch n"],
    state: Float[Tensor, "*batch n"],
    specifications: Sequence[Specification],
) -> Float[Tensor, "*batch outputs features"]:
    r"""The nearest last layer for each state, :math:`a=\nabla h\otimes\sigma` and :math:`b=\nabla h^\top c+\kappa h`.

    Args:
        weight: the learned W; its outputs are the last coordinates of the rate.
        features: activations :math:`\sigma(x)` of the last hidden layer.
        rest: what adds to :math:`W\sigma`: known rates, then the biases c.
        state: where.
        specifications: one or more sets to stay in.

    Returns:
        one layer for each state.

    Raises:
        ValueError: if there are no specifications, or an argument is not finite.
    """
    normals, slack = _conditions(rest, state, specifications, lambda slopes: slopes[..., -weight.shape[0] :])
    normals = normals.unsqueeze(-1) * features[..., None, None, :]
    flat = weight.flatten().expand(*state.shape[:-1], -1)
    return project(flat, normals.flatten(-2), slack).unflatten(-1, weight.shape)


def safe_input(
    wanted: Float[Tensor, "*batch inputs"],
    drift: Float[Tensor, "*batch n"],
    gain: Float[Tensor, "*batch n inputs"],
    state: Float[Tensor, "*batch n"],
    specifications: Sequence[Specification],
    low: Float[Tensor, "inputs"],
    high: Float[Tensor, "inputs"],
) -> Float[Tensor, "*batch inputs"]:
    r"""The nearest input between limits that meets the conditions for :math:`\dot x=f(x)+g(x)u`.

    Args:
        wanted: the input that the network gives.
        drift: f(x).
        gain: g(x).
        state: where.
        specifications: one or more sets to stay in; with the limits, two an input, at most 8 constraints.
        low: smallest inputs.
        high: largest inputs.

    Returns:
        the input.

    Raises:
        ValueError: if there are no specifications, too many, or a lower limit exceeds an upper one.
    """
    if (low > high).any():
        raise ValueError(f"low is {low.tolist()}: it must not exceed high, {high.tolist()}")
    normals, slack = _conditions(drift, state, specifications, lambda slopes: slopes @ gain)
    if (count := slack.shape[-1] + 2 * len(low)) > MOST:
        raise ValueError(f"specifications and limits are {count} constraints: at most {MOST} are solved")
    box = torch.eye(len(low), dtype=wanted.dtype).expand(*state.shape[:-1], -1, -1)
    limits = torch.cat([-low, high]).expand(*state.shape[:-1], -1)
    return _nearest(wanted, torch.cat([normals, box, -box], -2), torch.cat([slack, limits], -1))


def raised(specification: Specification, rate: Callable[[Tensor], Tensor], gain: float) -> Specification:
    r"""The next barrier, :math:`\psi(x)=\nabla h^\top\dot x+\kappa h`, for what acts on h only through another coordinate.

    Keeping :math:`\psi\ge0` keeps :math:`h\ge0`. Two uses: h of positions when the network gives accelerations; and inner
    weights p of the network, which become states with a rate of their own, so that :math:`\dot\psi+\kappa_2\psi\ge0` is
    linear in this rate.

    Args:
        specification: h with its gain.
        rate: the rate of the whole state, as far as h depends on it.
        gain: :math:`\kappa_2`.

    Returns:
        the specification :math:`\psi\ge0`, whose gradient is taken by autograd (and is not itself differentiable).
    """

    def value(state: Tensor) -> Tensor:
        return (specification.slope(state) * rate(state)).sum(-1) + specification.gain * specification.value(state)

    def slope(state: Tensor) -> Tensor:
        with torch.enable_grad():
            there = state.detach().requires_grad_()
            return torch.autograd.grad(value(there).sum(), there)[0]

    return Specification(value, slope, gain)
