r"""General forecasters: networks from a window of past states to a block of future ones, rolled out block by block.

Every network says how the state will have changed after 1, ..., ``horizon`` steps, in units of the typical change after so
many steps,

.. math:: \hat x_{t+h}=x_t+s_h\odot f_\theta(x_{t-L+1},\dots,x_t)_h ,\qquad s_h^2=\operatorname{var}(x_{t+h}-x_t),

so that all leads weigh the same in the squared error. Longer forecasts feed the blocks back as if they were data.

Sources: N-BEATS, B. Oreshkin et al., 2019, arXiv:1905.10437; N-HiTS, C. Challu et al., 2022, arXiv:2201.12886; temporal
convolutions, S. Bai, J. Z. Kolter, V. Koltun, 2018, arXiv:1803.01271; attention, A. Vaswani et al., 2017,
arXiv:1706.03762; long short-term memory, S. Hochreiter, J. Schmidhuber, Neural Computation 9, 1997.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from touchstone.arena import Budget
from touchstone.dynamics.protocol import check_past, check_series
from touchstone.nn import transformer


def perceptron(inputs: int, width: int, layers: int) -> nn.Sequential:
    """Linear layers, each followed by a rectifier."""
    sizes = [inputs] + [width] * layers
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return nn.Sequential(*(part for pair in pairs for part in (nn.Linear(*pair), nn.ReLU())))


class GenericBlock(nn.Module):
    """A block of N-BEATS: four layers, then coefficients of a learned basis of the past and of one of the future.

    Args:
        dim: states at a time.
        lookback: length of the window.
        horizon: length of the forecast.
        width: units of a layer.
        basis: functions in each basis.
    """

    def __init__(self, dim: int, lookback: int, horizon: int, width: int = 64, basis: int = 32):
        super().__init__()
        self.dim, self.layers = dim, perceptron(lookback * dim, width, 4)
        self.past = nn.Sequential(nn.Linear(width, basis, bias=False), nn.Linear(basis, lookback * dim))
        self.future = nn.Sequential(nn.Linear(width, basis, bias=False), nn.Linear(basis, horizon * dim))

    def forward(self, window: Float[Tensor, "batch lookback dim"]) -> tuple[Tensor, Tensor]:
        """What the block explains of the window, and what it adds to the forecast."""
        hidden = self.layers(window.flatten(1))
        past, future = self.past(hidden), self.future(hidden)
        return past.unflatten(1, (-1, self.dim)), future.unflatten(1, (-1, self.dim))


class MultiRateBlock(nn.Module):
    """A block of N-HiTS: the window is pooled, and both outputs are interpolated between few knots.

    Args:
        dim: states at a time.
        lookback: length of the window.
        horizon: length of the forecast.
        rate: entries pooled into one, and distance of the knots.
        width: units of a layer.
    """

    def __init__(self, dim: int, lookback: int, horizon: int, rate: int, width: int = 64):
        super().__init__()
        self.dim, self.rate, self.lengths = dim, rate, (lookback, horizon)
        self.knots = [math.ceil(lookback / rate), math.ceil(horizon / rate)]
        self.layers = perceptron(self.knots[0] * dim, width, 2)
        self.out = nn.Linear(width, sum(self.knots) * dim)

    def forward(self, window: Float[Tensor, "batch lookback dim"]) -> tuple[Tensor, Tensor]:
        """What the block explains of the window, and what it adds to the forecast."""
        pooled = F.max_pool1d(window.transpose(1, 2), self.rate, ceil_mode=True)
        values = self.out(self.layers(pooled.flatten(1))).unflatten(1, (self.dim, -1)).split(self.knots, -1)
        past, future = (
            value if value.shape[-1] == length else F.interpolate(value, length, mode="linear", align_corners=True)
            for value, length in zip(values, self.lengths, strict=True)
        )
        return past.transpose(1, 2), future.transpose(1, 2)


class DoublyResidual(nn.Module):
    """Blocks in a row: each sees what the former did not explain of the window, and the forecasts add up.

    Args:
        blocks: modules that return what they explain of a window, and a forecast.
    """

    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, window: Float[Tensor, "batch lookback dim"]) -> Float[Tensor, "batch horizon dim"]:
        """The forecast."""
        forecast: Tensor | float = 0.0
        for block in self.blocks:
            explained, part = block(window)
            window, forecast = window - explained, forecast + part
        return forecast


def nbeats(dim: int, lookback: int, horizon: int) -> DoublyResidual:
    """N-BEATS: two stacks of three blocks with generic bases. As no block shares weights, they form one row of six."""
    return DoublyResidual([GenericBlock(dim, lookback, horizon) for _ in range(6)])


def nhits(dim: int, lookback: int, horizon: int) -> DoublyResidual:
    """After N-HiTS: three stacks of two blocks, from coarse to fine."""
    return DoublyResidual([MultiRateBlock(dim, lookback, horizon, rate) for rate in (4, 4, 2, 2, 1, 1)])


class LastState(nn.Module):
    """An encoder of sequences and a linear read-out of its activity at the last time.

    Args:
        encoder: from ``[batch, time, dim]`` to ``[batch, time, width]``.
        width: features that it delivers.
        dim: states at a time.
        horizon: length of the forecast.
    """

    def __init__(self, encoder: nn.Module, width: int, dim: int, horizon: int):
        super().__init__()
        self.encoder, self.dim, self.readout = encoder, dim, nn.Linear(width, horizon * dim)

    def forward(self, window: Float[Tensor, "batch lookback dim"]) -> Float[Tensor, "batch horizon dim"]:
        """The forecast."""
        return self.readout(self.encoder(window)[:, -1]).unflatten(1, (-1, self.dim))


class Cells(nn.LSTM):
    """A long short-term memory layer that returns its activity only."""

    def forward(self, window: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time width"]:
        """Activity at all times."""
        return super().forward(window)[0]


def lstm(dim: int, lookback: int, horizon: int) -> LastState:
    """One layer of 64 memory cells."""
    return LastState(Cells(dim, 64, batch_first=True), 64, dim, horizon)


def attention(dim: int, lookback: int, horizon: int) -> LastState:
    """A causal transformer: two pre-norm layers, 32 features, four heads, rotary positions."""
    blocks = [
        transformer.Block(32, 4, nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))) for _ in range(2)
    ]
    return LastState(nn.Sequential(nn.Linear(dim, 32), *blocks, nn.LayerNorm(32)), 32, dim, horizon)


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions of width three around which the input is added.

    Args:
        channels: features in and out.
        dilation: distance of the taps.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.reach = 2 * dilation
        self.convolutions = nn.ModuleList(nn.Conv1d(channels, channels, 3, dilation=dilation) for _ in range(2))

    def forward(self, signal: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
        """Features that depend on the present and the past."""
        hidden = signal
        for convolution in self.convolutions:
            hidden = F.relu(convolution(F.pad(hidden, (self.reach, 0))))
        return signal + hidden


class Convolutions(nn.Module):
    """A temporal convolutional network whose dilations double until its last output sees the whole window.

    Args:
        dim: states at a time.
        lookback: length of the window.
        channels: features.
    """

    def __init__(self, dim: int, lookback: int, channels: int = 32):
        super().__init__()
        count = max(1, math.ceil(math.log2((lookback - 1) / 4 + 1)))  # the reach is 4 (2^count - 1)
        self.enter = nn.Conv1d(dim, channels, 1)
        self.blocks = nn.Sequential(*(TemporalBlock(channels, 2**level) for level in range(count)))

    def forward(self, window: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time channels"]:
        """Features at all times."""
        return rearrange(self.blocks(self.enter(rearrange(window, "b t d -> b d t"))), "b c t -> b t c")


def tcn(dim: int, lookback: int, horizon: int) -> LastState:
    """Temporal convolutions with 32 channels."""
    return LastState(Convolutions(dim, lookback), 32, dim, horizon)


@dataclass(frozen=True)
class BlockForecaster:
    """A trained network as a simulator.

    Args:
        network: from windows to scaled changes.
        lookback: length of the window.
        scale: typical change after 1, 2, ... steps.
        losses: training loss of every update, in units of the variance of the changes.
    """

    network: nn.Module
    lookback: int
    scale: Float[Tensor, "horizon dim"]
    losses: Float[np.ndarray, "updates"]

    @torch.no_grad()
    def simulate(self, past: Float[np.ndarray, "runs time dim"], steps: int) -> Float[np.ndarray, "runs steps dim"]:
        """Continue several pasts at once, block by block.

        Args:
            past: states up to the start; the last ``lookback`` of them are looked at.
            steps: how many states to append.

        Returns:
            the states after 1, 2, ... steps. Runs that leave the finite numbers are returned as they are.

        Raises:
            ValueError: if a past is empty, not finite or shorter than the lookback.
        """
        check_past(past, self.lookback)
        window, blocks = torch.as_tensor(past[:, -self.lookback :], dtype=torch.float32), []
        while len(blocks) * len(self.scale) < steps:
            blocks.append(window[:, -1:] + self.scale * self.network(window))
            window = torch.cat([window, blocks[-1]], 1)[:, -self.lookback :]
        return torch.cat(blocks, 1)[:, :steps].double().numpy()


def fit_network(
    build: Callable[[int, int, int], nn.Module],
    series: Float[np.ndarray, "time dim"],
    lookback: int,
    horizon: int = 10,
    updates: int = 1000,
    seconds: float | None = None,
    seed: int = 0,
    batch: int = 64,
    rates: tuple[float, float] = (3e-3, 1e-4),
) -> BlockForecaster:
    """Train on random windows; the learning rate of Adam falls geometrically until the updates or seconds are spent.

    Args:
        build: makes the network, from the number of states, the lookback and the horizon.
        series: standardised states at a constant interval.
        lookback: states that the network looks at.
        horizon: states that it forecasts at once.
        updates: steps of Adam.
        seconds: CPU seconds of this process to train for, whatever the number of updates; None to count updates.
        seed: of the weights and windows.
        batch: windows an update.
        rates: first and last learning rate.

    Returns:
        the forecaster.

    Raises:
        ValueError: if the series is not finite or too short, or a size is below 1.
        FloatingPointError: if the loss stops being finite.
    """
    if min(lookback, horizon, updates, batch) < 1:
        raise ValueError(
            f"lookback {lookback}, horizon {horizon}, updates {updates} and batch {batch} must be positive"
        )
    check_series(series, lookback + horizon + 1)
    data = torch.as_tensor(np.array(series), dtype=torch.float32)
    scale = torch.stack([(data[lead:] - data[:-lead]).std(0, correction=0) for lead in range(1, horizon + 1)]) + 1e-6
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(data.shape[1], lookback, horizon)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=rates[0], fused=True)
    budget = Budget(seconds) if seconds is not None else None
    within, losses = torch.arange(lookback + horizon), []
    while (progress := budget.fraction() if budget else len(losses) / updates) < 1:
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** progress
        first = torch.randint(len(data) - len(within) + 1, (batch, 1), generator=generator)
        past, future = data[first + within].split([lookback, horizon], 1)
        loss = (network(past) - (future - past[:, -1:]) / scale).square().mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError("loss is NaN or infinite: lower the learning rate")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return BlockForecaster(network, lookback, scale, np.array(losses))


def fit_nbeats(series: Float[np.ndarray, "time dim"], lookback: int, **options) -> BlockForecaster:
    """Fit N-BEATS; ``options`` (``horizon``, ``updates`` or ``seconds``, ``seed``, ...) as in :func:`fit_network`."""
    return fit_network(nbeats, series, lookback, **options)


def fit_nhits(series: Float[np.ndarray, "time dim"], lookback: int, **options) -> BlockForecaster:
    """Fit the multi-rate network; ``options`` as in :func:`fit_network`."""
    return fit_network(nhits, series, lookback, **options)


def fit_lstm(series: Float[np.ndarray, "time dim"], lookback: int, **options) -> BlockForecaster:
    """Fit the long short-term memory; ``options`` as in :func:`fit_network`."""
    return fit_network(lstm, series, lookback, **options)


def fit_transformer(series: Float[np.ndarray, "time dim"], lookback: int, **options) -> BlockForecaster:
    """Fit the causal transformer; ``options`` as in :func:`fit_network`."""
    return fit_network(attention, series, lookback, **options)


def fit_tcn(series: Float[np.ndarray, "time dim"], lookback: int, **options) -> BlockForecaster:
    """Fit the temporal convolutions; ``options`` as in :func:`fit_network`."""
    return fit_network(tcn, series, lookback, **options)
