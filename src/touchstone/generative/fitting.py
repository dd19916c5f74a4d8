"""The training loop of the part: the same optimiser, schedule and weight average for methods and baselines."""

import math
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn


def fit(model: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int, learning_rate: float = 1e-3) -> nn.Module:
    """Minimise a loss by Adam with a cosine schedule, and average the weights along the way.

    Args:
        model: where to start; it is left as it is.
        loss: draws a batch and returns the scalar loss of a model on it.
        steps: number of steps.
        learning_rate: at the start; it falls to zero along a half cosine.

    Returns:
        a new model with the exponential moving average of the weights, decay 0.999 (less in the first steps).

    Raises:
        ValueError: if ``steps`` is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: it must be positive")
    model, average = deepcopy(model), deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), fused=True)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.zero_grad()
        loss(model).backward()
        optimiser.step()
        decay = min(0.999, (1 + step) / (10 + step))  # short runs should not remember the first weights
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
    return average
