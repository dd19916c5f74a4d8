"""The Fourier neural operator: which modes it keeps, that it commutes with shifts, and that grids may be refined."""

import math

import pytest
import torch

from tests.helpers import unchecked
from touchstone.nn.fno import FNO, SpectralConvolution


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def identity(modes):
    """A spectral convolution whose matrices are one: it is the projection onto the kept modes."""
    layer = SpectralConvolution(1, 1, modes).double()
    with torch.no_grad():
        layer.weight.zero_()[..., 0] = 1
    return layer


def test_kept_modes_pass_and_the_others_vanish_in_one_dimension():
    x = 2 * math.pi * torch.arange(32, dtype=torch.float64) / 32
    kept, dropped = torch.cos(3 * x) + 0.5 + torch.sin(x), torch.sin(4 * x)
    assert torch.allclose(identity([4])((kept + dropped)[None, None])[0, 0], kept, atol=1e-12)


@pytest.mark.parametrize("grid", [(16, 20), (13, 20)])
def test_kept_modes_pass_and_the_others_vanish_in_two_dimensions(grid):
    t, x = torch.meshgrid(
        *(2 * math.pi * torch.arange(size, dtype=torch.float64) / size for size in grid), indexing="ij"
    )
    kept = torch.cos(2 * t - x) + torch.cos(2 * t + x) + torch.sin(t + 2 * x) + 1  # both signs of the first frequency
    dropped = torch.cos(5 * t + x) + torch.sin(t + 3 * x)
    assert torch.allclose(identity([3, 3])((kept + dropped)[None, None])[0, 0], kept, atol=1e-12)


def test_a_phase_in_the_weights_shifts_a_wave_to_the_right():
    x = 2 * math.pi * torch.arange(32, dtype=torch.float64) / 32
    layer = identity([4])
    with torch.no_grad():  # exp(-i k s) at frequency k = 2, s = 0.3
        layer.weight[0, 0, 2] = torch.tensor([math.cos(0.6), -math.sin(0.6)])
    assert torch.allclose(layer(torch.sin(2 * x)[None, None])[0, 0], torch.sin(2 * (x - 0.3)), atol=1e-6)


@pytest.mark.parametrize("modes, grid", [([5], (24,)), ([3, 4], (12, 16))])
def test_operator_commutes_with_shifts_of_the_grid(modes, grid):
    model = FNO(2, 3, modes, width=6, layers=2, generator=draw()).double()
    field = torch.randn(2, 2, *grid, generator=draw(1), dtype=torch.float64)
    axes = tuple(range(2, 2 + len(grid)))
    shifted = model(field.roll([2] * len(axes), axes))
    assert torch.allclose(shifted, model(field).roll([2] * len(axes), axes), atol=1e-12)
    assert (shifted - model(field)).abs().max() > 1e-3


def test_a_finer_grid_gives_the_same_function():
    # up to aliasing of the activation, which the smooth input keeps small
    model = FNO(1, 1, [4], width=4, layers=2, generator=draw()).double()
    coarse, fine = (torch.cos(2 * math.pi * torch.arange(n, dtype=torch.float64) / n)[None, None] for n in (64, 256))
    assert torch.allclose(model(fine)[..., ::4], model(coarse), atol=1e-6)


def test_layer_is_spectral_plus_local_map():
    model = FNO(1, 1, [3], width=2, layers=1, generator=draw())
    layer, local = model.spectral[0], model.local[0]
    model.lift.weight.data = torch.ones(2, 1)
    model.lift.bias.data = torch.zeros(2)
    hidden = torch.ones(1, 2, 10)  # what the lift now makes of ones
    mixed = torch.einsum("oi,bix->box", local.weight, hidden) + local.bias[None, :, None]
    inner, outer = model.project
    value = model.activation(layer(hidden) + mixed)[0, :, 0]
    through = model(torch.ones(1, 1, 10))[0, :, 0]
    assert torch.allclose(through, outer(model.activation(inner(value))), atol=1e-6)


def test_seed_gives_the_same_operator_and_double_casts_everything():
    one, two, other = (FNO(1, 2, [3, 3], width=4, layers=1, generator=draw(seed)) for seed in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lift.weight, other.lift.weight)
    assert one.double()(torch.ones(1, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    "field, message",
    [
        (torch.full((1, 1, 16), torch.nan), "field holds 16 NaN"),
        (torch.zeros(1, 2, 16), "field has shape"),
        (torch.zeros(0, 1, 16), "field is empty"),
        (torch.zeros(1, 1, 7), r"field has grid \(7,\)"),
        (torch.zeros(1, 1, 16, 16), "field has 2 grid dimensions"),
    ],
)
def test_bad_fields_are_named(field, message):
    model = FNO(1, 1, [4], width=2, layers=1)
    with pytest.raises(ValueError, match=message):
        unchecked(FNO.forward)(model, field)


def test_bad_modes_are_named():
    for modes in ([], [0], [2, 2, 2]):
        with pytest.raises(ValueError, match="modes is"):
            SpectralConvolution(1, 1, modes)
