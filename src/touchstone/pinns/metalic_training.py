"""What makes many small plays cheap: three derivatives along all directions in one pass, and L-BFGS for many problems in step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from touchstone.nn import jets
from touchstone.nn.jets import Jet
from touchstone.pinns.metalic_families import THIRD


def tanh(jet: Jet) -> Jet:
    """The hyperbolic tangent of a jet; where every direction carries three orders, all directions in one pass."""
    if jet.orders != THIRD:
        return jets.tanh(jet)
    first, second, third = (jet.streams[:, k::3] for k in (1, 2, 3))
    y = torch.tanh(jet.streams[:, :1])
    d1 = 1 - y * y
    d2, d3, squared = -2 * y * d1, d1 * (6 * y * y - 2), first * first
    chained = [d1 * first, d1 * second + d2 * squared, d1 * third + (3 * d2 * second + d3 * squared) * first]
    return Jet(torch.cat([y, torch.stack(chained, 2).flatten(1, 2)], 1), THIRD)


def minimise(
    weights: list[nn.Parameter], loss: Callable[[], Tensor], nets: int, count: int, evaluations: int, memory: int = 10
) -> None:
    """L-BFGS for many independent problems in step, each with its own memory and its own backtracking (Armijo) line search.

    Every evaluation is one trial point of every problem: one that accepts it starts its next iteration, one that does
    not shortens its step. So all have the same number of gradients, and none waits.

    Args:
        weights: parameters, ``[nets * count, ...]``; network n of problem p is entry ``n * count + p``.
        loss: one value a problem.
        nets: networks of a problem.
        count: problems.
        evaluations: of loss and gradient.
        memory: pairs of steps and gradient differences that are kept.
    """

    def evaluate(place: Tensor) -> tuple[Tensor, Tensor]:
        for weight, part in zip(weights, place.split(sizes, 1), strict=True):
            weight.data.copy_(part.view(count, nets, -1).transpose(0, 1).reshape(weight.shape))
            weight.grad = None
        value = loss()
        value.sum().backward()
        return value.detach(), flat([weight.grad for weight in weights])

    def flat(tensors: list[Tensor]) -> Tensor:
        return torch.cat([t.view(nets, count, -1).transpose(0, 1).reshape(count, -1) for t in tensors], 1)

    def direction() -> Tensor:
        q, kept = gradient.clone(), []
        for s, y, rho in zip(steps.flip(0), turns.flip(0), inverse.flip(0), strict=True):
            kept.append(rho * (s * q).sum(1, keepdim=True))
            q -= kept[-1] * y
        q *= scale
        for s, y, rho, alpha in zip(steps, turns, inverse, reversed(kept), strict=True):
            q += (alpha - rho * (y * q).sum(1, keepdim=True)) * s
        return -q

    sizes = [weight.numel() // count for weight in weights]
    place = flat([weight.detach() for weight in weights])
    steps, turns = place.new_zeros(memory, *place.shape), place.new_zeros(memory, *place.shape)
    inverse, scale = place.new_zeros(memory, count, 1), place.new_ones(count, 1)
    value, gradient = evaluate(place)
    way = -gradient
    length = (1 / gradient.abs().sum(1, keepdim=True)).clamp(max=1)
    for _ in range(evaluations - 1):
        trial = place + length * way
        new_value, new_gradient = evaluate(trial)
        slope = length * (gradient * way).sum(1, keepdim=True)
        rise = (new_value - value)[:, None]
        fine = (rise <= 1e-4 * slope) & torch.isfinite(new_gradient).all(1, keepdim=True)
        step, turn = trial - place, new_gradient - gradient
        bend = (step * turn).sum(1, keepdim=True)
        push = fine & (bend > 1e-8 * step.norm(dim=1, keepdim=True) * turn.norm(dim=1, keepdim=True))
        for store, new in ((steps, step), (turns, turn), (inverse, 1 / bend)):
            store.copy_(torch.where(push, torch.cat([store[1:], new[None]]), store))
        scale = torch.where(push, bend / turn.square().sum(1, keepdim=True), scale)
        place, gradient = torch.where(fine, trial, place), torch.where(fine, new_gradient, gradient)
        value = torch.where(fine[:, 0], new_value, value)
        lost = ~fine & (length < 1e-5)  # forget what misleads, and start from the gradient again
        inverse, scale = torch.where(lost, 0, inverse), torch.where(lost, 1, scale)
        shorter = length * (-slope / (2 * (rise - slope)).clamp(min=1e-30)).nan_to_num(0.1).clamp(0.1, 0.5)
        fresh = fine | lost
        way = torch.where(fresh, direction(), way)
        steepest = (1 / gradient.abs().sum(1, keepdim=True)).clamp(max=1)
        length = torch.where(fine, 1.0, torch.where(lost, steepest, shorter))
    evaluate(place)
