r"""Structured network of Hankel type (StNN): weight matrices that are products of Fourier transforms and diagonals.

A Hankel matrix :math:`H_{ij} = c_{i+j}` of size n is a corner of a circulant matrix of size r = 2n, up to the order of
its rows, and circulants are diagonal in the Fourier basis:

.. math:: H = \tilde I\, J^\top F_r^*\, \mathrm{diag}(\hat d)\, F_r J, \qquad J = [I_n; 0],

with the unitary Fourier matrix :math:`F_r` and the reversal :math:`\tilde I`. One radix-2 split,
:math:`F_r [a; b] = P^\top [F_n(a + b);\ F_n \grave D(a - b)] / \sqrt 2` with :math:`P` the even-odd permutation, shows a
second diagonal, that of the twiddle factors. The network has these factors as layers, tanh in between and p copies side by
side; trained are the diagonals and the biases.

Source: H. Aluvihare, L. Lingsch, X. Li, S. M. Perera, 2025, arXiv:2503.23697.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from touchstone.checks import finite, shaped
from touchstone.nn.networks import generators


def twiddles(size: int, dtype: torch.dtype = torch.float64) -> Float[Tensor, "size 2"]:
    r"""The diagonal :math:`\grave D` of the Fourier transform: :math:`e^{-\pi i k / n}` as real and imaginary parts."""
    angle = -math.pi * torch.arange(size, dtype=dtype) / size
    return torch.stack([angle.cos(), angle.sin()], -1)


def split_dft(
    first: Float[Tensor, "*batch n"] | Complex[Tensor, "*batch n"],
    twiddle: Complex[Tensor, "*copies n"],
    second: Float[Tensor, "*batch n"] | Complex[Tensor, "*batch n"] | None = None,
) -> Complex[Tensor, "*outputs r"]:
    r"""The product :math:`F_r [a; b]` by one radix-2 split; with the diagonal of :func:`twiddles` the unitary transform.

    Args:
        first: the upper half a.
        twiddle: the diagonal.
        second: the lower half b; zero if None, which is :math:`F_r J a`.

    Returns:
        r = 2n numbers, entries of the two transforms of size n in turn.
    """
    both, between = (first, first) if second is None else (first + second, first - second)
    even, odd = torch.fft.fft(both, norm="ortho"), torch.fft.fft(twiddle * between, norm="ortho")
    return torch.stack(torch.broadcast_tensors(even, odd), -1).flatten(-2) / math.sqrt(2)


def split_inverse(
    spectrum: Complex[Tensor, "*batch r"], twiddle: Complex[Tensor, "*copies n"]
) -> Complex[Tensor, "*batch n"]:
    r"""The product :math:`J^\top F_r^* s`: the upper half of the adjoint of :func:`split_dft`.

    Args:
        spectrum: r = 2n numbers.
        twiddle: the diagonal of the forward transform; its conjugate is used.

    Returns:
        n numbers.
    """
    even, odd = torch.fft.ifft(spectrum.unflatten(-1, (-1, 2)), dim=-2, norm="ortho").unbind(-1)
    return (even + twiddle.conj() * odd) / math.sqrt(2)


def hankel_spectrum(symbol: Float[Tensor, "*batch entries"]) -> Complex[Tensor, "*batch r"]:
    r"""The diagonal :math:`\hat d` of a Hankel matrix :math:`H_{ij} = c_{i+j}`.

    The circulant's first column has :math:`c_{n-1-m}` at entry m mod r, for :math:`|m| < n`; its spectrum is the plain
    Fourier transform of that column.

    Args:
        symbol: the 2n - 1 numbers c.

    Returns:
        r = 2n numbers.

    Raises:
        ValueError: if the symbol is not finite or has an even number of entries.
    """
    finite(symbol=symbol)
    if symbol.shape[-1] % 2 == 0:
        raise ValueError(f"symbol has {symbol.shape[-1]} entries: a Hankel matrix of size n has 2n - 1")
    n = (symbol.shape[-1] + 1) // 2
    turned = symbol.flip(-1)  # c_{n-1-m} for m = 1-n, ..., n-1
    return torch.fft.fft(torch.cat([turned[..., n - 1 :], torch.zeros_like(symbol[..., :1]), turned[..., : n - 1]], -1))


class HankelNetwork(nn.Module):
    r"""A stack of structured networks, one a seed: four layers, O(n) trained numbers, O(n log n) work.

    .. math:: h_1 = s(F_r J x + b_1), \quad h_2 = s(\Re J^\top F_r^* \hat D h_1 + b_2), \quad
              h_3 = s(\tilde I h_2 + b_3), \quad y = \sum_{copies} \check D h_3 + b_4 .

    The activation acts on real and imaginary parts apart. Each copy has its own diagonals; :math:`F_r` and
    :math:`F_r^*` of a copy share their twiddle factors, which start at those of the Fourier transform.

    Args:
        seeds: one network for each.
        size: n, the entries of a window.
        copies: p.
        activation: the s, of real numbers.
    """

    def __init__(
        self, seeds: Sequence[int], size: int, copies: int = 4, activation: Callable[[Tensor], Tensor] = torch.tanh
    ):
        super().__init__()
        draws, shape, self.activation = generators(seeds), (len(seeds), 1, copies), activation

        def normal(*sizes: int) -> Tensor:
            return torch.stack([torch.randn(1, copies, *sizes, generator=draw) for draw in draws])

        self.twiddle = nn.Parameter(twiddles(size, torch.float32).repeat(*shape, 1, 1))
        self.spectrum = nn.Parameter(normal(2 * size, 2) / math.sqrt(2))
        self.weight = nn.Parameter(normal(size) / math.sqrt(copies))
        self.bias1 = nn.Parameter(torch.zeros(*shape, 2 * size, 2))
        self.bias2, self.bias3 = (nn.Parameter(torch.zeros(*shape, size)) for _ in range(2))
        self.bias4 = nn.Parameter(torch.zeros(len(seeds), 1, size))

    def forward(self, windows: Float[Tensor, "seeds batch n"]) -> Float[Tensor, "seeds batch n"]:
        """The output y for every window."""
        twiddle, spectrum = torch.view_as_complex(self.twiddle), torch.view_as_complex(self.spectrum)
        first = torch.view_as_real(split_dft(windows[:, :, None], twiddle)) + self.bias1
        first = torch.view_as_complex(self.activation(first))
        second = self.activation(split_inverse(spectrum * first, twiddle).real + self.bias2)
        third = self.activation(second.flip(-1) + self.bias3)
        return (self.weight * third).sum(2) + self.bias4

    def multiplications(self) -> int:
        """Real multiplications for one window, with a fast Fourier transform of n log2(n) / 2 complex ones."""
        copies, size = self.weight.shape[2:]
        transform = round(2 * size * math.log2(size))
        return transform + copies * (3 * transform + 2 * size + 8 * size + 2 * size + size)


def parameters(network: nn.Module) -> int:
    """Trained real numbers of one seed; a complex number counts two."""
    return sum(value[0].numel() for value in network.parameters())


@dataclass(frozen=True)
class Layout:
    """How a delay window is laid out: one coordinate after the other, each from old to new, then zeros.

    Attributes:
        memory: delays of each coordinate.
        dim: coordinates.
        size: entries of a window, zeros included.
    """

    memory: int
    dim: int
    size: int

    @property
    def newest(self) -> slice:
        """The entries that hold the last sample of each coordinate."""
        return slice(self.memory - 1, self.memory * self.dim, self.memory)

    def windows(self, series: Float[Tensor, "*runs time dim"]) -> Float[Tensor, "*runs windows size"]:
        """All windows of a series; the first ends at entry ``memory - 1``."""
        cut = series.unfold(-2, self.memory, 1).flatten(-2)
        return nn.functional.pad(cut, (0, self.size - self.memory * self.dim))


class Stepper(nn.Module):
    """Advances a window by a step: the older samples move up, the newest is the last one plus the network's output.

    Args:
        network: from windows to outputs of the same size, seeds first.
        layout: of the windows.
        scale: unit of the output, one a coordinate; the typical size of an increment.
        gain: factor on what the network sees.
        residual: whether the last sample is added to the output.
    """

    def __init__(
        self, network: nn.Module, layout: Layout, scale: Float[Tensor, "dim"], gain: float = 1.0, residual: bool = True
    ):
        super().__init__()
        self.network, self.layout, self.gain, self.residual = network, layout, gain, residual
        self.register_buffer("scale", scale)

    def forward(self, windows: Float[Tensor, "seeds batch size"]) -> Float[Tensor, "seeds batch dim"]:
        """The sample that follows each window."""
        newest = self.layout.newest
        step = self.scale * self.network(self.gain * windows)[..., newest]
        return windows[..., newest] + step if self.residual else step

    @torch.no_grad()
    def free_run(self, past: Float[Tensor, "seeds runs time dim"], steps: int) -> Float[Tensor, "seeds runs steps dim"]:
        """Continue pasts without further data.

        Args:
            past: samples up to the start.
            steps: how many to append.

        Returns:
            the samples after 1, 2, ... steps.

        Raises:
            ValueError: if a past is not finite, shorter than the memory or of the wrong shape.
        """
        finite(past=past)
        memory = self.layout.memory
        shaped("past", past, ("seeds", "runs", "time", self.layout.dim))
        if past.shape[2] < memory:
            raise ValueError(f"past has {past.shape[2]} samples a run: the windows have {memory}")
        orbit = torch.cat([past[:, :, -memory:], past.new_zeros(*past.shape[:2], steps, past.shape[3])], 2)
        for time in range(steps):
            orbit[:, :, memory + time] = self(self.layout.windows(orbit[:, :, time : time + memory])[:, :, 0])
        return orbit[:, :, memory:]


def train(
    model: Stepper,
    series: Float[Tensor, "runs time dim"],
    seeds: Sequence[int],
    updates: int,
    batch: int = 128,
    rates: tuple[float, float] = (1e-3, 1e-3),
) -> Stepper:
    """Fit one-step predictions of the newest sample; every seed draws its own batches.

    Args:
        model: stack of untrained networks, changed in place.
        series: standardised samples at a constant interval, one series a run.
        seeds: one seed a network.
        updates: number of Adam updates.
        batch: windows an update.
        rates: first and last learning rate; it falls geometrically.

    Returns:
        the trained model.

    Raises:
        ValueError: if a series is not finite or not longer than a window.
    """
    finite(series=series)
    layout = model.layout
    shaped("series", series, ("runs", "time", layout.dim))
    if series.shape[1] <= layout.memory:
        raise ValueError(
            f"series has {series.shape[1]} samples a run: a window of {layout.memory} and one more are needed"
        )
    windows = layout.windows(series[:, :-1]).flatten(0, 1)
    following = series[:, layout.memory :].flatten(0, 1)
    draws = generators(seeds, stream=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=rates[0])
    for update in range(updates):
        optimiser.param_groups[0]["lr"] = rates[0] * (rates[1] / rates[0]) ** (update / updates)
        picked = torch.stack([torch.randint(len(windows), (batch,), generator=draw) for draw in draws])
        loss = ((model(windows[picked]) - following[picked]) / model.scale).square().mean((1, 2)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model
