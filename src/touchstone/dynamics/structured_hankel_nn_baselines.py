"""What the structured network is compared with: a dense network, a linear map of delays, a network for each environment.

Sources: Hankel-DMD and its view as delay coordinates (HAVOK), S. L. Brunton et al., 2017, arXiv:1608.05306; LEADS, Y. Yin
et al., 2021, arXiv:2106.04546.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.dynamics.perceptrons import Perceptrons
from touchstone.dynamics.protocol import Simulator, check_past, check_series, embedded
from touchstone.nn.networks import generators


def dense_like(seeds: Sequence[int], size: int, copies: int = 4) -> Perceptrons:
    """A dense network with the layer widths of the structured one: n, 2pn, pn, pn, n."""
    return Perceptrons(generators(seeds), [size, 2 * copies * size, copies * size, copies * size, size])


@dataclass(frozen=True)
class HankelDMD:
    """A linear map of a few principal delay coordinates, a simulator of this part.

    Attributes:
        memory: delays.
        basis: principal directions of the delay vectors, in columns.
        matrix: one-step map of their scores, from the right.
    """

    memory: int
    basis: Float[np.ndarray, "delays rank"]
    matrix: Float[np.ndarray, "rank rank"]

    @property
    def parameters(self) -> int:
        """Fitted numbers."""
        return self.basis.size + self.matrix.size

    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once.

        Args:
            past: states up to the start.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps.

        Raises:
            ValueError: if a past is empty, not finite, or shorter than the memory.
        """
        check_past(past, self.memory)
        dim = past.shape[2]
        scores = past[:, past.shape[1] - self.memory :].reshape(len(past), -1) @ self.basis
        newest, orbit = self.basis[-dim:].T, np.empty((len(past), steps, dim))
        for time in range(steps):
            scores = scores @ self.matrix
            orbit[:, time] = scores @ newest
        return orbit


def fit_hankel_dmd(series: Float[np.ndarray, "time dim"], memory: int, rank: int) -> HankelDMD:
    """Hankel-DMD: principal components of the delay vectors, and the linear map between their scores.

    Args:
        series: standardised states at a constant interval.
        memory: delays.
        rank: components kept.

    Returns:
        the simulator.

    Raises:
        ValueError: if the series is not finite or too short, or the rank is not between 1 and the number of delays.
    """
    check_series(series, memory * series.shape[1] + memory)
    if not 1 <= rank <= memory * series.shape[1]:
        raise ValueError(
            f"rank is {rank}: {memory} delays of {series.shape[1]} states have 1 to {memory * series.shape[1]}"
        )
    vectors = embedded(series, memory)
    basis = np.linalg.svd(vectors, full_matrices=False)[2][:rank].T
    scores = vectors @ basis
    return HankelDMD(memory, basis, np.linalg.lstsq(scores[:-1], scores[1:], rcond=None)[0])


def best_forecaster(
    fits: Sequence[Simulator],
    validation: Float[np.ndarray, "time dim"],
    memory: int,
    horizon: int = 100,
    starts: int = 50,
) -> int:
    """Which of several simulators forecasts a validation series with the smallest rms error.

    Args:
        fits: simulators, of different rank or threshold.
        validation: to choose by.
        memory: states of the past that they are given.
        horizon: steps forecast from each start.
        starts: how many, evenly spaced.

    Returns:
        the position of the best; one that does not stay finite is not chosen.

    Raises:
        ValueError: if the series is not finite or too short, or no simulator stays finite.
    """
    check_series(validation, memory + horizon)
    first = np.linspace(memory, len(validation) - horizon, starts).astype(int)
    past = np.stack([validation[i - memory : i] for i in first])
    truth = np.stack([validation[i : i + horizon] for i in first])
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.array([((fit.simulate(past, horizon) - truth) ** 2).mean() for fit in fits])
    if not np.isfinite(errors).any():
        raise ValueError("fits hold no simulator that stays finite on the validation series")
    return int(np.where(np.isfinite(errors), errors, np.inf).argmin())


class Leads(nn.Module):
    """LEADS as one-step maps: what all environments share, plus a small correction for each.

    Args:
        seeds: one model for each.
        environments: how many.
        scale: unit of the output, one a state; the typical size of an increment.
        width: units of each of two hidden layers.
    """

    def __init__(self, seeds: Sequence[int], environments: int, scale: Float[Tensor, "dim"], width: int = 64):
        super().__init__()
        sizes = [len(scale), width, width, len(scale)]
        own = [draw for draw in generators(seeds, stream=2) for _ in range(environments)]
        self.seeds, self.environments = len(seeds), environments
        self.shared = Perceptrons(generators(seeds), sizes, nn.functional.silu)
        self.own = Perceptrons(own, sizes, nn.functional.silu)
        self.register_buffer("scale", scale)

    @property
    def parameters_of_one(self) -> int:
        """Trained real numbers of one seed."""
        return sum(p.numel() for p in self.parameters()) // self.seeds

    def forward(
        self, states: Float[Tensor, "seeds environments batch dim"]
    ) -> tuple[Float[Tensor, "seeds environments batch dim"], Float[Tensor, "seeds environments batch dim"]]:
        """The next states, and the corrections in units of an increment."""
        shared = self.shared(states.flatten(1, 2)).unflatten(1, states.shape[1:3])
        own = self.own(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return states + self.scale * (shared + own), own

    @torch.no_grad()
    def free_run(
        self, start: Float[Tensor, "seeds environments runs dim"], steps: int
    ) -> Float[Tensor, "seeds environments runs steps dim"]:
        """States after 1, 2, ... steps from starts."""
        orbit = []
        for _ in range(steps):
            start = self(start)[0]
            orbit.append(start)
        return torch.stack(orbit, 3)


def train_leads(
    model: Leads,
    series: Float[Tensor, "environments runs time dim"],
    seeds: Sequence[int],
    updates: int,
    batch: int = 128,
    rates: tuple[float, float] = (1e-3, 1e-3),
    penalty: float = 1e-3,
) -> Leads:
    """Fit one-step predictions with a penalty on the mean squared correction.

    Args:
        model: untrained, changed in place.
        series: standardised samples at a constant interval.
        seeds: one seed a model.
        updates: number of Adam updates.
        batch: samples an update over all environments, rounded down to equal shares.
        rates: first and last learning rate; it falls geometrically.
        penalty: on the squared corrections, in units of an increment.

    Returns:
        the trained model.

    Raises:
        ValueError: if the series is not finite or has another number of environments.
    """
    finite(series=series)
    shaped("series", series, (model.environments, "runs", "time", "dim"))
    before, after = series[:, :, :-1].flatten(1, 2), series[:, :, 1:].flatten(1, 2)
    draws = generators(seeds, stream=1)
    place = torch.arange(model.environments)[:, None]
    share = batch // model.environments
    optimiser = torch.optim.Adam(model.parameters(), lr=rates[0])
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** (update / updates)
        size = (model.environments, share)
        picked = torch.stack([torch.randint(before.shape[1], size, generator=draw) for draw in draws])
        guess, own = model(before[place, picked])
        error = ((guess - after[place, picked]) / model.scale).square() + penalty * own.square()
        optimiser.zero_grad()
        error.mean((1, 2, 3)).sum().backward()
        optimiser.step()
    return model
