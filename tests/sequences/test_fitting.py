"""The approximation harness: known functions, parameter bounds, and a fit that reaches an exact representation."""

import math

import pytest
import torch
from torch import nn

from tests.helpers import unchecked
from touchstone.sequences.fitting import TARGETS, errors, fit, network


def test_targets_at_known_points():
    value = {
        name: target.function(torch.full((1, target.dim), 0.5).double()).item() for name, target in TARGETS.items()
    }
    assert value["f1"] == pytest.approx(math.exp(-0.25) * math.sin(2.5))
    assert value["f2"] == pytest.approx(math.cos(0.25) + 0.125)
    assert value["f3"] == pytest.approx(0.5**2.5)


def test_grids_fill_the_cube_evenly():
    grid = TARGETS["f2"].grid(8)
    assert grid.shape == (64, 2)
    torch.testing.assert_close(grid.mean(0), torch.zeros(2).double())
    assert grid.abs().max() == pytest.approx(7 / 8)


@pytest.mark.parametrize("activation", [nn.ReLU, None])
def test_networks_use_the_parameters_they_may(activation):
    counts = [sum(p.numel() for p in network(2, size, 2, activation, 0).parameters()) for size in (30, 300, 3000)]
    assert all(0.75 * size <= count <= size for count, size in zip(counts, (30, 300, 3000), strict=True))


def test_a_seed_gives_one_network_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, same, other = (network(1, 50, 2, nn.GELU, seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_a_line_is_fitted_to_rounding():
    points = TARGETS["f1"].grid(50)
    values = 3 * points[:, 0] - 1
    model = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)).double()
    assert fit(model, points, values, adam_steps=5, lbfgs_steps=50) <= 50
    assert max(errors(model, points, values)) < 1e-6
    l2, largest = errors(model, points, values + 2)
    assert l2 == pytest.approx(2, abs=1e-5) and largest == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, y: unchecked(fit)(network(1, 30, 1, nn.ReLU, 0), x, y * torch.nan), "values"),
        (lambda x, y: unchecked(fit)(network(1, 30, 1, nn.ReLU, 0), x[:0], y[:0]), "points"),
        (lambda x, y: unchecked(errors)(network(1, 30, 1, nn.ReLU, 0), x, y[:-1]), "values"),
        (lambda x, y: unchecked(errors)(network(1, 30, 1, nn.ReLU, 0), x * torch.inf, y), "points"),
        (lambda x, y: network(1, 2, 2, nn.ReLU, 0), "parameters"),
        (lambda x, y: network(1, 30, 0, nn.ReLU, 0), "hidden_layers"),
    ],
)
def test_bad_input_is_named(call, name):
    points = TARGETS["f1"].grid(9)
    with pytest.raises(ValueError, match=f"^{name}"):
        call(points, points[:, 0])
