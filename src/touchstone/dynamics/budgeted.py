"""Training within a budget of CPU seconds, for the ring of this part: by Adam until it is spent, or by as many updates as fit in."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from touchstone.arena import Budget

Model = TypeVar("Model")


def descend(
    model: nn.Module,
    loss: Callable[[], Tensor],
    budget: Budget,
    rates: tuple[float, float],
    clip: float | None = None,
) -> None:
    """Adam until the budget is spent; the learning rate falls geometrically over it.

    Args:
        model: trained in place.
        loss: of a batch that it draws itself; called once an update.
        budget: CPU seconds.
        rates: first and last learning rate.
        clip: largest norm of the gradients; none by default.

    Raises:
        FloatingPointError: if the loss stops being finite.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=rates[0], fused=True)
    while (progress := budget.fraction()) < 1:
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** progress
        value = loss()
        if not torch.isfinite(value):
            raise FloatingPointError("loss is NaN or infinite: lower the learning rate")
        optimiser.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimiser.step()


def sized(run: Callable[[int, Callable[[], None]], Model], budget: Budget, trial: int = 60) -> Model:
    """Train for as many updates as the budget allows, judged by the time that a few of them take.

    Args:
        run: trains a new model for a number of updates and returns it. It calls its second argument once an update, which
            raises ``TimeoutError`` when updates have become so slow that the budget is spent; then it returns what it has.
        budget: CPU seconds.
        trial: updates that are timed.

    Returns:
        the model of the last run.
    """

    def look() -> None:
        if budget.exhausted():
            raise TimeoutError

    run(1, look)  # what the optimiser loads at its first use is no part of an update
    begin = budget.spent()
    run(trial, look)
    cost = (budget.spent() - begin) / trial
    return run(max(1, int((0.97 * budget.seconds - budget.spent()) / cost)), look)


until_timeout = contextlib.suppress(TimeoutError)  # around training that changes its model in place
