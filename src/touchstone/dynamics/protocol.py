"""How a method of this part meets a trajectory: what it is given, and what it hands back.

A learner sees a standardised series of states at a constant interval and returns a simulator, which continues any past.
Methods without memory look at the last state of the past only; the others at as much of it as they need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from touchstone.arena import Budget
from touchstone.checks import finite, shaped


@dataclass(frozen=True)
class Series:
    """What a learner sees of a system.

    Attributes:
        name: of the system and of how it was observed.
        states: observations, noise included, standardised coordinate by coordinate.
        dt: sampling interval, in the system's time units.
    """

    name: str
    states: Float[np.ndarray, "time dim"]
    dt: float


@runtime_checkable
class Simulator(Protocol):
    """A learned system."""

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once without further data; the last state of each is where a run starts."""
        ...


class Learner(Protocol):
    """What competes in the ring of this part."""

    def __call__(self, series: Series, budget: Budget, seed: int) -> Simulator:
        """Learn a simulator from ``series`` within ``budget`` (CPU seconds), everything random drawn from ``seed``."""
        ...


@dataclass(frozen=True)
class Stepper:
    """A simulator that repeats a one-step map of the last few states.

    Args:
        advance: from the last ``memory`` states ``[runs, memory, dim]`` to the next ``[runs, dim]``.
        memory: how many states the map looks at.
    """

    advance: Callable[[np.ndarray], np.ndarray]
    memory: int = 1

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start, which is the last of them.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty, not finite, or shorter than the memory.
        """
        check_past(past, self.memory)
        runs, _, dim = past.shape
        orbit = np.empty((runs, self.memory + steps, dim))
        orbit[:, : self.memory] = past[:, past.shape[1] - self.memory :]
        for time in range(steps):
            orbit[:, self.memory + time] = self.advance(orbit[:, time : time + self.memory])
        return orbit[:, self.memory :]


def check_past(past: np.ndarray, memory: int = 1) -> None:
    """Reject a past that a simulator cannot continue.

    Args:
        past: states up to the start.
        memory: how many a simulator needs.

    Raises:
        ValueError: saying what is wrong with it.
    """
    finite(past=past)
    shaped("past", past, ("runs", "time", "dim"))
    if past.shape[1] < memory:
        raise ValueError(f"past has {past.shape[1]} states a run: this simulator needs the last {memory}")


def check_series(series: np.ndarray, fewest: int) -> None:
    """Reject a series that cannot be learned from.

    Args:
        series: states at a constant interval.
        fewest: how many a method needs.

    Raises:
        ValueError: saying what is wrong with it.
    """
    finite(series=series)
    shaped("series", series, ("time", "dim"))
    if len(series) < fewest:
        raise ValueError(f"series has {len(series)} states: this method needs {fewest} or more")


def embedded(series: Float[np.ndarray, "time dim"], memory: int) -> Float[np.ndarray, "windows delays"]:
    """Delay vectors: the states of every window of a series, oldest first, as one row.

    Args:
        series: states at a constant interval.
        memory: length of a window.

    Returns:
        one row a window; the first ends at entry ``memory - 1`` of the series.
    """
    windows = np.lib.stride_tricks.sliding_window_view(series, memory, axis=0)  # windows, dim, memory
    return windows.swapaxes(1, 2).reshape(len(windows), -1)
