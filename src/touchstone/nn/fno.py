r"""A small Fourier neural operator on grids of one or two dimensions (Li et al., 2020, arXiv:2010.08895).

A layer multiplies the lowest Fourier modes of its input with learned complex matrices, adds a linear map at each grid
point, and applies an activation: one such layer sees the whole grid, and its weights do not depend on the grid's size.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from touchstone.checks import finite


class SpectralConvolution(nn.Module):
    r"""Multiply the lowest Fourier modes with complex matrices and drop the others.

    With two dimensions the modes along the first run over positive and negative frequencies, :math:`0..m-1` and
    :math:`-m..-1`; along the last dimension the negative ones follow from the field being real.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        modes: number of frequencies kept along each grid dimension, one or two entries.
        generator: source of the initial weights.

    Raises:
        ValueError: if ``modes`` does not have one or two positive entries.
    """

    def __init__(self, inputs: int, outputs: int, modes: Sequence[int], generator: torch.Generator | None = None):
        super().__init__()
        if len(modes) not in (1, 2) or min(modes) < 1:
            raise ValueError(f"modes is {tuple(modes)}: give one or two positive numbers, one for each grid dimension")
        self.modes = tuple(modes)
        kept = (*(2 * count for count in modes[:-1]), modes[-1])
        # real and imaginary part are kept as real numbers, so that .double() and optimisers treat them as any weight
        self.weight = nn.Parameter(torch.rand(inputs, outputs, *kept, 2, generator=generator) / (inputs * outputs))

    def forward(self, field: Float[Tensor, "batch inputs *grid"]) -> Float[Tensor, "batch outputs *grid"]:
        """Convolve.

        Args:
            field: real values on the grid, channels first.

        Returns:
            the convolved field on the same grid.

        Raises:
            ValueError: if the grid has other dimensions than ``modes`` or is too small for them.
        """
        grid = field.shape[2:]
        if len(grid) != len(self.modes):
            raise ValueError(f"field has {len(grid)} grid dimensions, modes {self.modes} need {len(self.modes)}")
        if any(size < 2 * count for size, count in zip(grid, self.modes, strict=True)):
            raise ValueError(f"field has grid {tuple(grid)}, modes {self.modes} need twice as many points or more")
        axes = tuple(range(2, field.ndim))
        low = torch.fft.rfftn(field, dim=axes)[..., : self.modes[-1]]
        if len(grid) == 2:
            low = torch.cat([low[:, :, : self.modes[0]], low[:, :, -self.modes[0] :]], 2)
        low = torch.einsum("bi...,io...->bo...", low, torch.view_as_complex(self.weight))
        if len(grid) == 2:
            high = low.new_zeros(*low.shape[:2], grid[0] - 2 * self.modes[0], low.shape[-1])
            low = torch.cat([low[:, :, : self.modes[0]], high, low[:, :, self.modes[0] :]], 2)
        return torch.fft.irfftn(low, s=grid, dim=axes)  # missing frequencies of the last dimension count as zero


class FNO(nn.Module):
    r"""A Fourier neural operator: lift, a few layers :math:`v\leftarrow\sigma(Kv + Wv + b)`, project.

    Args:
        inputs: channels of the input, coordinates included where they are wanted.
        outputs: channels of the output.
        modes: frequencies kept along each grid dimension, one or two entries.
        width: channels inside.
        layers: number of Fourier layers.
        head: units of the hidden layer of the projection.
        activation: the nonlinearity.
        generator: source of all initial weights; one for each seed.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        modes: Sequence[int],
        width: int = 16,
        layers: int = 3,
        head: int = 32,
        activation: Callable[[Tensor], Tensor] = gelu,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.activation = activation
        self.lift = _pointwise(inputs, width, generator)
        self.spectral = nn.ModuleList(SpectralConvolution(width, width, modes, generator) for _ in range(layers))
        self.local = nn.ModuleList(_pointwise(width, width, generator) for _ in range(layers))
        self.project = nn.ModuleList([_pointwise(width, head, generator), _pointwise(head, outputs, generator)])

    def forward(self, field: Float[Tensor, "batch inputs *grid"]) -> Float[Tensor, "batch outputs *grid"]:
        """Apply the operator.

        Args:
            field: input channels on the grid.

        Returns:
            output channels on the same grid.

        Raises:
            ValueError: if the field is empty, not finite, or does not have the operator's input channels.
        """
        channels = self.lift.in_features
        if field.ndim < 3 or field.shape[1] != channels:
            raise ValueError(
                f"field has shape {tuple(field.shape)}, expected (batch, {channels}, one or two grid sizes)"
            )
        finite(field=field)
        hidden = _at_each_point(self.lift, field)
        for spectral, local in zip(self.spectral, self.local, strict=True):
            hidden = self.activation(spectral(hidden) + _at_each_point(local, hidden))
        inner, outer = self.project
        return _at_each_point(outer, self.activation(_at_each_point(inner, hidden)))


def _pointwise(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear map of the channels with uniform initial weights of the usual size, drawn from the generator."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def _at_each_point(layer: nn.Linear, field: Tensor) -> Tensor:
    """Apply a linear layer to the channels at every grid point."""
    flat = torch.matmul(layer.weight, field.flatten(2)) + layer.bias[:, None]
    return flat.view(field.shape[0], -1, *field.shape[2:])
