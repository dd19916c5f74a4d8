r"""What the chaos benchmark is good for besides ranking: weighted training windows, equation discovery, transfer.

- Importance sampling: windows are drawn with a probability in proportion to the forecaster's present loss on them,
  :math:`p_i = \ell_i/\sum_j\ell_j`, instead of uniformly; the number of updates is the same.
- Equation discovery: sparse regression of the rates on cubic monomials, judged by the true terms.
- Transfer: an encoder pretrained to forecast chaotic series with the time scale of a small labelled data set.

Source: W. Gilpin, 2021, arXiv:2110.05266, sections on importance sampling, symbolic regression and surrogate transfer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.signal import savgol_filter
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.data.chaotic_flows import Quadratic
from touchstone.dynamics.sindy import monomial_exponents, monomials, stlsq


def sampling_probabilities(losses: Float[Tensor, "models windows"]) -> Float[Tensor, "models windows"]:
    r"""Probabilities in proportion to the losses; uniform where all losses are 0.

    Args:
        losses: present loss of every model on every window, not negative.

    Returns:
        one distribution a model.

    Raises:
        ValueError: if the losses are empty, not finite or negative.
    """
    finite(losses=losses)
    if (losses < 0).any():
        raise ValueError("losses holds negative numbers: a probability in proportion to them would be negative")
    total = losses.sum(1, keepdim=True)
    return torch.where(total > 0, losses / total.clamp(min=1e-300), torch.full_like(losses, 1 / losses.shape[1]))


class StackedLSTM(nn.Module):
    """Independent long short-term memory networks with one layer, trained together.

    They hear the present value and the last increment, and predict the next increment.

    Args:
        seeds: of the weights, one a model.
        hidden: memory cells of each.
        scale: typical increment of each model's series.
    """

    def __init__(self, seeds: Sequence[int], hidden: int, scale: Float[Tensor, "models"]):
        super().__init__()
        self.hidden = hidden
        draws = []
        for seed in seeds:
            random = torch.Generator().manual_seed(seed)
            draws.append(2 * torch.rand(hidden + 3, 4 * hidden + 1, generator=random) - 1)
        weights = torch.stack(draws) / hidden**0.5
        weights[:, -1, hidden : 2 * hidden] += 1.0  # the cells start by remembering
        self.gates = nn.Parameter(weights[:, :, :-1].contiguous())  # rows: hidden, value, increment, 1
        self.readout = nn.Parameter(weights[:, [*range(hidden), hidden + 2], -1:].contiguous())
        self.register_buffer("scale", scale[:, None])

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """Empty memory."""
        empty = self.gates.new_zeros(len(self.gates), batch, self.hidden)
        return empty, empty

    def heard(self, values: Float[Tensor, "models batch time"]) -> Float[Tensor, "models batch inner gates"]:
        """What all values but the first contribute to the gates; it does not depend on the memory."""
        value, increment, bias = (self.gates[:, row, None, None] for row in (-3, -2, -1))
        changes = values.diff(dim=2) / self.scale[..., None]
        return values[..., 1:, None] * value + changes[..., None] * increment + bias

    def step(
        self, heard: Float[Tensor, "models batch gates"], memory: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "models batch hidden"], tuple[Tensor, Tensor]]:
        """The activity after hearing a value, and the new memory."""
        active, cell = memory
        gates = torch.baddbmm(heard, active, self.gates[:, : self.hidden])
        take, keep, give = torch.sigmoid(gates[..., : 3 * self.hidden]).chunk(3, -1)
        cell = keep * cell + take * torch.tanh(gates[..., 3 * self.hidden :])
        active = give * torch.tanh(cell)
        return active, (active, cell)

    def said(self, active: Float[Tensor, "models rows hidden"]) -> Float[Tensor, "models rows"]:
        """The next increment in units of the scale."""
        return torch.baddbmm(self.readout[:, -1:], active, self.readout[:, :-1])[..., 0]

    def errors(self, windows: Float[Tensor, "models batch time"], skip: int) -> Float[Tensor, "models batch"]:
        """Mean squared one-step error of each window after the first ``skip`` steps, which fill the memory."""
        memory, kept = self.start(windows.shape[1]), []
        for time, heard in enumerate(self.heard(windows[..., :-1]).unbind(2), start=1):
            active, memory = self.step(heard, memory)
            if time >= skip:
                kept.append(active)
        active = torch.stack(kept, 2)
        said = self.said(active.flatten(1, 2)).view(active.shape[:3])
        return (said - windows.diff(dim=2)[..., skip:] / self.scale[..., None]).square().mean(-1)

    @torch.no_grad()
    def simulate(
        self, past: Float[np.ndarray, "models runs time"], steps: int
    ) -> Float[np.ndarray, "models runs steps"]:
        """Continue several pasts with each model.

        Args:
            past: one coordinate, up to the start.
            steps: how many values to append.

        Returns:
            the values after 1, 2, ... steps.

        Raises:
            ValueError: if a past is not finite or has fewer than two values, or there is not one a model.
        """
        shaped("past", past, (len(self.gates), "runs", "time"))
        finite(past=past)
        if past.shape[2] < 2:
            raise ValueError(f"past has {past.shape[2]} values a run: give 2 or more, for the first increment")
        series = torch.as_tensor(past, dtype=torch.float32)
        memory = self.start(series.shape[1])
        for heard in self.heard(series).unbind(2):
            active, memory = self.step(heard, memory)
        orbit = [series[..., -1]]
        for _ in range(steps):
            orbit.append(orbit[-1] + self.scale * self.said(active))
            active, memory = self.step(self.heard(torch.stack(orbit[-2:], -1))[:, :, 0], memory)
        return torch.stack(orbit[1:], -1).double().numpy()


def train_sampled(
    series: Float[np.ndarray, "models time"],
    seeds: Sequence[int],
    weighted: Bool[np.ndarray, "models"],
    updates: int,
    hidden: int = 32,
    window: int = 40,
    skip: int = 15,
    batch: int = 16,
    every: int = 20,
    rates: tuple[float, float] = (1e-2, 1e-3),
) -> tuple[StackedLSTM, Float[np.ndarray, "epochs models windows"]]:
    """Train forecasters on windows that are drawn uniformly, or where the forecaster is weak.

    The losses of all windows (one start in four) are computed anew every epoch of ``every`` updates; uniform models
    draw from the same windows.

    Args:
        series: one standardised series a model.
        seeds: of weights and draws, one a model; models with equal seeds start alike.
        weighted: whether a model's windows are drawn in proportion to its losses.
        updates: steps of Adam.
        hidden: memory cells.
        window: steps of a window.
        skip: steps at its beginning that fill the memory and are not scored.
        batch: windows an update and model.
        every: updates of an epoch.
        rates: first and last learning rate; it falls geometrically.

    Returns:
        the trained models, and the probabilities of the windows in every epoch.

    Raises:
        ValueError: if the series is not finite or shorter than two windows, or the numbers of models differ.
        FloatingPointError: if a loss stops being finite.
    """
    shaped("series", series, ("models", "time"))
    finite(series=series)
    if not len(series) == len(seeds) == len(weighted):
        raise ValueError(f"series, seeds and weighted are for {len(series)}, {len(seeds)} and {len(weighted)} models")
    if series.shape[1] < 2 * window or not 1 <= skip < window or min(updates, batch, every) < 1:
        raise ValueError(f"series has {series.shape[1]} values: two windows of {window} are needed, with skip {skip}")
    data = torch.as_tensor(np.array(series), dtype=torch.float32)
    pool = data.unfold(1, window + 1, 4)  # models, windows, time
    model = StackedLSTM(seeds, hidden, data.diff(dim=1).std(1) + 1e-6)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    optimiser = torch.optim.Adam(model.parameters(), lr=rates[0])
    uniform = torch.full(pool.shape[:2], 1 / pool.shape[1])
    history = []
    for update in range(updates):
        if update % every == 0:
            with torch.no_grad():
                losses = model.errors(pool, skip)
            if not torch.isfinite(losses).all():
                raise FloatingPointError("loss is NaN or infinite: lower the learning rate")
            chances = torch.where(torch.as_tensor(np.array(weighted))[:, None], sampling_probabilities(losses), uniform)
            history.append(chances.numpy())
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** (update / updates)
        drawn = torch.stack(
            [torch.multinomial(p, batch, True, generator=g) for p, g in zip(chances, generators, strict=True)]
        )
        loss = model.errors(torch.gather(pool, 1, drawn[..., None].expand(-1, -1, window + 1)), skip).mean(1)
        optimiser.zero_grad()
        loss.sum().backward()
        size = torch.stack([p.grad.square().sum((1, 2)) for p in model.parameters()]).sum(0).sqrt()
        for parameter in model.parameters():  # every model's gradient is clipped by its own norm
            parameter.grad *= (1 / size.clamp(min=1.0))[:, None, None]
        optimiser.step()
    return model, np.stack(history)


def smoothed_rates(
    series: Float[np.ndarray, "time dim"], dt: float, window: int = 5, order: int = 4
) -> tuple[Float[np.ndarray, "inner dim"], Float[np.ndarray, "inner dim"]]:
    """States and rates from local polynomials (Savitzky-Golay); half a window is lost at either end.

    Args:
        series: states at a constant interval.
        dt: the interval.
        window: odd number of samples in a fit; more for noisier data.
        order: of the polynomials.

    Returns:
        smoothed states, and their rates per unit time.

    Raises:
        ValueError: if the series is not finite or shorter than the window, or the window is even or not above the order.
    """
    shaped("series", series, ("time", "dim"))
    finite(series=series)
    if window % 2 == 0 or window <= order or len(series) <= window or not dt > 0:
        raise ValueError(f"window is {window}: give an odd number above {order} and below the series' {len(series)}")
    inner = slice(window // 2, len(series) - window // 2)
    states = savgol_filter(series, window, order, axis=0)[inner]
    return states, savgol_filter(series, window, order, deriv=1, delta=dt, axis=0)[inner]


def discover(
    series: Float[np.ndarray, "time dim"],
    dt: float,
    window: int = 5,
    degree: int = 3,
    thresholds: Sequence[float] = tuple(np.geomspace(1e-3, 0.3, 8)),
    slack: float = 1.2,
) -> tuple[Float[np.ndarray, "terms dim"], Int[np.ndarray, "terms dim"]]:
    """Sparse polynomial right-hand side, the threshold chosen for each coordinate on the last fifth of the series.

    Columns and rates have unit root mean square, so a threshold is a share of a rate's size. Of eight thresholds the largest counts whose
    validation error is at most ``slack`` times the smallest: among models that predict alike, the one with fewest terms.

    Args:
        series: all states at a constant interval, in the system's units (a shift would change the terms).
        dt: the interval.
        window: of :func:`smoothed_rates`.
        degree: of the monomials.
        thresholds: rising sizes below which scaled coefficients are dropped.
        slack: how much larger than the smallest a validation error may be.

    Returns:
        coefficients per unit time, and the exponents of their monomials.

    Raises:
        ValueError: if the series is not finite or too short, or the slack is below 1.
    """
    if not slack >= 1 or not len(thresholds):
        raise ValueError(f"slack is {slack}, thresholds {thresholds}: slack must be 1 or more, thresholds not empty")
    states, slopes = smoothed_rates(series, dt, window)
    exponents = monomial_exponents(series.shape[1], degree)
    table = monomials(states / states.std(0), exponents)
    columns, sizes = np.sqrt((table**2).mean(0)), np.sqrt((slopes**2).mean(0))
    table, targets, cut = table / columns, slopes / sizes, int(0.8 * len(table))
    candidates = [stlsq(table[:cut], targets[:cut], threshold, ridge=1e-12) for threshold in thresholds]
    errors = np.array([np.square(table[cut:] @ found - targets[cut:]).mean(0) for found in candidates])
    good = np.sqrt(errors) <= slack * np.sqrt(errors.min(0)) + 1e-15
    best = len(thresholds) - 1 - good[::-1].argmax(0)
    chosen = np.stack([candidates[index][:, i] for i, index in enumerate(best)], 1)
    return chosen * sizes / (columns * np.prod(states.std(0) ** exponents, 1))[:, None], exponents


def judge_terms(
    coefficients: Float[np.ndarray, "terms dim"], exponents: Int[np.ndarray, "terms dim"], truth: Quadratic
) -> dict[str, float]:
    """Found terms against true ones.

    Args:
        coefficients: zero where a monomial is not used.
        exponents: of the monomials.
        truth: the flow that made the series.

    Returns:
        ``exact`` (1 if all true terms and no other were found), ``missing`` and ``false`` (numbers of terms), and
        ``coefficient_error`` (largest relative error of a true term's coefficient).

    Raises:
        ValueError: if the coefficients are not for as many coordinates as the truth has.
    """
    shaped("coefficients", coefficients, (len(exponents), len(truth.coordinates)))
    true = np.zeros_like(coefficients)
    place = {tuple(row): index for index, row in enumerate(exponents.tolist())}
    for coordinate, rate in enumerate(truth.terms):
        for monomial, coefficient in rate.items():
            true[place[tuple(monomial.count(letter) for letter in truth.coordinates)], coordinate] += coefficient
    there, found = true != 0, coefficients != 0
    return {
        "exact": float((there == found).all()),
        "missing": float((there & ~found).sum()),
        "false": float((found & ~there).sum()),
        "coefficient_error": float(np.abs(coefficients[there] / true[there] - 1).max()),
    }


class Encoder(nn.Module):
    """Two dilated convolutions; mean and maximum over time of what they say are the features of a series.

    Args:
        seed: of the weights.
        channels: of the second layer; the first has half.
    """

    def __init__(self, seed: int, channels: int = 32):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv1d(1, channels // 2, 7), nn.ReLU(), nn.Conv1d(channels // 2, channels, 7, dilation=3), nn.ReLU()
            )
            self.ahead = nn.Conv1d(channels, 8, 1)

    def features(self, series: Float[Tensor, "batch time"]) -> Float[Tensor, "batch features"]:
        """Pooled activity."""
        active = self.layers(series[:, None])
        return torch.cat([active.mean(-1), active.amax(-1)], -1)


def pretrain(
    encoder: Encoder,
    series: Float[np.ndarray, "runs time"],
    updates: int,
    seed: int,
    length: int = 128,
    batch: int = 32,
) -> Encoder:
    """Teach an encoder to forecast: from its activity at a time, the next eight changes of the series.

    Args:
        encoder: changed in place.
        series: standardised, of the time scale that the encoder will meet.
        updates: steps of Adam.
        seed: of the windows.
        length: of a window.
        batch: windows an update.

    Returns:
        the encoder.

    Raises:
        ValueError: if the series is not finite or shorter than a window.
    """
    shaped("series", series, ("runs", "time"))
    finite(series=series)
    if series.shape[1] <= length:
        raise ValueError(f"series has {series.shape[1]} values: more than {length} are needed")
    data, generator = torch.as_tensor(np.array(series), dtype=torch.float32), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for _ in range(updates):
        run = torch.randint(len(data), (batch, 1), generator=generator)
        first = torch.randint(data.shape[1] - length, (batch, 1), generator=generator)
        windows = data[run, first + torch.arange(length)]
        said = encoder.ahead(encoder.layers(windows[:, None, :-8]))  # what is said at a time has heard up to it
        future = windows.unfold(1, 9, 1)[:, -said.shape[-1] :]
        loss = (said.mT - (future[..., 1:] - future[..., :1])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return encoder


def bursting_series(
    per_class: int, seed: int, time: int = 256
) -> tuple[Float[np.ndarray, "series time"], Int[np.ndarray, "series"]]:
    """Labelled series: damped noisy oscillations of two frequencies, each with and without bursts.

    Args:
        per_class: series of each of the four classes.
        seed: of all draws.
        time: length of a series.

    Returns:
        standardised series, and their classes 0 to 3.

    Raises:
        ValueError: if a size is not positive.
    """
    if per_class < 1 or time < 32:
        raise ValueError(f"per_class is {per_class} and time {time}: give at least 1 and 32")
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(4), per_class)
    period = np.where(labels % 2, 22.0, 18.0)
    first, second = 2 * 0.97 * np.cos(2 * np.pi / period), -(0.97**2)
    series = np.zeros((len(labels), time + 100))
    for now in range(2, series.shape[1]):
        kick = random.standard_normal(len(labels))
        burst = (labels >= 2) & (random.random(len(labels)) < 0.02)
        series[:, now] = first * series[:, now - 1] + second * series[:, now - 2] + kick * np.where(burst, 12.0, 1.0)
    series = series[:, 100:] + series.std() * 0.5 * random.standard_normal((len(labels), time))
    series -= series.mean(1, keepdims=True)
    return series / series.std(1, keepdims=True), labels
